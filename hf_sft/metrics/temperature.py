"""One number that makes a model as sure as it is right: temperature scaling (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-30  # of a probability, so that its logarithm is a number
LIMITS = (0.05, 20.0)
FEWEST = 50  # rows, from fewer of which a temperature is chance


def tempered(scores: NDArray, temperature: float) -> NDArray:
    """Probabilities [N, L] as they would be had the logits been divided by `temperature`; the order stays."""
    logits = np.log(np.maximum(scores, SMALLEST)) / temperature
    logits -= logits.max(axis=-1, keepdims=True)
    powers: NDArray = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True)


def fit_temperature(references: NDArray, scores: NDArray) -> float:
    """The temperature in [0.05, 20] that makes these labels (int64 [N]) most likely; above 1: too sure of itself."""
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(references))

    def loss(logarithm: float) -> float:
        return -float(np.log(np.maximum(tempered(scores, np.exp(logarithm))[rows, references], SMALLEST)).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(LIMITS)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def doubt(temperature: float, rows: int) -> str:
    """Why a temperature fitted on so many rows is not to be used; empty where it may be."""
    if rows < FEWEST:
        return f"{rows} rows of validation are too few to fit one on ({FEWEST} at least)"
    if not LIMITS[0] * 1.01 < temperature < LIMITS[1] * 0.99:
        return (
            f"the fit ran into its limit ({temperature:.2f}): validation is all right or all wrong, or its scores "
            "tell nothing"
        )
    return ""
