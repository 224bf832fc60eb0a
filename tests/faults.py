"""Faults, planted and counted: `python -m tests.faults` prints the table of docs/runs.md, with --long more of each.

One process imports torch, on one thread, and forks: a child trains, saves or reads, and is killed, or its disk fails.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import ptlib as pt
from ptlib import folders, resume, runs
from ptlib.core import Checkpoint
from ptlib.preprocessing import Preprocessing
from ptlib.verification import verify
from tests.conftest import Tiny, make_task, rehash, silent

CASES: dict[str, tuple[str, Callable[[Path, bool], Iterator[bool]]]] = {}
STAGES = [
    pt.Stage("head", ("head",), epochs=2, lr=0.05, batch_size=16, augment=()),
    pt.Stage("all", epochs=3, lr=1e-2, batch_size=8, batchnorm="train", augment=("flip",), ema=0.9, l2_sp=0.01),
]


def case(fault: str) -> Callable[[Any], Any]:
    def named(function: Callable[[Path, bool], Iterator[bool]]) -> Any:
        CASES[function.__name__] = fault, function
        return function

    return named


def start() -> tuple[pt.Model, Any]:
    size = Preprocessing(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
    checkpoint = Checkpoint("random/tiny", "tiny", "test", size, parameters=0, flops=0, factory=Tiny)
    task = make_task()
    return pt.build_model(checkpoint, task), task


def train(folder: Path | None, stages: Any = STAGES, **how: Any) -> str:
    """Train, going on from what lies in the folder; a hash of the weights, the history and the predictions."""
    model, task = start()
    history = pt.finetune(model, task, stages, resume=folder, log=silent, **how)
    said = pt.predict(model, task.test, task)
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "examples_per_s")} for row in history.rows]
    told = json.dumps([resume.digest(model.state_dict()), rows, history.selected_on], sort_keys=True)
    return hashlib.sha256(told.encode() + said.scores.tobytes()).hexdigest()


def forked(work: Callable[[], Any]) -> int:
    """The child that does it, and leaves with 0, or 1 if it raised."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    with contextlib.suppress(BaseException), open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
        work()
        code = 0
    os._exit(code)


