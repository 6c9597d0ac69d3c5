"""Logistic and ridge regression by scikit-learn, as layers of a network: one row of weights per output, whatever the

targets lack.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

Layer: TypeAlias = tuple[NDArray, NDArray]  # weight [L, D] and bias [L]
MOST_STEPS = 1_000


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How one fit goes. strength: the variance of a weight (C of scikit-learn, 1 / alpha of a ridge regression).

    tolerance: the gradient of the mean loss at which L-BFGS stops. start: the layer that it goes on from.
    """

    num_outputs: int
    intercept: bool
    strength: float
    tolerance: float
    start: Layer | None = None


@dataclass(frozen=True, kw_only=True)
class Method:
    """fit: (rows [N, D], targets, how) -> layer. loss: (logits, targets, targets that were fitted) -> mean; NaN

    where no row can be judged. strengths: from strong to weak regularisation, a power of ten apart.
    """

    name: str
    letter: str
    strengths: tuple[float, ...]
    fit: Callable[[NDArray, NDArray, Fit], Layer]
    loss: Callable[[NDArray, NDArray, NDArray], float]


def _fit_single(rows: NDArray, targets: NDArray, how: Fit) -> Layer:
    weight, bias = np.zeros((how.num_outputs, rows.shape[1])), np.zeros(how.num_outputs)
    present = np.unique(targets)
    if len(present) == 2:  # two rows whose difference is the solution
        start = None if how.start is None else (np.diff(how.start[0][present], axis=0), np.diff(how.start[1][present]))
        coefficients, constants = _logistic(rows, targets, how, start)
        weight[present], bias[present] = np.array([[-0.5], [0.5]]) * coefficients, np.array([-0.5, 0.5]) * constants
    elif len(present) > 2:
        start = None if how.start is None else (how.start[0][present], how.start[1][present])
        weight[present], bias[present] = _logistic(rows, targets, how, start)
    absent = np.setdiff1d(np.arange(how.num_outputs), present)
    if len(absent):  # below whatever a row of the others gets
        least = float((rows @ weight[present].T + bias[present]).min()) - math.log(len(rows) + 1)
        weight[absent], bias[absent] = _constant(least, rows, how.intercept)
    return weight, bias


def _fit_multi(rows: NDArray, targets: NDArray, how: Fit) -> Layer:
    weight, bias = np.zeros((how.num_outputs, rows.shape[1])), np.zeros(how.num_outputs)
    for label in range(how.num_outputs):
        have = targets[:, label] > 0.5
        if have.all() or not have.any():
            odds = math.log((have.sum() + 0.5) / (len(have) - have.sum() + 0.5))
            weight[label], bias[label] = _constant(odds, rows, how.intercept)
            continue
        start = None if how.start is None else (how.start[0][[label]], how.start[1][[label]])
        coefficients, constants = _logistic(rows, have, how, start)
        weight[label], bias[label] = coefficients[0], constants[0]
    return weight, bias


def _logistic(rows: NDArray, targets: NDArray, how: Fit, start: Layer | None) -> Layer:
    model = LogisticRegression(
        C=how.strength, tol=how.tolerance, fit_intercept=how.intercept, max_iter=MOST_STEPS, warm_start=True
    )
    if start is not None:
        model.coef_, model.intercept_ = np.ascontiguousarray(start[0]), np.ascontiguousarray(start[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a thousand steps, or as far as float64 goes
        model.fit(rows, targets)
    return model.coef_, np.broadcast_to(model.intercept_, len(model.coef_)).astype(np.float64)


def _constant(value: float, rows: NDArray, intercept: bool) -> tuple[NDArray, float]:
    """A row of weights and a bias that give about that value: without a bias, along the mean of the rows."""
    mean = rows.mean(0)
    if intercept or not mean.any():
        return np.zeros(rows.shape[1]), value if intercept else 0.0
    return mean * (value / float(mean @ mean)), 0.0


def _fit_number(rows: NDArray, targets: NDArray, how: Fit) -> Layer:
    model = Ridge(alpha=1 / how.strength, fit_intercept=how.intercept)
    model.fit(rows, targets.astype(np.float64).reshape(len(rows), how.num_outputs))
    return model.coef_.reshape(how.num_outputs, -1), np.broadcast_to(model.intercept_, how.num_outputs).astype(float)


def _log_loss(logits: NDArray, targets: NDArray, fitted: NDArray) -> float:
    judged = np.isin(targets, fitted)  # of a class without another row nothing could be learnt
    if not judged.any():
        return math.nan
    logits, targets = logits[judged], targets[judged]
    logits = logits - logits.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(targets)), targets]))


def _binary_log_loss(logits: NDArray, targets: NDArray, fitted: NDArray) -> float:
    signs = np.where(targets > 0.5, 1.0, -1.0)
    return float(np.logaddexp(0.0, -signs * logits).mean())


def _squared_error(logits: NDArray, targets: NDArray, fitted: NDArray) -> float:
    return float(np.mean((logits - targets.astype(np.float64).reshape(logits.shape)) ** 2))


def _powers(least: int, most: int) -> tuple[float, ...]:
    return tuple(10.0**power for power in range(least, most + 1))


METHODS: dict[str, Method] = {  # problem -> how its head is solved
    "single_label": Method(
        name="logistic regression", letter="C", strengths=_powers(-4, 3), fit=_fit_single, loss=_log_loss
    ),
    "multi_label": Method(
        name="logistic regression", letter="C", strengths=_powers(-4, 3), fit=_fit_multi, loss=_binary_log_loss
    ),
    "regression": Method(
        name="ridge regression", letter="alpha", strengths=_powers(-6, 3), fit=_fit_number, loss=_squared_error
    ),
}
