"""Bootstrap intervals cover what they say they cover, and are a function of the seed."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hf_sft.metrics import METRICS, intervals
from hf_sft.metrics.intervals import bootstrap_interval, bootstrap_intervals
from hf_sft.metrics.metric import Metric, Outcome

pytestmark = pytest.mark.filterwarnings("error")  # of numpy too: a division by zero is no way to say NaN

ACCURACY, MACRO_F1, AUROC = METRICS["accuracy"], METRICS["macro_f1"], METRICS["auroc"]


def outcome_of(right, labels: int = 2) -> Outcome:
    """Rows of alternating labels; `right`: bool [N], where the prediction is."""
    right = np.asarray(right, dtype=bool)
    references = np.arange(len(right)) % labels
    predictions = np.where(right, references, (references + 1) % labels)
    scores = np.where(predictions[:, None] == np.arange(labels), 0.9, 0.1 / (labels - 1))
    return Outcome(references=references, predictions=predictions, scores=scores, num_labels=labels)


def counting(calls: list[int], *, fails_every: int = 0) -> Metric:
    """A metric of someone else: the share of right rows; each call is counted, some raise."""

    def compute(outcome: Outcome) -> float:
        calls.append(len(outcome.references))
        if fails_every and len(calls) % fails_every == 0:
            raise ValueError("Only one class present in y_true")
        return float((outcome.references == outcome.predictions).mean())

    return Metric(name="theirs", compute=compute, problems=("single_label",))


def test_interval_covers_the_true_accuracy_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = []
    for seed in range(200):
        low, high = bootstrap_interval(ACCURACY, outcome_of(random.random(200) < 0.8), seed=seed, resamples=300)
        covered.append(low <= 0.8 <= high)
    assert 0.88 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize(("level", "deviations"), [(0.5, 0.674), (0.8, 1.282), (0.95, 1.960)])
def test_interval_of_accuracy_is_that_of_the_normal_distribution(level, deviations):
    right = np.arange(2000) % 10 < 7
    half_width = deviations * math.sqrt(0.7 * 0.3 / len(right))
    interval = bootstrap_interval(ACCURACY, outcome_of(right), seed=3, level=level)
    assert interval == pytest.approx((0.7 - half_width, 0.7 + half_width), abs=0.15 * half_width)


def test_interval_is_a_function_of_the_seed():
    outcome = outcome_of(np.arange(60) % 3 > 0)
    first, again, other = (bootstrap_interval(MACRO_F1, outcome, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_interval_does_not_depend_on_the_other_metrics():
    outcome = outcome_of(np.arange(60) % 3 > 0)
    together = bootstrap_intervals([counting([]), ACCURACY, AUROC], outcome, seed=5)
    assert list(together) == ["theirs", "accuracy", "auroc"]
    for metric in (ACCURACY, AUROC):
        assert together[metric.name] == list(bootstrap_interval(metric, outcome, seed=5))


def test_resamples_without_a_value_are_left_out():
    outcome = outcome_of([True] * 20)
    outcome = replace(outcome, references=np.arange(20) // 19)  # one row of label 1: absent from a third of resamples
    low, high = bootstrap_interval(AUROC, outcome, seed=0)
    assert 0 <= low <= high <= 1


@pytest.mark.parametrize("rows", [0, 5])
def test_interval_of_a_metric_that_is_never_defined_is_nan(rows):
    outcome = replace(outcome_of([True] * rows), references=np.zeros(rows, dtype=int))
    assert all(map(math.isnan, bootstrap_interval(AUROC, outcome, seed=0)))


def test_no_metric_is_computed_of_no_rows():
    calls: list[int] = []
    assert all(map(math.isnan, bootstrap_interval(counting(calls), outcome_of([]), seed=0)))
    assert calls == []


@pytest.mark.parametrize("rows", [1, 6])
def test_interval_of_a_metric_that_never_varies_is_its_value(rows):
    assert bootstrap_interval(ACCURACY, outcome_of([True] * rows), seed=0) == (1.0, 1.0)


@pytest.mark.parametrize(("asked", "computed"), [(1000, 200), (50, 50)])
def test_metrics_of_others_see_at_most_200_resamples(asked, computed):
    calls: list[int] = []
    bootstrap_intervals([counting(calls)], outcome_of([True] * 7), seed=0, resamples=asked)
    assert calls == [7] * computed


def test_metrics_of_ours_see_all_resamples(monkeypatch):
    calls: list[int] = []
    ours = replace(counting(calls), name="accuracy")
    monkeypatch.setitem(METRICS, "accuracy", ours)
    bootstrap_intervals([ours], outcome_of([True] * 7), seed=0)
    assert calls == [7] * 1000


def test_a_metric_of_others_that_bears_one_of_our_names_is_still_of_others():
    calls: list[int] = []
    bootstrap_intervals([replace(counting(calls), name="accuracy")], outcome_of([True] * 7), seed=0)
    assert len(calls) == 200


def test_metrics_of_others_may_fail_on_some_resamples():
    outcome = outcome_of(np.arange(50) % 2)
    low, high = bootstrap_interval(counting([], fails_every=3), outcome, seed=0)
    assert 0.2 < low < 0.5 < high < 0.8


def test_metrics_of_ours_may_not_fail(monkeypatch):
    ours = replace(counting([], fails_every=3), name="accuracy")
    monkeypatch.setitem(METRICS, "accuracy", ours)
    with pytest.raises(ValueError, match="Only one class"):
        bootstrap_interval(ours, outcome_of([True] * 7), seed=0)


@pytest.mark.parametrize(("most_cells", "computed"), [(0, 100), (7 * 2 * 150, 150), (10**9, 300)])
def test_large_outcomes_are_resampled_less_often(monkeypatch, most_cells, computed):
    calls: list[int] = []
    ours = replace(counting(calls), name="accuracy")
    monkeypatch.setitem(METRICS, "accuracy", ours)
    monkeypatch.setattr(intervals, "MOST_CELLS", most_cells)
    bootstrap_intervals([ours], outcome_of([True] * 7), seed=0, resamples=300)
    assert len(calls) == computed
