"""Metrics of classification agree with scikit-learn, and with their definitions where it has none."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from hf_sft.metrics.classification import (
    accuracy,
    auroc,
    average_precision,
    expected_calibration_error,
    f1,
    log_loss,
    matthews,
    per_class,
    precision,
    recall,
)
from hf_sft.metrics.metric import Outcome

pytestmark = pytest.mark.filterwarnings("error")  # of numpy too: a division by zero is no way to say NaN


def single_label(seed: int, rows: int, labels: int, *, true=None, guessed=None, levels: int = 0) -> Outcome:
    """Random rows; `true` and `guessed`: the labels that occur; `levels`: the number of different scores (ties)."""
    random = np.random.default_rng(seed)
    references = random.choice(np.arange(labels) if true is None else true, size=rows)
    scores = random.integers(1, levels + 1, size=(rows, labels)) if levels else random.random((rows, labels))
    scores = scores + (references[:, None] == np.arange(labels)) * random.integers(2, size=(rows, 1)) * 0.5
    if guessed is not None:
        scores = scores * np.isin(np.arange(labels), guessed)
    scores = scores / scores.sum(axis=1, keepdims=True)
    return Outcome(references=references, predictions=scores.argmax(axis=1), scores=scores, num_labels=labels)


def multi_label(seed: int, rows: int, labels: int, *, never=(), always=(), silent=(), levels: int = 0) -> Outcome:
    """Random rows; labels that no row has, that every row has, and that are never predicted; levels as above."""
    random = np.random.default_rng(seed)
    references = random.random((rows, labels)) < 0.3
    references[:, list(never)], references[:, list(always)] = False, True
    scores = np.clip(random.random((rows, labels)) * 0.8 + references * 0.15 + 0.01, 0, 1)
    scores = np.ceil(scores * levels) / (levels + 1) if levels else scores
    scores[:, list(silent)] *= 0.4
    return Outcome(references=references, predictions=scores > 0.5, scores=scores, num_labels=labels)


SINGLE_LABEL = {
    "two labels": single_label(0, 400, 2),
    "seven labels": single_label(1, 300, 7),
    "many labels, few rows": single_label(2, 30, 40),
    "two labels, ties": single_label(3, 200, 2, levels=3),
    "five labels, ties": single_label(4, 200, 5, levels=2),
    "labels that are never true": single_label(5, 100, 6, true=[1, 4]),
    "labels that are never predicted": single_label(6, 100, 6, guessed=[0, 3, 5]),
    "labels that never occur": single_label(7, 100, 6, true=[1, 2], guessed=[2, 3]),
    "one true label of two": single_label(8, 50, 2, true=[1]),
    "one true label of four": single_label(9, 50, 4, true=[2]),
    "one predicted label": single_label(10, 50, 3, guessed=[0]),
    "one row": single_label(11, 1, 3),
}
MULTI_LABEL = {
    "two labels": multi_label(0, 300, 2),
    "nine labels": multi_label(1, 200, 9),
    "ties": multi_label(2, 200, 5, levels=4),
    "labels of no row and of every row": multi_label(3, 100, 6, never=[0, 2], always=[5]),
    "labels that are never predicted": multi_label(4, 100, 4, silent=[1, 3]),
    "no label anywhere": multi_label(5, 40, 3, never=[0, 1, 2], silent=[0, 1, 2]),
    "one row": multi_label(6, 1, 4),
}
ALL = {f"single_label: {name}": outcome for name, outcome in SINGLE_LABEL.items()}
ALL |= {f"multi_label: {name}": outcome for name, outcome in MULTI_LABEL.items()}

over_all = pytest.mark.parametrize("outcome", ALL.values(), ids=ALL)
over_single_label = pytest.mark.parametrize("outcome", SINGLE_LABEL.values(), ids=SINGLE_LABEL)


def equal(value: float) -> object:
    return pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True)


def mean_over_labels(outcome: Outcome, score) -> float:
    """Mean of score(truth, scores) over labels that some rows have and some have not; of two classes: the second."""
    if outcome.references.ndim == 1:
        outcome = replace(outcome, references=outcome.references[:, None] == np.arange(outcome.num_labels))
        if outcome.num_labels == 2:
            outcome = replace(outcome, references=outcome.references[:, 1:], scores=outcome.scores[:, 1:])
    columns = [(truth, scores) for truth, scores in zip(outcome.references.T, outcome.scores.T, strict=True)]
    values = [score(truth, scores) for truth, scores in columns if truth.any() and not truth.all()]
    return float(np.mean(values)) if values else math.nan


@over_all
def test_accuracy_equals_scikit_learn(outcome):
    assert accuracy(outcome) == equal(sklearn_metrics.accuracy_score(outcome.references, outcome.predictions))


@over_all
@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (f1, sklearn_metrics.f1_score),
        (precision, sklearn_metrics.precision_score),
        (recall, sklearn_metrics.recall_score),
    ],
)
def test_f1_precision_and_recall_equal_scikit_learn(outcome, average, ours, theirs):
    expected = theirs(outcome.references, outcome.predictions, average=average, zero_division=0)
    assert ours(outcome, average) == equal(expected)


@over_all
def test_per_class_equals_scikit_learn(outcome):
    names = [f"label {index}" for index in range(outcome.num_labels)]
    columns = sklearn_metrics.precision_recall_fscore_support(
        outcome.references, outcome.predictions, labels=range(outcome.num_labels), zero_division=0
    )
    found = per_class(outcome, names)
    assert list(found) == names
    for index, row in enumerate(found.values()):
        assert list(row) == ["precision", "recall", "f1", "support"]
        assert list(row.values()) == [equal(column[index]) for column in columns]
        assert isinstance(row["support"], int)


@over_single_label
def test_matthews_equals_scikit_learn(outcome):
    assert matthews(outcome) == equal(sklearn_metrics.matthews_corrcoef(outcome.references, outcome.predictions))


@over_all
def test_auroc_is_scikit_learns_mean_over_labels(outcome):
    assert auroc(outcome) == equal(mean_over_labels(outcome, sklearn_metrics.roc_auc_score))


@over_all
def test_average_precision_is_scikit_learns_mean_over_labels(outcome):
    assert average_precision(outcome) == equal(mean_over_labels(outcome, sklearn_metrics.average_precision_score))


@pytest.mark.parametrize("name", ["seven labels", "five labels, ties", "labels that are never predicted"])
def test_auroc_of_one_against_the_rest_equals_scikit_learn(name):
    outcome = SINGLE_LABEL[name]  # where every label is true of some row
    theirs = sklearn_metrics.roc_auc_score(outcome.references, outcome.scores, multi_class="ovr", average="macro")
    assert auroc(outcome) == equal(theirs)


@pytest.mark.parametrize("ours", [auroc, average_precision])
@pytest.mark.parametrize("references", [[0, 0, 0], [1, 1, 1]])
def test_ranking_is_not_defined_where_all_rows_are_of_one_label(ours, references):
    scores = np.array([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])
    outcome = Outcome(references=np.array(references), predictions=scores.argmax(1), scores=scores, num_labels=2)
    assert math.isnan(ours(outcome))


@over_all
def test_log_loss_equals_scikit_learn(outcome):
    if outcome.references.ndim == 2:
        expected = sklearn_metrics.log_loss(outcome.references.ravel(), outcome.scores.ravel(), labels=[False, True])
    else:
        clipped = np.clip(outcome.scores, 1e-15, 1)
        expected = sklearn_metrics.log_loss(outcome.references, clipped, labels=range(outcome.num_labels))
    assert log_loss(outcome) == equal(expected)


@pytest.mark.parametrize("several", [False, True], ids=["single_label", "multi_label"])
def test_log_loss_of_certainty_is_zero_or_minus_ln_of_1e_15(several):
    scores = np.array([[0.0, 1.0]])
    right = np.array([[False, True]]) if several else np.array([1])
    wrong = np.array([[True, False]]) if several else np.array([0])
    outcome = Outcome(references=right, predictions=right, scores=scores, num_labels=2)
    assert str(log_loss(outcome)) == "0.0"
    assert log_loss(replace(outcome, references=wrong)) == pytest.approx(15 * math.log(10))


@over_all
def test_calibration_error_is_the_weighted_gap_of_fifteen_bins(outcome):
    if outcome.references.ndim == 2:
        cells = zip(outcome.scores.ravel(), outcome.references.ravel(), strict=True)
    else:
        cells = zip(outcome.scores.max(axis=1), outcome.references == outcome.predictions, strict=True)
    bins: dict[int, list[float]] = {}
    for confidence, right in cells:
        (index,) = [m for m in range(15) if m / 15 < confidence <= (m + 1) / 15 or (m == 0 and confidence == 0)]
        bins.setdefault(index, []).append(right - confidence)
    num_cells = sum(map(len, bins.values()))
    expected = sum(len(gaps) / num_cells * abs(np.mean(gaps)) for gaps in bins.values())
    assert expected_calibration_error(outcome) == equal(expected)


def test_calibration_error_of_a_sure_model_is_its_error_rate():
    scores = np.eye(2)[[0, 0, 1, 1, 1]]
    outcome = Outcome(references=np.array([0, 1, 1, 1, 0]), predictions=scores.argmax(1), scores=scores, num_labels=2)
    assert expected_calibration_error(outcome) == pytest.approx(2 / 5)


def test_calibration_error_closes_bins_on_the_right():
    confidence = np.array([0.6, 0.6 + 1e-9])  # 9 / 15: the last of bin 9, the first of bin 10
    scores = np.stack([confidence, 1 - confidence], axis=1)
    outcome = Outcome(references=np.array([0, 1]), predictions=np.array([0, 0]), scores=scores, num_labels=2)
    assert expected_calibration_error(outcome) == pytest.approx((0.4 + 0.6) / 2)  # in one bin they would cancel


@pytest.mark.parametrize("score", [auroc, average_precision, log_loss, expected_calibration_error])
@pytest.mark.parametrize("outcome", [SINGLE_LABEL["seven labels"], MULTI_LABEL["nine labels"]], ids=["single", "multi"])
def test_scores_that_are_not_numbers_give_no_number(score, outcome):
    assert not math.isnan(score(outcome))
    assert math.isnan(score(replace(outcome, scores=np.full_like(outcome.scores, np.nan))))


@pytest.mark.parametrize("outcome", [SINGLE_LABEL["two labels"], MULTI_LABEL["nine labels"]], ids=["single", "multi"])
@pytest.mark.parametrize(
    "score",
    [accuracy, auroc, average_precision, log_loss, expected_calibration_error]
    + [
        partial(score, average=average)
        for score in (f1, precision, recall)
        for average in ("macro", "micro", "weighted")
    ],
)
def test_no_rows_give_no_number(score, outcome):
    assert math.isnan(score(outcome.take(np.array([], dtype=int))))


def test_matthews_of_no_rows_is_no_number():
    assert math.isnan(matthews(SINGLE_LABEL["two labels"].take(np.array([], dtype=int))))


def test_counts_take_memory_by_labels_not_by_pairs_of_labels():
    references, predictions = np.array([0, 1, 199_999]), np.array([0, 7, 199_999])  # pairs: 320 GB
    outcome = Outcome(references=references, predictions=predictions, scores=np.zeros((3, 1)), num_labels=200_000)
    assert f1(outcome, "macro") == pytest.approx(2 / 4)
    assert matthews(outcome) == pytest.approx(
        sklearn_metrics.matthews_corrcoef(outcome.references, outcome.predictions)
    )