def ended(child: int) -> int:
    """How a child ended: its exit status, or less the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_call(number: int, then: Callable[[], None], under: Path) -> None:
    """Do something at the file system call of this number, from now on, that changes a thing under a folder."""
    seen = [0]

    def count(path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike) and str(under) in os.fsdecode(path):
            seen[0] += 1
            if seen[0] == number:
                then()

    def hook(event: str, arguments: Any) -> None:
        changes = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")
        if changes or (event == "open" and "w" in str(arguments[1])):
            count(arguments[0])

    def fsync(handle: int, real: Callable[[int], None] = os.fsync) -> None:
        count(Path(f"/proc/self/fd/{handle}").readlink())
        real(handle)

    os.fsync = fsync  # type: ignore[assignment]
    sys.addaudithook(hook)


def small(text: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        for name in ("tensors", "state"):
            (folder / name).write_text(f"{name}: {text}")

    return fill


def finished(root: Path, seed: int = 0) -> Path:
    """A small run, saved under `root`."""
    os.environ["PTLIB_OUTPUTS"] = str(root)
    model, task = start()
    history = pt.finetune(model, task, STAGES[:1], seed=seed, log=silent)
    said = pt.predict(model, task.test, task)
    reports = {"test": pt.evaluate(said, resamples=200)}
    made: dict[str, Any] = {"task": task, "model": model, "history": replace(history, seconds={})}
    return pt.save_run("finetune", {"seed": seed}, **made, predictions=said, reports=reports, run_name="run")


@case("training killed (-9), one to five times, then run again")
def killed(folder: Path, long: bool) -> Iterator[bool]:
    right, begin = train(None), time.perf_counter()
    train(None)
    took, draw = 3 * (time.perf_counter() - begin), random.Random(0)
    for trial in range(100 if long else 20):
        place = folder / str(trial)
        for _ in range(draw.choice([1, 1, 2, 3, 5])):
            child = forked(lambda: train(place))  # noqa: B023
            time.sleep(draw.uniform(0.02, took))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            ended(child)
        yield train(place) == right


@case("SIGTERM or an interrupt while training, then run again")
def told_to_stop(folder: Path, long: bool) -> Iterator[bool]:
    right, draw = train(None), random.Random(1)
    for trial in range(50 if long else 8):
        place, number = folder / str(trial), (signal.SIGTERM, signal.SIGINT)[trial % 2]
        longer = [STAGES[0], replace(STAGES[1], epochs=400)]
        child = forked(lambda: train(place, longer))  # noqa: B023
        time.sleep(draw.uniform(0.3, 0.8))
        os.kill(child, number)
        begin = time.perf_counter()
        code, took = ended(child), time.perf_counter() - begin
        saved = folders.newest(place) if place.exists() else None
        place2 = folder / f"{trial}-short"
        child = forked(lambda: train(place2))  # noqa: B023
        time.sleep(draw.uniform(0.02, 0.3))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        ended(child)
        yield code != 0 and took < 10 and saved is not None and train(place2) == right


@case("killed at each file system call of one save")
def killed_in_a_save(folder: Path, long: bool) -> Iterator[bool]:
    for call in range(1, 1000):
        root = folder / str(call)
        folders.keep(root, 1, small("one"))
        folders.keep(root, 2, small("two"))

        def save(root: Path = root, call: int = call) -> None:
            at_call(call, lambda: os.kill(os.getpid(), signal.SIGKILL), root)
            folders.keep(root, 3, small("three"))

        code = ended(forked(save))
        found = folders.newest(root)
        yield found is not None and (found / "state").read_text() in ("state: two", "state: three")
        if code == 0:
            return


@case("killed at each file system call while a finished run is replaced")
def killed_in_a_run(folder: Path, long: bool) -> Iterator[bool]:
    first, names = finished(folder / "first"), ("predictions.safetensors", "report.json", "model.safetensors")
    for call in range(1, 1000):
        root = folder / str(call)
        shutil.copytree(first, root / "run")

        def save(root: Path = root, call: int = call) -> None:
            at_call(call, lambda: os.kill(os.getpid(), signal.SIGKILL), root)
            finished(root, seed=1)

        code = ended(forked(save))
        os.environ["PTLIB_OUTPUTS"] = str(root)
        whole = runs.read_run("run").record["parameters"]["seed"] in (0, 1)
        again = finished(root, seed=0)
        same = [(again / n).read_bytes() == (first / n).read_bytes() for n in names]
        yield whole and all(same) and {p.name for p in root.iterdir()} == {"run", ".locks"}
        if code == 0:
            return


@case("disk full at each file system call of one save, and at each size of a file")
def disk_full(folder: Path, long: bool) -> Iterator[bool]:
    reached = folder / "reached"

    def full() -> None:
        reached.touch()
        raise OSError(28, "No space left on device")

    sizes = [0, 1, 5, 9, 10, 50, 100, 139]
    for call in (*(-s - 1 for s in sizes), *range(1, 1000)):
        root = folder / str(call)
        folders.keep(root, 1, small("one"))

        def save(root: Path = root, call: int = call) -> None:
            if call < 0:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (-call - 1, -call - 1))
            else:
                at_call(call, full, root)
            folders.keep(root, 2, small("two"))

        code, found = ended(forked(save)), folders.newest(root)
        yield (
            found is not None
            and (found / "state").read_text() in ("state: one", "state: two")
            and (code != 0 or found.name.endswith("2"))
        )
        if call > 0 and not reached.exists():
            return
        reached.unlink(missing_ok=True)


@case("power cut after each file system call: what was not flushed is lost")
def power_cut(folder: Path, long: bool) -> Iterator[bool]:
    for call in range(1, 1000):
        root, flushed = folder / str(call), folder / f"{call}.flushed"
        folders.keep(root, 1, small("one"))
        flushed.write_text("".join(f"{p.stat().st_ino}\n" for p in root.rglob("*") if p.is_file()))

        def save(root: Path = root, flushed: Path = flushed, call: int = call) -> None:
            real = os.fsync

            def fsync(handle: int) -> None:
                real(handle)
                with open(flushed, "a") as f:
                    f.write(f"{os.fstat(handle).st_ino}\n")

            os.fsync = fsync  # type: ignore[assignment]
            at_call(call, lambda: os.kill(os.getpid(), signal.SIGKILL), root)
            folders.keep(root, 2, small("two"))

        code = ended(forked(save))
        kept = set(flushed.read_text().split())
        for p in root.rglob("*"):
            if p.is_file() and str(p.stat().st_ino) not in kept:
                p.write_bytes(b"")
        found = folders.newest(root)
        yield found is not None and (found / "state").read_text() in ("state: one", "state: two")
        if code == 0:
            return


@case("a bit of each byte of a checkpoint flipped")
def flipped(folder: Path, long: bool) -> Iterator[bool]:
    new = folders.keep(folder / "small", 1, small("one"))
    torn = [new] + ([finished(folder / "runs")] if long else [])
    for whole in torn:
        for file in sorted(whole.iterdir()):
            content = file.read_bytes()
            for i in range(len(content)):
                file.write_bytes(content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :])
                yield folders.difference(whole) is not None
            file.write_bytes(content)


@case("a file of a checkpoint or a run cut at each length, appended to, zeroed, taken away or exchanged for another's")
def cut(folder: Path, long: bool) -> Iterator[bool]:
    first, second = (folders.keep(folder / text, 1, small(text)) for text in ("one", "two"))
    for one, other in ((first, second), (finished(folder / "a"), finished(folder / "b", seed=1))):
        for file in sorted(one.iterdir()):
            content = file.read_bytes()
            lengths = range(0, len(content), 1 if long or one == first else 1 + len(content) // 40)
            parts = (content[:n] for n in lengths)
            for torn in (*parts, content + b"\0", bytes(4096), (other / file.name).read_bytes()):
                if torn != content:
                    file.write_bytes(torn)
                    yield folders.difference(one) is not None
            file.unlink()
            yield folders.difference(one) is not None
            file.write_bytes(content)


@case("the newest checkpoint not whole: the one before it, with a warning; none whole: refused")
def newest_bad(folder: Path, long: bool) -> Iterator[bool]:
    for trial in range(20):
        root = folder / str(trial)
        for step in (1, 2):
            folders.keep(root, step, small(str(step)))
        for left in (1, 0):
            bad = root / f"step-{left + 1:09d}" / ("tensors", "state", folders.SUMS)[trial % 3]
            bad.write_bytes(bad.read_bytes()[: trial % 7])
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                try:
                    found = folders.newest(root)
                    yield left == 1 and found is not None and found.name.endswith("1") and len(said) == 1
                except pt.InputError as e:
                    yield left == 0 and "To begin anew, delete" in str(e)


@case("gone on with, but with another stage, seed, precision, data, weights, code or package")
def changed(folder: Path, long: bool) -> Iterator[bool]:
    child = forked(lambda: train(folder / "run", [replace(s, epochs=400) for s in STAGES], precision="fp32"))
    while not folders.newest(folder / "run"):
        time.sleep(0.1)
    os.kill(child, signal.SIGTERM)
    ended(child)
    model, task = start()
    stages = [replace(s, epochs=400) for s in STAGES]
    same: dict[str, Any] = {"model": model, "task": task, "stages": stages, "precision": "fp32"}
    moved, _ = start()
    with torch.no_grad():
        next(moved.parameters()).view(-1)[0] += 1e-3
    others: dict[str, dict[str, Any]] = {
        "stages[1].lr was 0.01, is 0.02": {"stages": [stages[0], replace(stages[1], lr=0.02)]},
        "seed was 0, is 1": {"seed": 1},
        "precision was": {"precision": "bf16"},
        "accumulate was 1, is 2": {"accumulate": 2},
        "keep was": {"keep": "last"},
        "data was": {"task": make_task(noise=61.0)},
        "weights was": {"model": moved},
    }
    for says, given in others.items():
        yield refuses(says, folder / "run", **{**same, **given})
    for name, value in (("code", lambda: "0" * 64), ("versions", lambda: {"torch": "1.0"})):
        for module in (resume, sys.modules["ptlib.train"]):
            if hasattr(module, name):
                setattr(module, name, value)
        yield refuses({"code": "code was", "versions": "packages.torch was"}[name], folder / "run", **same)


def refuses(says: str, folder: Path, **given: Any) -> bool:
    try:
        pt.finetune(**given, resume=folder, log=silent)
    except pt.InputError as e:
        return says in str(e) and "to go on from step" in str(e)
    return False


@case("a second process for one run: refused within 2 s; after the first is killed (-9), free")
def two_at_once(folder: Path, long: bool) -> Iterator[bool]:
    os.environ["PTLIB_OUTPUTS"] = str(folder)
    _, task = start()
    for trial in range(50 if long else 5):
        name = f"run-{trial}"

        def hold(name: str = name) -> None:
            pt.start_run("finetune", {}, task, run_name=name)
            time.sleep(60)

        child = forked(hold)
        while not (folder / f"{name}.unfinished" / "run.json").exists():
            time.sleep(0.01)
        begin, says = time.perf_counter(), ""
        try:
            pt.start_run("finetune", {}, task, run_name=name)
        except pt.InputError as e:
            says = str(e)
        quick, running = time.perf_counter() - begin < 2, runs.status(name)
        os.kill(child, signal.SIGKILL)
        ended(child)
        stopped = runs.status(name)
        pt.start_run("finetune", {}, task, run_name=name)
        refused = "is being written by another process" in says
        yield quick and refused and (running, stopped) == ("running", "interrupted")


@case("a number of a report edited, and its hash made again")
def edited(folder: Path, long: bool) -> Iterator[bool]:
    run, draw = finished(folder), random.Random(2)
    kept = (run / "report.json").read_bytes(), (run / folders.SUMS).read_bytes()
    numbers = [(m, k) for m in json.loads(kept[0])["metrics"] for k in ("value", "low", "high")]
    for _ in range(50 if long else 10):
        report = json.loads(kept[0])
        metric, key = draw.choice(numbers)
        report["metrics"][metric][key] = (report["metrics"][metric][key] or 0) + draw.choice([1e-9, 0.01, -0.05])
        (run / "report.json").write_text(json.dumps(report, indent=1))
        rehash(run)
        try:
            list(verify(run))
            yield False
        except pt.InputError as e:
            yield f"metrics.{metric}.{key} was" in str(e)
    (run / "report.json").write_bytes(kept[0])
    (run / folders.SUMS).write_bytes(kept[1])


@case("a reader while a run is replaced, 1,000 times")
def reader(folder: Path, long: bool) -> Iterator[bool]:
    run = finished(folder)
    content = {p.name: p.read_bytes() for p in run.iterdir() if p.name != folders.SUMS}

    def write() -> None:
        for _ in range(1000):
            folders.commit(run, lambda new: [(new / n).write_bytes(c) for n, c in content.items()])  # type: ignore[arg-type]

    child = forked(write)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        try:
            yield len(runs.read_run("run").test) == 30
        except (pt.InputError, OSError):
            yield False


def tried(name: str, long: bool) -> tuple[int, int]:
    """How often a fault was tried, and how often something was lost."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = list(CASES[name][1](Path(folder), long))
    return len(outcomes), outcomes.count(False)


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"any of {', '.join(CASES)}; all by default")
    parser.add_argument("--long", action="store_true", help="100 kills in place of 20, and more of the rest")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    resume.EVERY = 0.0
    lost = 0
    print("| fault | tried | lost |\n| --- | ---: | ---: |", flush=True)
    for name in asked.cases or CASES:
        n, bad = tried(name, asked.long)
        print(f"| {CASES[name][0]} | {n:,} | {bad:,} |", flush=True)
        lost += bad
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
