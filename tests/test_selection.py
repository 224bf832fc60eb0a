"""Rankings: what is cached, what is ranked apart, how far a ranking is trusted, and what a budget buys."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import weightedtau
from torch import nn

import ptlib as pt
from ptlib import selection, stats
from ptlib.core import Checkpoint, Task
from ptlib.errors import InputError
from ptlib.models import build_model
from ptlib.preprocessing import Preprocessing
from ptlib.selection import candidates as module
from ptlib.selection.ranking import Ranking
from tests.conftest import Tiny, make_task, silent

pytestmark = pytest.mark.usefixtures("feature_cache")

SIZE = Preprocessing(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")


def tiny(name: str, **facts: Any) -> Checkpoint:
    return Checkpoint(name, "tiny", "test", SIZE, parameters=0, flops=0, factory=Tiny, **facts)


def features_of(task: Task, strength: float, seed: int = 0, width: int = 6) -> selection.Candidate:
    """A candidate of a given worth: class means that far apart, in noise."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(task.n_classes, width)) * strength
    train, val = (
        (means[s.targets] + rng.normal(size=(len(s), width))).astype(np.float32) for s in (task.train, task.val)
    )
    return selection.Candidate(f"strength {strength}", train, val)


def test_a_ranking_needs_features_and_labels_only(task: Task) -> None:
    ranking = pt.rank([features_of(task, s) for s in (0.0, 3.0, 1.0)], task, log=silent)
    assert ranking.names == ["strength 3.0", "strength 1.0", "strength 0.0"]
    assert ranking.pick == "strength 3.0"
    row = ranking.rows["strength 3.0"]
    hits = round(row["probe"] * len(task.val))
    assert (row["probe_low"], row["probe_high"]) == stats.wilson(hits, len(task.val))
    assert math.isnan(row["leep"])
    assert ranking.reasons["strength 3.0"]["leep"] == "it was trained on no classes of its own"
    for score in ("log_me", "h_score_shrunk", "sfda", "parc", "etran", "trans_rate"):
        assert ranking.rows["strength 3.0"][score] > ranking.rows["strength 0.0"][score], score
    text = str(ranking)
    assert text.splitlines()[0] == "colours: 3 candidates on 60 train and 30 val examples"
    assert "<table class=" in ranking._repr_html_()
    with pytest.raises(InputError, match="only a checkpoint can be fine-tuned"):
        selection.fine_tune(next(iter(ranking.candidates.values())), task)


def test_the_probe_of_a_ranking_is_the_recipe_probe(task: Task) -> None:
    ranking = pt.rank([tiny("random/tiny")], task, ["log_me"], seed=3, log=silent)
    model = build_model(tiny("random/tiny"), task, seed=3)
    pt.finetune(model, task, pt.recipe("probe"), seed=3, log=silent)
    said = pt.predict(model, task.val, task)
    assert ranking.rows["random/tiny"]["probe"] == float((said.predicted == said.targets).mean())


