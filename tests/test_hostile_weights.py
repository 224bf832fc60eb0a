"""Weights by strangers: nothing in them runs, each number is accounted for, and none takes more room than it has bytes.

Every file is opened in a process of its own limits (`tests.hostile`); canaries lie where attacks would touch them.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import runpy
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Tiny
from tests.hostile import Outcome, limited
from tests.test_text import make_folder


class Gadget:
    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduced


def gadgets(canary: Path) -> dict[str, Gadget]:
    """What a pickle would call, were it let; all would touch the canary, or take 100 GB."""
    path, script = str(canary), str(canary.with_suffix(".py"))
    return {
        "system": Gadget(os.system, f"touch {path}"), "popen": Gadget(subprocess.Popen, ["touch", path]),
        "eval": Gadget(eval, f"open({path!r}, 'w')"), "exec": Gadget(exec, f"open({path!r}, 'w')"),
        "open": Gadget(open, path, "w"), "run": Gadget(runpy.run_path, script), "unlink": Gadget(os.unlink, script),
        "numpy.save": Gadget(np.save, path, 1), "numpy.load": Gadget(np.load, path + ".pkl", None, True),
        "numpy.tofile": Gadget(np.savetxt, path, [1]), "torch.load": Gadget(torch.load, path + ".pkl"),
        "torch.save": Gadget(torch.save, 1, path), "rmtree": Gadget(shutil.rmtree, str(canary.parent)),
        "bytearray": Gadget(bytearray, 10**11),
    }  # fmt: skip


def pickles(folder: Path, canary: Path) -> Iterator[tuple[str, Path]]:
    """Each gadget in a bare pickle, in both of torch's formats and in its oldest, a tar, under five suffixes."""
    suffixes = ("pt", "pth", "bin", "pt2", "safetensors")
    for i, (name, gadget) in enumerate(gadgets(canary).items()):
        for k, how in enumerate(("pickle", "zip", "legacy", "tar")):
            path = folder / f"{name}-{how}.{'tar' if how == 'tar' else suffixes[(i + k) % 5]}"
            if how == "pickle":
                path.write_bytes(pickle.dumps({"stem.weight": gadget}, protocol=2))
            elif how == "tar":
                with tarfile.open(path, "w") as tar:
                    for member in ("storages", "tensors", "pickle"):
                        info, content = tarfile.TarInfo(member), pickle.dumps(gadget, protocol=2)
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
            else:
                torch.save({"stem.weight": gadget}, path, _use_new_zipfile_serialization=how == "zip")
            yield f"{name}-{how}", path


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that attacks would make: it must not be there afterwards; beside it two that must stay as they are."""
    (tmp_path / "canary.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    (tmp_path / "canary.pkl").write_bytes(pickle.dumps(Gadget(os.system, f"touch {tmp_path / 'canary'}"), protocol=2))
    return tmp_path / "canary"


def check_untouched(canary: Path) -> None:
    assert not canary.exists()
    assert canary.with_suffix(".py").read_text() == f"open({str(canary)!r}, 'w')\n"


BUILD = "float(sum(v.double().sum() for v in build_model(load_checkpoint(given, Tiny)).state_dict().values()))"


def test_no_pickle_runs(tmp_path: Path, canary: Path) -> None:
    (folder := tmp_path / "weights").mkdir()
    files = {name: str(path) for name, path in pickles(folder, canary)}
    assert len(files) == 4 * len(gadgets(canary))
    for name, found in limited(BUILD, files).items():
        assert found.error == "InputError", (name, found)
        assert found.said.startswith(files[name]), (name, found)
        assert found.peak < 2**28, (name, found)
    check_untouched(canary)


STATE = {k: v.clone() for k, v in Tiny().state_dict().items()}
HOLLOW, PLAIN, OTHER = (
    "holds fewer bytes than it claims in",
    "holds no plain numbers in",
    "has in another type of number",
)
STEM, WIDE = torch.ones(8, 3, 3, 3), torch.zeros(7, 16)
# One tensor put in place of the network's own: which, and what is said of it; None where it is as good as another.
ODD: dict[str, tuple[str, torch.Tensor, str | None]] = {
    "same": ("stem.weight", STEM, None), "half": ("stem.weight", STEM.half(), None),
    "double": ("stem.weight", STEM.double(), None), "bf16": ("stem.weight", STEM.bfloat16(), None),
    "parameter": ("stem.weight", torch.nn.Parameter(STEM), None), "view": ("stem.weight", STEM.transpose(2, 3), None),
    "part of a larger one": ("stem.weight", torch.ones(9, 3, 3, 3)[1:], None),
    "stride 0": ("stem.weight", torch.ones(1).expand(8, 3, 3, 3), HOLLOW),
    "stride 0 with bytes": ("stem.weight", torch.ones(999).as_strided((8, 3, 3, 3), (0, 0, 0, 0)), HOLLOW),
    "overlapping": ("stem.weight", torch.ones(999).as_strided((8, 3, 3, 3), (1, 1, 1, 1)), HOLLOW),
    "terabytes": ("fc.weight", torch.zeros(1).expand(2**40, 16), HOLLOW),
    "sparse": ("stem.weight", STEM.to_sparse(), PLAIN), "rows": ("fc.weight", WIDE.to_sparse_csr(), PLAIN),
    "sparse terabytes": (
        "fc.weight", torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (2**40, 16)), PLAIN,
    ),
    "meta": ("stem.weight", STEM.to("meta"), PLAIN), "meta rows": ("fc.weight", WIDE.to("meta").expand(7, 16), PLAIN),
    "meta terabytes": ("fc.weight", torch.zeros(2**40, 16, device="meta"), PLAIN),
    "quantised": ("stem.weight", torch.quantize_per_tensor(STEM, 0.1, 0, torch.qint8), PLAIN),
    "int8": ("stem.weight", STEM.to(torch.int8), OTHER), "int64": ("bn.running_mean", torch.ones(8).long(), OTHER),
    "bool": ("stem.weight", STEM.bool(), OTHER), "complex": ("stem.weight", STEM * 1j, OTHER),
    "inf": ("bn.running_var", torch.full((8,), torch.inf), "has NaN or infinity in"),
    "too large": ("bn.bias", torch.full((8,), 1e300, dtype=torch.float64), "has NaN or infinity in"),
    "no classes": ("fc.weight", torch.zeros(0, 16), "has in another shape"),
    "scalar": ("fc.weight", torch.tensor(1.0), "has in another shape"),
}  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder, files = tmp_path_factory.mktemp("odd"), {}
    for name, (key, tensor, _) in ODD.items():
        torch.save(STATE | {key: tensor}, folder / f"{name}.pth")
        files[name] = str(folder / f"{name}.pth")
    return limited(BUILD, files)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ODD)
def test_a_tensor_is_a_block_of_numbers_of_its_own(odd: dict[str, Outcome], name: str) -> None:
    key, tensor, says = ODD[name]
    if says is None:
        expected = STATE | {key: tensor}
        assert odd[name].said == pytest.approx(float(sum(v.double().sum() for v in expected.values())), abs=1e-6)
    else:
        assert odd[name].error == "InputError", odd[name]
        assert f"{says} {key}" in odd[name].said
    assert odd[name].peak < 500e6


class Attributes:
    """A dictionary of tensors that, unpickled, has attributes in place of its methods, and no versions but words."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        said = {"items": 5, "values": 3, "get": 4, "_metadata": {"bn": {"version": "x"}, "": 7, "stem": {"version": 1}}}
        return OrderedDict, (), said, None, iter(STATE.items())


