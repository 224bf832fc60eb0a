"""Runs of a sweep, given to an executor, watched, and summed up."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ptlib.errors import InputError, first_line
from ptlib.sweep.planning import MOST, NOTEBOOKS, QUIET, plan, title_of, whole

# What loads torch is imported where it is used: a slip in a sweep file must not wait for it.

DYING = 30.0  # seconds at most for the kernel of a worker that was killed, to die too
SAVING = 5.0  # seconds for an interrupted kernel to keep where it stands


def run(
    path: str | os.PathLike[str], executor: Any = None, workers: int | None = None,
    log: Callable[[str], None] = lambda line: print(line, flush=True),
) -> Path:  # fmt: skip
    """Do those runs of a sweep file that are not complete, then sum up all of them: the folder of the summary, itself a
    run, whose `run.json` has the failed ones by name.

    `executor.submit(function, *arguments)` must give what has `done()`, `result()` and `cancel()`: that of
    `concurrent.futures`, Dask or submitit. Without one, `workers` processes of this machine do the runs; by default one
    for each GPU, or for two cores. A line is logged whenever something changes. A run that fails stops no other.
    The executed notebooks lie in `outputs/<notebook>-<file>/`; one whose worker was killed just after its run was saved
    lacks its end, the run nothing.

    InputError as `plan` has it, and if another process does this sweep.
    """
    title, (notebook, runs) = title_of(path), plan(path)
    from ptlib.runs import output_root, start_run
    from ptlib.sweep.summary import sum_up

    folder = output_root().absolute() / title
    if (folder / "run.json").exists():
        raise InputError(f"{folder} is a run, where this sweep's notebooks would lie; rename the sweep file")
    begun = start_run("sweep", {"notebook": notebook, "runs": runs}, run_name=f"{title}-summary")
    values = {one["run_name"]: whole(notebook, one) for one in runs}
    left = [one for one in runs if not complete(notebook, values[one["run_name"]])]
    log(f"{title}: {len(runs)} runs of {notebook}.ipynb, {len(runs) - len(left)} of them complete before")
    folder.mkdir(parents=True, exist_ok=True)
    notes, found = {name: folder / f"{name}.ipynb" for name in values}, dict[str, str]()
    if left:
        place = (os.getcwd(), {"PTLIB_OUTPUTS": str(folder.parent)})  # noqa: PTH109
        with nullcontext(executor) if executor is not None else local(workers, len(left)) as pool:
            given = {one["run_name"]: (notebook, one, notes[one["run_name"]], *place) for one in left}
            found = _watch({name: pool.submit(execute, *job) for name, job in given.items()}, notes, log)
    for name in values:
        if not found.get(name) and not complete(notebook, values[name]):
            found[name] = (
                f"its worker says that it is complete, and it is not in {folder.parent}, which they must share"
            )
    return sum_up(begun, notes, values, found, log)


def preview(path: str | os.PathLike[str]) -> Iterator[str]:
    """A line for each run of a sweep file, which does nothing: is it to do, or complete?"""
    notebook, runs = plan(path)
    for one in runs:
        yield f"{'complete' if complete(notebook, whole(notebook, one)) else 'to do':8}  {one['run_name']}"


def complete(notebook: str, values: Mapping[str, Any]) -> bool:
    """Whether the run of that name is complete, its files as they were saved, and was asked for these very values."""
    from ptlib.runs import output_root, read_record

    try:
        record = read_record(output_root() / values["run_name"])
    except InputError:
        return False
    return bool((record.get("notebook"), record.get("parameters")) == (notebook, _plain(values)))


def execute(notebook: str, asked: Mapping[str, Any], note: Path, cwd: str, around: Mapping[str, str]) -> str:
    """Do one run in this process, from the folder `cwd`, with `around` in the environment; the executed notebook is
    `note`. Gives what went wrong in one sentence, nothing if the run is complete.
    """
    try:
        import papermill

        from ptlib import folders
        from ptlib.runs import output_root

        os.environ.update(around)
        os.chdir(cwd)
        values, final = whole(notebook, asked), output_root() / asked["run_name"]
        end = time.monotonic() + DYING
        while folders.locked(final) and time.monotonic() < end:
            time.sleep(0.2)
        if complete(notebook, values):  # done by a worker that was killed before it could say so
            return ""
        papermill.execute_notebook(NOTEBOOKS / f"{notebook}.ipynb", note, dict(asked), **QUIET)
        return "" if complete(notebook, values) else "the notebook came to its end, and its run is not complete"
    except Exception as e:
        return _sentence(e)


@contextmanager
def local(workers: int | None = None, most: int = MOST) -> Iterator[Executor]:
    """Processes of this machine, `most` of them at most, each with a GPU if there is one, or its share of cores."""
    import torch

    n = torch.cuda.device_count()
    gpus = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(n)))).split(",")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(most, workers or n or max(1, cores // 2))
    spawn, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    devices = spawn.Queue()
    for k in range(workers):
        devices.put(gpus[k % n] if n else "")
    pool = ProcessPoolExecutor(workers, spawn, _begin, (devices, str(max(1, cores // workers))))
    try:
        yield pool
    except BaseException:
        time.sleep(SAVING)
        for child in multiprocessing.active_children():
            if child not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def dask(address: str) -> Iterator[Executor]:
    """The workers of a Dask scheduler, such as tcp://host:8786; the run of a worker that dies goes on with another.

    InputError if distributed is not installed, no scheduler answers, or it has no worker.
    """
    try:
        from distributed import Client
    except ImportError:
        raise InputError("a Dask scheduler needs the package distributed: pip install 'ptlib[dask]'") from None
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as e:
        raise InputError(
            f"no Dask scheduler answers at {address!r} ({first_line(e)}); begin one: dask scheduler"
        ) from None
    with client:
        if not client.scheduler_info()["workers"]:
            raise InputError(f"the Dask scheduler has no worker; begin some: dask worker {address} --nthreads 1")
        yield client.get_executor(retries=3)


def _begin(devices: Any, threads: str) -> None:
    """A worker process gets its device and its threads, and ends when its parent does, which nothing else sees to."""
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    if device := devices.get():
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _watch(futures: Mapping[str, Any], notes: Mapping[str, Path], log: Callable[[str], None]) -> dict[str, str]:
    """Wait for all; what went wrong, by run. Those run whose notebook was written to since."""
    begun, found, before = time.time(), dict[str, str](), None
    try:
        while len(found) < len(futures) or before is None:
            for name in [name for name, future in futures.items() if name not in found and future.done()]:
                if said := found.setdefault(name, _outcome(futures[name])):
                    log(f"failed: {name}: {said}")
            left = [name for name in futures if name not in found]
            running = [
                name.removeprefix(f"{notes[name].parent.name}-")
                for name in left
                if notes[name].exists() and notes[name].stat().st_mtime >= begun
            ]
            if (now := (len(found), running)) != before:
                log(f"{time.strftime('%H:%M:%S')} {_progress(found, len(left), running, time.time() - begun)}")
            before = now
            if left:
                time.sleep(0.5)
    except BaseException:
        for future in futures.values():
            future.cancel()
        raise
    return found


def _progress(found: Mapping[str, str], left: int, running: list[str], seconds: float) -> str:
    """What is done, failed and left, and for how long if it goes on as it did until now; and what runs."""
    failed = sum(map(bool, found.values()))
    said = f"{len(found) - failed} done, {failed} failed, {left} left"
    if found and left:
        rest = seconds / len(found) * left
        said += f", {rest:.0f} s to go" if rest < 180 else f", {rest / 60:.0f} min to go"
    more = f" and {len(running) - 4} more" if len(running) > 4 else ""
    return f"{said}; running: {', '.join(running[:4])}{more}" if running else said


def _outcome(future: Any) -> str:
    try:
        return str(future.result())
    except Exception as e:  # the executor's own: a worker that died, a job that was cancelled
        return _sentence(e)


def _sentence(e: Exception) -> str:
    """An error as one line; papermill's holds the name and the message of the cell's."""
    says = str(getattr(e, "evalue", "") or e).strip()
    return f"{getattr(e, 'ename', type(e).__name__)}: {says.splitlines()[0] if says else ''}"


def _plain(values: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(values, default=str))
