"""The training loop: what is frozen stays, what is equal gives equal bits, and what is best is kept."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from ptlib.core import Checkpoint, Task
from ptlib.errors import InputError
from ptlib.head import fit_head
from ptlib.kinds import kind_of
from ptlib.models import Model, build_model
from ptlib.prediction import features, forward, predict
from ptlib.rates import find_lr
from ptlib.report import evaluate
from ptlib.stages import RECIPES, Stage, recipe
from ptlib.step import Step, make_optimizer, schedule, set_mode
from ptlib.train import finetune
from tests.conftest import make_task

FULL = Stage("all", epochs=2, lr=3e-3, batch_size=16)
PROBE = Stage("head", ("head",), optimizer="lbfgs", augment=())
HEAD = Stage("head", ("head",), epochs=10, lr=1e-2, batch_size=16)


def quiet(line: str) -> None:
    pass


def run(tiny: Checkpoint, task: Task, stages: list[Stage], **how: Any) -> tuple[Model, Any]:
    model = build_model(tiny, task)
    return model, finetune(model, task, stages, log=quiet, device="cpu", precision="fp32", **how)


def bits(model: nn.Module) -> bytes:
    return b"".join(v.numpy().tobytes() for v in model.state_dict().values())


def test_it_learns(tiny: Checkpoint) -> None:
    task = make_task(120, noise=40)
    model, history = run(tiny, task, [PROBE, replace(FULL, epochs=4, batchnorm="train")])
    assert history.best["val_accuracy"] > 0.9
    assert float((predict(model, task.test, task).predicted == task.test.targets.numpy()).mean()) > 0.9


def test_losses_are_pinned(tiny: Checkpoint, task: Task) -> None:
    stages = [
        replace(HEAD, epochs=2),
        replace(FULL, label_smoothing=0.1, clip_norm=1.0, layer_decay=0.7, batchnorm="train"),
    ]
    _, history = run(tiny, task, stages)
    # From this code on one machine: a change of any of them is a change of what training does.
    torch.testing.assert_close([r["train_loss"] for r in history.rows], GOLDEN_LOSSES, rtol=2e-3, atol=0)


GOLDEN_LOSSES = [1.098827, 1.096277, 1.060658, 1.003647]


def test_equal_arguments_give_equal_bits_whatever_ran_before(tiny: Checkpoint, task: Task) -> None:
    stages = [HEAD, replace(FULL, augment=("crop", "flip", "trivial", "mixup"), batchnorm="train")]
    one, history = run(tiny, task, stages, seed=3)
    torch.manual_seed(123)
    torch.rand(7)
    np.random.seed(4)  # noqa: NPY002
    two, again = run(tiny, task, stages, seed=3)
    assert bits(one) == bits(two)
    assert [r["val_loss"] for r in history.rows] == [r["val_loss"] for r in again.rows]
    assert bits(run(tiny, task, stages, seed=4)[0]) != bits(one)


def test_global_state_is_left_alone(tiny: Checkpoint, task: Task) -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    run(tiny, task, [FULL])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.are_deterministic_algorithms_enabled() == before[1]
    assert torch.backends.cudnn.benchmark == before[2]


def test_a_frozen_backbone_keeps_every_bit_its_statistics_included(tiny: Checkpoint, task: Task) -> None:
    model = build_model(tiny, task)
    before = copy.deepcopy(model.backbone.state_dict())
    for stage in (PROBE, HEAD, replace(HEAD, augment=("flip",))):
        finetune(model, task, [stage], log=quiet)
        for name, value in model.backbone.state_dict().items():
            assert torch.equal(value, before[name]), (stage, name)


def test_a_partly_frozen_model_moves_only_what_is_named(tiny: Checkpoint, task: Task) -> None:
    model = build_model(tiny, task)
    before = copy.deepcopy(model.state_dict())
    finetune(model, task, [replace(FULL, trainable=("last 1 block",), batchnorm="train")], log=quiet)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith(("backbone.blocks", "head.")) for name in moved)
    assert "backbone.blocks.1.1.running_mean" in moved or "backbone.blocks.0.1.running_mean" in moved
    assert not any("backbone.bn" in name or "stem" in name for name in moved)


def test_modes_follow_what_learns(tiny: Checkpoint, task: Task) -> None:
    model = build_model(tiny, task)
    named = dict(model.named_modules())
    set_mode(model, HEAD, ["head.weight", "head.bias"])
    assert [path for path, m in named.items() if m.training and path] == ["head"]
    names = [n for n, _ in model.named_parameters()]
    set_mode(model, FULL, names)
    assert not named["backbone.bn"].training
    set_mode(model, replace(FULL, batchnorm="train"), names)
    assert named["backbone.bn"].training
    assert named["backbone.drop"].training
    set_mode(model, FULL, [n for n in names if "blocks.1" in n])
    assert not named["backbone.blocks.0.2"].training
    assert named["backbone.blocks.1.2"].training


def test_features_are_computed_once_for_any_number_of_head_epochs(
    tiny: Checkpoint, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    model = build_model(tiny, task)
    model.backbone.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    finetune(model, task, [HEAD, replace(HEAD, name="again")], log=quiet)
    assert sum(seen) == 1 + len(task.train) + len(task.val)  # the one shows what may be folded


def test_the_test_split_is_never_touched(tiny: Checkpoint, task: Task) -> None:
    spoiled = replace(task, test=replace(task.test, inputs=torch.zeros_like(task.test.inputs)))
    assert bits(run(tiny, task, [PROBE, FULL])[0]) == bits(run(tiny, spoiled, [PROBE, FULL])[0])


def test_every_example_is_seen_once_an_epoch(tiny: Checkpoint, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    for batch_size in (7, 16, 64):
        seen: list[Tensor] = []
        real = Step.__call__

        def spy(self: Step, x: Tensor, *rest: Any, seen: list[Tensor] = seen, real: Any = real) -> Tensor:
            seen.append(x)
            return real(self, x, *rest)  # type: ignore[no-any-return]

        monkeypatch.setattr(Step, "__call__", spy)
        run(tiny, task, [replace(FULL, epochs=1, batch_size=batch_size, augment=())])
        monkeypatch.undo()
        assert sum(map(len, seen)) == len(task.train)
        assert max(map(len, seen)) - min(map(len, seen)) <= 1
        assert len({x.numpy().tobytes() for batch in seen for x in batch}) == len(task.train)


def test_what_a_stage_makes_worse_it_loses(tiny: Checkpoint, task: Task) -> None:
    probe, before = run(tiny, task, [PROBE])
    model, history = run(tiny, task, [PROBE, replace(FULL, lr=50.0, optimizer="sgd", clip_norm=1.0)])
    assert history.best["stage"] == "head"
    assert history.best["val_accuracy"] == before.best["val_accuracy"]
    assert bits(model) == bits(probe)
    assert history.selected_on == "epoch 1 of stage 'head', the best of 3 on val"


def test_the_head_is_the_one_scikit_learn_finds(tiny: Checkpoint) -> None:
    task = make_task(150, noise=90)
    model = build_model(tiny, task)
    x = {s.name: features(model, s) for s in (task.train, task.val)}
    y = {s.name: s.targets for s in (task.train, task.val)}
    assert isinstance(model.head, nn.Linear)
    _, loss = fit_head(model.head, x, y, penalties=(0.03,))
    mean, std = x["train"].mean(0), x["train"].std(0, correction=0)
    theirs = LogisticRegression(C=1 / (0.03 * len(task.train)), max_iter=5000, tol=1e-8)
    z = ((x["train"] - mean) / std).double().numpy()
    theirs.fit(z, y["train"].numpy())
    ours = model.head(x["train"]).softmax(1).detach().numpy()
    assert np.abs(ours - theirs.predict_proba(z)).max() < 2e-3
    assert loss == pytest.approx(-np.log(ours[np.arange(len(z)), y["train"]]).mean(), abs=1e-4)


def test_the_head_ignores_constant_features_and_rises_from_one_image_a_class() -> None:
    head = nn.Linear(5, 2)
    x = torch.tensor([[1.0, 7, 0, 0, 0], [2.0, 7, 0, 0, 0]])
    fit_head(head, {"train": x, "val": x}, {"train": torch.tensor([0, 1]), "val": torch.tensor([0, 1])})
    assert head.weight[:, 1:].abs().max() == 0
    assert head(x).argmax(1).tolist() == [0, 1]
    assert head.weight.isfinite().all()


@given(st.sampled_from(["cosine", "linear", "constant", "one-cycle"]), st.floats(0, 1), st.floats(0, 1))
def test_schedules_stay_between_nothing_and_the_peak(name: str, warmup: float, progress: float) -> None:
    value = schedule(Stage("s", schedule=name, warmup=warmup), progress)  # type: ignore[arg-type]
    assert 0 <= value <= 1


def test_schedules_rise_peak_and_end() -> None:
    cosine = Stage("s", warmup=0.3)
    assert [round(schedule(cosine, p), 3) for p in (0.0, 0.15, 0.3, 0.65, 1.0)] == [0, 0.5, 1, 0.5, 0]
    assert schedule(replace(cosine, schedule="constant"), 0.5) == 1
    assert schedule(replace(cosine, schedule="linear"), 0.65) == pytest.approx(0.5)


def test_one_cycle_is_pytorchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=101, pct_start=0.3)
    stage = Stage("s", schedule="one-cycle", warmup=(0.3 * 101 - 1) / 100)  # where theirs peaks
    for i in range(101):
        assert schedule(stage, i / 100) == pytest.approx(theirs.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        if i < 100:
            theirs.step()


def test_rates_fall_with_depth_and_vectors_are_spared_decay(tiny: Checkpoint, task: Task) -> None:
    model = build_model(tiny, task)
    names = [n for n, _ in model.named_parameters()]
    optimizer, scales = make_optimizer(model, replace(FULL, layer_decay=0.5, weight_decay=0.1), names)
    lookup = {id(p): n for n, p in model.named_parameters()}
    rates = {lookup[id(p)]: s for g, s in zip(optimizer.param_groups, scales, strict=True) for p in g["params"]}
    decay = {lookup[id(p)]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert set(rates) == set(names)
    assert rates["head.weight"] == 1
    assert rates["backbone.blocks.1.0.weight"] == 0.5
    assert rates["backbone.blocks.0.0.weight"] == 0.25
    assert rates["backbone.stem.weight"] == rates["backbone.bn.weight"] == 0.125
    assert {n for n, d in decay.items() if d == 0} == {n for n, p in model.named_parameters() if p.ndim == 1}


def one_step(tiny: Checkpoint, task: Task, stage: Stage, accumulate: int = 1, steps: int = 1) -> tuple[Model, Step]:
    model = build_model(tiny, task)
    names = [n for n, _ in model.named_parameters()]
    step = Step(model, model, stage, task, names, torch.device("cpu"), "fp32", accumulate, False)
    set_mode(model, stage, names)
    model.backbone.get_submodule("drop").eval()
    x, y = model.preprocess(task.train.inputs[:16]), task.train.targets[:16]
    for _ in range(steps):
        step(x, y, stage.lr)
    return model, step


def test_accumulation_changes_only_the_last_digits(tiny: Checkpoint, task: Task) -> None:
    sgd = replace(FULL, optimizer="sgd", lr=0.1)
    whole, parts = one_step(tiny, task, sgd)[0], one_step(tiny, task, sgd, accumulate=5)[0]
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_step(tiny: Checkpoint, task: Task) -> None:
    stage = replace(FULL, optimizer="sgd", lr=1.0, clip_norm=1e-3, weight_decay=0.0)
    start = list(build_model(tiny, task).parameters())
    moved = [a.detach() - b.detach() for a, b in zip(one_step(tiny, task, stage)[0].parameters(), start, strict=True)]
    # Nesterov's first step is (1 + momentum) times the gradient.
    assert float(torch.cat([m.flatten() for m in moved]).norm()) == pytest.approx(1.9e-3, rel=1e-2)


def test_l2_sp_pulls_towards_the_start(tiny: Checkpoint, task: Task) -> None:
    start = torch.cat([p.flatten() for p in build_model(tiny, task).parameters()])

    def distance(pull: float) -> float:
        stage = replace(FULL, optimizer="sgd", lr=0.05, l2_sp=pull, weight_decay=0.0)
        moved = one_step(tiny, task, stage, steps=30)[0].parameters()
        return float((torch.cat([p.flatten() for p in moved]) - start).detach().norm())

    assert distance(5.0) < 0.5 * distance(0.0)


def test_the_moving_average_is_what_is_scored_and_it_gives_the_weights_back(tiny: Checkpoint, task: Task) -> None:
    model, step = one_step(tiny, task, replace(FULL, ema=0.9), steps=3)
    raw = [p.detach().clone() for p in model.parameters()]
    with step.averaged(contextlib.nullcontext):
        assert all(torch.equal(p, a) for p, a in zip(model.parameters(), step.average, strict=True))
        assert not torch.equal(next(model.parameters()), raw[0])
    assert all(torch.equal(p, r) for p, r in zip(model.parameters(), raw, strict=True))


@pytest.mark.parametrize("where", ["loss", "weights"])
def test_a_loss_that_is_not_finite_stops_the_run_with_the_best_weights(
    tiny: Checkpoint, task: Task, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = bits(run(tiny, task, [PROBE])[0])
    model = build_model(tiny, task)
    stages = [PROBE, replace(FULL, lr=1e3, optimizer="sgd", epochs=50)]
    if where == "loss":
        kind = kind_of(task)
        monkeypatch.setattr(kind, "loss", lambda *a, **k: torch.tensor(math.nan, requires_grad=True))
        stages = [PROBE, FULL]
    with pytest.raises(FloatingPointError, match="the loss is not finite in stage 'all', epoch"):
        finetune(model, task, stages, log=quiet, precision="fp32")
    assert all(v.isfinite().all() for v in model.state_dict().values())
    if where == "loss":
        assert bits(model) == probe


def test_the_learning_rate_finder_leaves_the_model_alone(tiny: Checkpoint, task: Task) -> None:
    model = build_model(tiny, task)
    before = bits(model)
    found = find_lr(model, task, FULL, steps=40, device="cpu")
    assert bits(model) == before
    assert len(found["lr"]) == len(found["loss"]) <= 40
    assert 1e-6 <= found["suggestion"] <= 1
    assert (np.diff(found["lr"]) > 0).all()


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "lora"])  # which needs linear layers
def test_recipes_are_lists_of_stages_that_run(name: str, tiny: Checkpoint, task: Task) -> None:
    with_head = name in ("probe", "lp-ft", "gradual")
    stages = recipe(name, epochs=3, head_epochs=2 if with_head else None, batch_size=None if name == "probe" else 16)
    _, history = run(tiny, task, stages)
    assert sum(s.epochs for s in stages if s.trainable != ("head",)) == (0 if name == "probe" else 3)
    assert len(history.rows) == sum(s.epochs for s in stages)
    assert all(str(s) for s in stages)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("lpft", {}, "did you mean 'lp-ft'"),
        ("lp-ft", {"overrides": {"emma": 1}}, "did you mean 'ema'"),
        ("lp-ft", {"overrides": {"ema": 2}}, "ema is 2"),
        ("lp-ft", {"augment": ["flop"]}, "unknown augmentation 'flop'"),
        ("lp-ft", {"overrides": {"epochs": 1.5}}, "epochs is 1.5; it must be a whole number"),
        ("probe", {"lr": 1e-3}, "lr would change nothing: with epochs=4 recipe 'probe' trains the head alone"),
        ("full", {"head_epochs": 3}, "recipe 'full' has no stage for the head alone"),
        ("full", {"epochs": 0}, "with epochs=0 and head_epochs=None trains nothing"),
    ],
)
def test_recipes_refuse_what_they_do_not_know(name: str, change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        recipe(name, **change)


def test_no_stage_is_an_error(tiny: Checkpoint, task: Task) -> None:
    with pytest.raises(InputError, match="no stage to run"):
        run(tiny, task, [])


def test_a_stage_of_no_epochs_changes_nothing(tiny: Checkpoint, task: Task) -> None:
    before = bits(build_model(tiny, task))
    model, history = run(tiny, task, [replace(FULL, epochs=0)])
    assert bits(model) == before
    assert history.best["epoch"] == 0


def test_predictions_do_not_depend_on_the_batch(tiny: Checkpoint, task: Task) -> None:
    model, _ = run(tiny, task, [FULL])
    whole = predict(model, task.test, task, batch_size=1000)
    for size in (1, 7):
        part = predict(model, task.test, task, batch_size=size)
        np.testing.assert_allclose(part.scores, whole.scores, atol=1e-5)
        assert part.ids == whole.ids
    assert (predict(model.train(), task.test, task, batch_size=1000).scores == whole.scores).all()  # eval mode is set


def test_the_score_on_val_is_the_reports(tiny: Checkpoint, task: Task) -> None:
    model, history = run(tiny, task, [PROBE])
    report = evaluate(predict(model, task.val, task, device="cpu", precision="fp32"), metrics=["accuracy", "log_loss"])
    assert history.best["val_accuracy"] == pytest.approx(report["accuracy"].value, abs=1e-12)
    assert history.best["val_loss"] == pytest.approx(report["log_loss"].value, abs=1e-5)


def test_forward_keeps_the_order(tiny: Checkpoint, task: Task) -> None:
    model = build_model(tiny, task)
    rows = np.random.default_rng(0).permutation(len(task.test))
    one = forward(model, model, task.test.inputs, torch.device("cpu"), "fp32")
    two = forward(model, model, task.test.take(rows).inputs, torch.device("cpu"), "fp32")
    torch.testing.assert_close(one[rows], two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precisions_agree_roughly(tiny: Checkpoint, task: Task, precision: str) -> None:
    model, _ = run(tiny, task, [PROBE])
    low = predict(model, task.test, task, precision=precision).probabilities
    high = predict(model, task.test, task, precision="fp32").probabilities
    assert np.abs(low - high).max() < (0.05 if precision == "bf16" else 1e-9)


@pytest.mark.parametrize(
    ("device", "says"), [("tpu9", "unknown device 'tpu9'"), ("cuda:77", "cuda:77"), ("meta", "not available")]
)
def test_devices_that_are_not_there_are_named(device: str, says: str, tiny: Checkpoint, task: Task) -> None:
    with pytest.raises(ValueError, match=says):
        finetune(build_model(tiny, task), task, [FULL], device=device, log=quiet)


def test_progress_is_a_line_an_epoch(tiny: Checkpoint, task: Task) -> None:
    lines: list[str] = []
    log: Callable[[str], None] = lines.append
    finetune(build_model(tiny, task), task, [PROBE, FULL], log=log)
    assert len(lines) == 4
    assert lines[2].startswith("all 1/2: loss ")
    assert "images/s, about" in lines[2]
    assert "left" not in lines[3]


@pytest.mark.usefixtures("with_nbval")
def test_compiled_training_learns_the_same(tiny: Checkpoint, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    # Captured and differentiated ahead of time, as always; only the slow code generation is left out.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    one, two = (run(tiny, task, [replace(FULL, epochs=1)], compile=c)[1] for c in (True, False))
    assert one.rows[0]["train_loss"] == pytest.approx(two.rows[0]["train_loss"], rel=1e-3)


def test_a_stage_without_an_epoch_scores_what_it_begins_with(tiny: Checkpoint, task: Task) -> None:
    model = build_model(tiny, task)
    lines: list[str] = []
    before = bits(model)
    how = {"device": "cpu", "precision": "fp32"}
    history = finetune(model, task, [Stage("start", epochs=0)], log=lines.append, **how)  # type: ignore[arg-type]
    assert bits(model) == before
    assert [row["epoch"] for row in history.rows] == [0]
    assert history.rows[0]["train_loss"] is None, "a file of JSON holds no NaN"
    assert lines == [f"start: as it begins, val accuracy {history.best['val_accuracy']:.3f}"]
    lines.clear()
    finetune(model, task, [Stage("start", epochs=0), replace(FULL, epochs=1)], log=lines.append, **how)  # type: ignore[arg-type]
    assert "left" not in lines[1]