@pytest.mark.usefixtures("with_nbval")
def test_layers_come_in_one_pass_and_equal_the_network_cut_off(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    real = module._pass
    monkeypatch.setattr(module, "_pass", lambda *a: passes.append(a[1].name) or real(*a))  # type: ignore[func-returns-value]
    names = ["efficientnet_lite0@blocks.1", "efficientnet_lite0", "efficientnet_lite0@blocks.0.0"]
    found = {c.name: c for c in selection.encode(names, task, log=silent)}
    assert passes == ["train", "val"]
    assert list(found) == names
    whole = pt.load_checkpoint("efficientnet_lite0")
    for name in names:
        c = pt.load_checkpoint(name)
        model = build_model(c, task)
        assert torch.equal(pt.features(model, task.train), torch.from_numpy(found[name].train)), name
        assert found[name].facts["parameters"] < whole.parameters
        assert (found[name].source is None) == ("@" in name)
    small, large = (found[n].facts for n in (names[2], names[0]))
    assert small["flops"] < large["flops"] < found[names[1]].facts["flops"]
    assert small["memory_mb"] < large["memory_mb"] < found[names[1]].facts["memory_mb"]
    source = found[names[1]].source
    assert source is not None
    assert source.shape == (len(task.train), 1000)
    assert source.sum(1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["written", "random/torchvision/resnet18@layer2.0.relu"])
def test_taps_see_what_the_network_cut_off_gives(name: str, task: Task) -> None:
    """Where what follows writes into the layer's output, and where the layer runs twice."""
    size: dict[str, Any] = {"image_size": 32, "seed": 2}
    if name == "written":
        whole: Any = replace(tiny("random/written"), factory=Written)
        part: Any = replace(whole, name="random/written@fc1", architecture="tiny@fc1", layer="fc1")
    else:
        whole, part = (pt.load_checkpoint(n) for n in (name.partition("@")[0], name))
    found = {c.name: c for c in selection.encode([part, whole], task, log=silent, **size)}
    model = build_model(part, task, found[part.name].facts["image_size"], seed=2)
    assert torch.equal(pt.features(model, task.train), torch.from_numpy(found[part.name].train))
    assert found[part.name].train.min() < 0 or name != "written"
    assert found[whole.name].source is None  # random weights know no classes


class Written(nn.Module):
    """What follows the first layer writes into its output."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, 9)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.relu(self.fc1(x.mean((2, 3)))))  # type: ignore[no-any-return]


def test_a_head_is_no_layer() -> None:
    for name in ("random/torchvision/resnet18@fc", "random/torchvision/vgg11@classifier"):
        with pytest.raises(InputError, match="is, or holds, its head"):
            pt.load_checkpoint(name)


def test_files_of_one_name_are_not_taken_for_one_another(task: Task, tmp_path: Path) -> None:
    from ptlib.runs import save_model

    paths = []
    for i, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        model = build_model(pt.load_checkpoint("random/cifar_resnet20"), task, seed=i)
        paths.append(str(save_model(model, task, tmp_path / folder / "model.safetensors")))
    a, b, layer = selection.encode([paths[0], paths[1], paths[1] + "@layer2"], task, log=silent)
    assert [a.name, b.name, layer.name] == [paths[0], paths[1], "model@layer2"]
    assert not np.array_equal(a.train, b.train)
    alone = build_model(pt.load_checkpoint(paths[1] + "@layer2"), task, image_size=32)
    assert np.array_equal(layer.train, pt.features(alone, task.train).numpy())


class Fixed(Tiny):
    """Takes images of 16 pixels alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != 16:
            raise ValueError("16 pixels")
        return super().forward(x)


def test_a_network_of_a_fixed_size_gets_that_size(task: Task) -> None:
    (c,) = selection.encode([replace(tiny("random/fixed"), factory=Fixed)], task, image_size=12, log=silent)
    assert c.facts["image_size"] == 16


def test_a_layer_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no layer 'block.1'; did you mean 'blocks.1'\?"):
        pt.load_checkpoint("random/efficientnet_lite0@block.1")


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize(
    "name",
    ["random/timm/vit_tiny_patch16_224@blocks.2", "random/timm/swin_tiny_patch4_window7_224@layers.1",
     "random/torchvision/resnet18@layer2", "random/cifar_resnet20@layer2"],
)  # fmt: skip
def test_networks_of_all_families_can_be_cut_off_and_trained(name: str, task: Task) -> None:
    c = pt.load_checkpoint(name)
    model = build_model(c, task, seed=1)
    assert model.head.in_features == pt.features(model, task.val.take([0, 1])).shape[1]
    loss = model(model.preprocess(task.train.inputs[:4])).square().sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters()), "what lies behind the layer is gone"


def test_cutting_off_changes_no_statistics(task: Task) -> None:
    whole = build_model(pt.load_checkpoint("efficientnet_lite0"), task)
    part = build_model(pt.load_checkpoint("efficientnet_lite0@blocks.2"), task)
    state = whole.state_dict()
    kept = {k.replace("backbone.network.", "backbone."): v for k, v in part.state_dict().items() if "network." in k}
    assert len(kept) > 50
    assert all(torch.equal(v, state[k]) for k, v in kept.items())


