"""Metrics of pixels with classes: counted per image, added up, so that memory does not grow with the images' sizes.

A class that occurs in neither truth nor prediction counts in no mean over classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hf_sft.metrics.metric import Outcome


@dataclass(frozen=True, kw_only=True)
class PixelOutcome(Outcome):
    """An outcome of N images. counts: int64 [N, L, 3], pixels per class: right, predicted, true, of those that count.

    references, predictions: int64 [N, L], true and predicted pixels; scores: float64 [N, L], mean probabilities.
    """

    counts: NDArray

    def take(self, rows: NDArray) -> PixelOutcome:
        parts = ("references", "predictions", "scores", "counts")
        return replace(self, **{name: getattr(self, name)[rows] for name in parts})


def pixel_outcome(counts: NDArray, scores: NDArray) -> PixelOutcome:
    """The outcome of images with these counts."""
    return PixelOutcome(
        references=counts[..., 2], predictions=counts[..., 1], scores=scores, num_labels=counts.shape[1], counts=counts
    )


def count_pixels(truth: NDArray, prediction: NDArray, number: int) -> NDArray:
    """int64 [L, 3]: pixels per class right, predicted, true; pixels whose truth is negative do not count."""
    counting = truth >= 0
    true, predicted = truth[counting], prediction[counting]
    columns = true[true == predicted], predicted, true
    return np.stack([np.bincount(column, minlength=number) for column in columns], axis=1).astype(np.int64)


def mean_iou(outcome: Outcome) -> float:
    """Mean over classes of right / (predicted or true) pixels of all images (Everingham et al. 2010), in [0, 1]."""
    right, predicted, true = _totals(outcome)
    return _mean(right, predicted + true - right)


def mean_dice(outcome: Outcome) -> float:
    """Mean over classes of 2 right / (predicted + true) pixels of all images: their F1, in [0, 1]."""
    right, predicted, true = _totals(outcome)
    return _mean(2 * right, predicted + true)


def pixel_accuracy(outcome: Outcome) -> float:
    """Share of the pixels that are right, in [0, 1]; NaN for none."""
    right, _, true = _totals(outcome)
    return float(right.sum() / true.sum()) if true.sum() else np.nan


def per_class(outcome: Outcome, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Class -> iou, precision, recall, f1 (its Dice; 0 where not defined) and support (int: true pixels)."""
    right, predicted, true = _totals(outcome)
    columns = (
        _ratio(right, predicted + true - right),
        _ratio(right, predicted),
        _ratio(right, true),
        _ratio(2 * right, predicted + true),
        true,
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    heads = ("iou", "precision", "recall", "f1", "support")
    return {name: dict(zip(heads, row, strict=True)) for name, row in zip(names, rows, strict=True)}


def image_ious(counts: NDArray) -> NDArray:
    """float64 [N]: the mean IoU of each image over the classes that occur in it, truth or prediction."""
    right, union = counts[..., 0], counts[..., 1] + counts[..., 2] - counts[..., 0]
    sums = _ratio(right, union).sum(-1)
    return _ratio(sums, (union > 0).sum(-1))


def _totals(outcome: Outcome) -> tuple[NDArray, NDArray, NDArray]:
    assert isinstance(outcome, PixelOutcome)
    right, predicted, true = outcome.counts.sum(axis=0).T
    return right, predicted, true


def _mean(parts: NDArray, wholes: NDArray) -> float:
    occurs = wholes > 0
    return float((parts[occurs] / wholes[occurs]).mean()) if occurs.any() else np.nan


def _ratio(parts: NDArray, wholes: NDArray) -> NDArray:
    return np.divide(parts, wholes, out=np.zeros(np.shape(parts)), where=wholes > 0)
