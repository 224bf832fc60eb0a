"""A ranking in plain words: what to take, what it may cost to be wrong, what would settle it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ptlib.comparison import Leaderboard
from ptlib.selection.judging import Trust, points, span, two
from ptlib.selection.ranking import Ranking


def advice(ranking: Ranking, judged: Trust | None = None, seed: int = 0) -> str:
    """One paragraph of plain words: what to take, what it may cost to be wrong, and what would settle it."""
    pick, stage = ranking.pick, ranking.stage
    row, board = ranking.rows[pick], ranking.board(seed)
    what = "a linear probe on its features" if stage == "probe" else "a short fine-tuning"
    said = [f"Take {pick}: {what} has {row[stage]:.3f} of val right ({row[f'{stage}_low']:.3f} to "
            f"{row[f'{stage}_high']:.3f}, {ranking.n_val:,} examples)."]  # fmt: skip
    if row.get("trained_on"):
        said.append(f"It was trained on {row['trained_on']}; if this data comes from there, rank it apart (`seen`).")
    level = [n for n in board.estimates if n != pick and board[n, pick].better is None] if board else []
    if level and board:
        bounds = [_lead(board, other, pick) for other in level]
        wrong = f"; one of them may be up to {points(max(bounds))} points better" if max(bounds) > 0 else ""
        said.append(f"{_listed(level)} can't be told apart from it on so many examples{wrong}.")
        costs = {n: float(ranking.rows[n].get("flops") or math.inf) for n in [pick, *level]}
        cheapest = min(costs, key=lambda n: costs[n])
        if cheapest != pick and costs[pick] < math.inf:
            share = costs[cheapest] / costs[pick]
            told = f"{share:.0%}" if share >= 0.01 else "less than 1%"
            said.append(f"If cost matters, {cheapest} is one of these at {told} of the arithmetic.")
    elif board:
        others = len(board.estimates) - 1
        rest = f"all {others} others" if others > 1 else "the other"
        said.append(f"Paired tests tell it apart from {rest} that came as far.")
    if judged:
        mine, chance, best = judged["this ranking"], judged["random order"], judged[judged.first]
        where = "here" if len(judged.targets) == 1 else f"over {len(judged.targets)} targets"
        said.append(f"After fine-tuning, such a pick lay {points(mine.regret)} points below the best {where} (at "
                    f"worst {points(mine.regret_max)}; a random pick {points(chance.regret)}). Of what can be known "
                    f"before, {judged.first} ordered the candidates best, weighted tau {two(best.tau)}, "
                    f"interval {span(best.low, best.high)}; by chance the best of so many exceeds "
                    f"{two(judged.chance_of_best)} in 1 of 20 cases.")  # fmt: skip
    elif stage == "probe":
        said.append("A probe does not see what fine-tuning can change: candidates may change places.")
    if level and not judged:
        said.append(f"Fine-tuning {_listed([pick, *level][:4])} and comparing them on val would settle more of it.")
    elif level:
        said.append("More val examples, or several seeds of those that are level, would settle it.")
    if ranking.apart:
        have, are = ("have", "are") if len(ranking.apart) > 1 else ("has", "is")
        said.append(f"{_listed(ranking.apart)} {have} seen this data in training and {are} ranked apart: a score on "
                    "what was seen says nothing of new data.")  # fmt: skip
    return " ".join(said)


def _lead(board: Leaderboard, other: str, pick: str) -> float:
    """The most by which `other` may be better than `pick`, the upper end of the paired interval."""
    c = board[other, pick]
    return float(max(0.0, c.difference.high if c.a == other else -c.difference.low))


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:5]) + ([f"{len(names) - 5} more"] if len(names) > 5 else [])
    return " and ".join(shown) if len(shown) < 3 else f"{', '.join(shown[:-1])} and {shown[-1]}"
