"""The error for what a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, in one sentence: what was given, what is allowed, what to do. Notebooks show the sentence alone."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}".encode("utf-8", "backslashreplace").decode()]  # names of files


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest of `options`, or nothing when none is near.

    >>> did_you_mean("epoch", ["epochs", "seed"])
    "; did you mean 'epochs'?"
    """
    near = difflib.get_close_matches(name, list(options), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def first_line(e: BaseException) -> str:
    """What an exception of a library says, without what follows on further lines."""
    return str(e).strip().split("\n")[0]
