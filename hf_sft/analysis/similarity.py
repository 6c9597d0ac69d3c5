"""How alike two sets of features of the same rows are, and how well they tell classes apart."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

FOLDS = 5


def linear_cka(one: NDArray, other: NDArray) -> float:
    """Linear centred kernel alignment of [N, D] and [N, E] (Kornblith et al. 2019), at most 1: up to turning and scale

    the same. Without the bias towards 1 that few rows of many features bring (Song et al. 2012), so chance gives 0.
    """
    first, second = (_centred_kernel(values.astype(np.float64)) for values in (one, other))
    size = len(one)
    if size < 4:
        return float("nan")
    own = np.sqrt(max(_hsic(first, first), 0) * max(_hsic(second, second), 0))
    return float(_hsic(first, second) / own) if own > 0 else float("nan")


def _centred_kernel(values: NDArray) -> NDArray:
    values = values - values.mean(axis=0)
    values = values / max(float(np.abs(values).max(initial=0)), 1e-30)
    kernel: NDArray = values @ values.T
    np.fill_diagonal(kernel, 0)
    return kernel


def _hsic(first: NDArray, second: NDArray) -> float:
    size = len(first)
    ones = first.sum() * second.sum() / ((size - 1) * (size - 2))
    cross = 2 * (first.sum(axis=0) @ second.sum(axis=0)) / (size - 2)
    return float(((first * second).sum() + ones - cross) / (size * (size - 3)))


def probe_accuracy(features: NDArray, labels: NDArray, *, seed: int) -> float:
    """Share of rows that a linear classifier on these features gets right, in five folds; NaN where that is undefined.

    A ridge classifier on standardised features, its penalty chosen inside each fold.
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kept = np.isin(labels, np.flatnonzero(np.bincount(labels) >= FOLDS))
    if len(np.unique(labels[kept])) < 2:
        return float("nan")
    model = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 5, 6)))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of singular matrices: the larger penalties remain
        scores = cross_val_score(model, features[kept], labels[kept], cv=folds)
    return float(scores.mean())


def two_dimensions(features: NDArray) -> tuple[NDArray, float]:
    """[N, 2], the first two principal components, and the share of the variance that they hold."""
    centred = features - features.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(features), 2))
    kept = min(2, len(values))
    points[:, :kept] = left[:, :kept] * values[:kept]
    total = float((values**2).sum())
    return points, float((values[:2] ** 2).sum() / total) if total else 0.0
