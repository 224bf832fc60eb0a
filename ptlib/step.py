"""One optimizer step: what is frozen, who learns how fast, forward, backward, update."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ptlib import together
from ptlib.core import Task
from ptlib.data.batches import fetch
from ptlib.errors import InputError
from ptlib.kinds import kind_of
from ptlib.models import Model, layers
from ptlib.networks import is_batchnorm
from ptlib.prediction import affordable_batch
from ptlib.runtime import autocast, derived_seed, generator
from ptlib.sharding import is_share, let_go, share_like
from ptlib.stages import Stage


class Step:
    """One optimizer step as a call; holds what belongs to it: optimizer, moving average, where the weights began."""

    def __init__(
        self, model: Model, module: nn.Module, stage: Stage, task: Task, names: Sequence[str], device: torch.device,
        precision: str, accumulate: int | str, compile: bool, spread: bool = True, log: Callable[[str], None] = print,
    ):  # fmt: skip
        named = dict(model.named_parameters())
        self.model, self.parameters = model, [named[name] for name in names]
        self.stage, self.device, self.precision, self.log = stage, device, precision, log
        self.spread = spread  # over the processes that train together
        self.grows, self.parts = accumulate == "auto", 1 if isinstance(accumulate, str) else accumulate
        self.kind = kind_of(task)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(module) if compile else module
        self.optimizer, self.scales = make_optimizer(model, stage, names)
        self.shares = spread and any(map(is_share, model.parameters()))
        self.start = [p.detach().clone() for p in self.parameters] if stage.l2_sp else []
        self.average = [p.detach().clone() for p in self.parameters] if stage.ema is not None else []
        self.count = 0
        self.copied: tuple[Tensor, torch.cuda.Event] | None = None

    def __call__(self, x: Tensor, y: Tensor, lr: float, seed: int = 0) -> Tensor:
        """Forward, backward, update; the mean loss of the batch, left on the device. Dropout draws by `seed`.

        InputError where memory runs out and the batch may not be computed in more parts.
        """
        mine, n = together.own(len(x)) if self.spread else slice(0, len(x)), float(len(x))
        if mine.start == mine.stop:  # more processes than examples: what this one computes counts nothing
            mine, n = slice(0, 1), math.inf
        while (total := self._backward(x[mine], y[mine], n, seed)) is None:
            self.optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if self.spread:  # gradients of shares have been summed
            together.add_up([*(p.grad for p in self.parameters if p.grad is not None and not is_share(p)), total])
        self._update(lr)
        return total

    def _backward(self, x: Tensor, y: Tensor, n: float, seed: int) -> Tensor | None:
        """This part's share of the gradients and of the mean loss over `n`; None where memory ran out and smaller parts
        are to be tried."""
        seed = derived_seed(seed, together.rank()) if together.rank() else seed
        torch.default_generator.manual_seed(seed)  # torch.manual_seed, a hundred times slower, seeds what is not there
        if self.device.type != "cpu":
            getattr(torch, self.device.type).manual_seed(seed)
        try:
            return self._gradients(x, y, n)
        except RuntimeError as e:
            if not isinstance(e, torch.OutOfMemoryError) and "allocate memory" not in str(e):
                raise
            tried, more = -(-len(x) // self.parts), min(2 * self.parts, len(x))
            said = f"out of memory in stage {self.stage.name!r}, with {tried} at once, batches of {len(x)}"
            if tried == 1:
                raise InputError(f"{said}; give a smaller image_size or max_length, or freeze more") from e
            if not self.grows:
                raise InputError(
                    f"{said}; give accumulate={more}, or accumulate='auto', which doubles it until they fit, or "
                    f"batch_size={len(x) // 2}"
                ) from e
        self.parts = more
        self.log(f"{said}; going on with {-(-len(x) // more)} at once")
        return None

    def _gradients(self, x: Tensor, y: Tensor, n: float) -> Tensor:
        total, parts = torch.zeros((), device=self.device), min(self.parts, len(x))
        if self.shares and math.isfinite(n):  # no more than every process has examples for
            parts = min(parts, max(1, int(n) // together.size()))
        for part_x, part_y in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
            with autocast(self.device, self.precision):
                outputs = self.forward(part_x)
            loss = self.kind.loss(outputs, part_y, self.stage.label_smoothing) * (len(part_x) / n)
            loss.backward()
            total += loss.detach()
        return total

    def _update(self, lr: float) -> None:
        if self.start:  # gradient of l2_sp / 2 * ||w - w_start||^2
            pulled = [
                (p.grad, p.detach(), s) for p, s in zip(self.parameters, self.start, strict=True) if p.grad is not None
            ]
            gradients, weights, starts = (list(column) for column in zip(*pulled, strict=True))
            torch._foreach_add_(gradients, torch._foreach_sub(weights, starts), alpha=self.stage.l2_sp)
        if self.stage.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.stage.clip_norm)
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            group["lr"] = lr * scale
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.count += 1
            decay = min(self.stage.ema or 0.0, (1 + self.count) / (10 + self.count))  # short runs: a shorter memory
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    def finite(self, loss: Tensor) -> bool:
        """Whether a sum of losses is finite; a GPU is not waited for, so of one the answer is a step old."""
        if self.device.type != "cuda":
            return bool(loss.isfinite())
        before, event = self.copied, torch.cuda.Event()
        flag = torch.empty((), dtype=torch.bool, pin_memory=True)
        flag.copy_(loss.isfinite(), non_blocking=True)
        event.record()
        self.copied = flag, event
        if before is None:
            return True
        before[1].synchronize()
        return bool(before[0])

    def state(self) -> dict[str, Tensor]:
        """What it holds beside the model, by name: the optimizer's moments, averages, where the weights began."""
        found = {"counts": torch.tensor([self.count, self.parts])}
        for i, p in enumerate(self.parameters):
            moments = {k: v for k, v in self.optimizer.state[p].items() if isinstance(v, Tensor)}
            found |= {f"{i}.{name}": value for name, value in moments.items()}
        for what, held in (("start", self.start), ("average", self.average)):
            found |= {f"{i}.{what}": value for i, value in enumerate(held)}
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave; each tensor in the memory order of its parameter."""
        for name, value in state.items():
            number, _, what = name.partition(".")
            if name == "counts":
                self.count, self.parts = value.tolist()
            elif what in ("start", "average"):
                held = {"start": self.start, "average": self.average}[what]
                held[int(number)] = share_like(value, held[int(number)])
            else:
                p = self.parameters[int(number)]
                self.optimizer.state[p][what] = value.to(p.device) if what == "step" else share_like(value, p)

    @contextlib.contextmanager
    def averaged(self, whole: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[None]:
        """A context in which the model has the averaged weights, if there are any; they are put back within `whole`, a
        context that nothing interrupts."""
        if not self.average:
            yield
            return
        held = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            try:
                self._set(self.average)
                yield
            finally:
                with whole():
                    self._set(held)

    def _set(self, values: Sequence[Tensor]) -> None:
        for p, value in zip(self.parameters, values, strict=True):
            p.copy_(value)
        let_go(self.model)


def make_optimizer(model: Model, stage: Stage, names: Sequence[str]) -> tuple[torch.optim.Optimizer, list[float]]:
    """The optimizer, and for each of its groups the share of the stage's learning rate it learns at.

    A layer k below the head gets `layer_decay ** k`; norms and biases (vectors) are spared from weight decay.
    """
    depth = layers(model)
    below = {name: len(depth) - 1 - i for i, (_, members) in enumerate(depth) for name in members}
    named = dict(model.named_parameters())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name in names:
        decay = stage.weight_decay if named[name].ndim > 1 else 0.0
        groups.setdefault((stage.layer_decay ** below[name], decay), []).append(named[name])
    settings = [
        {"params": members, "lr": stage.lr * scale, "weight_decay": decay} for (scale, decay), members in groups.items()
    ]
    optimizer: torch.optim.Optimizer
    if stage.optimizer == "sgd":
        fused = not any(is_share(named[name]) for name in names)  # PyTorch has none for shares
        optimizer = torch.optim.SGD(settings, lr=stage.lr, momentum=0.9, nesterov=True, fused=fused)
    else:
        optimizer = torch.optim.AdamW(settings, lr=stage.lr, fused=True)
    return optimizer, [scale for scale, _ in groups]


def schedule(stage: Stage, progress: float) -> float:
    """The share of the peak learning rate at `progress` in 0..1: a linear rise over `warmup`, then the schedule."""
    if stage.schedule == "one-cycle":  # Smith and Topin (2018), with the constants of torch's OneCycleLR
        rising = progress < stage.warmup
        share = progress / stage.warmup if rising else (progress - stage.warmup) / max(1 - stage.warmup, 1e-12)
        low = 1 / 25 if rising else 1 / 25e4
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * (share - 1 if rising else share)))
    if progress < stage.warmup:
        return progress / stage.warmup
    rest = (progress - stage.warmup) / (1 - stage.warmup) if stage.warmup < 1 else 1.0
    if stage.schedule == "constant":
        return 1.0
    return 1 - rest if stage.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * rest))


def augmentations_of(stage: Stage, task: Task, head_only: bool) -> tuple[str, ...]:
    """A stage's own; else the task's, but none where the features of a frozen backbone are computed once."""
    if stage.augment is not None:
        return stage.augment
    return () if head_only and not kind_of(task).DENSE else task.augment


def set_mode(model: Model, stage: Stage, names: Sequence[str]) -> None:
    """Train mode where something learns; what is frozen stays in eval mode, its dropout and statistics included."""
    learning = {name.rpartition(".")[0] for name in names}
    above = {owner[:i] for owner in learning for i, c in enumerate(owner) if c == "."} | learning | {""}
    on = {"": True}
    for path, module in model.named_modules():  # parents come first
        if next(module.parameters(), None) is None:  # dropout, activations: as what they stand in
            on[path] = on[path.rpartition(".")[0]]
        else:
            on[path] = path in above and (not is_batchnorm(module) or stage.batchnorm == "train")
        module.training = on[path]  # not module.train(), which would take its children along


@torch.no_grad()
def measure_statistics(
    model: Model, names: Sequence[str], inputs: Tensor, device: torch.device, n: int | None = None
) -> None:
    """BatchNorm's statistics of these very weights, over `n` images at most (precise BN; Wu and Johnson 2021): half of
    them, yet no fewer than 512 and no more than 2,048.

    The running averages lag behind weights that move fast: after a few dozen steps they describe another network.
    """
    owners = {name.rpartition(".")[0] for name in names}
    norms = [module for path, module in model.named_modules() if path in owners and is_batchnorm(module)]
    if not norms:
        return
    n = n or min(2048, max(512, len(inputs) // 2))
    rows = torch.randperm(len(inputs), generator=generator("batchnorm statistics"))[:n]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over batches
            norm.train()
        for x in fetch(inputs, rows.tensor_split(max(1, len(rows) // affordable_batch(model, inputs))), device):
            model(model.preprocess(x))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
