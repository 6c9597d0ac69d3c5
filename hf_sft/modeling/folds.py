"""Rows dealt into folds that hold like shares of every target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDS = 5


def deal_folds(targets: NDArray, problem: str, *, seed: int, most: int = FOLDS) -> NDArray | None:
    """int64 [N]: the fold of each row, `most` or as many as leave two classes to each; None where 2 are too many.

    Rows of one target (one set of labels, numbers next to each other) are dealt out in turn, so that a class of n rows
    stands in n folds or in all.
    """
    folds = min(most, _most_folds(targets, problem))
    return None if folds < 2 else _dealt(targets, folds, seed)


def deal_groups(groups: Sequence[Any] | NDArray, *, seed: int, most: int = FOLDS) -> NDArray | None:
    """int64 [N]: the fold of each row, where the rows of a group share one; None where there is one group alone."""
    _, numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    found = int(numbers.max()) + 1
    folds = min(most, found)
    return np.asarray(np.random.default_rng(seed).permutation(found)[numbers] % folds) if folds > 1 else None


def choose_rows(targets: NDArray, most: int, *, seed: int) -> NDArray:
    """Positions of all rows, or of at most that many with like shares of every target, in their order."""
    parts = -(-len(targets) // most)
    return np.flatnonzero(_dealt(targets, parts, seed) == 0) if parts > 1 else np.arange(len(targets))


def _dealt(targets: NDArray, hands: int, seed: int) -> NDArray:
    mixed = np.random.default_rng([seed, hands]).permutation(len(targets))
    keys = targets[mixed].reshape(len(targets), -1)
    order = mixed[np.lexsort(keys.T)]
    dealt = np.empty(len(targets), dtype=np.int64)
    dealt[order] = np.arange(len(targets)) % hands
    return dealt


def _most_folds(targets: NDArray, problem: str) -> int:
    if problem == "single_label":
        counts = np.sort(np.bincount(targets))
        return int(counts[-2]) if len(counts) > 1 else 0
    return len(targets) // 2
