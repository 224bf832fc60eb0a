"""Pretraining and transfer: objectives against direct computations, curves against known answers, a chain of four."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ptlib as pt
from ptlib import similarity, stats
from ptlib.core import Checkpoint, Task
from ptlib.kinds import contrastive, rotation
from ptlib.pretext import METHODS, pretext
from ptlib.results import Predictions
from tests.conftest import make_task

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def source() -> Task:
    return make_task(n=64, classes=4, seed=3)


@pytest.fixture(scope="module")
def target() -> Task:
    return make_task(n=60, classes=3, seed=4, noise=90)


@pytest.fixture(scope="module")
def pretrained(source: Task) -> pt.Pretrained:
    return pt.pretrain(source, epochs=2, image_size=16, log=lambda line: None)


@pytest.fixture(scope="module")
def start(pretrained: pt.Pretrained) -> pt.Model:
    return pretrained.model


# Some of the classes of a set, and photographs beyond their grid.


def test_some_classes_are_those_of_the_whole() -> None:
    whole, odd = pt.load_task("digits", n_train=600), pt.load_task("digits[1::2]", n_train=50)
    assert odd.name == "digits[1:10:2]"
    assert odd.class_names == ("1", "3", "5", "7", "9")
    assert len(odd.train) == 50
    pixels = {id: image for s in whole.splits for id, image in zip(s.ids, s.inputs, strict=True)}
    labels = {id: int(k) for s in whole.splits for id, k in zip(s.ids, s.targets, strict=True)}
    for split in odd.splits:
        for id, image, k in zip(split.ids, split.inputs, split.targets, strict=True):
            if id in pixels:
                assert torch.equal(image, pixels[id])
                assert whole.class_names[labels[id]] == odd.class_names[k]
    assert set(odd.test.ids) <= set(whole.test.ids)


def test_halves_share_no_class_and_a_slice_of_one_class_is_refused() -> None:
    first, second = pt.load_task("photos[:9]"), pt.load_task("photos[9:]")
    assert not set(first.class_names) & set(second.class_names)
    assert set(first.train.ids) | set(second.train.ids) == set(pt.load_task("photos").train.ids)
    with pytest.raises(pt.InputError, match="of these, 1 are taken, and two are needed"):
        pt.load_task("photos[3:4]")
    with pytest.raises(pt.InputError, match=r"unknown dataset 'photos\[::0\]'"):
        pt.load_task("photos[::0]")


def test_a_folder_may_be_sliced_or_have_brackets_in_its_name(tmp_path: Path) -> None:
    from PIL import Image

    for folder in ("mine", "odd[:2]"):
        for name in ("ant", "bee", "cat"):
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (16, 16), (40 * i, 10, 10)).save(tmp_path / folder / name / f"{i}.png")
    assert pt.load_task("mine[1:]", tmp_path).class_names == ("bee", "cat")
    assert pt.load_task("mine[1:]", tmp_path).name == "mine[1:3]"
    assert pt.load_task(str(tmp_path / "odd[:2]")).class_names == ("ant", "bee", "cat")


def test_patches_beyond_the_grid_touch_no_other_split() -> None:
    task = pt.load_task("photos[:3]", n_train=1500)
    assert len(set(task.train.ids)) == len(task.train) == 1500
    covered: set[tuple[str, int, int]] = set()
    for split in (task.val, task.test):
        for name, y, x in (re.fullmatch(r"(.*)/(\d+)-(\d+)", i).groups() for i in split.ids):  # type: ignore[union-attr]
            covered |= {(name, int(y) + dy, int(x) + dx) for dy in range(32) for dx in range(32)}
    for name, y, x in (re.fullmatch(r"(.*)/(\d+)-(\d+)", i).groups() for i in task.train.ids):  # type: ignore[union-attr]
        corners = [(name, int(y) + dy, int(x) + dx) for dy in (0, 31) for dx in (0, 31)]
        assert not covered.intersection(corners)  # patches of 32 can't overlap without a corner inside or aligned
    few = pt.load_task("photos[:3]", n_train=60)
    assert torch.equal(few.train.inputs, pt.load_task("photos[:3]", n_train=60).train.inputs)


@pytest.mark.parametrize(
    ("trained_on", "task", "seen"),
    [
        ("random weights, then photos[0:9]", "photos[9:18]", False),
        ("random weights, then photos[0:9]", "photos[8:18]", True),
        ("random weights, then photos[0:9]", "photos", True),
        ("ImageNet-1k, then photos", "photos[9:18]", True),
        ("random weights, then photos[0:10:2]", "photos[1:10:2]", False),
        ("CIFAR-10", "cifar10[0:5]", True),
        ("CIFAR-10", "cifar100", False),
        (None, "photos", False),
    ],
)
def test_what_was_seen_goes_by_classes(tiny: Checkpoint, task: Task, trained_on: str, seen: bool, request) -> None:  # type: ignore[no-untyped-def]
    named = replace(make_task(), name=request.node.callspec.params["task"])
    assert replace(tiny, trained_on=trained_on).has_seen(named) is seen


# What is learned without labels.


def nt_xent(z: np.ndarray, temperature: float) -> float:
    """Equation 1 of Chen et al. (2020), term by term."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(z)):
        j = i + 1 if i % 2 == 0 else i - 1
        others = [math.exp(z[i] @ z[k] / temperature) for k in range(len(z)) if k != i]
        total += -math.log(math.exp(z[i] @ z[j] / temperature) / sum(others))
    return total / len(z)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
