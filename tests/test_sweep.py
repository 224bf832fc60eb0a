"""Sweeps: what a file is refused for, names, runs that fail or are complete, a worker that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import papermill
import psutil
import pytest

import ptlib as pt
from ptlib import cli, folders, sweep
from ptlib.results import Predictions
from ptlib.runs import read_record, save_results, start_run
from tests.conftest import LONG

GRID = "sweep: {grid: {n_train: [60, 90], seed: [0, 1, 2]}}"


def file(folder: Path, text: str, name: str = "mine.yaml", notebook: str = "finetune") -> Path:
    (folder / notebook).mkdir(exist_ok=True)
    (folder / notebook / name).write_text(text)
    return folder / notebook / name


def names(path: Path) -> list[str]:
    return [one["run_name"] for one in sweep.plan(path)[1]]


def test_a_grid_is_the_product_in_order_and_a_list_is_each_of_it_with_each_of_the_grid(tmp_path: Path) -> None:
    notebook, runs = sweep.plan(file(tmp_path, f"epochs: 1\ncontrol: no\n{GRID}"))
    assert notebook == "finetune"
    asked = [(one["n_train"], one["seed"], one["epochs"], one["control"]) for one in runs]
    assert asked == [(n, s, 1, False) for n in (60, 90) for s in (0, 1, 2)]
    assert runs[0]["run_name"].startswith("finetune-mine-n_train-60-seed-0-")
    both = 'sweep: {list: [{lr: 1e-3}, {recipe: full, lr: "0.01"}, {}], grid: {seed: [3, 4]}}'
    runs = sweep.plan(file(tmp_path, both))[1]
    assert [(one.get("recipe"), one.get("lr"), one["seed"]) for one in runs] == [
        (None, 0.001, 3), (None, 0.001, 4), ("full", 0.01, 3), ("full", 0.01, 4), (None, None, 3), (None, None, 4)
    ]  # fmt: skip
    (one,) = sweep.plan(file(tmp_path, "sweep: {list: [{augment: [flip, crop]}]}"))[1]
    assert one["augment"] == ["flip", "crop"]


def test_names_are_unique_stable_and_fit_a_run(tmp_path: Path) -> None:
    first = names(file(tmp_path, GRID))
    assert len(set(first)) == 6
    assert set(names(file(tmp_path, "sweep: {grid: {seed: [2, 0, 1], n_train: [90, 60]}}"))) == set(first)
    assert set(first) < set(names(file(tmp_path, "sweep: {grid: {seed: [2, 0, 1, 7], n_train: [90, 60, 120]}}")))
    items = ", ".join(f"{{seed: {s}, n_train: {n}}}" for s in range(3) for n in (90, 60))
    assert set(names(file(tmp_path, f"sweep: {{list: [{items}]}}"))) == set(first)
    said_too = names(file(tmp_path, f"{GRID}\nrecipe: lp-ft"))
    assert said_too == first, "to say a default changes nothing"
    assert not {*names(file(tmp_path, f"{GRID}\nepochs: 5"))} & {*first}
    assert not {*names(file(tmp_path, GRID, notebook="text"))} & {*first}
    nasty = {"dataset": ["../" * 40 + "a", "../" * 40 + "b", "naïve $(x) <b>", "-p", "~", "a\nb", "=1+1"]}
    for name in names(file(tmp_path, json.dumps({"sweep": {"grid": nasty}}), "a" * 40 + ".yaml")):
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name)


REFUSED = {
    "unknown": ("epoch: 2\n" + GRID, "mine.yaml: unknown parameter 'epoch'; did you mean 'epochs'?"),
    "unknown in grid": ("sweep: {grid: {sed: [1]}}", "unknown parameter 'sed'; did you mean 'seed'?"),
    "unknown in list": ("sweep: {list: [{seed: 1}, {zzz: 2}]}", "unknown parameter 'zzz'; finetune.ipynb takes"),
    "another notebook's": ("sweep: {grid: {keep: [best]}}", "unknown parameter 'keep'"),
    "papermill's": ("sweep: {grid: {PAPERMILL_INPUT_PATH: [a]}}", "unknown parameter 'PAPERMILL_INPUT_PATH'"),
    "no name": ("sweep: {grid: {on: [1]}}", "unknown parameter True"),
    "code for a name": ("sweep: {grid: {'seed = 1; x': [1]}}", "unknown parameter 'seed = 1; x'"),
    "type": ("sweep: {grid: {seed: [0, one]}}", "parameter 'seed' is 'one': it should be a whole number"),
    "fixed type": ("epochs: yes\n" + GRID, "parameter 'epochs' is True: it should be a number"),
    "range": ("sweep: {grid: {lr: [.inf]}}", "parameter 'lr' is inf"),
    "not a number": ("sweep: {grid: {lr: [.nan]}}", "parameter 'lr' is nan"),
    "date": ("sweep: {grid: {dataset: [2024-01-01]}}", "parameter 'dataset' is datetime.date"),
    "far below": ("sweep: {grid: {overrides: [{lr: {a: 1}}]}}", "lr"),
    "conflict": ("recipe: probe\nsweep: {grid: {pretrain_epochs: [1]}}", "unknown parameter 'pretrain_epochs'"),
    "idle": ("control: false\nsweep: {grid: {recipe: [lp-ft, probe], epochs: [2]}}", "epochs=2 would change nothing"),
    "run_name": ("run_name: a\n" + GRID, "run_name is made for each run; leave it out"),
    "run_name in grid": ("sweep: {grid: {run_name: [a, b]}}", "run_name is made for each run"),
    "twice in grid": ("sweep: {grid: {seed: [0, 1, 0]}}", 'two runs are equal, one of them {"seed": 0}'),
    "twice in other words": ("sweep: {list: [{seed: 0}, {}]}", "two runs are equal"),
    "twice as text": ("sweep: {grid: {lr: [1e-3, 0.001]}}", "two runs are equal"),
    "fixed and varied": ("seed: 1\n" + GRID, "'seed' is given twice, for one run"),
    "list and grid": ("sweep: {list: [{seed: 1}], grid: {seed: [1]}}", "'seed' is given twice"),
    "key twice": ("sweep: {grid: {seed: [0], n_train: [60], seed: [1]}}", "'seed' is given twice; leave one out"),
    "empty": ("", "it needs `sweep` with a grid"),
    "none": ("epochs: 1", "it needs `sweep` with a grid"),
    "no mapping": ("[1, 2]", "it needs `sweep` with a grid"),
    "null": ("sweep:", "it needs `sweep` with a grid"),
    "other key": ("sweep: {grids: {seed: [1]}}", "it needs `sweep` with a grid"),
    "empty grid": ("sweep: {grid: {}}", "grid is {}; it should have names with lists"),
    "null grid": ("sweep: {grid: , list: [{seed: 1}]}", "grid is None; it should have names"),
    "no values": ("sweep: {grid: {seed: []}}", "it should have names with lists"),
    "no list": ("sweep: {grid: {seed: 3}}", "it should have names with lists"),
    "empty list": ("sweep: {list: []}", "list is []; it should have mappings"),
    "list of values": ("sweep: {list: [1]}", "list is [1]; it should have mappings"),
    "too many": (f"sweep: {{grid: {{seed: {[*range(101)]}, n_train: {[*range(2, 102)]}}}}}", "these are 10,100 runs"),
    "no end": (json.dumps({"sweep": {"grid": {f"x{i}": [1, 2, 3] for i in range(60)}}}), "42,391,158,275,216,203,514,"),
    "no YAML": ("sweep: {grid: [", "it is no YAML: "),
    "two documents": ("a: 1\n---\nb: 2", "it is no YAML: expected a single document"),
    "code": ("sweep: !!python/object/apply:os.system ['touch ran']", "it is no YAML: could not determine"),
    "aliases": ("sweep: {grid: {class: &a [1], seed: *a}}", "it has an alias"),
    "deep": ("[" * 700 + "]" * 700, "it is no YAML: "),
    "no date": ("sweep: {grid: {dataset: [2024-99-99]}}", "it is no YAML: month must be in 1..12"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_run_would_be_refused_for_is_refused_before_any_begins(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path / "outputs"))
    text, says = REFUSED[case]
    path = file(tmp_path, text)
    with pytest.raises(pt.InputError, match=re.escape(says)) as caught:
        sweep.plan(path)
    assert len(str(caught.value)) < 900
    assert cli.main(["sweep", str(path)]) == 2
    assert says in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["finetune"]


def test_a_file_in_the_wrong_place_is_refused(tmp_path: Path) -> None:
    for name, notebook, says in (
        ("mine.yaml", "finetun", "this one's is 'finetun'; did you mean 'finetune'?"),
        ("mine.yaml", "compare", "compare.ipynb has no parameter run_name"),
        ("my file.yaml", "finetune", "the name of the sweep file 'my file.yaml' should be"),
        ("a" * 41 + ".yaml", "finetune", "should be up to 40 letters"),
    ):
        with pytest.raises(pt.InputError, match=re.escape(says)):
            sweep.plan(file(tmp_path, GRID, name, notebook))
    with pytest.raises(pt.InputError, match="nothing.yaml: it can't be read"):
        sweep.plan(tmp_path / "finetune" / "nothing.yaml")
    (tmp_path / "finetune" / "latin.yaml").write_bytes("dataset: naïve".encode("latin-1"))
    with pytest.raises(pt.InputError, match="latin.yaml: it is no YAML: 'utf-8' codec"):
        sweep.plan(tmp_path / "finetune" / "latin.yaml")


def test_a_slip_in_the_file_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = "import sys; from ptlib import cli; cli.main(['sweep', sys.argv[1]]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(file(tmp_path, REFUSED["unknown"][0]))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert done.stderr == "ptlib sweep: mine.yaml: unknown parameter 'epoch'; did you mean 'epochs'?\n"


class Inline(Executor):
    """Does at once what it is told to, in place of what it is given."""

    def __init__(self, does: Callable[..., str]) -> None:
        self.does, self.given = does, list[str]()

    def submit(self, _: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.given.append(args[1]["run_name"])
        try:
            future.set_result(self.does(*args, **kwargs))
        except BrokenExecutor as e:
            future.set_exception(e)
        return future


def made(notebook: str, asked: dict[str, Any], note: Path, cwd: str, around: dict[str, str]) -> str:
    """A run with predictions and a report, better with more train images; other test examples where n_test says so."""
    values, rng = sweep.whole(notebook, asked), np.random.default_rng(asked.get("seed", 0))
    y = np.arange(asked.get("n_test") or 40) % 3
    z = rng.normal(size=(len(y), 3))
    z[np.arange(len(y)), y] += values["n_train"] / 60
    said = Predictions.of(y, z)
    assert around == {"PTLIB_OUTPUTS": os.environ["PTLIB_OUTPUTS"]}
    assert cwd == str(Path.cwd())
    reports = {"test": pt.evaluate(said, resamples=100)}
    run = start_run(notebook, values, run_name=values["run_name"])

    def fill(folder: Path) -> None:
        (folder / "history.json").write_text(json.dumps({"best": {"val_accuracy": 0.5}}))

    save_results(run, {}, predictions=said, reports=reports, fill=fill)
    note.write_text(json.dumps({"metadata": {"papermill": {"duration": 1.25}}}))
    return ""


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What papermill was asked for, which does nothing."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(papermill, "execute_notebook", lambda notebook, note, given, **_: asked.append(given))
    return asked


def test_failures_are_named_and_the_same_command_does_only_them(
    tmp_path: Path, outputs: Path, compared: list[dict[str, Any]]
) -> None:
    path, lines, broken = file(tmp_path, GRID), list[str](), {1: True}

    def fails(notebook: str, asked: dict[str, Any], *rest: Any) -> str:
        if broken and asked["seed"] == 1:
            if asked["n_train"] == 60:
                raise BrokenExecutor("a worker died\nwith much to say")
            return "FloatingPointError: the loss is nan in epoch 2"
        return "" if broken and asked["seed"] == 2 and asked["n_train"] == 60 else made(notebook, asked, *rest)

    first = Inline(fails)
    summary = sweep.run(path, first, log=lines.append)
    assert first.given == names(path)
    record = read_record(summary)
    failed = [name for name in names(path) if "seed-1-" in name] + [n for n in names(path) if "60-seed-2" in n]
    assert set(record["failed"]) == set(failed)
    assert set(record["complete"]) == set(names(path)) - set(failed)
    table = pd.read_csv(summary / "runs.csv", index_col="run")
    assert list(table.columns[:2]) == ["n_train", "seed"]
    assert table["error"].dropna().to_dict() == {
        failed[0]: "BrokenExecutor: a worker died",
        failed[1]: "FloatingPointError: the loss is nan in epoch 2",
        failed[2]: f"its worker says that it is complete, and it is not in {outputs}, which they must share",
    }
    said = pt.Report.load(outputs / names(path)[0] / "report.json")["accuracy"]
    row = table.loc[names(path)[0]]
    assert (row["status"], row["metric"], row["n"], row["val"], row["seconds"]) == (
        "complete",
        "accuracy",
        40,
        0.5,
        1.25,
    )
    assert [row["value"], row["low"], row["high"]] == pytest.approx([said.value, said.low, said.high])
    assert (summary / "runs.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert compared == [{"runs": record["complete"], "metric": "accuracy"}]
    log = "\n".join(lines)
    assert "finetune-mine: 6 runs of finetune.ipynb, 0 of them complete before" in log
    assert "3 of 6 runs are complete; the same command does the others" in log
    for name, error in record["failed"].items():
        assert f"failed: {name}: {error}" in log

    broken.clear()
    again = Inline(fails)
    assert sweep.run(path, again, log=lines.append) == summary
    assert set(again.given) == set(failed)
    assert read_record(summary)["failed"] == {}
    none = Inline(fails)
    sweep.run(path, none, log=lines.append)
    assert none.given == []
    folder = outputs / names(path)[0]
    (folder / "report.json").write_text("{}")
    sweep.run(path, none, log=lines.append)
    assert none.given == names(path)[:1], "a run whose file was changed is done again"


def test_runs_on_other_examples_are_not_compared(
    tmp_path: Path, outputs: Path, compared: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    for items in ("{n_test: 30}, {n_test: 40}", "{seed: 1, n_test: 40}, {seed: 2, n_test: 40}"):
        path = file(tmp_path, f"n_train: 60\nsweep: {{list: [{items}]}}")
        sweep.run(path, Inline(made))
        assert "no two complete runs differ in more than the seed and have the same" in capsys.readouterr().out
    items = "[{epochs: 1, n_test: 30}, {epochs: 2, n_test: 40}, {epochs: 3, n_test: 40}]"
    path = file(tmp_path, f"n_train: 60\nsweep: {{list: {items}}}", "b.yaml")
    sweep.run(path, Inline(made))
    assert "compared are the 2 runs measured on the same test examples as" in capsys.readouterr().out
    assert compared == [{"runs": names(path)[1:], "metric": "accuracy"}]


def test_a_sweep_that_is_running_or_whose_folder_is_a_run_is_refused(tmp_path: Path, outputs: Path) -> None:
    path = file(tmp_path, GRID)
    save_results(start_run("finetune", {}, run_name="finetune-mine"), {})
    with pytest.raises(pt.InputError, match="finetune-mine is a run, where this sweep's notebooks would lie"):
        sweep.run(path, Inline(made))
    code = "import sys; from ptlib.runs import start_run; start_run('sweep', {}, run_name='finetune-b-summary'); "
    code += "print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(pt.InputError, match="'finetune-b-summary' is being written by another process"):
            sweep.run(file(tmp_path, GRID, "b.yaml"), Inline(made))
        other.kill()


def test_a_dry_run_does_nothing(tmp_path: Path, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(tmp_path, GRID)
    _, runs = sweep.plan(path)
    outputs.mkdir()
    made("finetune", runs[1], outputs / "note.ipynb", str(Path.cwd()), {"PTLIB_OUTPUTS": str(outputs)})
    before = sorted(outputs.rglob("*"))
    assert cli.main(["sweep", str(path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{'complete' if i == 1 else 'to do   '}  {one['run_name']}" for i, one in enumerate(runs)]
    assert sorted(outputs.rglob("*")) == before
    for wrong in (["--workers", "0"], ["--workers", "two"], ["--workers", "2", "--scheduler", "tcp://a:1"]):
        with pytest.raises(SystemExit):
            cli.main(["sweep", str(path), *wrong])


def test_a_run_waits_for_the_lock_of_a_kernel_that_dies_and_keeps_what_it_completed(
    tmp_path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (one, *_) = sweep.plan(file(tmp_path, GRID))
    monkeypatch.setattr(papermill, "execute_notebook", lambda *a, **k: pytest.fail("it was complete"))
    place = (outputs / "note.ipynb", str(Path.cwd()), {"PTLIB_OUTPUTS": str(outputs)})
    outputs.mkdir()
    made("finetune", one, *place)
    folders.lock(outputs / one["run_name"], "a run")
    threading.Timer(1.0, folders.unlock, [outputs / one["run_name"]]).start()
    start = time.monotonic()
    assert sweep.execute("finetune", one, *place) == ""
    assert 0.8 < time.monotonic() - start < 5


def test_what_a_notebook_says_last_is_one_sentence(
    tmp_path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (one, *_) = sweep.plan(file(tmp_path, GRID))
    place = (outputs / "note.ipynb", str(Path.cwd()), {"PTLIB_OUTPUTS": str(outputs)})
    of_cell = papermill.PapermillExecutionError(3, 3, "", "InputError", "lr is 5; take less\nand more", ["Traceback"])
    for error, says in (
        (of_cell, "InputError: lr is 5; take less"),
        (RuntimeError("Kernel died\nbefore it replied"), "RuntimeError: Kernel died"),
        (None, "the notebook came to its end, and its run is not complete"),
    ):

        def execute(*_: Any, e: Exception | None = error, **__: Any) -> None:
            if e:
                raise e

        monkeypatch.setattr(papermill, "execute_notebook", execute)
        assert sweep.execute("finetune", one, *place) == says
    assert sweep.execute("finetune", one, place[0], str(tmp_path / "nowhere"), place[2]).startswith("FileNotFoundError")


def test_processes_of_this_machine_have_their_share_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    command = ["sh", "-c", "sleep 1; echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS"]  # what a kernel would see
    with sweep.local(2) as pool:
        jobs = [pool.submit(subprocess.check_output, command, text=True) for _ in range(2)]
        said = sorted(job.result() for job in jobs)
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert said == [f"GPU-a {threads}\n", f"GPU-b {threads}\n"]


SMALL = """
checkpoint: efficientnet_lite0
recipe: probe
n_test: 60
image_size: 32
control: false
sweep: {grid: {n_train: [54, 72, 90], seed: SEEDS}}
""".replace("SEEDS", "[0, 1, 2, 3]" if LONG else "[0, 1]")


@pytest.mark.usefixtures("with_nbval")
def test_processes_end_with_the_one_that_began_them() -> None:
    code = """
