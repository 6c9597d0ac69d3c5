"""How far a metric may lie from its value by the luck of which rows a split holds."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hf_sft.metrics import METRICS
from hf_sft.metrics.metric import Metric, Outcome

FOREIGN_RESAMPLES = 200  # of a metric that is not ours: Python loops and trips through Arrow take milliseconds
FEWEST_RESAMPLES = 100
MOST_CELLS = 2_000_000_000  # scores copied in all: some ten seconds for a metric that sorts them


def bootstrap_interval(
    metric: Metric, outcome: Outcome, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """(low, high) that hold the metric with probability `level`: as `bootstrap_intervals`, for one metric."""
    low, high = bootstrap_intervals([metric], outcome, seed=seed, resamples=resamples, level=level)[metric.name]
    return low, high


def bootstrap_intervals(
    metrics: Iterable[Metric], outcome: Outcome, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> dict[str, list[float]]:
    """Metric name -> [low, high], the percentile bootstrap over rows (Efron 1979).

    Each resample is drawn once for all metrics, so an interval does not depend on which others are asked for.
    Resamples where a metric is not defined (NaN) are left out; [NaN, NaN] where none remains. Fewer are drawn, at
    least 100, where the outcome holds more than two million scores, and at most 200 for a metric not in METRICS.
    """
    metrics, num_rows = list(metrics), len(outcome.references)
    resamples = min(resamples, max(FEWEST_RESAMPLES, MOST_CELLS // max(outcome.cells, 1)))
    generator = np.random.default_rng(seed)
    values: dict[str, list[float]] = {metric.name: [] for metric in metrics}
    for index in range(resamples if num_rows else 0):
        resample = outcome.take(generator.integers(num_rows, size=num_rows))
        for metric in metrics:
            if index < FOREIGN_RESAMPLES or _is_ours(metric):
                values[metric.name].append(_value(metric, resample))
    return {name: _percentiles(found, level) for name, found in values.items()}


def _is_ours(metric: Metric) -> bool:
    return metric.name in METRICS and METRICS[metric.name].compute is metric.compute


def _value(metric: Metric, resample: Outcome) -> float:
    try:
        return metric.compute(resample)
    except (ValueError, ArithmeticError):  # how libraries and users' functions say "not defined for one class"
        if _is_ours(metric):
            raise
        return np.nan


def _percentiles(values: list[float], level: float) -> list[float]:
    defined = np.array([value for value in values if not np.isnan(value)])
    if len(defined) == 0:
        return [np.nan, np.nan]
    return [float(bound) for bound in np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])]
