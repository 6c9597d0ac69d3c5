"""Metrics of regression: how far predictions are from the truth, and whether they order the rows as it does.

Every function takes an Outcome of N rows, references and predictions float64 [N], and returns one number: NaN for no
rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hf_sft.metrics.metric import Outcome


def mse(outcome: Outcome) -> float:
    """Mean squared difference, in [0, inf), in squared units of the references."""
    differences = outcome.predictions - outcome.references
    return float(np.mean(differences**2)) if len(differences) else np.nan


def mae(outcome: Outcome) -> float:
    """Mean absolute difference, in [0, inf), in units of the references."""
    differences = outcome.predictions - outcome.references
    return float(np.mean(np.abs(differences))) if len(differences) else np.nan


def pearson(outcome: Outcome) -> float:
    """Linear correlation, in [-1, 1] (Pearson 1895); NaN where either side is constant."""
    return _correlation(outcome.references, outcome.predictions)


def spearman(outcome: Outcome) -> float:
    """Correlation of ranks, in [-1, 1], ties at their mean rank (Spearman 1904); NaN where either side is constant."""
    if not (_varies(outcome.references) and _varies(outcome.predictions)):
        return np.nan
    return _correlation(_ranks(outcome.references), _ranks(outcome.predictions))


def r2(outcome: Outcome) -> float:
    """Share of the references' variance that is explained, in (-inf, 1]; NaN where the references are constant."""
    if not _varies(outcome.references):
        return np.nan
    residuals = outcome.references - outcome.predictions
    deviations = outcome.references - outcome.references.mean()
    return float(1 - residuals @ residuals / (deviations @ deviations))


def _correlation(left: NDArray, right: NDArray) -> float:
    if not (_varies(left) and _varies(right)):
        return np.nan
    left, right = left - left.mean(), right - right.mean()
    correlation = left @ right / (np.linalg.norm(left) * np.linalg.norm(right))
    return float(np.clip(correlation, -1, 1))


def _varies(values: NDArray) -> bool:
    """Whether two values differ and all are finite; exact, where deviations from a mean may round to 1e-17."""
    return len(values) > 0 and bool(np.isfinite(values).all() and values.min() < values.max())


def _ranks(values: NDArray) -> NDArray:
    """Rank of each value from 1, equal values at their mean rank; float64 [N]."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right") + 1) / 2
