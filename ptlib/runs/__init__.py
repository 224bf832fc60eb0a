"""A run directory: what was asked, what came out, and what made it, written whole or not at all, and read again."""

from ptlib.runs.reading import Run, by_recipe, read_record, read_run, reopen, run_folder, status
from ptlib.runs.writing import (
    commit,
    completed,
    describe,
    hashed_name,
    output_root,
    save_model,
    save_results,
    save_run,
    show,
    slug,
    start_run,
)

__all__ = [
    "Run",
    "by_recipe",
    "commit",
    "completed",
    "describe",
    "hashed_name",
    "output_root",
    "read_record",
    "read_run",
    "reopen",
    "run_folder",
    "save_model",
    "save_results",
    "save_run",
    "show",
    "slug",
    "start_run",
    "status",
]