def test_nt_xent_is_the_papers(temperature: float) -> None:
    z = np.random.default_rng(0).normal(size=(12, 5))
    head = contrastive.Projection(5, 5, temperature)
    for layer in (head.hidden, head.out):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    outputs = head(torch.from_numpy(np.abs(z)).float()).detach()
    targets = torch.zeros(12, dtype=torch.int64)
    assert float(contrastive.loss(outputs, targets)) == pytest.approx(nt_xent(np.abs(z), temperature), rel=1e-5)
    assert contrastive.score(outputs, targets)["loss"] == pytest.approx(nt_xent(np.abs(z), temperature), rel=1e-5)


def test_partners_that_coincide_are_found() -> None:
    z = torch.eye(6).repeat_interleave(2, 0) * 10
    assert contrastive.score(z, torch.zeros(12))["accuracy"] == 1.0
    assert contrastive.score(z.roll(1, 0), torch.zeros(12))["accuracy"] < 0.5


def test_turns_are_numpys_and_one_for_each_image() -> None:
    images = torch.randint(0, 255, (40, 6, 6, 3), dtype=torch.uint8)
    turns = torch.arange(40) % 4
    for image, k, turned in zip(images, turns, rotation.turn(images, turns), strict=True):
        assert np.array_equal(turned.numpy(), np.rot90(image.numpy(), int(k)))


def test_what_methods_make_of_a_task(source: Task) -> None:
    turned, views, shuffled = (pretext(source, m) for m in ("rotation", "simclr", "shuffled"))
    assert turned.kind == "rotation"
    assert "flip" not in pretext(replace(source, augment=("crop",)), "simclr").augment
    assert int(turned.train.targets.max()) == 0, "labels of train must not be there to be learned from"
    assert len(views.val) == 2 * len(source.val)
    assert not torch.equal(views.val.inputs[0::2], views.val.inputs[1::2])
    for before, after in zip(source.splits, shuffled.splits, strict=True):
        assert torch.equal(before.targets.bincount(), after.targets.bincount())
        assert torch.equal(before.targets, after.targets) == (before.name == "test")
    with pytest.raises(pt.InputError, match="unknown method 'simclrr'; did you mean 'simclr'"):
        pretext(source, "simclrr")


@pytest.mark.parametrize("method", METHODS)
def test_pretraining_is_deterministic_and_its_checkpoint_loads(
    method: str, source: Task, target: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path))
    how = {"epochs": 2, "image_size": 16, "log": lambda line: None}
    one, two = (pt.pretrain(source, method=method, **how) for _ in range(2))  # type: ignore[arg-type]
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[name]), name
    assert one.history.selected_on == "nothing was selected: the last epoch"
    assert len(one.history.rows) == (1 if method == "simclr" else 2), "two views take half the epochs"
    learned = method in ("supervised", "shuffled")
    assert one.model.head.out_features == (source.n_classes if learned else 1)
    path = pt.save_pretrained("pretrain", {}, one, target, {})
    checkpoint = pt.load_checkpoint(str(path / "model.safetensors"))
    assert checkpoint.trained_on == f"random weights, then {source.name}"
    again = pt.build_model(checkpoint, target, 16)
    assert torch.equal(pt.features(again, target.test), pt.features(one.model, target.test))


def test_simclr_pulls_views_together_and_a_bad_temperature_is_refused(source: Task) -> None:
    made = pt.pretrain(source, method="simclr", epochs=16, image_size=16, batch_size=32, log=lambda line: None)
    losses = [row["train_loss"] for row in made.history.rows]
    assert losses[-1] < losses[0]
    with pytest.raises(pt.InputError, match="temperature is 0; it must be above 0"):
        pt.pretrain(source, method="simclr", temperature=0)


