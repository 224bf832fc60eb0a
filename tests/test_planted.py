"""Bugs of evaluation that are easily made and make no noise: each is planted, and a test named here must catch it."""

from __future__ import annotations
import __future__

import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests import (
    test_checkpoints,
    test_comparison,
    test_data,
    test_metrics,
    test_report,
    test_results,
    test_stats,
    test_text_data,
    test_train,
)


@dataclass
class Bug:
    """`old` becomes `new` in the source of the function at `where` (module:name); `guard` must fail then."""

    name: str
    where: str
    old: str
    new: str
    guard: Callable[..., None]
    given: dict[str, Any] = field(default_factory=dict)


LABELS = {"data": (np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0, 1, 1, 1, 2, 0, 1]), 3)}
TIED = np.array([[0.5, 0.5], [0.5, 0.5], [0.8, 0.2], [0.3, 0.7]])
SCORED = {"data": (np.array([0, 1, 1, 0]), TIED)}

BUGS = [
    Bug("eval mode forgotten", "ptlib.prediction:forward", "model.eval()", "model.train()",
        test_train.test_predictions_do_not_depend_on_the_batch),
    Bug("mean of batch means", "ptlib.kinds.image_classification:score",
        "(outputs.argmax(1) == targets).double().mean()",
        "torch.stack([p.double().mean() for p in (outputs.argmax(1) == targets).split(16)]).mean()",
        test_train.test_the_score_on_val_is_the_reports),
    Bug("last batch dropped", "ptlib.data.batches:batched", ".split(size)", "[: len(inputs) // 16 * 16].split(16)",
        test_train.test_predictions_do_not_depend_on_the_batch),
    Bug("last train batch dropped", "ptlib.data.batches:shuffled", "list(order.tensor_split(steps))",
        "list(order.tensor_split(steps))[:-1]", test_train.test_every_example_is_seen_once_an_epoch),
    Bug("texts not sorted by length", "ptlib.data.batches:shuffled", "lengths[part].argsort(stable=True)",
        "torch.arange(len(part))", test_text_data.test_a_shuffle_pads_little),
    Bug("labels in another order than scores", "ptlib.prediction:of_logits", "split.targets.numpy()",
        "split.targets.sort().values.numpy()", test_train.test_the_score_on_val_is_the_reports),
    Bug("selection on test", "ptlib.loop:Loop._cache_features", "(self.task.train, self.task.val)",
        '(self.task.train, __import__("dataclasses").replace(self.task.test, name="val"))',
        test_train.test_the_test_split_is_never_touched),
    Bug("BatchNorm of a frozen backbone drifts", "ptlib.step:set_mode",
        'path in above and (not is_batchnorm(module) or stage.batchnorm == "train")', "True",
        test_train.test_a_frozen_backbone_keeps_every_bit_its_statistics_included),
    Bug("missing weights pass", "ptlib.weights:load_weights", "if said:", "if False:",
        test_checkpoints.test_every_tensor_is_accounted_for,
        {"name": "w.safetensors", "change": lambda s: {k: v for k, v in s.items() if k != "stem.weight"},
         "says": "lacks stem.weight$"}),
    Bug("resized without antialiasing", "ptlib.models:Model.preprocess", "antialias=p.antialias", "antialias=False",
        test_checkpoints.test_preprocessing_resizes_as_pillow_does),
    Bug("mean and std of the checkpoint forgotten", "ptlib.models:Model.preprocess",
        "torch.addcmul(self._shift, x.float(), self._scale)", "x.float() / 255",
        test_checkpoints.test_preprocessing_resizes_as_pillow_does),
    Bug("blue for red", "ptlib.data.images:to_square", "np.asarray(square)", "np.asarray(square)[..., ::-1]",
        test_data.test_red_is_the_first_channel),
    Bug("EXIF rotation ignored", "ptlib.data.images:decode", "ImageOps.exif_transpose(image)", "image",
        test_data.test_exif_rotation_is_applied, {"orientation": 6}),
    Bug("one example in two splits", "ptlib.core:Task.__post_init__", "if example in seen:", "if False:",
        test_results.test_tasks_refuse_overlap_bad_labels_and_one_class),
    Bug("macro for micro", "ptlib.metrics.counts:_averaged", "return ratio(numerator.sum(-1), denominator.sum(-1))",
        "return ratio(numerator, denominator).mean(-1)",
        test_metrics.test_confusion_metrics_equal_scikit_learns_where_both_are_defined, LABELS),
    Bug("confusion matrix transposed", "ptlib.metrics.counts:confusion_matrix",
        "targets.astype(np.int64) * n_classes + predicted", "predicted.astype(np.int64) * n_classes + targets",
        test_metrics.test_confusion_metrics_equal_scikit_learns_where_both_are_defined, LABELS),
    Bug("0 for undefined", "ptlib.metrics.counts:ratio", "np.nan", "0.0",
        test_report.test_report_has_values_intervals_and_reasons),
    Bug("ties won", "ptlib.metrics.ranking:Ranking.values", "(below[:-1:2] + below[1::2])", "(2 * below[1::2])",
        test_metrics.test_ranking_metrics_equal_scikit_learns_and_permute, SCORED),
    Bug("squares not summed over classes", "ptlib.metrics.probability:brier", "squares.sum(1)", "squares.mean(1)",
        test_metrics.test_probability_metrics_equal_scikit_learns, SCORED),
    Bug("a confidence of 1 in a bin of its own", "ptlib.metrics.probability:confidence_bins", 'side="left"',
        'side="right"', test_metrics.test_calibration_error_golden),
    Bug("temperature the wrong way round", "ptlib.metrics.probability:fit_temperature", "logits / np.exp",
        "logits * np.exp", test_metrics.test_temperature_undoes_what_was_done_to_the_logits),
    Bug("one-sided level", "ptlib.stats.intervals:percentile", "(1 - level) / 2", "1 - level",
        test_stats.test_percentile_and_pivotal),
    Bug("resampled without replacement", "ptlib.stats.intervals:_draw", "rng.integers(0, n, (m, n))",
        "np.stack([rng.permutation(n) for _ in range(m)])", test_stats.test_resamples_are_a_function_of_their_seed),
    Bug("groups ignored", "ptlib.stats.intervals:resample", "if groups is not None:", "if False:",
        test_stats.test_strata_keep_their_sizes_and_groups_stay_whole),
    Bug("seed ignored", "ptlib.stats.intervals:chunks", "default_rng([seed, start])", "default_rng([0, start])",
        test_report.test_reports_are_a_function_of_their_seed),
    Bug("paired models resampled apart", "ptlib.resampling:paired_bootstrap", "s.values(drawn @ o)",
        "s.values(drawn[np.random.default_rng(id(s)).permutation(len(drawn))] @ o)",
        test_comparison.test_the_interval_is_that_of_examples_drawn_for_both, {"name": "accuracy"}),
    Bug("the observed shuffle left out", "ptlib.stats.paired:permutation_p", "(1 + as_large) / (1 + len(defined))",
        "as_large / len(defined)", test_stats.test_permutation_p_counts_itself),
    Bug("McNemar over all examples", "ptlib.stats.paired:mcnemar", "only_a + only_b).pvalue",
        "only_a + only_b + 9).pvalue", test_stats.test_mcnemar_golden),
    Bug("corrected p-values that fall", "ptlib.stats.paired:holm", "np.maximum.accumulate(steps)", "steps",
        test_stats.test_holm_golden),
    Bug("compared in the order they came", "ptlib.comparison:aligned",
        "p = p.take([place[example] for example in first.ids])", "pass",
        test_comparison.test_examples_may_come_in_any_order_but_must_be_the_same),
]  # fmt: skip


