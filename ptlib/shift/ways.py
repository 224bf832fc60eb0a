"""One start adapted in several ways, to see what each does to accuracy elsewhere: probe, full, LP-FT, WiSE-FT, soup."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptlib.core import Checkpoint, Split, Task
from ptlib.errors import InputError, did_you_mean
from ptlib.kinds import one_class_each
from ptlib.models import Model, build_model, load_checkpoint
from ptlib.prediction import predict
from ptlib.runs import reopen
from ptlib.shift.robustness import present_classes
from ptlib.similarity import averaged, mixed
from ptlib.stages import Stage, recipe
from ptlib.train import finetune

WAYS = ("probe", "full", "lp-ft", "wise-ft", "soup")


@dataclass(frozen=True)
class Ways:
    """Models by the way they were adapted; the `probe` they can be compared with, asked for or not, where there is one;
    and the `runs` of LP-FT, one for each seed, that a soup is made of, or the one run there is.

    `relearned` says that BatchNorm learned new statistics on the way, so that a mean of weights needs its own.
    """

    models: dict[str, Model]
    probe: Model | None
    runs: list[Model]
    selected_on: str
    relearned: bool = False


def adapt_in_ways(
    start: Checkpoint, task: Task, ways: Sequence[str] = WAYS, *, epochs: int = 4, soup: int = 3, alpha: float = 0.5,
    image_size: int | None = None, seed: int = 0, device: str = "auto", precision: str = "auto",
    resume: Path | None = None, log: Callable[[str], None] = print, **how: Any,
) -> Ways:  # fmt: skip
    """Adapt a checkpoint in each of several ways; `how` (lr, batch_size, augment) goes to `recipe`, and in the folder
    `resume` each training keeps what it goes on from, as `finetune` does.

    - `probe`: the head alone, fitted to convergence.
    - `full`: everything at once from a random head.
    - `lp-ft`: the probe, then everything (Kumar et al. 2022, arXiv 2202.10054), never worse on val than the probe.
    - `wise-ft`: the mean of the probe's weights and LP-FT's, `alpha` of the latter (Wortsman et al. 2022, arXiv
      2109.01903). Their alpha of 0.5 chooses nothing.
    - `soup`: the mean of the weights of `soup` runs of LP-FT from one probe (Wortsman et al. 2022, arXiv 2203.05482).

    InputError for a way that is none, and a task in which something is said of every place.
    """
    one_class_each(task, "adapting in several ways")
    if soup < 1 or not ways:
        raise InputError(f"soup is {soup} and ways are {list(ways)}; a run and a way are needed at least")
    for way in ways:
        if way not in WAYS:
            raise InputError(f"unknown way {way!r}{did_you_mean(way, WAYS) or ';'} there are {', '.join(WAYS)}")
    options: dict[str, Any] = {"device": device, "precision": precision, "log": log}
    how["kind"] = task.kind
    probe = build_model(start, task, image_size, seed)

    def tuned(model: Model, stages: Sequence[Stage], name: str, seed: int) -> str:
        return finetune(model, task, stages, seed=seed, resume=resume and resume / name, **options).selected_on

    selected = tuned(probe, recipe("probe", kind=task.kind), "probe", seed)
    models, runs = {"probe": probe}, []
    if "full" in ways:
        models["full"] = build_model(start, task, image_size, seed)
        selected = tuned(models["full"], recipe("full", epochs, **how), "full", seed)
    # Without an epoch a stage only scores what it begins with: the probe is among the weights to choose from.
    stages = [Stage("probe", epochs=0), *recipe("lp-ft", epochs, **how)[1:]]
    for k in range(soup if "soup" in ways else 1 if {"lp-ft", "wise-ft"} & set(ways) else 0):
        run = copy.deepcopy(probe)
        selected = tuned(run, stages, f"lp-ft-{k}", seed + k)
        runs.append(run)
    made: dict[str, Callable[[], Model]] = {
        "lp-ft": lambda: runs[0], "wise-ft": lambda: averaged((probe, runs[0]), (1 - alpha, alpha)),
        "soup": lambda: averaged(runs),
    }  # fmt: skip
    models |= {way: made[way]() for way in ways if way in made}
    return Ways({way: models[way] for way in ways}, probe, runs, selected)


def of_run(
    path: str, *, alpha: float = 0.5, device: str = "auto", precision: str = "auto",
    log: Callable[[str], None] = print,
) -> tuple[Task, Ways]:  # fmt: skip
    """A saved run's data, and its model as the way `run`; beside it a `probe` of the checkpoint it started from, where
    that is to be had, and `wise-ft`, the mean of the two; `log` is told what is not to be had, and why."""
    model, task, record = reopen(path)
    one_class_each(task, "a look at what holds up")
    asked, selected = record["parameters"], record.get("selected_on", "not recorded")
    relearned = any(stage.get("batchnorm") == "train" for stage in record.get("stages", []))
    models: dict[str, Model] = {"run": model}
    try:
        fed = record["preprocessing"]
        start = load_checkpoint(asked["checkpoint"], asked.get("architecture"), fed.get("pooling"))
        probe = build_model(start, task, fed["size"], asked.get("seed", 0))
        probe = probe.fed(flips=fed["flips"]) if fed.get("flips") else probe
    except (InputError, KeyError) as e:
        log(f"the run stands alone, without a probe of what it started from: {e}")
        return task, Ways(models, None, [model], selected)
    how: dict[str, Any] = {"seed": asked.get("seed", 0), "device": device, "precision": precision}
    finetune(probe, task, recipe("probe", kind=task.kind), log=lambda line: None, **how)
    models = {"probe": probe, **models}
    try:
        models["wise-ft"] = mixed(probe, model, alpha, task.train.inputs if relearned else None, device)
    except InputError as e:
        log(f"no WiSE-FT: {e}")
    return task, Ways(models, probe, [model], selected, relearned)


def weight_path(
    start: Model, tuned: Model, task: Task, sets: Mapping[str, Split],
    alphas: Sequence[float] = (0, 0.25, 0.5, 0.75, 1), *, relearned: bool = False, device: str = "auto",
    precision: str = "auto",
) -> Any:  # fmt: skip
    """Accuracy on each set at (1 - alpha) start + alpha tuned, as a DataFrame: a row for each alpha.

    A set with some of the task's classes is told apart among those. `relearned` gives each network BatchNorm statistics
    of its own, as `Ways` says when. Nothing is to be chosen from it but on val.
    """
    import pandas as pd

    rows = []
    for alpha in alphas:
        model = mixed(start, tuned, alpha, task.train.inputs if relearned else None, device)
        row = {"alpha": float(alpha)}
        for name, split in sets.items():
            p = predict(model, split, task, device, precision).among(present_classes(split, task))
            row[name] = float(np.mean(p.predicted == p.targets))
        rows.append(row)
    return pd.DataFrame(rows).set_index("alpha")
