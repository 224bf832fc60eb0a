"""Ours beside its peers and beside the limit, measured in turns on one machine in one run: one table, one figure.

    pip install -c constraints.txt -e '.[benchmarks]'
    python -m tests.benchmarks --images <folder of CIFAR-10> --texts <folder of SST-2>

Groups of measurements (none named: all that have what they need):
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptlib.errors import InputError
from ptlib.files import text_table, write_whole
from ptlib.plots.base import plain
from ptlib.runtime import environment
from tests.benchmarks import Line

INSTALL = "pip install -c constraints.txt -e '.[benchmarks]'"
IMAGES = "--images <a folder of CIFAR-10 as train/<class>/ and test/<class>/>"
TEXTS = "--texts <a folder of SST-2, or another that load_task takes with kind='text_classification'>"
# What each group measures; the data it can't do without; the packages it is measured beside.
GROUPS: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "staged": ("fine-tuning: a frozen phase, then everything; seconds, images/s, memory", "images",
               ("fastai", "lightning", "accelerate", "timm", "transformers")),
    "inference": ("scoring, features and sentence embeddings", None, ("sentence_transformers", "timm")),
    "scale": ("what grows with the data", None, ()),
    "metrics": ("bootstrap intervals of classification metrics", None, ("sklearn", "torchmetrics")),
    "transferability": ("LogME, and all cheap scores", None, ("transformer_ranker",)),
    "boxes": ("COCO's average precision", None, ("pycocotools", "faster_coco_eval", "torchmetrics")),
    "texts": ("fine-tuning a network of text", "texts", ("accelerate", "transformers")),
}  # fmt: skip


def missing(group: str, asked: argparse.Namespace) -> str | None:
    """What a group lacks and how to get it."""
    _, data, packages = GROUPS[group]
    if data and getattr(asked, data) is None:
        return f"it needs {IMAGES if data == 'images' else TEXTS}"
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed: {INSTALL}" if absent else None


def rows(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """For people: a row a line, its group above it where another begins."""
    found: list[tuple[str, ...]] = [("what", "other", "ours", "theirs", "times", "goal")]
    for i, line in enumerate(lines):
        if i == 0 or line.group != lines[i - 1].group:
            found.append((line.group, "", "", "", "", ""))
        goal = "" if line.goal is None else f"{line.goal:g} {'met' if line.times >= line.goal else 'missed'}"
        values = (f"{_short(value)} {line.unit}" for value in (line.ours, line.theirs))
        found.append((f"  {line.what}", line.other, *values, _short(line.times), goal))
    return found


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}" if value else "0"


def finding(lines: Sequence[Line]) -> str:
    """What the numbers say, in a sentence or two."""
    ahead, middle = sum(line.times >= 1 for line in lines), statistics.median(line.times for line in lines)
    goals = [line for line in lines if line.goal is not None]
    met = sum(line.times >= (line.goal or 0) for line in goals)
    said = f"Ahead in {ahead} of {len(lines)} comparisons, at the median {_short(middle)} times"
    return said + (f"; {met} of {len(goals)} goals met" if goals else "")


def figure(lines: Sequence[Line]) -> bytes:
    """How many times better ours is than the strongest other of each job, and wherever there is a goal; PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import seaborn as sns

    least: dict[tuple[str, str], Line] = {}
    for line in lines:
        key = line.group, line.what
        least[key] = min(line, least.get(key, line), key=lambda each: each.times)
    shown = [line for line in lines if line.goal is not None or line is least[line.group, line.what]]
    groups = list(dict.fromkeys(line.group for line in shown))
    colours = dict(zip(groups, sns.color_palette("colorblind", len(groups)), strict=True))
    height = 1.6 + 0.24 * (len(shown) + len(groups))
    fig, ax = plt.subplots(figsize=(11, height), layout="constrained")
    low, high = (f(x for line in shown for x in (line.times, line.goal or 1)) for f in (min, max))
    ax.set(xscale="log", xlabel="times better than the other (logarithmic); |: its goal")
    ax.set_xlim(min(0.5, low / 1.5), max(2, high * 2.5))
    for axis in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
        axis(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "125" else "")
    labels: list[tuple[int, str]] = []
    y, beside = 0, dict[str, Any](transform=ax.get_yaxis_transform(), ha="right", va="center", fontsize=8)
    for i, line in enumerate(shown):
        if i == 0 or line.group != shown[i - 1].group:
            y += 1
            ax.text(-0.012, y, plain(line.group), weight="bold", **beside)
        y += 1
        labels.append((y, plain(f"{line.what} | {line.other}")))
        ax.barh(y, line.times - 1, left=1, height=0.7, color=colours[line.group])
        ax.text(max(line.times, line.goal or 1, 1) * 1.08, y, _short(line.times), va="center", fontsize=8)
        if line.goal is not None:
            ax.plot([line.goal] * 2, [y - 0.42, y + 0.42], color="black", linewidth=2)
    ax.set_yticks(*zip(*labels, strict=True), fontsize=8)
    ax.set_ylim(y + 0.7, 0.3)
    ax.axvline(1, color="black", linewidth=0.8)
    fig.suptitle(finding(lines), fontsize=11)
    sns.despine(ax=ax)
    with io.BytesIO() as made:
        fig.savefig(made, format="png", dpi=130)
        plt.close(fig)
        return made.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    listed = "\n".join(f"    {name:16} {what}" for name, (what, _, _) in GROUPS.items())
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks", description=f"{__doc__}\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("groups", nargs="*", metavar="group", help="some of the above")
    parser.add_argument("--images", metavar="FOLDER", help="CIFAR-10, or another folder of classes of images")
    parser.add_argument("--texts", metavar="FOLDER", help="SST-2, or other texts with labels")
    parser.add_argument("--repeats", type=int, help="turns of each way, of which the median counts; 3, or 1 if quick")
    parser.add_argument("--quick", action="store_true", help="less of everything: whether it runs, not how fast")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"), help="folder of what is written")
    asked = parser.parse_args(arguments)
    odd = [name for name in asked.groups if name not in GROUPS]
    if odd:
        parser.error(f"there is no group {odd[0]!r}; there are {', '.join(GROUPS)}")
    asked.repeats = asked.repeats or (1 if asked.quick else 3)
    lines, left_out = [], []
    for group in asked.groups or GROUPS:
        lack = missing(group, asked)
        if lack is None:
            print(f"--- {group}", flush=True)
            try:
                lines += importlib.import_module(f"tests.benchmarks.{group}").lines(asked)
                write(lines, asked.out)  # each as it is there: whoever stops it keeps what was measured
            except (InputError, ModuleNotFoundError) as e:
                lack = str(e)
        if lack:
            left_out.append(f"left out: {group}: {lack}")
    if lines:
        written = ", ".join(sorted(str(path) for path in asked.out.iterdir()))
        print("\n" + "\n".join([*text_table(rows(lines)), "", f"{finding(lines)}. Written: {written}"]))
    print("\n".join(left_out))


def write(lines: Sequence[Line], folder: Path) -> None:
    """The table, the figure, and what they depend on."""
    import pandas as pd

    names = ("group", "what", "other", "ours", "theirs", "unit", "times", "goal")
    table = pd.DataFrame([{name: getattr(line, name) for name in names} for line in lines])
    write_whole(folder / "table.csv", table.to_csv(index=False).encode())
    write_whole(folder / "figure.png", figure(lines))
    write_whole(folder / "environment.json", json.dumps(environment(), indent=2).encode())


if __name__ == "__main__":
    main()