def test_a_run_that_began_from_a_layer_can_be_gone_on_with(task: Task, tmp_path: Path) -> None:
    from ptlib.runs import save_model

    c = pt.load_checkpoint("efficientnet_lite0@blocks.2")
    model = build_model(c, task, seed=5)
    path = save_model(model, task, tmp_path / "model.safetensors")
    again = pt.load_checkpoint(str(path))
    assert again.architecture == "timm/tf_efficientnet_lite0@blocks.2"
    other = build_model(again, task, image_size=model.preprocessing.size)
    assert torch.equal(pt.features(model, task.val), pt.features(other, task.val))


def test_features_come_from_the_cache_bit_by_bit(
    task: Task, feature_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["random/cifar_resnet20", "random/cifar_resnet20@layer1"]
    first = list(selection.encode(names, task, log=silent))
    monkeypatch.setattr(module, "_pass", lambda *a: pytest.fail("computed although it is in the cache"))
    said: list[str] = []
    second = list(selection.encode(names, task, log=said.append))
    assert len(list(feature_cache.iterdir())) == 1
    assert all("from the cache" in line for line in said)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.train, b.train)
        assert np.array_equal(a.val, b.val)
        assert a.facts["flops"] == b.facts["flops"]


def test_a_layer_alone_and_a_layer_beside_its_network_are_cached_apart(task: Task) -> None:
    (alone,) = selection.encode(["random/cifar_resnet20@layer1"], task, log=silent)
    both = list(selection.encode(["random/cifar_resnet20", "random/cifar_resnet20@layer1"], task, log=silent))
    assert np.array_equal(both[1].train, alone.train)


@pytest.mark.parametrize("change", ["seed", "image_size", "data", "layers", "precision"])
def test_what_changes_the_features_changes_the_key(change: str, task: Task, feature_cache: Path) -> None:
    name = "random/cifar_resnet20"
    list(selection.encode([name], task, precision="fp32", log=silent))
    values: dict[str, Any] = {"seed": 1, "image_size": 24, "precision": "bf16"}
    how = {"precision": "fp32"} | ({change: values[change]} if change in values else {})
    other = make_task(seed=1) if change == "data" else task
    list(selection.encode([name, *([f"{name}@layer1"] if change == "layers" else [])], other, log=silent, **how))
    assert len(list(feature_cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["flip", "flip facts", "truncate", "empty", "other"])
def test_a_cache_file_that_is_not_whole_is_made_anew(damage: str, task: Task, feature_cache: Path) -> None:
    (first,) = selection.encode(["random/cifar_resnet20"], task, log=silent)
    (file,) = feature_cache.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-1000] ^= 1
    if damage == "flip facts":
        content[content.index(b"flops") + 9] ^= 1
    changed = {"truncate": bytes(content[:-100]), "empty": b"", "other": b"{}" * 999}
    file.write_bytes(changed.get(damage, bytes(content)))
    (second,) = selection.encode(["random/cifar_resnet20"], task, log=silent)
    assert not second.facts["cached"]
    assert np.array_equal(first.train, second.train)
    (third,) = selection.encode(["random/cifar_resnet20"], task, log=silent)
    assert third.facts["cached"]


def test_a_network_of_one_s_own_is_not_cached_since_its_code_may_change(
    task: Task, feature_cache: Path, tmp_path: Path
) -> None:
    torch.save(Tiny().state_dict(), tmp_path / "w.pth")
    c = replace(pt.load_checkpoint(str(tmp_path / "w.pth"), Tiny), preprocessing=SIZE)
    list(selection.encode([c], task, log=silent))
    assert not feature_cache.exists()
    list(selection.encode([tiny("random/tiny")], task, log=silent))
    assert not feature_cache.exists()
    list(selection.encode(["random/cifar_resnet20"], task, cache=False, log=silent))
    assert not feature_cache.exists()
    feature_cache.parent.mkdir(exist_ok=True)
    feature_cache.touch()  # a cache that can't be written costs time, not the ranking
    (again,) = selection.encode(["random/cifar_resnet20"], task, log=silent)
    assert not again.facts["cached"]


