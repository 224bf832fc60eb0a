"""The command `ptlib`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 where all is well, 1 where something differs, 2 where it was asked wrongly."""
    parser = argparse.ArgumentParser("ptlib", description="Choose a pretrained model, adapt it, defend the number.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "verify",
        help="check a saved run: its files, its metrics, its predictions",
        description="Check a saved run: the hash of each file, metrics and intervals made again from the predictions, "
        "predictions made again from weights and data. Exit 1 names the first thing that differs.",
    )
    check.add_argument("run", help="a run's folder, its name under outputs/, or the executed notebook that made it")
    check.add_argument("--all", action="store_true", help="predict every test example again, not 256 of them")
    check.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    asked = parser.parse_args(arguments)

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
