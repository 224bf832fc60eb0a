"""A model card in Hugging Face's format, of a saved run: results with intervals, data, limits, how to verify."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptlib.results import Estimate, Report
from ptlib.stages import Stage

PIPELINES = {"image_classification": "image-classification", "detection": "object-detection",
             "segmentation": "image-segmentation", "text_classification": "text-classification"}  # fmt: skip


def card(name: str, record: Mapping[str, Any], report: Report, others: Mapping[str, Report], digest: str) -> str:
    """Markdown with a YAML header. `record` is what run.json says, `report` that of the test split, `others` those of
    the models beside it, `digest` the SHA-256 of the run's SHA256SUMS."""
    task, start = record["task"], record["checkpoint"]
    lines = [
        f"# {_text(name)}",
        "",
        f"{_text(_base(start))}, adapted to {_text(task['name'])} ({len(report.class_names):,} classes, "
        f"{task['kind'].replace('_', ' ')}).",
        "",
        "## Results",
        "",
        f"On {report.n:,} examples of `{_code(report.split)}`. Selection: {_text(report.selected_on)}.",
        "",
        *_table([("metric", "value", "95 % interval", "how"), *report.table()[1:]]),
        "",
        *_compared(report, others),
        "## Data",
        "",
        *_data(task, report),
        "",
        "## How it was trained",
        "",
        f"From {_weights(start)}. Seed {_text(str(record['made_by']['seed']))}, {_text(record['precision'])}, on "
        f"{_text(record['device'])}.",
        "",
        *(f"- {_text(str(_stage(stage)))}" for stage in record["stages"]),
        "",
        "## Limits",
        "",
        *(f"- {_text(line)}" for line in _limits(record, report)),
        "",
        "## Use",
        "",
        "```python",
        "import ptlib as pt",
        "",
        f'task = pt.load_task("path/to/your/data", kind="{task["kind"]}")  # with these classes',
        f'model = pt.build_model(pt.load_checkpoint("model.safetensors"), task, '
        f'{int(record["preprocessing"]["size"])}, own_head=True)',
        "print(pt.evaluate(pt.predict(model, task.test, task)))",
        "```",
        "",
        "## Verify",
        "",
        f"`ptlib verify <the run's folder>` checks every file's hash, makes metrics and intervals again from the "
        f"predictions, and predictions from data and weights. SHA-256 of `SHA256SUMS`: `{digest}`. Code "
        f"`{_code(record['made_by']['code']['sha256'])[:16]}`{_commit(record)}.",
        "",
    ]  # fmt: skip
    return f"---\n{_header(name, record, report)}\n---\n\n" + "\n".join(lines)


def _header(name: str, record: Mapping[str, Any], report: Report) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task, start = record["task"], record["checkpoint"]
    hub = re.fullmatch(r"hub (\S+/\S+)", start["source"])
    licence = start["licence"].lower()
    results = [
        EvalResult(
            task_type=PIPELINES[task["kind"]], dataset_type=task["name"], dataset_name=task["name"],
            dataset_split=report.split, metric_type=metric, metric_value=e.value,
            metric_name=metric.replace("_", " ") + _interval(e),
        )
        for metric, e in report.items()
        if math.isfinite(e.value)
    ]  # fmt: skip
    known = task["name"].removeprefix("hf:").partition("[")[0] if task["name"].startswith("hf:") else None
    return ModelCardData(
        license=licence if re.fullmatch(r"[a-z0-9.-]+", licence) else "other", library_name="ptlib",
        pipeline_tag=PIPELINES[task["kind"]], base_model=hub[1] if hub else None, datasets=[known] if known else None,
        metrics=list(report), tags=["transfer-learning"], model_name=name, eval_results=results,
    ).to_yaml().strip()  # fmt: skip


def _base(start: Mapping[str, Any]) -> str:
    """What it started from: of a file the name, not where it lay."""
    return Path(start["name"]).name if start["source"].startswith("file ") else str(start["name"])


def _weights(start: Mapping[str, Any]) -> str:
    if start["sha256"] is None:
        return f"`{_code(_base(start))}`: random weights"
    source = "a file" if start["source"].startswith("file ") else _text(start["source"])
    return f"`{_code(_base(start))}`: {source}, licence {_text(start['licence'])}, SHA-256 `{_code(start['sha256'])}`"


def _interval(e: Estimate) -> str:
    return f", 95 % interval {e.low:.3f} to {e.high:.3f}" if math.isfinite(e.low) else ""


def _compared(report: Report, others: Mapping[str, Report]) -> Iterator[str]:
    primary = next(iter(report), "")
    others = {name: r for name, r in others.items() if primary in r and (r.split, r.n) == (report.split, report.n)}
    if not others:
        return
    yield "Beside it, on the same examples:"
    yield ""
    rows = [(other, str(r[primary]), r.selected_on) for other, r in others.items()]
    yield from _table([("model", primary.replace("_", " "), "selection"), *rows])
    yield ""


def _data(task: Mapping[str, Any], report: Report) -> Iterator[str]:
    sizes = ", ".join(f"{n:,} in `{_code(split)}`" for split, n in task["sizes"].items())
    yield f"{_text(task['name'])}: {sizes}; fingerprint `{_code(task['fingerprint'])}`."
    shown, more = report.class_names[:50], len(report.class_names) - 50
    yield f"Classes: {', '.join(map(_text, shown))}" + (f", and {more} more." if more > 0 else ".")
    for note in task["notes"]:
        yield f"{_text(note)}."
    if task["skipped"]:
        yield f"{len(task['skipped'])} files were left out; `run.json` lists them."


def _limits(record: Mapping[str, Any], report: Report) -> Iterator[str]:
    yield (
        f"Intervals say what another draw of {report.n:,} examples from the same source could change. They do not hold "
        "another training seed, other cameras, places or authors."
    )
    yield "One training, one seed: how far another seed would lie is not measured here."
    undefined = [f"{name.replace('_', ' ')} ({e.reason})" for name, e in report.items() if math.isnan(e.value)]
    if undefined:
        yield f"Undefined: {', '.join(undefined)}."
    if record["made_by"]["code"].get("dirty"):
        yield "The code had been edited since its commit."
    if record["checkpoint"]["sha256"] is None:
        yield "It started from random weights; a licence of the data is not recorded here."
    elif record["checkpoint"]["licence"] == "unknown":
        yield "The licence of the weights it started from is not known; that of the data is not recorded here."
    else:
        yield "The licence is that of the weights it started from; that of the data is not recorded here."


def _stage(plain: Mapping[str, Any]) -> Stage:
    augment = plain["augment"]
    return Stage(**{**plain, "trainable": tuple(plain["trainable"]), "augment": augment and tuple(augment)})


def _commit(record: Mapping[str, Any]) -> str:
    commit = record["made_by"]["code"].get("commit")
    return f", commit `{_code(commit)[:12]}`" if commit else ""


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    for i, row in enumerate(rows):
        yield f"| {' | '.join(map(_text, row))} |"
        if i == 0:
            yield f"|{' --- |' * len(row)}"


def _text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~&:])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """Text between backticks."""
    return " ".join(text.replace("`", "'").split())