def test_what_has_seen_the_data_is_ranked_apart_and_never_first(task: Task) -> None:
    knows = replace(features_of(task, 9.0), name="knows", seen=True)
    ranking = pt.rank([knows, features_of(task, 2.0), features_of(task, 1.0)], task, log=silent)
    assert ranking.pick == "strength 2.0"
    assert ranking.apart == ["knows"]
    assert list(ranking.rows)[-1] == "knows"
    assert ranking.rows["knows"]["probe"] >= ranking.rows["strength 2.0"]["probe"]
    assert "knows (has seen this data)" in str(ranking)
    assert "knows has seen this data in training" in selection.advice(ranking)
    alone = pt.rank([features_of(task, 2.0), features_of(task, 1.0)], task, log=silent)
    for score in ("etran", "ncti"):  # relative to the pool: what is apart does not stretch the scale
        assert ranking.rows["strength 2.0"][score] == alone.rows["strength 2.0"][score]
    truth = {"knows": 0.99, "strength 2.0": 0.8, "strength 1.0": 0.7}
    with pytest.raises(InputError, match="2 candidates have a known accuracy"):
        pt.trust(selection.with_truth(ranking, truth))


@pytest.mark.parametrize(
    ("trained_on", "name", "seen"),
    [("CIFAR-10", "cifar10", True), ("CIFAR-10", "cifar100", False), ("ImageNet-1k, then photos", "photos", True),
     ("ImageNet-1k", "photos", False), (None, "photos", False), ("Fashion-MNIST", "fashion_mnist", True),
     ("Fashion-MNIST", "hf:zalando/fashion_mnist", True), ("Fashion-MNIST", "mnist", False), (None, "_", False)],
)  # fmt: skip
def test_a_checkpoint_knows_the_data_it_has_seen(trained_on: str | None, name: str, seen: bool, task: Task) -> None:
    assert tiny("x", trained_on=trained_on).has_seen(replace(task, name=name)) == seen


@pytest.mark.parametrize("said", ["random/cifar_resnet20", "mine"])
def test_seen_marks_a_candidate_with_all_its_layers(said: str, task: Task) -> None:
    mine = replace(features_of(task, 1.0), name="mine")
    names = ["random/cifar_resnet20@layer1", "random/cifar_resnet20", "mine"]
    marked = [c.name for c in selection.encode([*names[:2], mine], task, seen=[said], log=silent) if c.seen]
    assert marked == [n for n in names if n.startswith(said)]


@pytest.mark.usefixtures("with_nbval")
def test_published_weights_are_known_by_their_hash(real_data: Path, task: Task) -> None:
    files = sorted((real_data / "cifar_resnets").glob("*.th"))
    assert len(files) == 4
    for file in files:
        c = pt.load_checkpoint(str(file))
        assert c.architecture == f"cifar_{file.stem.partition('-')[0]}"
        assert c.trained_on == "CIFAR-10"
        assert c.has_seen(replace(task, name="cifar10"))
    ranking = pt.rank([str(f) for f in files[:2]], replace(task, name="cifar10"), ["log_me"], log=silent)
    assert set(ranking.apart) == {"resnet20-12fca82f", "resnet32-d509ac18"}
    assert ranking.names == []
    unknown = pt.rank([str(files[0])], task, ["log_me"], log=silent)  # a name it can't know: the reader is told
    assert "It was trained on CIFAR-10; if this data comes from there, rank it apart" in selection.advice(unknown)


def test_repeated_images_count_once_in_scores(task: Task) -> None:
    twice = replace(task.train, ids=[f"again/{i}" for i in task.train.ids])
    both = pt.Split("train", torch.cat([task.train.inputs, twice.inputs]), torch.cat([task.train.targets] * 2),
                    [*task.train.ids, *twice.ids])  # fmt: skip
    c = features_of(task, 1.0)
    doubled = replace(c, train=np.concatenate([c.train, c.train]))
    one, two = (
        pt.rank([x], t, ["log_me", "h_score"], log=silent) for x, t in ((c, task), (doubled, replace(task, train=both)))
    )
    for score in ("log_me", "h_score"):
        assert one.rows[c.name][score] == two.rows[c.name][score]