def test_the_last_weights_are_kept_where_nothing_may_be_chosen(task: Task, tiny: Checkpoint) -> None:
    stages = [pt.Stage("all", epochs=3, lr=3.0, batch_size=16, schedule="constant", optimizer="sgd", clip_norm=1.0)]
    kept = {}
    for keep in ("best", "last"):
        model = pt.build_model(tiny, task, 16)
        history = pt.finetune(model, task, stages, keep=keep, log=lambda line: None)
        kept[keep] = model.state_dict()
        assert len(history.rows) == 3
    assert history.best is history.rows[-1]
    assert ["val_accuracy" in row for row in history.rows] == [False, False, True]
    one = pt.build_model(tiny, task, 16)
    pt.finetune(one, task, [replace(stages[0], epochs=2)], keep="last", log=lambda line: None)
    assert any(not torch.equal(v, one.state_dict()[k]) for k, v in kept["last"].items())


# Few labels.


def test_few_labels_are_nested_repeated_and_enough(target: Task) -> None:
    five, two = pt.few(target, 5, seed=1, shown=100), pt.few(target, 2, seed=1)
    assert len(five.train) == 105
    assert len(set(five.train.ids)) == 105
    assert set(two.train.ids) <= set(five.train.ids)
    assert (two.train.counts(3) == 2).all()
    assert (five.val.counts(3) == 1).all()
    assert five.test is target.test
    assert set(pt.few(target, 2, seed=2).train.ids) != set(two.train.ids)
    both = pt.few(target, 2, classes=2)
    assert both.class_names == target.class_names[:2]
    assert int(both.test.targets.max()) == 1
    with pytest.raises(pt.InputError, match="labels is 21; class 'a' of colours has 20, take 1 to that many"):
        pt.few(target, 21)
    with pytest.raises(pt.InputError, match="classes is 4; colours has 3"):
        pt.few(target, 2, classes=4)


def test_transfers_by_every_way(start: pt.Model, target: Task) -> None:
    few = pt.Transfers({})
    for way in ("probe", "neighbours", "fine-tuned", "scratch"):
        few |= pt.transfer({"ours": start}, target, [2, 8, 8], way, seeds=2, epochs=1, shown=30)
    assert list(few.said) == [("ours", w) for w in ("probe", "neighbours", "fine-tuned", "scratch")]
    assert {k: len(v) for k, v in few.said["ours", "probe"].items()} == {2: 2, 8: 2}
    assert few.accuracy("ours", "probe", 8).mean > 0.6  # classes differ by colour
    assert len(few.frame()) == 16
    margin = few.margin(("ours", "probe"), ("ours", "neighbours"), 8)
    assert margin.mean == pytest.approx(few.hits("ours", "probe", 8).mean() - few.hits("ours", "neighbours", 8).mean())
    assert few.worth(("ours", "probe"), ("ours", "probe"), 8).equal <= 8
    bias, variance = few.parts("ours", "probe", 2)
    brier = [((p.probabilities - np.eye(3)[p.targets]) ** 2).sum(1).mean() for p in few.said["ours", "probe"][2]]
    assert bias + variance == pytest.approx(np.mean(brier))
    assert set(few.table().index) == {f"ours, {w}" for w in ("probe", "neighbours", "fine-tuned", "scratch")}
    with pytest.raises(pt.InputError, match="unknown way 'finetuned'; did you mean 'fine-tuned'"):
        pt.transfer({"ours": start}, target, [2], "finetuned")
    with pytest.raises(pt.InputError, match="neighbours make no network; there are probe, fine-tuned, scratch"):
        pt.adapt(start, target, 2, "neighbours")
    for ask in (few.hits, few.parts):
        with pytest.raises(pt.InputError, match=r"3 labels were not tried; \[2, 8\] were"):
            ask("ours", "probe", 3)
    one = few | pt.transfer({"ours": start}, target, [2], "probe", seeds=1)
    with pytest.raises(pt.InputError, match="pairs need the same of both"):
        one.margin(("ours", "probe"), ("ours", "scratch"), 2)


def test_what_a_contrastive_batch_does_not_bear(source: Task) -> None:
    task = pretext(source, "simclr")
    model = pt.build_model(pt.load_checkpoint("random/cifar_resnet8"), task, 16)
    with pytest.raises(pt.InputError, match="accumulate is 2; a contrastive loss needs its batch whole"):
        pt.finetune(model, task, [pt.Stage("all")], accumulate=2)
    with pytest.raises(pt.InputError, match=r"label_smoothing is 0\.1"):
        pt.finetune(model, task, [pt.Stage("all", label_smoothing=0.1)])
    with pytest.raises(pt.InputError, match="keep is 'lst'; it must be best or last"):
        pt.finetune(model, task, [pt.Stage("all")], keep="lst")  # type: ignore[arg-type]


