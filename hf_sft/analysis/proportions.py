"""How far shares and counts can be trusted: intervals, and tests of one group of rows against another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hf_sft.analysis.section import Interval

Z = 1.959963984540054  # of 95 %, two-sided


def share(hits: float, of: float) -> Interval:
    """hits / of with Wilson's interval (1927), which holds for few rows and for shares near 0 and 1."""
    if not of:
        return Interval(float("nan"), 0.0, 1.0)
    value = hits / of
    middle, square = (value + Z**2 / (2 * of)) / (1 + Z**2 / of), Z**2 / of
    half = Z / (1 + square) * np.sqrt(value * (1 - value) / of + square / (4 * of))
    return Interval(value, float(min(value, max(0.0, middle - half))), float(max(value, min(1.0, middle + half))))


def f1_interval(hits: int, predicted: int, support: int, rows: int, *, seed: int) -> Interval:
    """F1 of one class with a bootstrap interval over the rows; its three counts are all that a resample changes."""
    counts = np.array([hits, predicted - hits, support - hits, rows - predicted - support + hits], dtype=float)
    value = 2 * hits / max(predicted + support, 1)
    if not rows:
        return Interval(float("nan"), 0.0, 1.0)
    drawn = np.random.default_rng(seed).multinomial(rows, counts / rows, size=1000)
    resampled = 2 * drawn[:, 0] / np.maximum(2 * drawn[:, 0] + drawn[:, 1] + drawn[:, 2], 1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def bootstrap(values: NDArray, *, seed: int, resamples: int = 1000) -> Interval:
    """The mean of some values with its percentile bootstrap interval."""
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"))
    generator = np.random.default_rng(seed)
    means = np.array([values[generator.integers(len(values), size=len(values))].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def fewer_right(right_inside: int, inside: int, right_outside: int, outside: int) -> float:
    """p of the one-sided question whether rows inside are right less often than those outside (Fisher 1922)."""
    table = [[right_inside, inside - right_inside], [right_outside, outside - right_outside]]
    return float(stats.fisher_exact(table, alternative="less").pvalue)


def adjusted(p_values: NDArray) -> NDArray:
    """p values of several questions, so that at most that share of those called significant is false on average

    (Benjamini & Hochberg 1995).
    """
    if not len(p_values):
        return p_values
    found: NDArray = stats.false_discovery_control(p_values)
    return found


def mcnemar(only_first: int, only_second: int) -> float:
    """p of the question whether two models are right equally often, from the rows that one alone has right: exact."""
    total = only_first + only_second
    return float(stats.binomtest(only_first, total, 0.5).pvalue) if total else 1.0