def known(truth: dict[str, float], **columns: list[float]) -> Ranking:
    """A ranking with made-up rows, best first, and what fine-tuning gave."""
    rows: dict[str, dict[str, Any]] = {
        name: {
            "seen": False,
            "probe": 0.5,
            "probe_low": 0.4,
            "probe_high": 0.6,
            **{k: v[i] for k, v in columns.items()},
        }
        for i, name in enumerate(truth)
    }
    return selection.with_truth(Ranking("made up", 10, 10, 1000, tuple(columns), rows, {}), truth)


def test_trust_by_hand(task: Task) -> None:
    truth = dict(zip("abcdefgh", (0.9, 0.88, 0.8, 0.7, 0.65, 0.6, 0.5, 0.3), strict=True))
    values = np.array(list(truth.values()))
    perfect, reverse = list(values), list(-values)
    noisy = [3.0, 5.0, 4.0, 2.0, math.nan, 1.0, 2.0, 0.0]
    judged = pt.trust(known(truth, perfect=perfect, reverse=reverse, noisy=noisy, imagenet_top1=[0.7] * 8))
    t = judged["perfect"]
    assert [t.tau, t.regret, t.regret_3, t.worst, t.best] == pytest.approx([1, 0, 0, 1, 1])
    assert t.low == pytest.approx(1)
    assert t.p < 0.01
    assert judged["reverse"].regret == pytest.approx(0.6)
    assert judged["reverse"].regret_3 == pytest.approx(0.3)
    assert judged["reverse"].tau == pytest.approx(-1)
    assert judged["reverse"].p > 0.99
    said = np.where(np.isnan(noisy), -1, noisy)  # what says nothing stands last
    assert judged["noisy"].tau == pytest.approx(weightedtau(said, values).statistic, abs=1e-12)
    assert judged["noisy"].regret == pytest.approx(0.02)
    assert judged["noisy"].low < judged["noisy"].tau < judged["noisy"].high
    without = [weightedtau(np.delete(said, i), np.delete(values, i)).statistic for i in range(8)]
    assert judged["noisy"].worst == pytest.approx(min(without))
    assert judged["noisy"].best == pytest.approx(max(without))
    chance = judged["random order"]
    assert chance.tau == 0
    assert chance.regret == pytest.approx(0.9 - values.mean(), abs=0.01)
    assert judged["ImageNet top-1"].tau == 0  # all alike: it orders nothing
    assert judged["ImageNet top-1"].regret == pytest.approx(chance.regret)
    assert 0.3 < judged.chance < judged.chance_of_best < 0.95
    assert 0.9 < judged.ceiling < 1
    assert (judged["noisy"].known, judged["noisy"].of) == (7, 8)
    assert "score, known for 7 of 8" in str(judged)
    assert judged.first == "perfect"
    assert judged["this ranking"].tau == pytest.approx(1)  # the rows were given best first
    assert next(iter(judged.predictors)) in ("perfect", "this ranking")
    assert pt.trust(known(truth, noisy=noisy))["noisy"] == judged["noisy"]


