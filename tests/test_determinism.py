"""Equal parameters give equal bits in fresh processes, for any hash seed, locale, order of a folder and batch size.

There are no workers that load data, whose number could matter: images are tensors in memory.
"""

from __future__ import annotations

import copy
import hashlib
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ptlib as pt
from ptlib import prediction, selection
from ptlib.data import images
from ptlib.data.batches import batched
from ptlib.measures import all_of, prepare
from ptlib.results import Predictions
from ptlib.selection import cache
from tests.conftest import LONG, Tiny, make_task, silent

ROOT = Path(__file__).parent.parent
STAGE = pt.Stage("all", epochs=1, lr=1e-3, batch_size=16)
SMALL = "random/timm/mobilenetv3_small_050"
ORDERS: dict[str, Callable[[Any], Any]] = {
    "listed": list,
    "reversed": lambda entries: entries[::-1],
    "shuffled": lambda entries: random.Random(len(entries)).sample(entries, len(entries)),
}
# PYTHONHASHSEED, locale, order of folders
WAYS = [("0", "C", "listed"), ("1", "C.UTF-8", "reversed"), ("random", "C", "shuffled"),
        ("random", "C.UTF-8", "shuffled"), ("2", "POSIX", "reversed")]  # fmt: skip


def tiny() -> pt.Checkpoint:
    size = pt.Preprocessing(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
    return pt.Checkpoint("random/tiny", "tiny", "test", size, parameters=0, flops=0, factory=Tiny)


def disorder(order: str) -> None:
    """From here on, this process is told what folders hold in another order."""
    reorder: Callable[[list[Any]], list[Any]] = ORDERS[order]
    scandir, listdir = os.scandir, os.listdir

    class Entries:
        """What `os.scandir` gives: an iterator that is closed."""

        def __init__(self, *args: Any):
            with scandir(*args) as found:
                self.found = iter(reorder(sorted(found, key=lambda entry: entry.name)))

        def __iter__(self) -> Entries:
            return self

        def __next__(self) -> Any:
            return next(self.found)

        def __enter__(self) -> Entries:
            return self

        def __exit__(self, *args: object) -> None: ...

        def close(self) -> None: ...

    os.scandir = Entries  # type: ignore[assignment]
    os.listdir = lambda *args: reorder(sorted(listdir(*args)))
    for name in ("iterdir", "glob", "rglob"):  # where pathlib keeps its own reference
        plain: Callable[..., Any] = getattr(Path, name)
        setattr(Path, name, lambda *args, plain=plain, **how: iter(reorder(sorted(plain(*args, **how)))))


def digest(*values: Any) -> str:
    found = hashlib.sha256()
    for value in values:
        found.update(np.ascontiguousarray(value).data if isinstance(value, np.ndarray) else repr(value).encode())
    return found.hexdigest()


def of_everything(root: Path) -> dict[str, str]:
    """SHA-256 of what is loaded, learnt and said of tasks of every kind."""
    small, encoder = pt.load_checkpoint(SMALL), pt.load_checkpoint(str(root / "bert"))
    found = {}
    for name, kind, start in (
        ("pictures", "image_classification", tiny()), ("voc", "detection", small), ("bare voc", "detection", None),
        ("camvid", "segmentation", small), ("maps", "segmentation", None),
        ("moods.csv", "text_classification", encoder), ("moods", "text_classification", None),
    ):  # fmt: skip
        task = pt.load_task(name, root, kind=kind)
        found[f"{name}, data"] = digest(task.fingerprint, task.notes)
        found[f"{name}, what is left out"] = digest(task.skipped)
        if start:
            model = pt.build_model(start, task)
            augment = () if kind == "text_classification" else ("flip",)
            pt.finetune(model, task, [replace(STAGE, augment=augment)], device="cpu", log=silent)
            found[f"{name}, weights"] = digest(*((k, v.numpy()) for k, v in model.state_dict().items()))
            said = pt.predict(model, task.test, task, device="cpu")
            found[f"{name}, predictions"] = digest(said.ids, said.targets, said.scores)
        if name == "pictures" and LONG:
            ranking = pt.rank(["random/cifar_resnet20", "random/cifar_resnet20@layer1"], task, device="cpu",
                              image_size=16, log=silent)  # fmt: skip
            scores = {c: [row["probe"], *map(row.get, ranking.scores)] for c, row in ranking.rows.items()}
            found["pictures, ranking"] = digest(scores)
            found["pictures, names of features"] = digest(
                sorted(p.name for p in Path(os.environ["PTLIB_CACHE"]).rglob("*.safetensors"))
            )
    return found


def fill(root: Path) -> None:
    """Data of each kind."""
    from tests.test_dense_data import annotation, camvid, voc
    from tests.test_text import WORDS, make_folder

    rng = np.random.default_rng(0)
    for i in rng.permutation(45).tolist():
        folder = root / "pictures" / ("ape", "naïve", "zoo")[i % 3] / ("", "deep/er", "Deep")[i // 3 % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 200, (20, 24, 3), dtype=np.uint8)
        pixels[..., i % 3] += 50
        Image.fromarray(pixels).save(folder / f"größe {i}.png")
        if i < 9:
            (folder / f"{i}.txt").write_text("no image")
            (folder / f"{i}.jpg").write_bytes(b"none either")
            (folder / f"link{i}").symlink_to(root)
    voc(root / "voc", odd="<annotation/>", bad="<")
    for i in range(12):
        voc(root / "bare voc", **{f"b{i}": annotation(("dog", 5, 6, 10 + i, 12))})
    for listed in (root / "bare voc" / "ImageSets" / "Main").iterdir():
        listed.unlink()
    camvid(root / "camvid")
    for i in range(12):
        for part in ("images", "labels"):
            (root / "maps" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 3, (10, 12), dtype=np.uint8)).save(root / "maps" / part / f"{i}.png")
    rows = [f"{' '.join(rng.choice(WORDS[6:], 5))} {WORDS[3 * (i % 2)]},{'gb'[i % 2]}" for i in range(60)]
    (root / "moods.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    (root / "moods").mkdir()
    for part in ("train", "dev", "test"):
        (root / "moods" / f"{part}.csv").write_text("\n".join(["text,label", *rows[:20]]), encoding="utf-8")
    make_folder("bert", root / "bert")


@pytest.mark.usefixtures("with_nbval")
def test_fresh_processes_give_the_same_bits(tmp_path: Path) -> None:
    fill(tmp_path)
    code = "import sys; from tests import test_determinism as t; t.main(*sys.argv[1:])"

    def one(k: int) -> dict[str, str]:
        seed, locale, order = WAYS[k]
        own = {"PYTHONHASHSEED": seed, "LC_ALL": locale, "OMP_NUM_THREADS": "1", "PTLIB_CACHE": str(tmp_path / f"c{k}")}
        command = [sys.executable, "-c", code, str(tmp_path), order]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    with ThreadPoolExecutor(2) as pool:
        first, *others = pool.map(one, range(5 if LONG else 3))
    assert len(first) == 22 + 2 * LONG
    for way, other in zip(WAYS[1:], others, strict=False):
        assert [name for name in first if first[name] != other[name]] == [], way


def main(root: str, order: str) -> None:
    disorder(order)
    print(json.dumps(of_everything(Path(root))))


# Batches


KINDS = ("image_classification", "text_classification", "detection", "segmentation")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small networks on a busy machine: threads would wait for one another most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[pt.Model, pt.Task]]:
    """A small model of each kind that has learnt a little, and its task, of 67 test examples or more."""
    from tests.test_dense import marked
    from tests.test_text import WORDS, make_folder

    folder, rng = tmp_path_factory.mktemp("kinds"), np.random.default_rng(0)
    said = [" ".join([*rng.choice(WORDS[6:], 1 + i % 12), WORDS[3 * (i % 2)]]) for i in range(500)]
    lines = [f"{text}\t{'gb'[i % 2]}" for i, text in enumerate(dict.fromkeys(said))]
    (folder / "moods.tsv").write_text("\n".join(["text\tlabel", *lines]))
    moods = pt.load_task(str(folder / "moods.tsv"), kind="text_classification")
    starts = [tiny(), pt.load_checkpoint(str(make_folder("bert", folder / "bert"))), *[pt.load_checkpoint(SMALL)] * 2]
    found = {}
    for kind, start in zip(KINDS, starts, strict=True):
        task = {KINDS[0]: make_task(210), KINDS[1]: moods}.get(kind) or marked(24, kind=kind)
        model = pt.build_model(start, task)
        stage = replace(STAGE, epochs=6 if kind == "detection" else 1, lr=3e-3, batch_size=4, augment=())
        pt.finetune(model, task, [stage], device="cpu", precision="fp32", log=silent)
        if len(task.test) < 67:
            many = task.test.take([i % len(task.test) for i in range(67)])
            noise = torch.from_numpy(rng.integers(0, 9, many.inputs.shape, dtype=np.uint8))
            test = replace(many, inputs=many.inputs.clamp_max(246) + noise, ids=[f"many/{i}" for i in range(67)])
            task = replace(task, test=test)
        found[kind] = model, task
    return found


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_and_metrics_do_not_depend_on_the_batch(
    kind: str, trained: dict[str, tuple[pt.Model, pt.Task]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = trained[kind]
    longest = int(model.read(task.test.inputs).lengths.max()) if task.reads == "texts" else 1
    names = "main" if kind in KINDS[2:] else ["accuracy", "macro_auroc", "log_loss", "ece"]
    found = []
    for size in (10_000, 64, 7, 1):
        monkeypatch.setattr(prediction, "affordable_batch", lambda *a, size=size: size * longest)
        said = pt.predict(model, task.test, task, device="cpu", precision="fp32")
        found.append((said, [e.value for e in pt.evaluate(said, metrics=names, resamples=100).metrics.values()]))
    whole, metrics = found[0]
    for said, again in found[1:]:
        np.testing.assert_allclose(said.scores, whole.scores, rtol=0, atol=1e-5 * max(1, np.abs(whole.scores).max()))
        assert said.ids == whole.ids
        np.testing.assert_allclose(again, metrics, rtol=0, atol=1e-6)


# Numbers that are none


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_never_becomes_a_prediction(
    kind: str, value: float, trained: dict[str, tuple[pt.Model, pt.Task]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = trained[kind]
    for name in ("CPU_PIXELS", "CPU_TOKENS", "EVAL_TOKENS"):  # all at once, so that one of all is spoilt
        monkeypatch.setattr(prediction, name, 10**9)
    last = [m for m in model.head.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)][-1]

    def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        output[1 % len(output), ..., :1] = value
        return output

    with last.register_forward_hook(spoil), pytest.raises(pt.InputError) as e:
        pt.predict(model, task.test, task, device="cpu", precision="fp32")
    second = int(batched(model.read(task.test.inputs), prediction.CPU_TOKENS)[0][1])  # the longest texts come first
    n, example = len(task.test), task.test.ids[second]
    assert f"predictions on 'test': 1 of {n} rows hold NaN or infinity, first for example {example!r}" in str(e.value)
    assert "try precision fp32" in str(e.value)


@pytest.mark.parametrize("kind", KINDS[2:])
def test_nan_on_val_stops_training(kind: str, trained: dict[str, tuple[pt.Model, pt.Task]]) -> None:
    model, task = copy.deepcopy(trained[kind][0]), trained[kind][1]

    def spoil(module: Any, args: Any, output: Any) -> Any:
        return output if module.training else [x * torch.nan for x in output]

    model.backbone.register_forward_hook(spoil)
    with pytest.raises(FloatingPointError, match="the outputs for 3 of 3 examples hold NaN or infinity; lower lr"):
        pt.finetune(model, task, [replace(STAGE, augment=())], device="cpu", log=silent)


@pytest.mark.usefixtures("one_thread")
def test_a_ready_made_detector_drops_boxes_of_nan_and_is_refused_therefore() -> None:
    from tests.test_dense import marked

    task = marked()
    model: Any = pt.build_model(pt.load_checkpoint("random/torchvision/ssdlite320_mobilenet_v3_large"), task)
    with torch.no_grad():
        model.head.network.head.classification_head.module_list[0][-1].weight[0] = torch.nan
    with pytest.raises(pt.InputError, match="predictions on 'test': 4 of 4 rows hold NaN or infinity"):
        pt.predict(model, task.test, task, device="cpu", precision="fp32")


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_a_function_that_says_nan_is_refused_by_the_same_sentence(outputs: Any) -> None:
    task, said = make_task(), np.full((30, 3), 1 / 3)
    said[7, 1] = np.nan
    with pytest.raises(pt.InputError, match="on 'test': 1 of 30 rows hold NaN or infinity, first for example 'test/7'"):
        pt.predict(lambda images: said, task.test, task, outputs=outputs)


def times(statistic: Any) -> np.ndarray:
    """How often each distinct row of predictions is there, (1, K)."""
    return np.bincount(statistic.rows)[None].astype(np.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_metrics_of_half_precision_are_those_of_float64(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 100_000)
    logits = torch.from_numpy(rng.normal(0, 3, (100_000, 10)) + 4 * np.eye(10)[y]).to(dtype)
    exact = logits.double().numpy()
    half, whole = Predictions.of(y, logits), Predictions.of(y, exact)
    names = all_of(whole)
    report, reference = (
        {name: value for s in prepare(names, [p]) for name, value in zip(s.names, s.values(times(s))[0], strict=True)}
        for p in (half, whole)
    )
    assert len(report) == len(names) > 15
    assert report == pytest.approx(reference, abs=1e-12)
    # And by hand, in float64 from the start.
    z = exact - exact.max(1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert report["accuracy"] == pytest.approx((exact.argmax(1) == y).mean(), abs=1e-12)
    assert report["log_loss"] == pytest.approx(-np.log(p[np.arange(len(y)), y]).mean(), abs=1e-12)
    assert report["brier"] == pytest.approx(((p - np.eye(10)[y]) ** 2).sum(1).mean(), abs=1e-12)


# Caches


def filled(which: str, folder: Path) -> str:
    """A digest of what is computed, or comes from the cache."""
    if which == "images":
        images.MEMORY_LIMIT = 0
        task = pt.load_task(str(folder / "data"))
        return digest(task.fingerprint, task.skipped)
    (found,) = selection.encode(["random/cifar_resnet20"], make_task(12), image_size=16, device="cpu", log=silent)
    return digest(found.train, found.val, found.facts["flops"])


def entries(which: str) -> list[Path]:
    return sorted(p for p in (images.cache_dir() / which).rglob("*") if p.is_file())


def look(which: str) -> str:
    """A digest of each entry that can be seen; "a part" if one isn't whole."""
    seen = []
    for p in entries(which):
        held: Any = "skip"
        if p.suffix == ".safetensors":
            held = cache.read(p)
            held = held and [held[0][name] for name in sorted(held[0])]
        if p.suffix == ".json":
            data = p.with_suffix(".u8")
            held = images._read_cached(p, data, (data.stat().st_size // 1200, 20, 20, 3))  # 20 x 20 pixels, RGB
        if held is None:
            return "a part"
        seen += [] if held == "skip" else [p.name + digest(*held)]
    return "\n".join(seen)


def crowd(which: str, folder: str, rounds: str) -> None:
    """Eight processes start together on a cold cache while a ninth reads; prints what is wrong."""
    fork, root, wrong = multiprocessing.get_context("fork"), Path(folder), list[str]()
    os.environ["PTLIB_CACHE"] = str(root / "alone")
    right, whole, names = filled(which, root), look(which), [p.name for p in entries(which)]
    for k in range(int(rounds)):
        os.environ["PTLIB_CACHE"] = str(root / str(k))
        gate, done, said = fork.Barrier(9), fork.Event(), root / f"{k} said"
        said.mkdir()

        def fill(gate: Any = gate, said: Path = said) -> None:
            gate.wait()
            (said / str(os.getpid())).write_text(filled(which, root))

        def watch(gate: Any = gate, said: Path = said, done: Any = done) -> None:
            gate.wait()
            while not done.is_set():
                now = look(which)
                if now and not set(now.split("\n")) <= set(whole.split("\n")):
                    (said / "reader").write_text(now)
                time.sleep(0.002)

        reader, *children = [fork.Process(target=work) for work in (watch, *[fill] * 8)]
        for child in (reader, *children):
            child.start()
        for child in children:
            child.join()
        done.set()
        reader.join()
        told = [p.read_text() for p in sorted(said.iterdir())]
        wrong += [f"round {k}: {each}" for each in told if each != right]
        wrong += [f"round {k}: {len(told)} of 8"] * (len(told) != 8)
        wrong += [f"round {k}: {what}" for what in ([p.name for p in entries(which)],) if what != names]
        wrong += [f"round {k}: not what one alone leaves"] * (look(which) != whole)
        wrong += [f"round {k}: exit {child.exitcode}" for child in (*children, reader) if child.exitcode]
    print(json.dumps(wrong))


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.parametrize("which", ["images", "features"])
def test_eight_processes_on_one_cold_cache_leave_one_whole_entry(which: str, tmp_path: Path) -> None:
    colours(tmp_path / "data")
    code = "import sys; from tests import test_determinism as t; t.crowd(*sys.argv[1:])"
    command = [sys.executable, "-c", code, which, str(tmp_path), "20" if LONG else "3"]
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == []


def colours(root: Path) -> None:
    """40 images of 24 x 20 pixels in two classes, and one that is none."""
    rng = np.random.default_rng(0)
    for i in range(40):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(root / "ab"[i % 2] / f"{i}.png")
    (root / "a" / "none.png").write_bytes(b"")


def test_a_cache_of_images_with_any_byte_changed_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colours(tmp_path / "data")
    monkeypatch.setenv("PTLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "MEMORY_LIMIT", 0)
    paths = [*sorted((tmp_path / "data").rglob("*.png"))[:3], tmp_path / "data" / "a" / "none.png"]
    right = images.decode_all(paths, 4, "key")
    right = (right[0].clone(), *right[1:])  # the file behind it is about to change
    index, data = (tmp_path / "cache" / "images" / name for name in ("key.json", "key.u8"))
    for file in (index, data):
        content = file.read_bytes()
        torn = [content[:i] + bytes([content[i] ^ 1 << i % 7]) + content[i + 1 :] for i in range(len(content))]
        for bad in (*torn, content[:-1], content[: len(content) // 2], b"", b"{}", b"[1]", None):
            file.unlink() if bad is None else file.write_bytes(bad)
            assert images._read_cached(index, data, (4, 4, 4, 3)) is None
        again = images.decode_all(paths, 4, "key")
        assert torch.equal(right[0], again[0])
        assert right[2] == again[2]
        assert file.read_bytes() == content
    again[0][:] = 0  # what a caller writes stays in memory
    assert torch.equal(images.decode_all(paths, 4, "key")[0], right[0])


def test_a_cache_of_features_with_any_byte_changed_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    cache.write(file, {"train ": np.arange(6, dtype=np.float32).reshape(2, 3), "val ": np.ones((1, 3))}, {"flops": 5})
    content, held = file.read_bytes(), cache.read(file)
    assert held is not None
    for i in range(len(content)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128, ord("F") ^ ord("U"), ord("F") ^ ord("I")):
            file.write_bytes(content[:i] + bytes([content[i] ^ mask]) + content[i + 1 :])
            again = cache.read(file)
            assert again is None or same(again, held), (i, mask)
    for n in range(len(content)):
        file.write_bytes(content[:n])
        assert cache.read(file) is None


def same(a: Any, b: Any) -> bool:
    """Whether two entries hold the same; a space in a header may be another blank."""
    return a[1] == b[1] and a[0].keys() == b[0].keys() and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in ((a[0][k], b[0][k]) for k in a[0])
    )  # fmt: skip
