"""Intervals, tests and power against golden values, brute force and simulation."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ptlib import stats


def test_wilson_golden() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3 (score, without continuity correction).
    for r, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert stats.wilson(r, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_covers() -> None:
    rng = np.random.default_rng(0)
    for p in (0.5, 0.9, 0.98):
        hits = rng.binomial(100, p, 4000)
        inside = [stats.wilson(int(k), 100)[0] <= p <= stats.wilson(int(k), 100)[1] for k in hits]
        assert 0.92 < np.mean(inside) < 0.985


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_exact_interval_is_scipys(n: int, share: float, level: float) -> None:
    k = round(share * n)
    theirs = scipy.stats.binomtest(k, n).proportion_ci(level, "exact")
    assert stats.clopper_pearson(k, n, level) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize("interval", [stats.wilson, stats.clopper_pearson])
def test_proportions_that_are_none_are_refused(interval: object) -> None:
    for k, n, level in ((3, 2, 0.95), (-1, 2, 0.95), (0, 0, 0.95), (1, 2, 1.0), (1, 2, float("nan"))):
        with pytest.raises(ValueError, match="must lie between 0 and 1|a proportion needs"):
            interval(k, n, level)  # type: ignore[operator]


ROWS = np.repeat(np.arange(4), [120, 60, 19, 1])


def drawn(rows: np.ndarray, n: int = 20_000, **how: Any) -> np.ndarray:
    return np.concatenate(list(stats.resample(rows, n, 7, **how)))


def test_counts_of_rows_are_distributed_as_resampled_examples() -> None:
    """By cells (multinomial) and by examples, against plain resampling; each margin by a chi-squared test."""
    rng = np.random.default_rng(1)
    plain = np.stack([np.bincount(ROWS[rng.integers(0, 200, 200)], minlength=4) for _ in range(20_000)])
    few = np.repeat(np.arange(25), 8)  # so many rows that examples are drawn instead of cells
    for found, reference in ((drawn(ROWS), plain), (drawn(few), None)):
        assert (found.sum(1) == 200).all()
        if reference is not None:
            p = np.bincount(ROWS) / 200
            assert np.cov(found.T) == pytest.approx(200 * (np.diag(p) - np.outer(p, p)), abs=2)  # four standard errors
            for a, b in zip(found.T, reference.T, strict=True):
                edges = np.unique(np.quantile(b, np.linspace(0, 1, 9)))
                table = np.stack([np.histogram(x, np.r_[-np.inf, edges[1:-1], np.inf])[0] for x in (a, b)])
                if table.shape[1] > 1:
                    assert scipy.stats.chi2_contingency(table + 1)[1] > 1e-4
        else:
            assert found.mean(0) == pytest.approx(np.full(25, 8.0), abs=0.1)
            assert found.var(0) == pytest.approx(np.full(25, 8 * 24 / 25), rel=0.05)


def test_strata_keep_their_sizes_and_groups_stay_whole() -> None:
    strata = np.random.default_rng(0).permutation(ROWS % 2)
    rows = np.arange(200)
    found = drawn(rows, 500, strata=strata)
    assert (found[:, strata == 1].sum(1) == (strata == 1).sum()).all()
    assert found[:, strata == 0].var(0).mean() == pytest.approx(1, abs=0.1)
    groups = np.repeat(np.arange(40), 5)
    found = drawn(rows, 500, groups=groups).reshape(500, 40, 5)
    assert (found == found[:, :, :1]).all()
    assert (found[:, :, 0].sum(1) == 40).all()
    uneven = drawn(ROWS, 500, groups=np.array(["a"] * 150 + ["b"] * 50))
    assert {int(n) for n in uneven.sum(1)} == {100, 200, 300}
    with pytest.raises(ValueError, match="at least two"):
        next(stats.resample(rows, 10, 0, groups=np.zeros(200)))
    with pytest.raises(ValueError, match="not both"):
        next(stats.resample(rows, 10, 0, strata=strata, groups=groups))


def test_resamples_are_a_function_of_their_seed() -> None:
    for rows in (ROWS, np.arange(50)):
        a, b, c = (np.concatenate(list(stats.resample(rows, 300, s))) for s in (3, 3, 4))
        assert (a == b).all()
        assert (a != c).any()


def test_bca_is_scipys() -> None:
    rng = np.random.default_rng(0)
    x = rng.exponential(size=60)
    theirs = scipy.stats.bootstrap((x,), np.mean, n_resamples=100_000, method="BCa", rng=1).confidence_interval
    means = np.concatenate([w @ x / 60 for w in stats.resample(np.arange(60), 100_000, 2)])
    ours = stats.bca(x.mean(), means, x - x.mean(), np.ones(60))
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.008)
    percentile = stats.percentile(means)
    assert min(abs(np.subtract(ours, percentile))) > 0.01  # the correction is seen at both ends
    assert np.isnan(stats.bca(2.0, np.ones(100), x, np.ones(60))).all()


def test_percentile_and_pivotal() -> None:
    x = np.arange(1001.0)
    assert stats.percentile(x) == pytest.approx((25, 975))
    assert stats.pivotal(100, x, 400) == pytest.approx((100 - 575, 100 + 375))
    assert np.isnan(stats.percentile(np.where(np.arange(1001) < 60, np.nan, x))).all()
    assert not np.isnan(stats.percentile(np.where(np.arange(1001) < 40, np.nan, x))).any()


def test_mcnemar_golden() -> None:
    assert stats.mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert stats.mcnemar(0, 0) == 1
    assert stats.mcnemar(5, 5) == 1
    # Agresti, Categorical Data Analysis, 2nd ed., table 10.1: 86 against 150.
    assert stats.mcnemar(86, 150) == pytest.approx(3.716e-05, rel=1e-3)
    odds, (low, high) = stats.discordant_odds(12, 4)
    assert odds == 3
    assert low == pytest.approx(0.9092, abs=1e-3)  # Clopper-Pearson of 12 of 16 is 0.4762 to 0.9273
    assert high == pytest.approx(12.76, abs=0.02)
    assert np.isnan(stats.discordant_odds(0, 0)[0])
    assert stats.discordant_odds(3, 0)[0] == np.inf
    with pytest.raises(ValueError, match="not negative"):
        stats.mcnemar(-1, 2)


def test_holm_golden() -> None:
    # Holm's own steps: sorted p times what is left, never falling.
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert stats.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    found = stats.holm(np.array([0.01, np.nan, 0.02]))
    assert found[[0, 2]] == pytest.approx([0.02, 0.02])
    assert np.isnan(found[1])
    assert stats.holm(np.array([0.9, 0.8])).max() == 1


def test_permutation_p_counts_itself() -> None:
    shuffled = np.array([0.1, -0.3, 0.2, -0.05])
    assert stats.permutation_p(0.2, shuffled) == (3 / 5, 2)
    assert stats.permutation_p(9.0, shuffled) == (1 / 5, 0)
    assert np.isnan(stats.permutation_p(np.nan, shuffled)[0])


def test_power_by_simulation() -> None:
    rng = np.random.default_rng(0)
    d, disagreement = 0.04, 0.12
    n = stats.sample_size(d, disagreement)
    only_a = rng.multinomial(n, [(disagreement + d) / 2, (disagreement - d) / 2, 1 - disagreement], size=3000)
    seen = np.mean([stats.mcnemar(int(a), int(b)) <= 0.05 for a, b, _ in only_a])
    assert 0.74 < seen < 0.83  # the exact test is a little shy of the formula's 0.8
    power = stats.smallest_difference(n, disagreement)
    assert power.smallest == pytest.approx(d, rel=0.01)
    assert np.isnan(stats.smallest_difference(10, 0.1).smallest)
    assert stats.sample_size(-d, disagreement) == n
    with pytest.raises(ValueError, match="must disagree on at least d"):
        stats.sample_size(0.2, 0.1)


def test_variance_is_split_into_what_made_it() -> None:
    rng = np.random.default_rng(0)
    found, covered = [], 0
    for _ in range(300):
        run, example = rng.normal(0, 0.1, (6, 1)), rng.normal(0, 1.0, (1, 80))
        v = stats.variance_of(0.5 + run + example + rng.normal(0, 0.5, (6, 80)))
        found.append([v.run_sd**2, v.test_sd**2])
        covered += v.low <= 0.5 <= v.high
    run_var, test_var = np.mean(found, axis=0)
    assert run_var == pytest.approx(0.01, rel=0.15)
    assert test_var == pytest.approx((1 + 0.25) / 80, rel=0.05)
    assert 0.92 < covered / 300 < 0.985


def test_variance_of_equal_runs_and_of_one() -> None:
    row = np.arange(10.0) % 2
    same = stats.variance_of(np.stack([row, row, row]))
    assert same.run_sd == 0
    assert same.mean == 0.5
    assert same.error == pytest.approx(row.std(ddof=1) / np.sqrt(10))
    one = stats.variance_of(row[None])
    assert np.isnan(one.run_sd)
    assert one.test_sd == pytest.approx(row.std(ddof=1) / np.sqrt(10))
    assert stats.variance_of(np.ones((3, 4))).error == 0
    with pytest.raises(ValueError, match="at least two examples"):
        stats.variance_of(np.ones((3, 1)))


def test_runs_by_tasks() -> None:
    a, b = np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[2.0, 5.0], [2.0, 4.0]])
    pairs = [(x > y) + 0.5 * (x == y) for t in range(2) for x, y in product(a[:, t], b[:, t])]
    assert stats.probability_of_improvement(a, b) == np.mean(pairs)
    assert stats.interquartile_mean(np.arange(8.0).reshape(2, 4)) == 3.5
    assert stats.performance_profile(a, np.array([0, 2.5, 5])).tolist() == [1, 0.75, 0]
    scores = np.random.default_rng(0).normal(size=(20, 6))
    low, high = stats.bootstrap_runs(scores, stats.interquartile_mean, seed=1)
    assert low < stats.interquartile_mean(scores) < high
    assert stats.bootstrap_runs(scores, stats.interquartile_mean, seed=1) == (low, high)
    with pytest.raises(ValueError, match="same tasks"):
        stats.probability_of_improvement(a, b[:, :1])
