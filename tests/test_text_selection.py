"""Rankings of networks that read text: layers against transformers' own, what is cached, refused and said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, GPT2Config, PreTrainedTokenizerFast

import ptlib as pt
from ptlib import plots, selection
from ptlib.core import Split, Task
from ptlib.errors import InputError
from ptlib.prediction import forward
from ptlib.selection import candidates as module
from ptlib.selection import choosing
from ptlib.texts import Texts
from ptlib.train import finetune
from tests.conftest import make_task, silent

pytestmark = pytest.mark.usefixtures("feature_cache")

SUBJECTS = (["goal", "match", "team"], ["bank", "share", "market"], ["rain", "cloud", "wind"])
COMMON = ["the", "a", "of", "and", "in", "was", "said", "on"]
WORDS = [*SUBJECTS[0], *SUBJECTS[1], *SUBJECTS[2], *COMMON]
WIDTH, INNER, DEPTH, MOST = 32, 48, 3, 40


def make_folder(path: Path, decoder: bool = False, heads: int = 2, words: list[str] = WORDS) -> str:
    """A network with random weights and a tokenizer of whole words, as `save_pretrained` writes them."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    known: dict[str, Any] = {"vocab_size": len(vocabulary), "num_attention_heads": heads, "num_hidden_layers": DEPTH,
                             "hidden_size": WIDTH, "max_position_embeddings": MOST}  # fmt: skip
    config: Any = GPT2Config(**known, bos_token_id=3, eos_token_id=3)
    if not decoder:
        special = [("[CLS]", 2), ("[SEP]", 3)]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
        config = BertConfig(**known, intermediate_size=INNER, initializer_range=0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(path)
    return str(path)


def texts_task(extra: tuple[str, ...] = ()) -> Task:
    """Texts of 3 to 20 words, nearly half of them of the class's subject; train begins with `extra`."""
    rng = np.random.default_rng(0)

    def split(name: str, size: int) -> Split:
        labels = np.arange(size) % len(SUBJECTS)
        texts = [" ".join(rng.choice([*SUBJECTS[k] * 2, *COMMON], rng.integers(3, 21))) for k in labels]
        texts[: len(extra)] = extra if name == "train" else texts[: len(extra)]
        return Split(name, Texts(texts), torch.from_numpy(labels), [f"{name}/{i}" for i in range(size)])

    parts = split("train", 45), split("val", 30), split("test", 30)
    return Task("columns", "text_classification", ("sport", "money", "weather"), *parts, augment=())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_folder(tmp_path_factory.mktemp("text") / "bert")


def encode(candidates: list[Any], task: Task, size: int | None = 12) -> list[selection.Candidate]:
    return list(selection.encode(candidates, task, image_size=size, precision="fp32", log=silent))


@pytest.mark.parametrize(("decoder", "layers"), [(False, "encoder.layer.{}"), (True, "h.{}")], ids=["BERT", "GPT-2"])
def test_layers_are_the_means_of_hidden_states_in_one_pass(
    decoder: bool, layers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By transformers, each text by itself, never padded; and the same bits as by the network cut off at the layer."""
    name, task, passes = make_folder(tmp_path / "network", decoder), texts_task(), list[Any]()

    def counted(model: Any, *rest: Any) -> Any:
        with model.backbone.network.register_forward_hook(lambda *_: passes.append(model)):
            return forward(model, *rest)

    monkeypatch.setattr(module, "forward", counted)
    names = [f"{name}@{layers.format(1)}", name, f"{name}@{layers.format(0)}"]
    found = encode(names, task)
    assert len(passes) == 2, "train once, val once"
    assert [c.name for c in found] == names
    network, tokenizer = AutoModel.from_pretrained(name), PreTrainedTokenizerFast.from_pretrained(name)
    for split, part in ((task.train, "train"), (task.val, "val")):
        wanted: list[list[torch.Tensor]] = []
        for text in split.inputs:
            ids = tokenizer(text, truncation=True, max_length=12, return_tensors="pt").input_ids
            with torch.no_grad():
                states = network(input_ids=ids, output_hidden_states=True)
            whole = states.last_hidden_state[0, -1 if decoder else 0]
            wanted.append([states.hidden_states[2][0].mean(0), whole, states.hidden_states[1][0].mean(0)])
        for c, rows in zip(found, zip(*wanted, strict=True), strict=True):
            assert np.allclose(getattr(c, part), torch.stack(rows), atol=2e-5), (c.name, part)
    alone = pt.build_model(pt.load_checkpoint(names[0]), task, 12)
    assert np.array_equal(found[0].train, pt.features(alone, task.train, precision="fp32").numpy())


def test_features_come_from_the_cache_bit_by_bit(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [folder, f"{folder}@encoder.layer.0", f"random/{folder}"]
    first = encode(names, texts_task(), None)
    monkeypatch.setattr(module, "_pass", lambda *a: pytest.fail("computed although it is in the cache"))
    again = encode(names, texts_task(), MOST + 1)  # of more tokens than it takes it reads what it takes
    for a, b in zip(first, again, strict=True):
        assert (b.facts["cached"], b.facts["max_length"]) == (True, MOST)
        assert all(np.array_equal(getattr(a, part), getattr(b, part)) for part in ("train", "val"))


@pytest.mark.parametrize("change", ["max_length", "tokenizer", "pooling", "heads", "texts"])
def test_what_changes_the_features_changes_the_key(
    change: str, folder: str, tmp_path: Path, feature_cache: Path
) -> None:
    (before,) = encode([folder], texts_task())
    changed: dict[str, dict[str, Any]] = {"tokenizer": {"words": WORDS[::-1]}, "heads": {"heads": 4}}
    path = make_folder(tmp_path / "other", **changed[change]) if change in changed else folder
    other = pt.load_checkpoint(path, pooling="mean" if change == "pooling" else None)
    task = texts_task(("rain in the bank",) if change == "texts" else ())
    (after,) = encode([other], task, 10 if change == "max_length" else 12)
    assert other.sha256 == pt.load_checkpoint(folder).sha256
    assert len(list(feature_cache.iterdir())) == 2
    assert not np.allclose(before.train, after.train, atol=1e-3)


def test_ways_to_pool_are_candidates_side_by_side(folder: str) -> None:
    cls, mean = (replace(pt.load_checkpoint(folder, pooling=p), name=f"by {p}") for p in ("cls", "mean"))
    last = replace(pt.load_checkpoint(f"{folder}@encoder.layer.2", pooling="cls"), name="by mean@encoder.layer.2")
    found = encode([last, mean, cls], texts_task())  # a layer is pooled by its mean; the whole's pooling is its own
    assert np.allclose(found[0].train, found[1].train, atol=1e-6)
    assert not np.allclose(found[1].train, found[2].train, atol=1e-2)


def test_a_ranking_of_texts_speaks_of_texts(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path / "outputs"))
    task, said, stages = texts_task(), list[str](), list[Any]()
    names = [folder, f"{folder}@encoder.layer.0", f"random/{folder}", make_folder(tmp_path / "gpt", decoder=True)]
    ranking = pt.rank(names, task, image_size=16, log=said.append)
    assert set(ranking.names) == set(names)
    assert all("texts/s" in line and "images" not in line for line in said)
    head = ranking.table()[0]
    assert {"texts/s", "ImageNet", "leep", "nce"} & set(head) == {"texts/s"}, "empty columns are left out"
    assert all(len(row) == len(head) and all(row) for row in ranking.table())
    whole, layer, blank = (ranking.rows[name] for name in names[:3])
    assert all(layer[cost] < whole[cost] == blank[cost] for cost in ("parameters", "flops", "memory_mb"))
    # Projections and the two inner layers, scores and their mixing; an answer from one token. Two a multiply-add.
    t = sorted(min(len(text.split()) + 2, 16) for text in task.train.inputs)[len(task.train) // 2]
    one = 2 * t * (4 * WIDTH**2 + 2 * WIDTH * INNER) + 2 * 2 * t**2 * WIDTH
    assert whole["flops"] == DEPTH * one + 2 * WIDTH * task.n_classes

    def watched(model: Any, task: Task, run: list[Any], **how: Any) -> Any:
        stages.append(run[-1])
        return finetune(model, task, run, **how)

    monkeypatch.setattr(choosing, "finetune", watched)
    ranking = pt.fine_tune_all(ranking, task, epochs=1, log=silent)
    assert sorted(stage.lr for stage in stages) == [1e-4, 1e-4, 1e-4, 3e-4], "recipes of text, one for random weights"
    judged = pt.trust(ranking, resamples=100)
    assert not {"ImageNet top-1", "leep"} & judged.predictors.keys(), "they say nothing of any candidate"
    assert "image" not in f"{ranking}{judged}{selection.advice(ranking, judged)}".lower()
    assert plots.probe_against_cost(ranking, "memory_mb").get_xlabel() == "MB to train on 32 texts"
    path = selection.save_study("select", {"seed": 0}, [task], [ranking], judged)
    assert str(selection.Ranking.load(path / "ranking-0-columns.json")) == str(ranking)


def test_a_budget_ends_in_a_fine_tuned_pick_of_text(folder: str) -> None:
    assert pt.rank([folder, f"random/{folder}"], texts_task(), ["log_me"], 60, log=silent).stage == "tuned"


def test_repeated_texts_count_once_in_scores_and_odd_ones_are_read(folder: str) -> None:
    task = texts_task(("\ud800 rain", "", "rain 雨 🌧"))
    again = Split("train", Texts([*task.train.inputs] * 2), task.train.targets.repeat(2),
                  [*task.train.ids, *(f"again/{i}" for i in task.train.ids)])  # fmt: skip
    once, twice = (pt.rank([folder], t, ["log_me"], log=silent) for t in (task, replace(task, train=again)))
    assert once.rows[folder]["log_me"] == pytest.approx(twice.rows[folder]["log_me"], abs=1e-3)


@pytest.mark.parametrize("holds", ["texts", "images", "labels"])
def test_what_reads_something_else_is_refused_before_anything_is_computed(
    holds: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_encode_family", lambda *a: pytest.fail("something was computed"))
    shelf = [folder, "random/cifar_resnet20"][:: -1 if holds == "images" else 1]
    task = {"texts": texts_task(), "images": make_task(), "labels": pt.task_of([0, 1], [0, 1])}[holds]
    says = {"texts": "resnet20 reads images, and columns holds texts", "images": "bert reads texts, and colours holds"}
    with pytest.raises(InputError, match=says.get(holds, "bert takes texts, and this task holds labels alone")):
        pt.rank(shelf, task, log=silent)
