"""Data: splits that share nothing, files of every kind, and what happens to bad ones."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ptlib.core import Task
from ptlib.data import draw as draws
from ptlib.data import find_duplicates, images, load_task, published
from ptlib.data.embedded import _deal
from ptlib.errors import InputError
from tests.conftest import make_task

GRADIENT = np.stack([np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))] * 3, axis=-1)


def test_photos_are_disjoint_deterministic_and_as_large_as_said() -> None:
    task = load_task("photos")
    assert [len(s) for s in task.splits] == [360, 212, 676]
    assert task.n_classes == 18
    assert task.fingerprint == load_task("photos").fingerprint
    # Corners on one grid of 32 pixels: equal or without a common pixel; Task refuses equal ids across splits.
    for split in task.splits:
        assert all(int(v) % 32 == 0 for i in split.ids for v in i.split("/")[1].split("-"))
    exact = find_duplicates(task).exact
    assert len(exact) == 0


def test_photos_seed_draws_train_alone_and_smaller_draws_lie_in_larger_ones() -> None:
    one, two = load_task("photos", seed=1), load_task("photos", seed=2)
    assert one.test.ids == two.test.ids
    assert one.val.ids == two.val.ids
    assert one.train.ids != two.train.ids
    assert set(load_task("photos", n_train=90).train.ids) <= set(load_task("photos").train.ids)
    assert load_task("photos", n_train=90).train.counts(18).tolist() == [5] * 18
    grey = load_task("photos-grey", n_train=36).train.inputs
    assert (grey[..., 0] == grey[..., 1]).all()


def test_photos_ask_for_more_than_there_is() -> None:
    task = load_task("photos", n_train=18 * 40)  # the smallest have 24 patches that don't overlap
    assert (task.train.counts(18) == 40).all()
    assert task.notes == ("32 x 32 patches of 18 photographs; no train patch shares a pixel with one of val or test",)
    every = load_task("photos[10:12]", n_train=10**6, side=8)
    assert len(every.train) < 10**6
    assert any("1000000 train patches were asked for; the photographs yield" in note for note in every.notes)


@given(st.integers(64, 300), st.integers(64, 300), st.integers(0, 9))
def test_dealt_patches_never_touch(height: int, width: int, seed: int) -> None:
    taken = np.zeros((height, width), dtype=int)
    for corners in _deal(height, width, 16, (seed, 0)).values():
        for y, x in corners:
            taken[y : y + 16, x : x + 16] += 1
            assert y + 16 <= height
            assert x + 16 <= width
    assert taken.max() <= 1


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    task = load_task("digits", n_train=700)
    assert [len(s) for s in task.splits] == [700, 297, 800]
    ours = np.sort(np.concatenate([s.inputs[..., 0].flatten(1).sum(1).numpy() for s in task.splits]))
    theirs = np.sort(np.round(load_digits().data * (255 / 16)).astype(np.uint8).sum(1))
    assert (ours == theirs).all()
    assert task.augment == ("crop",)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=8, max_size=60), st.integers(0, 5), st.data())
def test_stratified_draws_are_exact_and_fair(labels: list[int], seed: int, data: st.DataObject) -> None:
    y = np.array(labels)
    n = data.draw(st.integers(len(set(labels)), len(labels)))
    rows = draws.stratified(y, n, seed)
    assert len(rows) == n == len(set(rows.tolist()))
    assert (rows == draws.stratified(y, n, seed)).all()
    shares = {c: n * (y == c).mean() for c in set(labels)}
    for c, share in shares.items():
        got = int((y[rows] == c).sum())
        assert got >= 1
        if min(shares.values()) >= 1:  # otherwise "one of each" takes from the large
            assert abs(got - share) < 1


def test_a_draw_that_can_not_be_is_refused() -> None:
    with pytest.raises(InputError, match="n_train=99 can't be drawn: it must lie between 10"):
        draws.stratified(np.arange(10), 99, 0, "n_train")
    with pytest.raises(InputError, match="n_test is 1; it must be at least 2"):
        load_task("photos", n_test=1)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown dataset 'cifar1O'; did you mean 'cifar10'"):
        load_task("cifar1O")


# Folders


def fill(root: Path, classes: dict[str, int], seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for k, (name, n) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            pixels[..., k % 3] = 255
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def test_a_folder_of_classes_is_split_by_a_stratified_draw(tmp_path: Path) -> None:
    task = load_task(str(fill(tmp_path / "mine", {"a": 20, "b": 40})))
    assert task.class_names == ("a", "b")
    assert [s.counts(2).tolist() for s in task.splits] == [[14, 28], [3, 6], [3, 6]]
    assert task.train.inputs.shape[1:] == (20, 20, 3)
    assert task.fingerprint == load_task("mine", data_dir=tmp_path).fingerprint
    assert not task.skipped


@pytest.mark.parametrize(
    ("given", "sizes", "note"),
    [
        (("train", "val", "test"), [40, 20, 20], ""),
        (("train", "test"), [20, 20, 20], "val is a stratified draw of 20 from train"),
        (("training", "valid"), [20, 20, 20], "only train and val are given: that val is the test set here"),
    ],
)
def test_given_splits_are_kept(tmp_path: Path, given: tuple[str, ...], sizes: list[int], note: str) -> None:
    for i, name in enumerate(given):
        fill(tmp_path / name, {"a": 10 if i else 20, "b": 10 if i else 20}, seed=i)
    task = load_task(str(tmp_path))
    # Ten a class are wanted for val, but a fifth of train at most is taken.
    if len(given) == 2:
        sizes = [32, 8, 20]
        note = note.replace("20 from", "8 from")
    assert [len(s) for s in task.splits] == sizes
    assert note in " ".join(task.notes)
    assert all(i.startswith(given[-1]) for i in task.test.ids)


def test_folder_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 0 class folders"):
        load_task(str(tmp_path))
    fill(tmp_path / "one", {"a": 5})
    with pytest.raises(InputError, match=r"has 1 class folders \(a\); at least two"):
        load_task(str(tmp_path / "one"))
    fill(tmp_path / "odd/train", {"a": 5, "b": 5})
    fill(tmp_path / "odd/test", {"a": 5, "c": 5})
    with pytest.raises(InputError, match="differ in their classes: 'b', 'c'"):
        load_task(str(tmp_path / "odd"))
    (fill(tmp_path / "empty", {"a": 5, "b": 5}) / "c").mkdir()
    with pytest.raises(InputError, match="c holds no image"):
        load_task(str(tmp_path / "empty"))
    fill(tmp_path / "few", {"a": 5, "b": 2})
    with pytest.raises(InputError, match="needs 3 of each"):
        load_task(str(tmp_path / "few"))


def test_what_is_no_image_is_listed_never_opened_never_dropped_in_silence(tmp_path: Path) -> None:
    root = fill(tmp_path / "f", {"a": 20, "b": 20})
    whole = (root / "a" / "0.png").read_bytes()
    (root / "a" / "1.png").write_bytes(whole[:60])  # truncated
    (root / "a" / "2.png").write_bytes(b"")
    (root / "a" / "3.png").write_bytes(b"<html>")
    (root / "a" / "4.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (root / "b" / "notes.txt").write_text("mine")
    (root / "b" / ".hidden.png").write_bytes(b"")
    outside = tmp_path / "secret.png"
    outside.write_bytes(whole)
    (root / "b" / "link.png").symlink_to(outside)
    task = load_task(str(root))
    reasons = dict(task.skipped)
    assert set(reasons) == {"a/1.png", "a/2.png", "a/3.png", "a/4.jpg", "b/notes.txt", "b/link.png"}
    assert "no image of the formats" in reasons["a/4.jpg"]
    assert "link that leaves the folder" in reasons["b/link.png"]
    assert sum(len(s) for s in task.splits) == 40 + 1 - 4
    assert "skipped 6 files" in str(task)


def test_links_pipes_and_strays_are_listed(tmp_path: Path) -> None:
    root = fill(tmp_path / "f", {"a": 20, "b": 20})
    (root / "a" / "broken.png").symlink_to(root / "nowhere.png")
    os.mkfifo(root / "a" / "pipe.png")
    (root / "linked").symlink_to(root / "a")
    (root / "b" / "inner").symlink_to(root / "a")
    (root / "stray.png").write_bytes((root / "a" / "0.png").read_bytes())
    task = load_task(str(root))
    assert task.class_names == ("a", "b")
    assert set(dict(task.skipped)) == {"a/broken.png", "a/pipe.png", "linked", "b/inner", "stray.png"}
    assert sum(len(s) for s in task.splits) == 40


def test_a_lone_train_folder_is_split_and_what_is_no_split_is_listed(tmp_path: Path) -> None:
    fill(tmp_path / "f" / "train", {"a": 20, "b": 20})
    assert [len(s) for s in load_task(str(tmp_path / "f")).splits] == [28, 6, 6]
    fill(tmp_path / "f" / "test", {"a": 5, "b": 5}, seed=1)
    fill(tmp_path / "f" / "unlabeled", {"a": 5, "b": 5}, seed=2)
    assert dict(load_task(str(tmp_path / "f")).skipped) == {"unlabeled": "it is no split: train, val and test are"}


@pytest.mark.parametrize(
    "name", ["x∕..", "<img src=x onerror=alert(1)>", "$\\frac", "=cmd()", "NA", "no", "01", "é", "e\u0301", "שלום"]
)
def test_class_names_come_through(tmp_path: Path, name: str) -> None:
    assert name in load_task(str(fill(tmp_path / "f", {name: 5, "other": 5}))).class_names


# Pixels


def saved(tmp_path: Path, image: Image.Image, name: str = "x.png", **how: object) -> Path:
    image.save(tmp_path / name, **how)  # type: ignore[arg-type]
    return tmp_path / name


def test_every_common_mode_becomes_the_rgb_one_sees(tmp_path: Path) -> None:
    rgb = Image.fromarray(GRADIENT)
    expect = GRADIENT.astype(int)

    def seen(image: Image.Image, name: str = "x.png", **how: object) -> np.ndarray:
        return np.asarray(images.decode(saved(tmp_path, image, name, **how))).astype(int)

    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
    for image in (rgb, rgb.convert("L"), palette):
        assert (seen(image) == expect).all(), image.mode
    assert abs(seen(rgb.convert("CMYK"), "x.tif") - expect).max() <= 1
    assert abs(seen(rgb.convert("CMYK"), "x.jpg", quality=100) - expect).max() <= 6
    assert set(np.unique(seen(rgb.convert("1")))) <= {0, 255}
    # 16 bits keep all 256 levels, where Pillow's own conversion would keep two.
    deep = Image.fromarray(GRADIENT[..., 0].astype(np.uint16) * 257)
    assert (seen(deep) == expect).all()
    assert (seen(deep, "x.tif") == expect).all()


def test_red_is_the_first_channel(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGB", (20, 10), (250, 10, 20)))
    assert images.to_square(images.decode(path), 8)[4, 4].tolist() == [250, 10, 20]


def test_what_is_transparent_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([GRADIENT, np.full((32, 32), 255, np.uint8)])
    rgba[:16, :, 3] = 0
    for image in (Image.fromarray(rgba), Image.fromarray(rgba).convert("LA")):
        out = np.asarray(images.decode(saved(tmp_path, image)))
        assert (out[:16] == 255).all()
        assert (out[16:] == GRADIENT[16:]).all()
    palette = Image.fromarray(GRADIENT).convert("P")
    out = np.asarray(images.decode(saved(tmp_path, palette, transparency=palette.getpixel((0, 0)))))
    assert (out[:, 0] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = GRADIENT.copy()
    upright[:16] //= 2
    # How the stored pixels must be turned for this value (EXIF 2.32, tag 274).
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(undo[orientation](upright))), "x.png", exif=exif)
    assert (np.asarray(images.decode(path)) == upright).all()


def test_a_cameras_preview_is_no_animation(tmp_path: Path) -> None:
    picture, preview = Image.fromarray(GRADIENT), Image.fromarray(GRADIENT[::2, ::2])
    picture.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[preview], quality=100)
    assert np.abs(np.asarray(images.decode(tmp_path / "x.jpg")).astype(int) - GRADIENT).max() < 8


def test_a_long_strip_costs_no_more_than_its_middle() -> None:
    strip = Image.fromarray(np.zeros((1, 200_000, 3), np.uint8))
    assert images.to_square(strip, 256).shape == (256, 256, 3)


def test_animations_odd_pixels_and_bombs_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(GRADIENT), Image.fromarray(255 - GRADIENT)]
    with pytest.raises(ValueError, match="it has several frames"):
        images.decode(saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:]))
    with pytest.raises(ValueError, match="mode 'F'"):
        images.decode(saved(tmp_path, Image.fromarray(GRADIENT[..., 0].astype(np.float32)), "f.tif"))
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR"
    body = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + body))
    (tmp_path / "bomb.png").write_bytes(header + body + crc + struct.pack(">I", 99) + b"IDAT" + b"\0" * 99)
    with pytest.raises(ValueError, match="claims more than"):
        images.decode(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "webp", "bmp"])
def test_truncation_at_any_length_is_an_error_or_the_whole_image(tmp_path: Path, suffix: str) -> None:
    whole = saved(tmp_path, Image.fromarray(GRADIENT), f"x.{suffix}")
    reference = np.asarray(images.decode(whole))
    content = whole.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 60)):
        whole.write_bytes(content[:length])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert (np.asarray(images.decode(whole)) == reference).all()
            except ValueError:
                continue


def test_the_cache_on_disk_holds_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "f", {"a": 20, "b": 20})
    (root / "a" / "3.png").write_bytes(b"")
    in_memory = load_task(str(root))
    monkeypatch.setattr(images, "MEMORY_LIMIT", 0)
    monkeypatch.setenv("PTLIB_CACHE", str(tmp_path / "cache"))
    cold, warm = load_task(str(root)), load_task(str(root))
    assert in_memory.fingerprint == cold.fingerprint == warm.fingerprint
    assert in_memory.skipped == cold.skipped == warm.skipped != ()
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.name.endswith(".tmp")]
    Image.fromarray(GRADIENT[:20, :24]).save(root / "a" / "0.png")
    assert load_task(str(root)).fingerprint != cold.fingerprint


# Duplicates


def test_planted_duplicates_are_found(real_data: Path, cifar10: Path, tmp_path: Path) -> None:
    task = load_task(str(cifar10), side=32)
    base = find_duplicates(task)
    assert len(base.exact) == 0
    planted, rng = task.test.inputs.clone(), np.random.default_rng(0)
    rows = rng.permutation(len(task.train))[:60]
    for to, row in enumerate(rows):
        image = Image.fromarray(task.train.inputs[int(row)].numpy())
        if to < 15:
            changed = image
        elif to < 30:
            changed = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        elif to < 45:
            changed = image.resize((24, 24), Image.Resampling.BICUBIC).resize((32, 32), Image.Resampling.BICUBIC)
        else:
            image.save(tmp_path / "x.jpg", quality=70)
            changed = Image.open(tmp_path / "x.jpg")
        planted[to] = torch.from_numpy(np.asarray(changed.convert("RGB")).copy())
    found = find_duplicates(replace(task, test=replace(task.test, inputs=planted)))
    pairs = {t: r for r, t in found.exact + found.near}
    hits = [pairs.get(task.test.ids[i]) == task.train.ids[int(row)] for i, row in enumerate(rows)]
    assert all(hits[:15])
    assert np.mean(hits[15:]) >= 0.95
    assert len(base.near) <= len(task.test) * 0.01  # false alarms, or CIFAR-10's own duplicates


def test_no_duplicates_among_noise() -> None:
    assert str(find_duplicates(make_task(200))) == "0 exact and 0 near duplicates between train and test"


# Published sets


def test_without_a_network_one_sentence_says_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets.utils as utils

    def refuse(*a: object, **k: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(utils, "_urlretrieve", refuse)
    for name, known in published.TORCHVISION.items():
        with pytest.raises(InputError) as e:
            load_task(name, data_dir=tmp_path)
        text = str(e.value)
        assert "\n" not in text
        assert str(tmp_path) in text
        for file, _, md5 in known.files:
            assert f"{file} (" in text
            assert md5 in text


def test_published_checksums_are_torchvisions_own() -> None:
    from torchvision import datasets as tv

    def said(name: str) -> set[str]:
        return {md5 for _, _, md5 in published.TORCHVISION[name].files}

    assert said("cifar10") == {tv.CIFAR10.tgz_md5}
    assert said("cifar100") == {tv.CIFAR100.tgz_md5}
    assert said("mnist") == {md5 for _, md5 in tv.MNIST.resources}
    assert said("fashion_mnist") == {md5 for _, md5 in tv.FashionMNIST.resources}
    assert said("stl10") == {tv.STL10.tgz_md5}
    assert said("svhn") == {tv.SVHN.split_list[s][2] for s in ("train", "test")}
    assert said("flowers102") == {md5 for _, md5 in tv.Flowers102._file_dict.values()}
    assert said("oxford_pets") == {md5 for _, md5 in tv.OxfordIIITPet._RESOURCES}
    assert said("food101") == {tv.Food101._MD5}


def test_fashion_mnist_is_read_from_the_files_one_puts_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets as tv

    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng, resources = np.random.default_rng(0), []
    for part, n in (("train", 200), ("t10k", 100)):
        for kind, dims in (("images-idx3", (n, 28, 28)), ("labels-idx1", (n,))):
            high = 256 if len(dims) == 3 else 10
            values = (
                rng.integers(0, high, dims, dtype=np.uint8) if len(dims) == 3 else (np.arange(n) % 10).astype(np.uint8)
            )
            header = struct.pack(">HBB", 0, 8, len(dims)) + b"".join(struct.pack(">I", d) for d in dims)
            file = raw / f"{part}-{kind}-ubyte.gz"
            file.write_bytes(gzip.compress(header + values.tobytes()))
            resources.append((file.name, hashlib.md5(file.read_bytes()).hexdigest()))
    monkeypatch.setattr(tv.FashionMNIST, "resources", resources)
    task = load_task("fashion_mnist", data_dir=tmp_path, n_train=100)
    assert [len(s) for s in task.splits] == [100, 40, 100]
    assert task.train.inputs.shape == (100, 28, 28, 3)
    assert task.class_names[9] == "Ankle boot"


def test_hugging_face_sets_are_read_by_their_features(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["NA", "no"])})
    for split, n in (("train", 60), ("test", 20)):
        rows = {
            "img": [Image.fromarray(np.full((12, 14, 3), i, np.uint8)) for i in range(n)],
            "label": [i % 2 for i in range(n)],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    task = load_task(f"hf:{tmp_path}")
    assert task.class_names == ("NA", "no")
    assert [len(s) for s in task.splits] == [48, 12, 20]
    assert task.test.inputs[5, 0, 0].tolist() == [5, 5, 5]
    rows = {"img": [Image.fromarray(np.zeros((12, 14, 3), np.uint8))] * 4, "label": [-1] * 4}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "test.parquet")
    task = load_task(f"hf:{tmp_path}")
    assert "test has no labels and is left out" in task.notes
    assert [len(s) for s in task.splits] == [44, 8, 8]
    with pytest.raises(InputError, match="can't be loaded from the hub"):
        load_task("hf:" + str(tmp_path / "nothing"))


def test_a_task_reads_as_a_table(task: Task) -> None:
    assert str(task).splitlines()[1:4] == [
        "split  images  per class  pixels",
        "-----  ------  ---------  -------",
        "train  60      20         16 x 16",
    ]
