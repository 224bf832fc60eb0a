"""Which checkpoint to start from: a ranking with its costs, and how far to trust it."""

from ptlib.selection.candidates import Candidate, encode, task_of
from ptlib.selection.choosing import fine_tune, fine_tune_all, rank, successive_halving
from ptlib.selection.judging import Trust, Trusted, trust
from ptlib.selection.ranking import Ranking, with_truth
from ptlib.selection.record import save_study
from ptlib.selection.scoring import CHEAP, SCORES
from ptlib.selection.words import advice

__all__ = [
    "CHEAP", "SCORES", "Candidate", "Ranking", "Trust", "Trusted", "advice", "encode", "fine_tune", "fine_tune_all",
    "rank", "save_study", "successive_halving", "task_of", "trust", "with_truth",
]  # fmt: skip
