"""A model shared out between two processes: half of it in each, and what they learn is what one learns alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ptlib as pt
from ptlib import sharding, together
from ptlib.core import Split, Task
from ptlib.step import Step
from ptlib.texts import Texts
from ptlib.train import finetune
from ptlib.worker import launch
from tests.conftest import make_task, silent
from tests.test_dense import SMALL, marked
from tests.test_text import WORDS, make_folder
from tests.test_together import STAGES, start, trained

Case = tuple[pt.Model, Task, list[pt.Stage], dict[str, Any]]
BY_BATCH = ("maps", "head", "boxes")  # what their losses count by: one process learns something else than two
FULL = pt.Stage("all", epochs=2, lr=1e-3, batch_size=5, augment=(), ema=0.9)


def moods() -> Task:
    parts: dict[str, Any] = {}
    for name, n in (("train", 31), ("val", 12), ("test", 5)):
        said = Texts(f"{WORDS[i % 6]} {WORDS[6 + i % 8]}" for i in range(n))
        parts[name] = Split(name, said, torch.arange(n) % 6 // 3, [f"{name}/{i}" for i in range(n)])
    return Task("moods", "text_classification", ("good", "bad"), **parts, augment=())


def still(model: pt.Model) -> pt.Model:
    """Without dropout, which draws otherwise for parts of a batch than for the whole."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def cases(folder: Path) -> dict[str, Case]:
    """Features computed once, all of the loop's means, updates of low rank, maps, and a head whose loss runs it."""
    images, texts, boxes = replace(make_task(61), augment=("crop", "flip", "mixup")), moods(), marked()
    maps, words = marked(7, kind="segmentation"), pt.load_checkpoint(str(make_folder("gpt2", folder)), pooling="mean")
    detector = pt.load_checkpoint("random/torchvision/fasterrcnn_mobilenet_v3_large_320_fpn")
    low, plain = replace(FULL, lora=2, lr=1e-2), replace(FULL, optimizer="sgd", lr=0.01)
    return {
        "images": (pt.build_model(start(), images), images, STAGES, {}),
        "parts": (pt.build_model(start(), images), images, STAGES[1:], {"accumulate": 9}),
        "texts": (still(pt.build_model(words, texts)), texts, [FULL, low], {}),
        "bf16": (still(pt.build_model(words, texts)), texts, [FULL], {"precision": "bf16"}),
        "maps": (pt.build_model(pt.load_checkpoint(f"random/{SMALL}"), maps), maps, [plain], {}),
        "head": (
            pt.build_model(detector, boxes, 96),
            boxes,
            [replace(plain, trainable=("head",), l2_sp=0.1)],
            {"accumulate": 9},
        ),
        "boxes": (pt.build_model(detector, boxes, 96), boxes, [plain], {"keep": "last"}),
    }


def in_two(folder: str, given: dict[str, Case], log: Callable[[str], None]) -> None:
    """In each of two processes: train every case; keep its weights, and how much of it was here while it learnt."""
    real, held = Step._update, [0, 0]

    def update(self: Step, lr: float) -> None:
        real(self, lr)
        kept = [*self.parameters, *(v for s in self.optimizer.state.values() for v in s.values() if v.ndim)]
        local = [getattr(t, "_local_tensor", t) for t in kept]
        held[0], held[1] = sum(t.numel() for t in local), sum(t.numel() for t in kept)

    Step._update = update  # type: ignore[method-assign]
    facts: dict[str, dict[str, Any]] = {}
    for name, (model, task, stages, options) in given.items():
        begun, how = copy.deepcopy(model), dict[str, Any](devices=2, precision="fp32", log=log) | options
        history = finetune(model, task, stages, shard=True, **how)
        torch.save(model.state_dict(), Path(folder) / f"{name}-{together.rank()}.pt")
        facts[name] = {"held": tuple(held), "rows": history.rows}
        if name in BY_BATCH:
            facts[name]["whole"] = finetune(begun, task, stages, **how).rows
            torch.save(begun.state_dict(), Path(folder) / f"{name} whole.pt")
    (Path(folder) / f"{together.rank()}.json").write_text(json.dumps(facts))


@pytest.mark.usefixtures("with_nbval")
def test_shares_learn_what_one_process_learns(tmp_path: Path) -> None:
    given = cases(tmp_path / "words")
    launch(2, in_two, {"folder": str(tmp_path), "given": given}, silent)
    facts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for name, (model, task, stages, how) in given.items():
        mine, other = (torch.load(tmp_path / f"{name}-{rank}.pt") for rank in (0, 1))
        assert all(torch.equal(mine[key], other[key]) for key in mine), name
        (held, whole), (rest, _) = (found[name]["held"] for found in facts)
        if name != "head":  # which is whole where it learns alone
            assert held + rest == whole, "every number is in one of them"
            assert 0.4 * whole < held < 0.6 * whole, name
        assert any(not torch.equal(value, mine[key]) for key, value in model.state_dict().items()), name
        if name in BY_BATCH:
            rows, learnt = facts[0][name]["whole"], torch.load(tmp_path / f"{name} whole.pt")
        else:
            rows = finetune(model, task, stages, **dict[str, Any](precision="fp32", log=silent) | how).rows
            learnt = model.state_dict()
        rounded = name in ("bf16", "head")  # which regions the head's loss looks at may hang on the last bit
        for key, value in learnt.items() if not rounded else ():
            torch.testing.assert_close(mine[key], value, atol=2e-4, rtol=2e-3, msg=f"{name} {key}")
        for a, b in zip(rows, facts[0][name]["rows"], strict=True):
            assert b["train_loss"] == pytest.approx(a["train_loss"], abs=0.02 if rounded else 1e-3), (name, a, b)


def test_a_model_shared_out_is_launched_and_taken_up(tmp_path: Path) -> None:
    task, lines = make_task(61), list[str]()
    model, _ = trained(2, task, shard=True, resume=tmp_path / "training", log=lines.append)
    alone, _ = trained(1, task)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert not any(map(sharding.is_share, model.parameters()))
    assert [line.partition(":")[0] for line in lines] == ["head", "head", "all 1/3", "all 2/3", "all 3/3"]
    again, _ = trained(2, task, shard=True, resume=tmp_path / "training", log=lines.append)
    assert len(lines) == 5, "what is at its end is not done again"
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())
    with pytest.raises(pt.InputError, match="shard was true, is false"):
        trained(2, task, resume=tmp_path / "training")


@pytest.mark.parametrize(
    ("how", "says"),
    [({}, "devices=1"), ({"compile": True}, "compile=True"), ({"accumulate": "auto"}, "accumulate='auto'")],
)
def test_what_shares_cannot_be_had_with(how: dict[str, Any], says: str) -> None:
    with pytest.raises(pt.InputError, match=f"shard=True can't be had with {says}; it takes devices=2 or more"):
        trained(2 if how else 1, make_task(6), shard=True, **how)


def test_a_single_number_cannot_be_shared() -> None:
    model = pt.build_model(start(), make_task(6))
    model.backbone.gain = torch.nn.Parameter(torch.ones(()))
    with pytest.raises(
        pt.InputError, match="random/plain can't be shared out: its parameter backbone.gain is a single"
    ):
        sharding.shared_out(model, torch.device("cpu"), True)
