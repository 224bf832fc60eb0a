"""Predict once, score many times: what a model says of a split, and the features it says it from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ptlib import together
from ptlib.arrays import as_array
from ptlib.core import Split, Task
from ptlib.data.batches import batched, fetch, resident
from ptlib.errors import InputError
from ptlib.folding import folded
from ptlib.kinds import DenseKind, dense_kind_of, kind_called
from ptlib.mirrors import over_mirrors
from ptlib.models import Model, check_kind
from ptlib.results import Predictions, refuse_unless
from ptlib.runtime import autocast, choose_device, choose_precision, place, to_device
from ptlib.sharding import is_share
from ptlib.texts import Texts, Tokens

EVAL_BATCH = 128
EVAL_TOKENS = EVAL_BATCH * 7**2
# Pixels, or tokens, that a CPU's core looks at at once. With a fourth of the pixels it takes up to a third longer, as
# every call has its price and reads all weights; with four times as many of either up to a fifth. Measured on two
# cores, on EfficientNet-Lite0, ResNet-18 and MiniLM.
CPU_PIXELS, CPU_TOKENS = 10 * 224**2, 512


def predict(
    model: Model | Callable[[Any], Any], split: Split, task: Task, device: str = "auto", precision: str = "auto",
    batch_size: int | None = None, outputs: Literal["logits", "probabilities"] = "logits",
) -> Any:  # fmt: skip
    """What a model says of every example of `split`, in its order: `Predictions`, of boxes `Boxes`, of pixels `Masks`.

    `model` is one of ours, or any function that takes a batch of images as a NumPy array, uint8 (B, H, W, 3), or of
    texts as a list of strings, prepares them as its network wants, and returns `outputs` (B, C): a model of
    scikit-learn, Keras, JAX, ONNX or anything else.

    Raises InputError naming the first example whose outputs are not finite, or outputs of another shape.
    """
    if not isinstance(model, Model):
        if dense_kind_of(task):
            raise InputError(f"a function can't be asked for {task.kind} yet; put what it says into Boxes or Masks")
        return _predict_with(model, split, task, batch_size or EVAL_BATCH, outputs)
    check_kind(model, task)
    where, kind = choose_device(device), dense_kind_of(task)
    place(model, where)
    how = (where, choose_precision(precision, where, model), batch_size)
    if kind:
        try:
            said = forward(model, over_mirrors(model), split.inputs, *how, kept=kind.kept)
            return kind.predictions(said, split, task)
        except NotFinite as e:
            refuse_unless(e.finite, split.ids, split.name)
            raise
    return of_logits(forward(model, over_mirrors(model), split.inputs, *how), split, task)


def of_logits(logits: Tensor, split: Split, task: Task) -> Predictions:
    """Logits (N, C) of a split's examples, in its order, as predictions."""
    return Predictions(tuple(split.ids), split.targets.numpy(), logits.cpu().numpy(), split.name, task.class_names)


def _predict_with(
    function: Callable[[Any], Any], split: Split, task: Task, batch_size: int, outputs: str
) -> Predictions:
    if outputs not in ("logits", "probabilities"):
        raise InputError(f"outputs is {outputs!r}; it must be logits or probabilities")
    said = []
    for part in split.inputs.split(batch_size):
        batch, n = as_array(function(list(part) if isinstance(part, Texts) else part.numpy())), len(part)
        binary = len(task.class_names) == 2 and batch.shape in ((n,), (n, 1))
        if batch.shape != (n, len(task.class_names)) and not binary:
            raise InputError(
                f"the function gave outputs of shape {batch.shape} for {n} {task.reads}; "
                f"({n}, {len(task.class_names)}) are needed, a column for each class of the task"
            )
        said.append(batch)
    named: dict[str, Any] = {outputs: np.concatenate(said)}
    refuse_unless(np.isfinite(named[outputs].reshape(len(split), -1)).all(1), split.ids, split.name)
    targets = [task.class_names[k] for k in split.targets.tolist()]
    return Predictions.of(targets, class_names=task.class_names, ids=split.ids, split=split.name, **named)