import subprocess, os
from ptlib import sweep
if __name__ == "__main__":
    with sweep.local(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(subprocess.check_output, ["sleep", "60"]).result()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as whole:
        assert whole.stdout is not None
        worker = int(whole.stdout.readline())
        assert psutil.pid_exists(worker)
        whole.kill()
        end = time.monotonic() + 10
        while psutil.pid_exists(worker) and psutil.Process(worker).status() != "zombie" and time.monotonic() < end:
            time.sleep(0.1)
        assert not psutil.pid_exists(worker) or psutil.Process(worker).status() == "zombie"


@pytest.mark.usefixtures("with_nbval")
def test_all_runs_are_complete_though_a_worker_of_the_cluster_is_killed(
    tmp_path: Path, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = pytest.importorskip("distributed")
    path = file(tmp_path, SMALL)
    killed: list[str] = []

    def kill(workers: list[int]) -> None:
        """Once some runs are complete, the first worker whose kernel has just begun one: it holds the run's lock."""
        seen = set[str]()
        while not killed:
            time.sleep(0.02)
            for kernel, worker in [(k, w) for w in workers for k in psutil.Process(w).children()]:
                with contextlib.suppress(psutil.Error):  # it has ended since
                    held = {Path(f.path).name for f in kernel.open_files() if "/.locks/" in f.path} - seen
                    if held and sum((outputs / name / "run.json").exists() for name in names(path)) >= 2:
                        os.kill(worker, signal.SIGKILL)
                        killed.extend(held)
                        return
                    seen |= held

    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            workers = list(client.run(os.getpid).values())
        threading.Thread(target=kill, args=(workers,), daemon=True).start()
        assert cli.main(["sweep", str(path), "--scheduler", cluster.scheduler_address]) == 0
        log = capsys.readouterr().out
        assert f"{(n := len(names(path)))} of {n} runs are complete" in log, log
        assert killed, "no worker was in the middle of a run"
        assert killed[0] in names(path)
        for name in names(path):
            assert read_record(name)["status"] == "complete"
            assert next(pt.verify(outputs / "finetune-mine" / f"{name}.ipynb")).endswith(f"record of {name}")
        runs = [p.name for p in outputs.iterdir() if p.name.startswith("finetune-mine-")]
        assert sorted(runs) == sorted([*names(path), "finetune-mine-summary"])
    assert cli.main(["sweep", str(path), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("complete  finetune-mine-") == n
    table = pd.read_csv(outputs / "finetune-mine-summary" / "runs.csv")
    assert table["value"].between(0.3, 1).all()
    assert table["seconds"].gt(0).all()
    assert json.loads((outputs / "finetune-mine" / "compare.ipynb").read_text())["cells"]
