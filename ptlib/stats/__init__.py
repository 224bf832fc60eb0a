"""What a sample allows one to say: intervals, paired tests, power, the spread between runs, and learning curves."""

from ptlib.stats.curves import OffTheLine, PowerLaw, bias_variance, off_the_line, power_law, reaches
from ptlib.stats.intervals import (
    Bounds,
    bca,
    chunks,
    clopper_pearson,
    delong,
    false_alarms,
    percentile,
    pivotal,
    resample,
    rows_of_groups,
    wilson,
)
from ptlib.stats.paired import (
    Power,
    discordant_odds,
    holm,
    mcnemar,
    permutation_p,
    sample_size,
    smallest_difference,
)
from ptlib.stats.ranks import weighted_tau
from ptlib.stats.seeds import (
    Variance,
    bootstrap_runs,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    variance_of,
)

__all__ = [
    "Bounds", "OffTheLine", "Power", "PowerLaw", "Variance", "bca", "bias_variance", "bootstrap_runs",
    "chunks", "clopper_pearson", "delong", "discordant_odds", "false_alarms", "holm", "interquartile_mean", "mcnemar",
    "off_the_line", "percentile", "performance_profile", "permutation_p", "pivotal", "power_law",
    "probability_of_improvement", "reaches", "resample", "rows_of_groups", "sample_size", "smallest_difference",
    "variance_of", "weighted_tau", "wilson",
]  # fmt: skip
