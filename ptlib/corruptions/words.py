"""Corruptions of texts: slips at the keyboard, capitals, marks, words; functions of a text, a strength and a draw.

Slips are of one inner letter of a word of four letters or more, which people read on over: swapped with the next, left
out, struck twice, or a neighbour's on a QWERTY keyboard (Belinkov and Bisk 2018, arXiv 1711.02173; Pruthi, Dhingra and
Lipton 2019, arXiv 1905.11268); at severity 5 every such word has one, as with Belinkov and Bisk. Random case is of Xue
et al. (2022, arXiv 2105.13626), lost punctuation of Ribeiro et al. (2020, arXiv 2005.04118), words that are dropped or
moved a few places of Lample et al. (2018, arXiv 1711.00043), a tenth and three places there. The numbers are ptlib's.

Words are found by letters and by white space: where none is written between words, a sentence counts as one.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator

from ptlib.runtime import derived_seed
from ptlib.texts import Texts

# What is hit at each of five severities: of the words of four letters or more, of the letters with a case, of the
# marks, of the words, a share, rounded up; and by how many places a word moves at most.
SLIPS = (0.1, 0.2, 0.4, 0.7, 1.0)
STRENGTHS: dict[str, tuple[float, ...]] = {
    "swapped_letters": SLIPS,
    "dropped_letters": SLIPS,
    "doubled_letters": SLIPS,
    "neighbouring_keys": SLIPS,
    "random_case": (0.02, 0.05, 0.1, 0.25, 0.5),
    "dropped_punctuation": (0.2, 0.4, 0.6, 0.8, 1.0),
    "dropped_words": (0.05, 0.1, 0.2, 0.35, 0.5),
    "shuffled_words": (1, 2, 3, 5, 8),
}
VIEWS = ("without_punctuation", "upper_case", "lower_case", "opening")  # the same texts otherwise: of one strength
OPENING = 16  # words, about a sentence
SLIPPERY = re.compile(r"[^\W\d_]{4,}")
WORD = re.compile(r"\S+")
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
KEYS = {  # on either side, and in the rows above and below, each of which stands half a key further to the right
    key: "".join(
        ROWS[r + down][c + right]
        for down, right in ((0, -1), (0, 1), (-1, 0), (-1, 1), (1, -1), (1, 0))
        if 0 <= r + down < 3 and 0 <= c + right < len(ROWS[r + down])
    )
    for r, row in enumerate(ROWS)
    for c, key in enumerate(row)
}


def corrupt_texts(texts: Texts, name: str, severity: int, seed: int) -> Texts:
    """Each text under a corruption, or seen as one of VIEWS; never without any visible character, if it had one."""
    strength = None if name in VIEWS else STRENGTHS[name][severity - 1]
    draws = (np.random.default_rng(derived_seed(seed, "corruption", name, i)) for i in range(len(texts)))
    return Texts(FUNCTIONS[name](text, strength, draw) for text, draw in zip(texts, draws, strict=True))


def _hit(n: int, share: float, draw: Generator) -> list[int]:
    """Which of n are hit; of a smaller share, the first of those."""
    return [int(k) for k in draw.permutation(n)[: math.ceil(share * n - 1e-9)]]


def _slip(places: Callable[[str], list[int]], edit: Callable[[str, int, float], str]) -> Callable[..., str]:
    """A corruption of words: `edit` changes a word at one of its `places`, and draws from the rest of one number."""

    def corrupt(text: str, share: float, draw: Generator) -> str:
        found = list(SLIPPERY.finditer(text))
        hit, numbers, parts, end = sorted(_hit(len(found), share, draw)), draw.random(len(found)), [], 0
        for k in hit:
            word, (start, stop) = found[k][0], found[k].span()
            among = places(word)
            number = numbers[k] * len(among)
            changed = edit(word, among[int(number)], number % 1) if among else word
            parts += [text[end:start], changed]
            end = stop
        return "".join([*parts, text[end:]])

    return corrupt


def _inner(word: str) -> list[int]:
    return list(range(1, len(word) - 1))


def _unlike_next(word: str) -> list[int]:
    return [i for i in range(1, len(word) - 2) if word[i] != word[i + 1]]


def _on_keyboard(word: str) -> list[int]:
    return [i for i in _inner(word) if word[i].lower() in KEYS]


def _neighbour(word: str, i: int, number: float) -> str:
    keys = KEYS[word[i].lower()]
    key = keys[int(number * len(keys))]
    return word[:i] + (key.upper() if word[i].isupper() else key) + word[i + 1 :]


def random_case(text: str, share: float, draw: Generator) -> str:
    """Letters large that were small, and small that were large."""
    letters = list(text)
    cased = [i for i, c in enumerate(letters) if c.swapcase() != c]
    for k in _hit(len(cased), share, draw):
        letters[cased[k]] = letters[cased[k]].swapcase()
    return "".join(letters)


def dropped_punctuation(text: str, share: float, draw: Generator) -> str:
    """Without some of the marks, characters of Unicode's categories P."""
    return _without(list(text), lambda c: unicodedata.category(c)[0] == "P", share, draw)


def dropped_words(text: str, share: float, draw: Generator) -> str:
    """Without some of the words and the white space behind each."""
    return _without(re.split(r"(?<=\s)(?=\S)", text), lambda word: bool(word.strip()), share, draw)


def _without(parts: list[str], may_go: Callable[[str], bool], share: float, draw: Generator) -> str:
    """Without a share of the parts that may go; one that was to go stays where nothing visible would be left."""
    loose = [i for i, part in enumerate(parts) if may_go(part)]
    gone = dict.fromkeys(loose[k] for k in _hit(len(loose), share, draw))
    if gone and not any(part.strip() for i, part in enumerate(parts) if i not in gone):
        gone.popitem()
    return "".join(part for i, part in enumerate(parts) if i not in gone)


def shuffled_words(text: str, reach: float, draw: Generator) -> str:
    """Words in another order, none more than `reach` places from its own; white space stays where it is."""
    words, gaps = WORD.findall(text), WORD.split(text)
    order = np.argsort(np.arange(len(words)) + (reach + 1) * draw.random(len(words)), kind="stable")
    moved = [words[i] for i in order]
    return "".join(part for pair in zip(gaps, [*moved, ""], strict=True) for part in pair)


def opening(text: str) -> str:
    """The first words, OPENING of them."""
    found = re.match(rf"\s*(?:\S+\s+){{0,{OPENING - 1}}}\S+", text)
    return found[0] if found else text


FUNCTIONS: dict[str, Callable[[str, Any, Generator], str]] = {
    "swapped_letters": _slip(_unlike_next, lambda word, i, _: word[:i] + word[i + 1] + word[i] + word[i + 2 :]),
    "dropped_letters": _slip(_inner, lambda word, i, _: word[:i] + word[i + 1 :]),
    "doubled_letters": _slip(_inner, lambda word, i, _: word[: i + 1] + word[i:]),
    "neighbouring_keys": _slip(_on_keyboard, _neighbour),
    "random_case": random_case,
    "dropped_punctuation": dropped_punctuation,
    "dropped_words": dropped_words,
    "shuffled_words": shuffled_words,
    "without_punctuation": lambda text, _, draw: dropped_punctuation(text, 1.0, draw),
    "upper_case": lambda text, *_: text.upper(),
    "lower_case": lambda text, *_: text.lower(),
    "opening": lambda text, *_: opening(text),
}
