"""ptlib: choose a pretrained model, adapt it in stages, and defend the number you report.

Everything a notebook needs is here by name; modules load when first used, so that `import ptlib` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ptlib.answer import Answer as Answer
    from ptlib.checkpoints import list_checkpoints as list_checkpoints
    from ptlib.checkpoints import load_checkpoint as load_checkpoint
    from ptlib.comparable import differences as differences
    from ptlib.comparison import compare as compare
    from ptlib.comparison import leaderboard as leaderboard
    from ptlib.core import Checkpoint as Checkpoint
    from ptlib.core import Split as Split
    from ptlib.core import Task as Task
    from ptlib.corruptions import corrupt as corrupt
    from ptlib.data import find_duplicates as find_duplicates
    from ptlib.data import list_tasks as list_tasks
    from ptlib.data import load_task as load_task
    from ptlib.data.second import load_second as load_second
    from ptlib.data.second import load_unknown as load_unknown
    from ptlib.decisions import box_threshold as box_threshold
    from ptlib.diagnosis import box_errors as box_errors
    from ptlib.diagnosis import by_slice as by_slice
    from ptlib.diagnosis import likely_label_errors as likely_label_errors
    from ptlib.diagnosis import mistaken_texts as mistaken_texts
    from ptlib.diagnosis import worst_slice as worst_slice
    from ptlib.errors import InputError as InputError
    from ptlib.models import Model as Model
    from ptlib.models import build_model as build_model
    from ptlib.models import under_new_head as under_new_head
    from ptlib.params import check as check
    from ptlib.prediction import cost as cost
    from ptlib.prediction import features as features
    from ptlib.prediction import predict as predict
    from ptlib.prediction import risk as risk
    from ptlib.preprocessing import Preprocessing as Preprocessing
    from ptlib.pretraining import Pretrained as Pretrained
    from ptlib.pretraining import pretrain as pretrain
    from ptlib.pretraining import save_pretrained as save_pretrained
    from ptlib.publishing import publish as publish
    from ptlib.rates import find_lr as find_lr
    from ptlib.reading import read_predictions as read_predictions
    from ptlib.report import evaluate as evaluate
    from ptlib.report import expect as expect
    from ptlib.results import Boxes as Boxes
    from ptlib.results import Estimate as Estimate
    from ptlib.results import Masks as Masks
    from ptlib.results import Predictions as Predictions
    from ptlib.results import Report as Report
    from ptlib.runs import Run as Run
    from ptlib.runs import completed as completed
    from ptlib.runs import read_run as read_run
    from ptlib.runs import reopen as reopen
    from ptlib.runs import save_results as save_results
    from ptlib.runs import save_run as save_run
    from ptlib.runs import start_run as start_run
    from ptlib.runtime import Clock as Clock
    from ptlib.runtime import choose_device as choose_device
    from ptlib.selection import Candidate as Candidate
    from ptlib.selection import Ranking as Ranking
    from ptlib.selection import advice as advice
    from ptlib.selection import fine_tune_all as fine_tune_all
    from ptlib.selection import rank as rank
    from ptlib.selection import successive_halving as successive_halving
    from ptlib.selection import task_of as task_of
    from ptlib.selection import trust as trust
    from ptlib.similarity import averaged as averaged
    from ptlib.stages import History as History
    from ptlib.stages import Stage as Stage
    from ptlib.stages import recipe as recipe
    from ptlib.train import finetune as finetune
    from ptlib.transfers import Transfers as Transfers
    from ptlib.transfers import adapt as adapt
    from ptlib.transfers import few as few
    from ptlib.transfers import layer_by_layer as layer_by_layer
    from ptlib.transfers import transfer as transfer
    from ptlib.verification import verify as verify

# Module by module, the public names.
_NAMES = {
    "answer": ["Answer"],
    "checkpoints": ["list_checkpoints", "load_checkpoint"],
    "comparable": ["differences"],
    "comparison": ["compare", "leaderboard"],
    "core": ["Checkpoint", "Preprocessing", "Split", "Task"],
    "corruptions": ["corrupt"],
    "data": ["find_duplicates", "list_tasks", "load_task"],
    "data.second": ["load_second", "load_unknown"],
    "decisions": ["box_threshold"],
    "diagnosis": ["box_errors", "by_slice", "likely_label_errors", "mistaken_texts", "worst_slice"],
    "errors": ["InputError"],
    "models": ["Model", "build_model", "under_new_head"],
    "params": ["check"],
    "prediction": ["cost", "features", "predict", "risk"],
    "pretraining": ["Pretrained", "pretrain", "save_pretrained"],
    "publishing": ["publish"],
    "reading": ["read_predictions"],
    "report": ["evaluate", "expect"],
    "rates": ["find_lr"],
    "results": ["Boxes", "Estimate", "Masks", "Predictions", "Report"],
    "runs": ["Run", "completed", "read_run", "reopen", "save_results", "save_run", "start_run"],
    "runtime": ["Clock", "choose_device"],
    "selection": ["Candidate", "Ranking", "advice", "fine_tune_all", "rank", "successive_halving", "task_of", "trust"],
    "similarity": ["averaged"],
    "stages": ["History", "Stage", "recipe"],
    "train": ["finetune"],
    "transfers": ["Transfers", "adapt", "few", "layer_by_layer", "transfer"],
    "verification": ["verify"],
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ptlib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ptlib.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
