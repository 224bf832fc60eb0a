"""What a sweep found: a row for each run, a figure, and compare.ipynb over the runs that may be compared."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ptlib.comparable import differences
from ptlib.errors import InputError
from ptlib.files import text_table
from ptlib.plots.base import PALETTE, plain
from ptlib.results import Report
from ptlib.runs import Run, completed, output_root, read_run, save_results, show
from ptlib.sweep.planning import NOTEBOOKS, QUIET

COLUMNS = ("status", "metric", "value", "low", "high", "n", "val", "seconds", "error")


def sum_up(
    begun: Path, notes: Mapping[str, Path], values: Mapping[str, Mapping[str, Any]], errors: Mapping[str, str],
    log: Callable[[str], None],
) -> Path:  # fmt: skip
    """Save `runs.csv` and `runs.png` as the run that was begun, say what is in them, and compare what can be.

    `notes` are the executed notebooks, `values` all parameters and `errors` what went wrong, each by the run's name.
    """
    different = {p: len({repr(v[p]) for v in values.values()}) > 1 for p in next(iter(values.values()))}
    varied = [p for p, differs in different.items() if differs and p != "run_name"]
    rows = [{p: v[p] for p in varied} | _row(notes[name], errors.get(name, "")) for name, v in values.items()]
    frame = pd.DataFrame(rows, pd.Index(values, name="run"), columns=[*varied, *COLUMNS])
    done, failed = frame.index[frame["error"] == ""].tolist(), {name: e for name, e in errors.items() if e}
    scored = frame[frame["value"].notna()]

    def fill(folder: Path) -> None:
        if len(scored):
            (folder / "runs.png").write_bytes(_figure(scored, varied))

    path = save_results(begun, {"complete": done, "failed": failed}, tables={"runs": frame}, fill=fill)
    for line in text_table([("run", "status", "metric", "value", "95 % interval", "n", "val", "seconds"),
                            *(_shown(str(name), row) for name, row in frame.iterrows())]):  # fmt: skip
        log(line)
    if scored["val"].notna().any():
        log("Choose by `val`, what the split to choose on says; the best of many on test is there partly by luck.")
    for name, e in failed.items():
        log(f"failed: {name}: {e}; its notebook: {show(notes[name])}")
    log(f"{len(done)} of {len(values)} runs are complete" + "; the same command does the others" * bool(failed))
    _compare(done, scored, next(iter(notes.values())).with_name("compare.ipynb"), log)
    log(completed(path))
    return path


def _row(note: Path, error: str) -> dict[str, Any]:
    """What is known of a run: its status, its report's first metric, the same metric on val, how long it took."""
    folder = output_root() / note.stem
    row: dict[str, Any] = {"status": "failed" if error else "complete", "error": error}
    try:
        row["seconds"] = json.loads(note.read_bytes())["metadata"]["papermill"]["duration"]
    except (OSError, ValueError, KeyError):  # stopped while it was written, or moved
        row["seconds"] = nan
    if error or not (folder / "report.json").is_file():
        return row
    report = Report.load(folder / "report.json")
    metric, e = next(iter(report.items()))
    row |= {"metric": metric, "value": e.value, "low": e.low, "high": e.high, "n": report.n}
    if (folder / "history.json").is_file():
        row["val"] = json.loads((folder / "history.json").read_bytes())["best"].get(f"val_{metric}", nan)
    return row


def _shown(name: str, row: Any) -> tuple[str, ...]:
    value, low, high, val, seconds = (
        "" if pd.isna(row[c]) else f"{row[c]:.3f}" for c in ("value", "low", "high", "val", "seconds")
    )
    interval, n = f"{low} to {high}" if low else "", "" if pd.isna(row["n"]) else f"{row['n']:.0f}"
    metric = "" if pd.isna(row["metric"]) else str(row["metric"])
    return name, row["status"], metric, value, interval, n, val, seconds.partition(".")[0]


def _figure(scored: pd.DataFrame, varied: list[str]) -> bytes:
    """A PNG of each run's metric with its interval."""
    figure = Figure(figsize=(8, min(200.0, 1 + 0.3 * len(scored))), layout="constrained")
    ax, value = figure.subplots(), scored["value"].to_numpy(float)
    ends = np.maximum([value - scored["low"].to_numpy(float), scored["high"].to_numpy(float) - value], 0)
    ax.errorbar(value, range(len(value)), xerr=ends, fmt="o", capsize=3, color=PALETTE[0])
    labels = [", ".join(f"{p} {row[p]}" for p in varied) or str(name) for name, row in scored.iterrows()]
    ax.set_yticks(range(len(value)), [plain(label[:80]) for label in labels])
    ax.invert_yaxis()
    metric = str(scored["metric"].iloc[0]).replace("_", " ")
    ax.set(xlabel=f"{metric} on test, with 95 % interval")
    ax.set_title(f"{len(value)} runs, from {value.min():.3f} to {value.max():.3f}")
    figure.savefig(written := io.BytesIO(), format="png", dpi=100)
    return written.getvalue()


def _compare(done: list[str], scored: pd.DataFrame, note: Path, log: Callable[[str], None]) -> None:
    """Execute compare.ipynb over the most runs that were measured on the same examples, and say how to do it again."""
    import papermill

    most = max(_alike(done), key=len, default=[])
    names = [run.name for run in most]
    if len({run.recipe for run in most}) < 2:
        log("no two complete runs differ in more than the seed and have the same test examples, so none are compared")
        return
    if len(names) < len(done):
        log(f"compared are the {len(names)} runs measured on the same test examples as {names[0]}")
    asked = {"runs": names, "metric": str(scored["metric"].get(names[0], "accuracy"))}
    log(f"papermill notebooks/compare.ipynb {show(note)} -p metric {asked['metric']} -p runs '{json.dumps(names)}'")
    try:
        papermill.execute_notebook(NOTEBOOKS / "compare.ipynb", note, asked, **QUIET)
    except Exception as e:
        log(f"the comparison failed: {getattr(e, 'evalue', e)}; see {show(note)}")


def _alike(names: list[str]) -> list[list[Run]]:
    """Runs in groups, of which each may be compared with the others of its own."""
    groups: list[list[Run]] = []
    for name in names:
        try:
            run = read_run(output_root() / name)
        except InputError:  # it has no predictions
            continue
        if any(line.startswith("Not comparable") for line in differences([run])):
            continue
        near = (g for g in groups if not any("Not comparable" in line for line in differences([g[0], run])))
        if (home := next(near, None)) is None:
            groups.append([run])
        else:
            home.append(run)
    return groups
