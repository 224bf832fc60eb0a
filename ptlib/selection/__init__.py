"""Which checkpoint to start from: a ranking with its costs, and how far to trust it."""

from ptlib.selection.candidates import Candidate, encode
from ptlib.selection.halving import fine_tune_all, successive_halving
from ptlib.selection.judging import Trust, Trusted, advice, trust
from ptlib.selection.ranking import Ranking, rank, with_truth
from ptlib.selection.record import save_study
from ptlib.selection.scoring import CHEAP, SCORES

__all__ = [
    "CHEAP", "SCORES", "Candidate", "Ranking", "Trust", "Trusted", "advice", "encode", "fine_tune_all", "rank",
    "save_study", "successive_halving", "trust", "with_truth",
]  # fmt: skip