def risk(model: Model, split: Split, task: Task, device: str = "auto", precision: str = "auto") -> dict[str, float]:
    """The loss over a split, cross-entropy in nats: `examples`, their `sum` and their `mean`."""
    said = predict(model, split, task, device, precision)
    losses = -said.log_probabilities[np.arange(len(said)), said.targets]
    return {"examples": len(said), "sum": float(losses.sum()), "mean": float(losses.mean())}


def features(
    model: Model, split: Split, device: str = "auto", precision: str = "auto", batch_size: int | None = None
) -> Tensor:
    """What the backbone makes of every example of `split`: float32 (N, D), on the device."""
    if hasattr(model.head, "kind"):
        raise InputError(
            f"a model for {model.head.kind} has maps, not one row of features an image; take its classifier"
        )
    where = choose_device(device)
    place(model, where)
    chosen = choose_precision(precision, where, model)
    return forward(model, model.backbone, split.inputs, where, chosen, batch_size)


class NotFinite(FloatingPointError):
    """What a model says of some examples is NaN or infinite; `finite` says of which not, bool (N,)."""

    def __init__(self, finite: np.ndarray):
        super().__init__(
            f"the outputs for {int((~finite).sum())} of {len(finite)} examples hold NaN or infinity; lower lr, set "
            "clip_norm, or use precision fp32"
        )
        self.finite = finite


