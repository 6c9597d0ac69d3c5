"""What the course of a row tells of it: how sure the model was of its label, how it wavered, what it forgot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """Training rows over epochs. probability: float [N, E] of the row's own label; correct: float [N, E], 1 or 0; both

    NaN where a row was not seen in that epoch. answered: [N][E] other labels that it was given, None elsewhere.
    """

    row_ids: NDArray
    labels: Sequence[str]
    probability: NDArray
    correct: NDArray
    answered: Sequence[Sequence[str | None]]

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def epochs(self) -> int:
        return int(self.probability.shape[1])

    @cached_property
    def seen(self) -> NDArray:
        """int [N]: epochs in which the row was seen."""
        return (~np.isnan(self.probability)).sum(axis=1)

    @cached_property
    def confidence(self) -> NDArray:
        """float [N]: mean probability of its label (Swayamdipta et al. 2020); NaN where it was never seen."""
        return _mean(self.probability, self.seen)

    @cached_property
    def variability(self) -> NDArray:
        """float [N]: standard deviation of that probability over the epochs."""
        spread = (self.probability - self.confidence[:, None]) ** 2
        return np.sqrt(_mean(spread, self.seen))

    @cached_property
    def correctness(self) -> NDArray:
        """float [N]: share of the epochs in which it was answered rightly."""
        return _mean(self.correct, self.seen)

    @cached_property
    def forgotten_in(self) -> NDArray:
        """bool [N, E]: wrong in this epoch, and right when it was last seen before (Toneva et al. 2019)."""
        events = np.zeros(self.correct.shape, dtype=bool)
        before = np.zeros(len(self))
        for epoch in range(self.epochs):
            now = self.correct[:, epoch]
            events[:, epoch] = (before == 1) & (now == 0)
            before = np.where(np.isnan(now), before, now)
        return events

    @cached_property
    def forgotten(self) -> NDArray:
        """int [N]: how often it was right in one epoch and wrong in the next in which it was seen."""
        return self.forgotten_in.sum(axis=1)

    @cached_property
    def learned_at(self) -> NDArray:
        """int [N]: the epoch (from 1) since which it was always right; 0 where it was wrong when last seen."""
        since = np.zeros(len(self), dtype=np.int64)
        for epoch in range(self.epochs):
            now = self.correct[:, epoch]
            since = np.where(now == 0, 0, np.where((now == 1) & (since == 0), epoch + 1, since))
        return since

    @cached_property
    def always_right(self) -> NDArray:
        """bool [N]: from the first epoch in which it was seen, which need not be the first of training."""
        return ~(self.correct == 0).any(axis=1) & (self.seen > 0)

    @cached_property
    def ever_right(self) -> NDArray:
        """bool [N]"""
        return (self.correct == 1).any(axis=1)

    def other_label(self, row: int) -> tuple[str, int]:
        """The label that it was given instead most often, and how often; of equals the later one. ("", 0): never."""
        given = [label for label in self.answered[row] if label is not None]
        if not given:
            return "", 0
        often = max(reversed(given), key=given.count)
        return often, given.count(often)


def from_columns(columns: Mapping[str, list[Any]]) -> Dynamics:
    """The columns that training wrote, each a list. Rows that were not seen in any epoch are left out."""
    probability, correct = (
        np.array([[np.nan if value is None else float(value) for value in row] for row in columns[name]], dtype=float)
        for name in ("probability", "correct")
    )
    size = len(columns["row_id"])
    probability, correct = probability.reshape(size, -1), correct.reshape(size, -1)
    kept = np.flatnonzero((~np.isnan(probability)).any(axis=1))
    return Dynamics(
        row_ids=np.array(columns["row_id"], dtype=np.int64)[kept],
        labels=[columns["label"][row] for row in kept],
        probability=probability[kept],
        correct=correct[kept],
        answered=[columns["answered"][row] for row in kept],
    )


def _mean(values: NDArray, count: NDArray) -> NDArray:
    total = np.nansum(values, axis=1)
    means: NDArray = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return means