# What a guard raises, or what the bug itself breaks; a wrong call of the guard raises others, such as TypeError.
CAUGHT = (AssertionError, pytest.fail.Exception, ValueError, IndexError, RuntimeError)


def plant(monkeypatch: pytest.MonkeyPatch, bug: Bug) -> None:
    module_name, path = bug.where.split(":")
    module = importlib.import_module(module_name)
    owner: Any = module
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    right = owner.__dict__[name]
    source = textwrap.dedent(inspect.getsource(right))
    assert source.count(bug.old) >= 1, f"{bug.where} no longer says {bug.old!r}"
    flags = __future__.annotations.compiler_flag
    made: dict[str, Any] = {}
    exec(compile(source.replace(bug.old, bug.new), bug.where, "exec", flags, dont_inherit=True), module.__dict__, made)
    for place in [owner, *(m for n, m in sys.modules.items() if n.split(".")[0] in ("ptlib", "tests"))]:
        for attribute, value in list(vars(place).items()):
            if value is right:  # where it is defined, and where it was imported by name
                monkeypatch.setattr(place, attribute, made[name])


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_caught(bug: Bug, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = getattr(getattr(bug.guard, "hypothesis", None), "inner_test", bug.guard)  # one example, no search
    wanted = [name for name in inspect.signature(guard).parameters if name not in bug.given]
    arguments = {name: request.getfixturevalue(name) for name in wanted} | bug.given
    with monkeypatch.context() as patch:
        plant(patch, bug)
        with pytest.raises(CAUGHT):
            guard(**arguments)


def test_each_is_another_bug() -> None:
    assert len({(bug.where, bug.old, bug.new) for bug in BUGS}) == len(BUGS) > 15