@pytest.mark.usefixtures("with_nbval")
def test_the_null_and_the_interval_are_honest(task: Task) -> None:
    """A score that is noise has a small p in 1 of 20 cases; the interval of a real one holds the population's tau."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.3, 0.9, (4000, 12))
    population = float(stats.weighted_tau(truth + rng.normal(0, 0.12, truth.shape), truth).mean())
    small, held, best, n = 0, 0, 0, 60
    for values in truth[:n]:
        columns = {"noise": list(rng.normal(size=12)), "good": list(values + rng.normal(0, 0.12, 12))}
        judged = pt.trust(known(dict(zip("abcdefghijkl", values, strict=True)), **columns), resamples=100)
        three = {f"noise {i}": list(rng.normal(size=12)) for i in range(3)}
        of_three = pt.trust(known(dict(zip("abcdefghijkl", values, strict=True)), **three), resamples=100)
        best += of_three[of_three.first].tau > of_three.chance_of_best
        small += judged["noise"].p <= 0.05
        held += judged["good"].low <= population <= judged["good"].high
    assert max(small, best) <= 10  # 3 expected, more than 10 in 1 of 5,000 cases
    assert held / n >= 0.8


def test_where_candidates_do_not_differ_nothing_is_said() -> None:
    judged = pt.trust(known(dict.fromkeys("abcd", 0.5), score=[1.0, 2, 3, 4]))
    assert math.isnan(judged["score"].tau)
    assert math.isnan(judged["score"].p)
    assert judged["score"].regret == 0
    assert "?" in str(judged)


def test_trust_pools_targets(task: Task) -> None:
    names = "abcdef"
    one = known(dict(zip(names, (0.9, 0.8, 0.7, 0.6, 0.5, 0.4), strict=True)), score=[6.0, 5, 4, 3, 2, 1])
    two = known(dict(zip(names, (0.5, 0.4, 0.9, 0.6, 0.3, 0.2), strict=True)), score=[6.0, 5, 4, 3, 2, 1])
    judged = pt.trust([one, two])
    taus = [1.0, float(weightedtau([6.0, 5, 4, 3, 2, 1], [0.5, 0.4, 0.9, 0.6, 0.3, 0.2]).statistic)]
    assert judged["score"].tau == pytest.approx(np.mean(taus))
    assert judged["score"].regret == pytest.approx(0.2)
    assert judged["score"].regret_max == pytest.approx(0.4)
    assert judged.n_candidates == (6, 6)
    fewer = replace(two, rows={n: {**r, "seen": n in "ab"} for n, r in two.rows.items()})
    uneven = pt.trust([one, fewer])
    assert uneven.n_candidates == (6, 4)
    rest = float(weightedtau([4.0, 3, 2, 1], [0.9, 0.6, 0.3, 0.2]).statistic)
    assert uneven["score"].tau == pytest.approx((1 + rest) / 2)
    assert uneven["score"].regret == pytest.approx(0)
    assert "over 2 targets" in selection.advice(with_val(one, task), judged)


def with_val(ranking: Ranking, task: Task) -> Ranking:
    rng = np.random.default_rng(0)
    said = {
        name: pt.Predictions.of(
            task.val.targets.numpy(), rng.normal(size=(len(task.val), 3)), class_names=task.class_names
        )
        for name in ranking.rows
    }
    return replace(ranking, val={"probe": said})


def test_a_study_end_to_end_is_deterministic_and_reads_back(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path / "outputs"))
    few: list[Any] = [
        tiny("random/tiny"),
        replace(tiny("twice"), source="test two"),
        *selection.encode(["random/cifar_resnet20"], task, log=silent),
    ]

    def once(cache: bool) -> Ranking:
        ranking = pt.rank(few, task, image_size=16, cache=cache, log=silent)
        return pt.fine_tune_all(ranking, task, epochs=1, log=silent)

    ranking, again = once(True), once(False)
    for name, row in ranking.rows.items():
        kept = {k: v for k, v in row.items() if not k.startswith(("seconds", "examples_per_s"))}
        assert repr(kept) == repr({k: again.rows[name][k] for k in kept})  # NaN, too, equals NaN
    judged = pt.trust(ranking)
    assert judged["random order"].kind == "baseline"
    assert "fine-tuned, test" in str(ranking)
    path = selection.save_study("select", {"seed": 0}, [task], [ranking], judged)
    record = json.loads((path / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["tasks"][0]["fingerprint"] == task.fingerprint
    assert record["picks"][0]["pick"] == ranking.pick
    assert record["trust"]["chance_of_best"] == judged.chance_of_best
    back = Ranking.load(path / "ranking-0-colours.json")
    assert back.names == ranking.names
    assert back.rows[back.pick]["finetuned"] == ranking.rows[back.pick]["finetuned"]
    assert str(pt.trust(back)) == str(judged)
    assert selection.advice(back).count("can't be told apart") == 0  # without predictions there are no paired tests
    with pytest.raises(InputError, match="holds no checkpoints to fine-tune"):
        pt.fine_tune_all(back, task)
    with pytest.raises(InputError, match="holds no ranking"):
        Ranking.load(path / "run.json")


def test_a_budget_is_spent_on_the_best(task: Task) -> None:
    shelf: list[Any] = [tiny(f"random/{i}") for i in range(3)]
    shelf += [features_of(task, s) for s in (0.0, 0.1, 0.2, 0.3)]
    said: list[str] = []
    ranking = pt.rank(shelf, task, budget=120, log=said.append)
    assert any("fine-tuning" in line and "for 4 epochs" in line for line in said)
    tuned = [n for n, row in ranking.rows.items() if "tuned" in row]
    assert 2 <= len(tuned) <= 4
    assert set(ranking.names[: len(tuned)]) == set(tuned), "what went further stands before what did not"
    assert ranking.stage == "tuned"
    assert ranking.rows[ranking.pick]["tuned"] == max(ranking.rows[n]["tuned"] for n in tuned)
    assert ranking.rows[ranking.pick]["tuned_low"] < ranking.rows[ranking.pick]["tuned"]
    assert "short fine-tuning" in ranking.chosen_on
    assert "a short fine-tuning has" in selection.advice(ranking)


def test_a_budget_where_nothing_can_be_chosen_ends_in_a_sentence(task: Task) -> None:
    ranking = pt.rank([replace(features_of(task, 1.0), seen=True)], task, ["log_me"], budget=5, log=silent)
    with pytest.raises(InputError, match="every candidate has seen colours"):
        _ = ranking.pick
    said: list[str] = []
    assert pt.rank([tiny("random/tiny")], task, ["log_me"], budget=60, log=said.append).stage == "probe"
    assert any("not two candidates to fine-tune" in line for line in said)


def test_a_candidate_that_diverges_costs_no_other(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptlib.selection import choosing

    real = choosing.fine_tune

    def fragile(c: selection.Candidate, *rest: Any) -> Any:
        if c.name == "bad":
            raise FloatingPointError("the loss is not finite")
        return real(c, *rest)

    monkeypatch.setattr(choosing, "fine_tune", fragile)
    said: list[str] = []
    halved = pt.rank([tiny("good"), tiny("bad")], task, ["log_me"], budget=60, log=said.append)
    assert list(halved.val["tuned"]) == ["good"]
    assert halved.pick == "good"
    ranking = pt.rank([tiny("good"), tiny("bad")], task, ["log_me"], log=silent)
    ranking = pt.fine_tune_all(ranking, task, epochs=1, log=said.append)
    assert ranking.rows["good"]["finetuned"] is not None
    assert "finetuned" not in ranking.rows["bad"]
    assert sum("bad could not be fine-tuned" in line for line in said) == 2


def test_text_is_ranked_by_features_and_labels_alone(real_data: Path) -> None:
    from sklearn.feature_extraction.text import HashingVectorizer

    train, val = (
        [line.split("\t") for line in (real_data / "sst2" / f"{name}.tsv").read_text().splitlines()[1:801]]
        for name in ("train", "dev")
    )
    labels = [np.array([int(label) for _, label in rows]) for rows in (train, val)]
    task = pt.task_of(labels[0], labels[1], ["negative", "positive"], "sst2")
    hashed = HashingVectorizer(n_features=512, alternate_sign=False)
    words = [hashed.transform([text for text, _ in rows]).toarray() for rows in (train, val)]
    length = [np.array([[len(text), text.count(" ")] for text, _ in rows]) for rows in (train, val)]
    shelf = [selection.Candidate("words", words[0], words[1]), selection.Candidate("length", length[0], length[1])]
    ranking = pt.rank(shelf, task, log=silent)
    assert ranking.pick == "words"
    assert ranking.rows["words"]["probe"] > 0.6 > ranking.rows["length"]["probe"]
    assert not ranking.reasons["length"].keys() - {"leep", "nce"}


def test_a_budget_too_small_ends_with_probes_and_says_so(task: Task) -> None:
    said: list[str] = []
    ranking = pt.rank([tiny(f"random/{i}") for i in range(8)], task, ["log_me"], budget=1e-3, log=said.append)
    assert len(ranking.val["probe"]) == 4  # the better half
    assert ranking.stage == "probe"
    assert ranking.pick in ranking.val["probe"]
    assert any("too little time to fine-tune" in line for line in said)
    assert sum("probe" in row for row in ranking.rows.values()) == 4
    with pytest.raises(InputError, match="budget is 0"):
        pt.rank(["random/efficientnet_lite0"], task, budget=0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda t: pt.rank([], t), "no candidates"),
        (lambda t: pt.rank(["random/efficientnet_lite0"] * 2, t), "given twice"),
        (lambda t: pt.rank([features_of(t, 1.0)], t, ["logme"]), r"unknown score 'logme'; did you mean 'log_me'\?"),
        (lambda t: pt.rank([features_of(t, 1.0)], t, seen=["x"]), "seen names 'x', which is no candidate"),
        (lambda t: pt.rank([replace(features_of(t, 1.0), val=np.ones((3, 6)))], t), r"of val are of shape \(3, 6\)"),
        (lambda t: pt.trust([]), "no ranking to judge"),
        (lambda t: pt.trust(known(dict.fromkeys("abc", 0.5)), resamples=5), "resamples is 5"),
        (lambda t: known({"a": 1.2, "b": 0.1}), "accuracy of 'a' is 1.2"),
        (lambda t: selection.with_truth(known({"a": 0.2}), {"z": 0.1}), "there is no candidate 'z'"),
        (lambda t: selection.Candidate("x", np.full((4, 2), np.nan), np.ones((2, 2))), "train must be finite numbers"),
        (lambda t: selection.Candidate("x", np.ones(4), np.ones((2, 2))), r"of shape \(N, D\), got float64 of shape"),
        (lambda t: pt.rank([replace(features_of(t, 1.0), source=np.ones((3, 2)))], t), "source has 3 rows for 60"),
        (lambda t: pt.task_of([0.5, 1.5], [0, 1]), "train must be class indices"),
        (lambda t: pt.task_of([0, 1], [0, -1]), "val holds class -1"),
        (lambda t: pt.rank(["random/cifar_resnet20"], pt.task_of([0, 1], [0, 1])), "takes images"),
        (lambda t: selection.Candidate("x", np.ones((2, 2)), np.full((4, 2), 1e200)), "val must be finite numbers"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(call: Any, says: str, task: Task) -> None:
    with pytest.raises(InputError, match=says):
        call(task)


def test_advice_says_what_it_may_cost_to_be_wrong(task: Task) -> None:
    near = [features_of(task, s, seed=i) for i, s in enumerate((1.0, 1.01))]
    text = selection.advice(pt.rank([*near, features_of(task, 0.0)], task, log=silent))
    assert text.startswith("Take strength 1")
    assert "can't be told apart from it" in text
    assert "points better" in text
    assert "would settle" in text


def test_hostile_names_stay_text(task: Task) -> None:
    bad = replace(features_of(task, 1.0), name="<img src=x onerror=alert(1)>")
    assert "<img" not in pt.rank([bad], task, log=silent)._repr_html_()


def test_the_memory_of_training_is_what_backward_keeps(task: Task) -> None:
    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 16 * 16, 5, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1))  # type: ignore[no-any-return]

    model = build_model(replace(tiny("random/line"), factory=Line), task, image_size=16)
    found = pt.cost(model, task.val)
    # Weights, gradients and two moments of the head, and the image that the head's gradient needs.
    image = 3 * 16 * 16
    assert found["memory_mb"] == pytest.approx((16 * (image * 3 + 3) + 32 * 4 * image) / 1e6)
