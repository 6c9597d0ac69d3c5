"""Metrics of regression agree with scikit-learn and scipy, and are NaN where they are not defined."""

import math

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sklearn_metrics

from hf_sft.metrics.metric import Outcome
from hf_sft.metrics.regression import mae, mse, pearson, r2, spearman

pytestmark = pytest.mark.filterwarnings("error")  # of numpy too: a division by zero is no way to say NaN


def outcome_of(references, predictions) -> Outcome:
    references, predictions = np.array(references, dtype=float), np.array(predictions, dtype=float)
    return Outcome(references=references, predictions=predictions, scores=predictions, num_labels=1)


def random_outcome(seed: int, rows: int, *, decimals: int = 12, scale: float = 1.0, shift: float = 0.0) -> Outcome:
    random = np.random.default_rng(seed)
    references = random.normal(size=rows)
    predictions = 0.6 * references + random.normal(size=rows)
    return outcome_of(references.round(decimals) * scale + shift, predictions.round(decimals) * scale + shift)


OUTCOMES = {
    "many rows": random_outcome(0, 500),
    "ties": random_outcome(1, 200, decimals=0),
    "two rows": random_outcome(2, 2),
    "large values": random_outcome(3, 50, scale=1e6, shift=1e7),
    "small values": random_outcome(4, 50, scale=1e-6),
    "opposed": outcome_of([1, 2, 3, 4], [4, 3, 2, 1]),
    "equal": outcome_of([0.1, 0.5, 0.2], [0.1, 0.5, 0.2]),
}


@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (mse, sklearn_metrics.mean_squared_error),
        (mae, sklearn_metrics.mean_absolute_error),
        (r2, sklearn_metrics.r2_score),
        (pearson, lambda references, predictions: scipy.stats.pearsonr(references, predictions).statistic),
        (spearman, lambda references, predictions: scipy.stats.spearmanr(references, predictions).statistic),
    ],
    ids=["mse", "mae", "r2", "pearson", "spearman"],
)
def test_regression_metrics_equal_scikit_learn_and_scipy(ours, theirs, outcome):
    assert ours(outcome) == pytest.approx(theirs(outcome.references, outcome.predictions), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("score", [pearson, spearman])
@pytest.mark.parametrize(("references", "predictions"), [([0.1] * 3, [1, 2, 3]), ([1, 2, 3], [0.1] * 3), ([1], [2])])
def test_correlation_with_a_constant_is_not_defined(score, references, predictions):
    assert math.isnan(score(outcome_of(references, predictions)))


@pytest.mark.parametrize("references", [[0.1] * 3, [0.0] * 3])
def test_r2_of_constant_references_is_not_defined(references):
    assert math.isnan(r2(outcome_of(references, [1, 2, 3])))


def test_r2_of_a_constant_prediction_is_defined():
    assert r2(outcome_of([1, 2, 3], [2, 2, 2])) == pytest.approx(0)


@pytest.mark.parametrize("score", [mse, mae, r2, pearson, spearman])
def test_predictions_that_are_not_numbers_give_no_number(score):
    assert math.isnan(score(outcome_of([1, 2, 3], [1, math.nan, 3])))


@pytest.mark.parametrize("score", [pearson, spearman])
def test_correlation_with_infinity_is_not_defined(score):
    assert math.isnan(score(outcome_of([1, 2, 3], [1, math.inf, 3])))


@pytest.mark.parametrize("score", [mse, mae, r2, pearson, spearman])
def test_no_rows_give_no_number(score):
    assert math.isnan(score(outcome_of([], [])))


def test_correlation_never_leaves_its_range():
    for seed in range(200):
        references = np.random.default_rng(seed).normal(size=7)
        assert pearson(outcome_of(references, references * 0.3)) <= 1
