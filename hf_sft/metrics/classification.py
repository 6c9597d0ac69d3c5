"""Metrics of classification: how often the right label is named, and how far the scores can be trusted.

Every function takes an Outcome of N rows and L labels and returns one number: NaN for no rows. The bootstrap calls each
a thousand times, so all count with numpy and none builds an L x L table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_sft.metrics.metric import Outcome

Average = Literal["macro", "micro", "weighted"]
NUM_BINS = 15  # Guo et al. 2017
SMALLEST_PROBABILITY = 1e-15


def accuracy(outcome: Outcome) -> float:
    """Share of rows that are right, in [0, 1]; multi_label: every label of the row must be (subset accuracy)."""
    right = outcome.references == outcome.predictions
    return _mean(right.all(axis=1) if right.ndim == 2 else right)


def precision(outcome: Outcome, average: Average) -> float:
    """Share of the predicted labels that are true, in [0, 1]; 0 where none is predicted. See `f1` for `average`."""
    counts = _count(outcome)
    return _averaged(counts, counts.hits, counts.predicted, average)


def recall(outcome: Outcome, average: Average) -> float:
    """Share of the true labels that are predicted, in [0, 1]; 0 where none is true. See `f1` for `average`."""
    counts = _count(outcome)
    return _averaged(counts, counts.hits, counts.support, average)


def f1(outcome: Outcome, average: Average) -> float:
    """Harmonic mean of precision and recall, in [0, 1] (van Rijsbergen 1979); 0 where both are 0.

    macro: mean over labels, in single_label over those that occur in references or predictions, in multi_label over
    all L; weighted: mean over labels, weighted by true rows; micro: of the counts of all labels together. As
    scikit-learn with zero_division=0.
    """
    counts = _count(outcome)
    return _averaged(counts, 2 * counts.hits, counts.predicted + counts.support, average)


def matthews(outcome: Outcome) -> float:
    """Correlation of references and predictions, in [-1, 1] (Matthews 1975; Gorodkin 2004 for more than two labels).

    0 where references or predictions hold one label only, as in scikit-learn.
    """
    num_rows = len(outcome.references)
    if num_rows == 0:
        return np.nan
    hits, predicted, support, _ = (counts.astype(np.float64) for counts in _count(outcome))
    together = hits.sum() * num_rows - predicted @ support
    apart = (num_rows**2 - predicted @ predicted) * (num_rows**2 - support @ support)
    return float(together / np.sqrt(apart)) if apart else 0.0


def auroc(outcome: Outcome) -> float:
    """Area under the ROC curve, in [0, 1]: how often a row of a label outscores a row without (Hanley & McNeil 1982).

    Two single_label classes: of the scores of class 1; more: mean over labels, each against the rest; multi_label: mean
    over labels. A tie counts one half. Labels that no row has, or every row, are left out; NaN where none remains.
    """
    areas = []
    for scores, own in _scores_of_labels(outcome):
        below = np.searchsorted(scores, own, side="left")
        upto = np.searchsorted(scores, own, side="right")
        ranks = (below.sum() + upto.sum() + len(own)) / 2  # of own among all, from 1, ties at their mean
        areas.append((ranks - len(own) * (len(own) + 1) / 2) / (len(own) * (len(scores) - len(own))))
    return _mean(areas)


def average_precision(outcome: Outcome) -> float:
    """Area under the steps of the precision-recall curve, in [0, 1]; labels as in `auroc`, two classes: class 1.

    Sum over thresholds of precision times gain in recall, not interpolated, as in scikit-learn; equal scores are one
    threshold.
    """
    areas = []
    for scores, own in _scores_of_labels(outcome):
        hits = len(own) - np.searchsorted(own, own, side="left")
        predicted = len(scores) - np.searchsorted(scores, own, side="left")
        areas.append((hits / predicted).mean())
    return _mean(areas)


def log_loss(outcome: Outcome) -> float:
    """Mean of -ln(probability of the truth), in [0, 34.6] (Good 1952); multi_label: mean over all N x L cells.

    Probabilities below 1e-15 count as 1e-15.
    """
    references, scores = outcome.references, outcome.scores
    if references.ndim == 2:
        of_truth = np.where(references, scores, 1 - scores)
    else:
        of_truth = scores[np.arange(len(references)), references]
    return 0.0 - _mean(np.log(np.maximum(of_truth, SMALLEST_PROBABILITY)))  # never -0.0


def expected_calibration_error(outcome: Outcome) -> float:
    """Mean distance between confidence and accuracy over 15 equal bins of confidence, in [0, 1] (Guo et al. 2017).

    single_label: confidence is the top probability of the row, accuracy that of the prediction; multi_label: the score
    of each of the N x L cells, beside whether the label is there.
    """
    if outcome.references.ndim == 2:
        confidence, right = outcome.scores.ravel(), outcome.references.ravel()
    else:
        confidence, right = outcome.scores.max(axis=1), outcome.references == outcome.predictions
    if len(confidence) == 0 or np.isnan(confidence).any():
        return np.nan
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)  # bin m is (m/15, (m+1)/15]
    gaps = np.bincount(bins, weights=right - confidence, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def per_class(outcome: Outcome, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Label name -> precision, recall, f1 (in [0, 1], 0 where not defined) and support (int: rows that have the label).

    `names`: the L labels in order. single_label and multi_label.
    """
    hits, predicted, support, _ = _count(outcome)
    columns = _ratio(hits, predicted), _ratio(hits, support), _ratio(2 * hits, predicted + support), support
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {
        name: dict(zip(("precision", "recall", "f1", "support"), row, strict=True))
        for name, row in zip(names, rows, strict=True)
    }