def test_slices_of_a_folder_are_dealt_with_the_whole(tmp_path: Path) -> None:
    from PIL import Image

    for k, name in enumerate("abcd"):
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.new("RGB", (8, 8), (60 * k, 10 * i, 0)).save(tmp_path / name / f"{i}.png")
    whole, some = pt.load_task(str(tmp_path)), pt.load_task(f"{tmp_path}[2:]")
    for a, b in zip(whole.splits, some.splits, strict=True):
        assert set(b.ids) == {i for i in a.ids if i[0] in "cd"}


def test_transfer_leaves_its_start_alone(start: pt.Model, target: Task) -> None:
    before = {name: value.clone() for name, value in start.state_dict().items()}
    a, b = (pt.adapt(start, target, 3, epochs=1, shown=30) for _ in range(2))
    for name, value in start.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    moved = similarity.layer_distances(start, a)
    assert all(0 < d < 1 for d in moved.values())


def test_a_frozen_layer_stays_and_a_random_one_is_the_random_networks(target: Task, start: pt.Model) -> None:
    random = pt.build_model(start.checkpoint, target, 16, seed=5)
    found = pt.layer_by_layer(start, random, target, 4, seeds=1, epochs=1, shown=12)
    assert [name for name, _ in found["frozen"].said] == ["conv1", "layer1", "layer2"]
    assert [name for name, _ in found["random"].said] == ["layer1", "layer2", "layer3"]
    partly = pt.adapt(start, target, 4, trainable=["head", r"backbone\.layer3\."], epochs=1, shown=12)
    moved = similarity.layer_distances(start, partly)
    assert [d > 0 for d in moved.values()] == [False, False, False, True]


def hits_of(rates: list[float], n: int = 40) -> dict[int, list[Predictions]]:
    """Two runs whose accuracy is the rate, at 1, 10, 100 labels."""
    made = {}
    for k, rate in zip((1, 10, 100), rates, strict=True):
        right = np.arange(n) < round(rate * n)
        scores = np.where(right[:, None], [[1.0, 0.0]], [[0.0, 1.0]])
        made[k] = [Predictions(tuple(map(str, range(n))), np.zeros(n, int), scores, "test", ("a", "b"))] * 2
    return made


def test_worth_reads_the_horizontal_distance() -> None:
    few = pt.Transfers({("new", "w"): hits_of([0.5, 0.7, 0.95]), ("old", "w"): hits_of([0.2, 0.5, 0.9])})
    assert few.worth(("new", "w"), ("old", "w"), 1).equal == pytest.approx(10)
    assert few.worth(("new", "w"), ("old", "w"), 10).equal == pytest.approx(10 * 10**0.5)
    most = few.worth(("new", "w"), ("old", "w"), 100)
    assert math.isinf(most.equal)
    assert str(most).startswith("100 a class: worth more than 100 (")
    assert str(few.worth(("old", "w"), ("new", "w"), 1)).startswith("1 a class: worth at most 1 (at most 1")
    one = few.worth(("new", "w"), ("old", "w"), 1)
    assert one.low < one.equal < one.high


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_reaches_inverts_the_curve(curve: list[float], value: float) -> None:
    x = 2.0 ** np.arange(len(curve))
    at = float(stats.reaches(x, np.array(curve), np.array(value)))
    rising = np.maximum.accumulate(curve)
    if value > rising[-1]:
        assert math.isinf(at)
    else:
        assert x[0] <= at <= x[-1]
        assert float(np.interp(np.log(at), np.log(x), rising)) >= value - 1e-6


def test_power_law_is_regression_of_logarithms() -> None:
    rng = np.random.default_rng(0)
    n = np.array([10, 10, 100, 1000, 10_000])
    error = 2 * n**-0.3 * np.exp(rng.normal(0, 0.1, 5))
    law, truth = stats.power_law(n, error), scipy.stats.linregress(np.log(n), np.log(error))
    half = scipy.stats.t.ppf(0.975, 3) * truth.stderr
    assert law.exponent == pytest.approx(-truth.slope)
    assert (law.low, law.high) == pytest.approx((-truth.slope - half, -truth.slope + half))
    assert law.explained == pytest.approx(truth.rvalue**2)
    assert law(10) == pytest.approx(np.exp(truth.intercept) * 10**truth.slope)
    with pytest.raises(pt.InputError, match="three numbers of examples"):
        stats.power_law(np.array([1, 1, 2]), np.array([1, 1, 1]))
    with pytest.raises(pt.InputError, match="above 0"):
        stats.power_law(np.array([1, 2, 3]), np.array([0.1, 0.0, 0.1]))