@torch.no_grad()
def forward(
    model: Model, part: Callable[[Tensor], Tensor], inputs: Any, device: torch.device, precision: str,
    batch_size: int | None = None, kept: Callable[..., Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """`part` of the model, in eval mode, on all images or texts, in their order: float32 (N, ...) on the device.

    Or what `kept` makes of each batch's outputs, given height and width of what the network saw, of the images in it,
    and of the inputs.
    `batch_size` None stands for 128 images, fewer where they are larger than 224 pixels; of texts it counts tokens, of
    which as many are looked at as lie in 128 images of 224 pixels, a patch of 32 each. A CPU looks at fewer where
    that is faster, on two cores at 16 images of 224 pixels.

    Raises NotFinite where `kept` would make a class or a box, or none, of NaN.
    """
    model.eval()
    inputs = model.read(inputs)
    rows = batched(inputs, batch_size or together.from_first(affordable_batch(model, inputs, device)))
    shares = [rows[r :: together.size()] for r in range(together.size())] if len(rows) >= together.size() else [rows]
    mine = shares[together.rank() % len(shares)]
    n, at, outputs, finite = sum(map(len, mine)), 0, None, None
    if len(mine) < len(shares[0]) and any(map(is_share, model.parameters())):  # nobody computes shares alone
        mine = [*mine, mine[0]]
    with folded(model, inputs, device), autocast(device, precision):
        for x in fetch(resident(inputs, device), mine, device):
            canvas, x = x.shape[1:3], model.preprocess(x)
            said = part(x)
            if at == n:
                break
            if kept is not None:
                finite = _filled(finite, n, at, _finite(said, len(x)))
                said = kept(said, x.shape[-2:], model.resized(canvas), canvas)
            outputs = _filled(outputs, n, at, said if kept else said.float())
            at += len(said)
    if finite is not None and not (every := _in_order(finite, shares)).all():
        raise NotFinite(every.cpu().numpy())
    assert outputs is not None
    return _in_order(outputs, shares)


def _filled(whole: Tensor | None, n: int, at: int, part: Tensor) -> Tensor:
    """`part` put into the `n` rows of `whole`, which is made for the first: many small pieces would leave gaps in
    memory between what comes and goes, and be there twice once they are joined."""
    if whole is None:
        whole = torch.empty((n, *part.shape[1:]), dtype=part.dtype, device=part.device)
    whole[at : at + len(part)] = part
    return whole


def _in_order(found: Tensor, shares: Sequence[Sequence[Tensor]]) -> Tensor:
    """What was said of the rows of each share, of which this process has one or the only one, in the order of rows."""
    rows = torch.cat([r for share in shares for r in share])
    if len(shares) > 1:
        found = together.gather(found, [sum(map(len, share)) for share in shares])
    return found if (rows.diff() == 1).all() else found[to_device(rows.argsort(), found.device)]


def _finite(said: Any, n: int) -> Tensor:
    """Whether a head's outputs for each of `n` images are finite, bool (n,).

    torchvision's detectors drop a box of NaN: theirs are finite where the maps and the head's weights are.
    """
    if isinstance(said, Tensor | tuple):
        return _rows_finite([said] if isinstance(said, Tensor) else [v for v in said if len(v) == n])
    weights = torch.stack([p.isfinite().all() for p in said.head.parameters()]).all()
    return _rows_finite(said.maps.values()) & weights


def _rows_finite(values: Iterable[Tensor]) -> Tensor:
    return torch.stack([v.isfinite().flatten(1).all(1) for v in values if v.ndim > 1]).all(0)


def affordable_batch(model: Model, inputs: Any, device: torch.device | None = None) -> int:
    """How many images to look at at once: 128; where they keep their shape as many as make 128 of 224 pixels. Of texts
    how many tokens. With a `device`, fewer if it is faster with fewer: a power of two, as kernels like them."""
    cores = torch.get_num_threads() if device is not None and device.type == "cpu" else 0
    if isinstance(inputs, Tokens):
        return min(EVAL_TOKENS, CPU_TOKENS * cores or EVAL_TOKENS)
    pixels = math.prod(model.resized(inputs.shape[1:3]))
    most = max(1, min(EVAL_BATCH, EVAL_BATCH * 224**2 // (pixels if model.preprocessing.keep_aspect else 1)))
    return min(most, 1 << max(1, CPU_PIXELS * cores // pixels).bit_length() - 1) if cores else most


def cost(
    model: Model, split: Split, device: str = "auto", precision: str = "auto", *, images: int = EVAL_BATCH,
    repeats: int = 3,
) -> dict[str, float]:  # fmt: skip
    """What a prediction costs: `parameters`, `flops` of one image or text (two a multiply-add), measured
    `examples_per_s`; and `memory_mb`, what a training step on 32 of them needs.

    The speed is that of the fastest of `repeats` passes over up to `images` of them, after one that is not counted.
    The memory counts weights, gradients, AdamW's two moments, and what backward keeps of the examples, in MB of 10^6
    bytes at fp32. Of texts, FLOPs and memory are those of one of the length that half of them have.
    """
    where = choose_device(device)
    place(model, where)
    chosen, few = choose_precision(precision, where, model), split.inputs[:images]
    seconds, said, kept, one = [], over_mirrors(model), _kept_by(model), few[:1]
    if isinstance(few, Texts):
        half = int(model.read(few).lengths.argsort(stable=True)[len(few) // 2])
        one = few[half : half + 1]
    for _ in range(1 + repeats):
        start = time.perf_counter()
        forward(model, said, few, where, chosen, kept=kept).cpu()
        seconds.append(time.perf_counter() - start)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused attention counts as nothing
        forward(model, said, one, where, chosen, kept=kept)
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "parameters": parameters,
        "flops": counter.get_total_flops(),
        "examples_per_s": len(few) / min(seconds[1:]),
        "memory_mb": (16 * parameters + 32 * _kept_for_backward(model, one, where)) / 1e6,
    }


def _kept_by(model: Model) -> Callable[..., Tensor] | None:
    """What turns a head's outputs into what is kept of them, where they are no logits of images."""
    kind = getattr(model.head, "kind", None)
    return cast(DenseKind, kind_called(kind)).kept if kind else None


def _kept_for_backward(model: Model, one: Any, where: torch.device) -> int:
    """Bytes that a forward pass over one example keeps for its backward pass, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    model.eval()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = model(model.preprocess(model.read(one)[:1].to(where)))
    del output
    return sum(kept.values())