class _Counts(NamedTuple):
    """Rows per label, each int64 [L], and bool [L]: whether the label belongs to the average over labels."""

    hits: NDArray
    predicted: NDArray
    support: NDArray
    occurs: NDArray


def _count(outcome: Outcome) -> _Counts:
    references, predictions = outcome.references, outcome.predictions
    if references.ndim == 2:
        all_labels = np.full(outcome.num_labels, len(references) > 0)
        hits = (references & predictions).sum(axis=0)
        return _Counts(hits, predictions.sum(axis=0), references.sum(axis=0), all_labels)
    hits = np.bincount(references[references == predictions], minlength=outcome.num_labels)
    predicted = np.bincount(predictions, minlength=outcome.num_labels)
    support = np.bincount(references, minlength=outcome.num_labels)
    return _Counts(hits, predicted, support, predicted + support > 0)


def _averaged(counts: _Counts, part: NDArray, whole: NDArray, average: Average) -> float:
    """Mean over labels of part / whole, counts of rows, each [L]."""
    if not counts.occurs.any():  # no rows
        return np.nan
    if average == "micro":
        return float(part.sum() / max(whole.sum(), 1))
    ratios = _ratio(part, whole)
    if average == "weighted":
        return float(ratios @ counts.support / max(counts.support.sum(), 1))
    return _mean(ratios[counts.occurs])


def _scores_of_labels(outcome: Outcome) -> Iterator[tuple[NDArray, NDArray]]:
    """(scores of all rows, of the rows that have the label), both ascending, per label of some rows but not all.

    Nothing where a score is NaN: sorting would make it the highest.
    """
    references, scores = outcome.references, outcome.scores
    if np.isnan(scores).any():
        return
    binary = references.ndim == 1 and outcome.num_labels == 2
    for label in (1,) if binary else range(outcome.num_labels):
        has_label = references[:, label] if references.ndim == 2 else references == label
        column = scores[:, label]
        own = column[has_label]
        if 0 < len(own) < len(column):
            yield np.sort(column), np.sort(own)


def _ratio(part: NDArray, whole: NDArray) -> NDArray:
    """part / whole of counts, elementwise: 0 where whole is 0, for then part is too."""
    return part / np.maximum(whole, 1)


def _mean(values: NDArray | Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else np.nan