def test_bias_and_variance_are_unbiased() -> None:
    rng = np.random.default_rng(0)
    truth, found = rng.dirichlet([2, 2, 2], size=50), []
    targets = np.zeros(50, int)
    for _ in range(400):
        noise = rng.normal(0, 0.1, (3, 50, 3))
        found.append(stats.bias_variance(truth + noise, targets))
    bias, variance = np.mean(found, axis=0)
    assert variance == pytest.approx(3 * 0.01, rel=0.03)
    assert bias == pytest.approx(((truth - np.eye(3)[targets]) ** 2).sum(1).mean(), rel=0.01)
    with pytest.raises(pt.InputError, match="two runs or more"):
        stats.bias_variance(truth[None], targets)


# Two networks.


def test_linear_cka_against_kernels_and_its_invariances() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 7)) * rng.uniform(0.1, 9, 7) + 3, rng.normal(size=(50, 4))
    y[:, 0] += x[:, 0]
    orthogonal = np.linalg.qr(rng.normal(size=(7, 7)))[0]
    centre = np.eye(50) - 1 / 50
    k, m = (centre @ (v @ v.T) @ centre for v in (x, y))
    direct = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert similarity.linear_cka(x, y) == pytest.approx(direct, abs=1e-9)
    assert similarity.linear_cka(x, x) == pytest.approx(1, abs=1e-12)
    assert similarity.linear_cka(x, x @ orthogonal) == pytest.approx(1, abs=1e-12)
    assert similarity.linear_cka(x, -1e9 * x + 5) == pytest.approx(1, abs=1e-9)
    assert similarity.linear_cka(1e-200 * x, 1e200 * y) == pytest.approx(direct, abs=1e-9)
    assert similarity.linear_cka(torch.from_numpy(x).float(), y) == pytest.approx(direct, abs=1e-5)
    with pytest.raises(pt.InputError, match="all constant"):
        similarity.linear_cka(np.ones((5, 2)), x[:5])
    with pytest.raises(pt.InputError, match="of the same"):
        similarity.linear_cka(x, y[:-1])


def test_layer_features_end_in_the_backbones(start: pt.Model, target: Task) -> None:
    found = similarity.layer_features(start, target.test, precision="fp32")
    assert list(found) == ["conv1", "layer1", "layer2", "layer3"]
    assert torch.allclose(found["layer3"], pt.features(start, target.test, precision="fp32"), atol=1e-5)


def test_between_a_network_and_itself_nothing_rises(start: pt.Model, target: Task) -> None:
    a, b = (pt.adapt(start, target, 4, seed=s, epochs=1, shown=60) for s in (0, 1))
    flat = similarity.between(a, a, target, (0, 0.5, 1))
    assert similarity.barrier(flat) == pytest.approx(0, abs=1e-6)
    there, back = (similarity.between(*pair, target, (0, 0.25, 1)) for pair in ((a, b), (b, a)))
    assert there["loss"].iloc[0] == pytest.approx(back["loss"].iloc[-1], abs=1e-4)
    hill = flat.assign(loss=[1.0, 3.0, 2.0])
    assert similarity.barrier(hill) == pytest.approx(1.5)


# The chain, as docs/guide.md prints it.


@pytest.mark.usefixtures("with_nbval")
def test_the_chain_of_four_notebooks(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "guide.md").read_text()
    (chain,) = re.findall(r"^papermill notebooks/pretrain\.ipynb(?:.*\\\n)+.*metrics\.ipynb.*$", guide, re.M)
    small = {
        "pretrain": "-p n_source 180 -p n_target 90 -p pretrain_epochs 1 -p labels '[1, 2, 4]' -p seeds 2 -p epochs 1 "
        "-p methods '[\"supervised\"]' -p growth false -p unrelated None",
        "select": "-p n_train 90",
        "finetune": "-p n_train 90 -p epochs 1 -p control false",
        "metrics": "-p resamples 100",
    }
    for name, settings_ in small.items():
        chain, found = re.subn(rf"(papermill notebooks/{name}\.ipynb \S+)", rf"\1 {settings_}", chain)
        assert found == 1
    chain = chain.replace("outputs/", f"{tmp_path}/").replace("papermill ", f"{sys.executable} -m papermill ")
    env = {**os.environ, "PTLIB_OUTPUTS": str(tmp_path), "PTLIB_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(["bash", "-c", chain], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "pretrained" / "model.safetensors").is_file()
    assert (tmp_path / "finetuned" / "report.json").is_file()