def packed(path: Path, *pairs: tuple[str, Any]) -> str:
    """A safetensors file of the network's weights, some of its header's pairs before the true ones."""
    entries, data = list[tuple[str, Any]](), b""
    for key, value in STATE.items():
        content = value.contiguous().numpy().tobytes()
        dtype = "F32" if value.is_floating_point() else "I64"
        place = [len(data), len(data) + len(content)]
        entries.append((key, {"dtype": dtype, "shape": list(value.shape), "data_offsets": place}))
        data += content
    true: dict[str, Any] = dict(entries)
    named = [(k, {**true[k], **v} if k in STATE else v) for k, v in pairs]
    header = "{" + ",".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in [*named, *entries]) + "}"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + data)
    return str(path)


def test_files_that_lie_are_refused(tmp_path: Path) -> None:
    p = tmp_path
    torch.save(Attributes(), p / "attributes.pth")
    torch.save(dict[Any, Any](STATE) | {0: torch.zeros(1)}, p / "key.pth")
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(p / "script.pt"))
    torch.save({**STATE, "x": torch.zeros(2**26)}, p / "large.pth")
    with zipfile.ZipFile(p / "large.pth") as z, zipfile.ZipFile(p / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for part in z.infolist():
            bomb.writestr(part.filename, z.read(part))
    (p / "large.pth").unlink()
    (p / "long.safetensors").write_bytes(struct.pack("<Q", 10**12) + b"{}")
    stem, meta = "stem.weight", "__metadata__"
    entry: dict[str, Any] = {"dtype": "F32", "shape": [2**40]}
    cases: dict[str, tuple[str, str | None]] = {
        "true": (packed(p / "true.safetensors"), None), "attributes": (str(p / "attributes.pth"), None),
        "twice": (packed(p / "a.safetensors", (stem, {})), f"{stem} is there twice"),
        "twice, other shape": (packed(p / "b.safetensors", (stem, {"shape": [3, 8, 3, 3]})), f"{stem} is there twice"),
        "two headers": (packed(p / "c.safetensors", (meta, {"a": "1"}), (meta, {"a": "2"})), "duplicate"),
        "offset": (packed(p / "d.safetensors", ("y", entry | {"shape": [1], "data_offsets": [0, 4]})), "no whole"),
        "beyond": (packed(p / "e.safetensors", ("y", entry | {"data_offsets": [0, 2**42]})), "no whole"),
        "long header": (str(p / "long.safetensors"), "no whole safetensors"),
        "bomb": (str(p / "bomb.pth"), "would unpack to more bytes than it has"),
        "key": (str(p / "key.pth"), "no dictionary of tensors"), "script": (str(p / "script.pt"), "plain weights"),
    }  # fmt: skip
    for i, said in enumerate(("[", "5", '"abc"', "null", "[1]", "[" * 99_999)):
        path = packed(p / f"n{i}.safetensors", (meta, {"class_names": said}))
        cases[f"classes {i}"] = (path, "holds no list of class_names")
    found = limited(BUILD, {name: path for name, (path, _) in cases.items()})
    for name, (path, says) in cases.items():
        assert found[name].error == (says and "InputError"), (name, found[name])
        assert says is None or says in found[name].said, (name, found[name])
        assert found[name].peak < 2 * Path(path).stat().st_size + 50e6, (name, found[name])
    assert found["true"].said == found["attributes"].said == pytest.approx(
        float(sum(v.double().sum() for v in STATE.values())), abs=1e-6)  # fmt: skip


def test_a_header_sends_for_nothing_and_makes_no_room_for_more_than_there_is(tmp_path: Path) -> None:
    says = {
        "timm/vit_gigantic_patch14_224": "bytes of weights: they are another's", "hf/stranger/net": "give architecture",
        str(tmp_path): "unknown architecture", "timm/hf-hub:stranger/net": "timm has no model", "x@y": "unknown",
        str(tmp_path / "x.safetensors"): "give architecture", "timm/local-dir:/etc": "timm has no model",
    }  # fmt: skip
    packed(tmp_path / "x.safetensors", ("__metadata__", {"tokenizer": "{}", "config": "{}", "preprocessing": "{}"}))
    files = {
        a: packed(tmp_path / f"{i}.safetensors", ("__metadata__", {"architecture": a})) for i, a in enumerate(says)
    }
    call = "len(build_model(load_checkpoint(given)).state_dict())"
    for name, found in limited(call, files).items():
        assert found.error == "InputError", (name, found)
        assert says[name] in found.said, (name, found)
        assert found.peak < 2**28


def test_a_folder_of_a_network_of_texts_stays_within_itself(tmp_path: Path, canary: Path) -> None:
    base = make_folder("bert", tmp_path / "bert")
    shutil.copy(base / "model.safetensors", tmp_path / "outside.safetensors")
    index = {"weight_map": {"embeddings.LayerNorm.bias": "../outside.safetensors"}}
    shaped = {"hidden_size": (0, -8, 2**20), "num_attention_heads": (0, 3), "vocab_size": (-1, 10**11),
              "num_hidden_layers": (0, -1, 1, 10**9), "max_position_embeddings": (0, 1, 10**12),
              "hidden_act": ("os.system",), "type_vocab_size": (0,), "pad_token_id": (10**9,)}  # fmt: skip
    changes: dict[str, dict[str, Any]] = {
        "as it was": {}, **{k: {"model.safetensors.index.json": v} for k, v in (("index", index), ("no index", {}))},
        **{f"{k}={v}": {"config.json": {k: v}} for k, values in shaped.items() for v in values},
        "template": {"tokenizer_config.json": {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}},
        **{cls: {"tokenizer_config.json": {"tokenizer_class": cls, "vocab_file": str(canary.with_suffix(".py"))}}
           for cls in ("BertTokenizer", "TransfoXLTokenizer", "RagTokenizer", "../Tokenizer")},
    }  # fmt: skip
    folders = dict[str, str]()
    for name, change in changes.items():
        folder = shutil.copytree(base, tmp_path / f"f{len(folders)}" / "net")
        for file, more in change.items():
            old = json.loads((folder / file).read_bytes()) if (folder / file).exists() else {}
            (folder / file).write_text(json.dumps(old | more))
        for file in ("vocab.pkl", "vocab.bin"):
            shutil.copy(canary.with_suffix(".pkl"), folder / file)
        folders[name] = str(folder)
    call = "encoder_in(build_model(load_checkpoint(given)).backbone).tokenizer.to_str()"
    found = limited(call, folders)
    for name, each in found.items():
        if name in ("as it was", "template", "BertTokenizer"):
            assert (each.error, "canary" in each.said) == (None, False), (name, each)
        elif "Tokenizer" not in name:
            assert each.error == "InputError", (name, each)
        assert (each.error in (None, "InputError"), each.peak < 500e6) == (True, True), (name, each)
    assert "has beyond encoder.layer.1." in found["num_hidden_layers=1"].said
    assert "names ../outside.safetensors, which is no weight file" in found["index"].said
    check_untouched(canary)
