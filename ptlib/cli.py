"""The command `ptlib`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext

LISTED = ("checkpoints", "data", "notebooks", "runs")


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    parser = argparse.ArgumentParser("ptlib", description="Choose a pretrained model, adapt it, defend the number.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    there = commands.add_parser(
        "list",
        help="show checkpoints, data sets, notebooks and runs",
        description="Show what can be named: checkpoints (`-p checkpoint`), data sets (`-p dataset`), notebooks, and "
        "runs with their status and the first metric of their report.",
    )
    there.add_argument("what", nargs="?", choices=LISTED, help="one of them alone (default: all)")
    check = commands.add_parser(
        "verify",
        help="check a saved run: its files, its metrics, its predictions",
        description="Check a saved run: the hash of each file, metrics and intervals made again from the predictions, "
        "predictions made again from weights and data. Exit 1 names the first thing that differs.",
    )
    check.add_argument("run", help="a run's folder, its name under outputs/, or the executed notebook that made it")
    check.add_argument("--all", action="store_true", help="predict every test example again, not 256 of them")
    check.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    report = commands.add_parser(
        "report",
        help="make a page without code and a model card of a finished run",
        description="Write report.html, the executed notebook as one file without code, readable without a network, "
        "and, where the run holds a model with a report on test, README.md, a model card in Hugging Face's format.",
    )
    report.add_argument("run", help="the executed notebook; or a run's folder or name, whose notebook is looked for")
    report.add_argument("--to", metavar="FOLDER", help="where to write (default: <run>.report beside the run)")
    sweep = commands.add_parser(
        "sweep",
        help="run a notebook over a grid or a list of parameters",
        description="Run a notebook over a grid or a list of parameters: each as a run of its own, then a table and a "
        "figure of all, and compare.ipynb over them. What is complete is not done again: the same command goes on. "
        "Exit 1 if a run failed, which stops no other.",
        epilog="On Slurm: ptlib.sweep.run(file, submitit.AutoExecutor(...)), as the docstring of ptlib.sweep has it.",
    )
    sweep.add_argument("file", help="params/<notebook>/<sweep>.yaml: parameters, and `sweep` with a grid or a list")
    where = sweep.add_mutually_exclusive_group()
    where.add_argument("--workers", type=_count, help="processes (default: one for each GPU, or for two CPU cores)")
    where.add_argument("--scheduler", help="a Dask scheduler whose workers do the runs, such as tcp://host:8786")
    sweep.add_argument("--dry-run", action="store_true", help="name each run, and whether it is complete; do nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 where all is well, 1 where something differs or failed, 2 where it was asked wrongly."""
    asked = parser().parse_args(arguments)
    return {"list": _list, "report": _report, "sweep": _sweep, "verify": _verify}[asked.command](asked)


def _list(asked: argparse.Namespace) -> int:
    from ptlib.listing import listing

    for line in listing(asked.what):
        print(line)
    return 0


def _report(asked: argparse.Namespace) -> int:
    from ptlib.errors import InputError
    from ptlib.publishing import publish

    try:
        for path in publish(asked.run, asked.to):
            print(path)
    except (InputError, OSError) as e:
        print(f"ptlib report: {e}", file=sys.stderr)
        return 1
    return 0


def _verify(asked: argparse.Namespace) -> int:
    from ptlib.errors import InputError  # what is heavy waits until the arguments are right
    from ptlib.verification import SAMPLE, verify

    try:
        for line in verify(asked.run, sample=None if asked.all else SAMPLE, device=asked.device):
            print(f"ok: {line}", flush=True)
    except InputError as e:
        print(f"differs: {e}", file=sys.stderr)
        return 1
    print(f"{asked.run} is verified")
    return 0


def _sweep(asked: argparse.Namespace) -> int:
    from ptlib import sweep
    from ptlib.errors import InputError

    try:
        if asked.dry_run:
            for line in sweep.preview(asked.file):
                print(line, flush=True)
            return 0
        sweep.plan(asked.file)  # before a cluster is asked
        with sweep.dask(asked.scheduler) if asked.scheduler else nullcontext() as executor:
            path = sweep.run(asked.file, executor, asked.workers)
    except InputError as e:
        print(f"ptlib sweep: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    from ptlib.runs import read_record

    return 1 if read_record(path)["failed"] else 0


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1024")
    return int(text)
