"""How much a class weighs so that rare ones count as much as common ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST = 100.0  # of a label with several per row; 1 of 10,000 rows would weigh as much as the others together


def balance_classes(targets: NDArray, number: int) -> NDArray:
    """float [number]: rows / (classes with rows * rows of the class), as King, Zeng 2001 and scikit-learn; mean over

    rows 1. targets: int64 [N]. A class without a row weighs 0: nothing is known of it, and nothing is divided by 0.
    """
    counts = np.bincount(targets, minlength=number)
    return np.divide(len(targets), np.count_nonzero(counts) * counts, out=np.zeros(number), where=counts > 0)


def balance_presence(targets: NDArray, number: int) -> NDArray:
    """float [number]: rows without the label / rows with it, from 1/MOST to MOST: both sides of each label's question

    count alike. targets: float [N, number]. A label that no row has, or every row, weighs 1.
    """
    present = targets.sum(0)
    absent = len(targets) - present
    weights = np.divide(absent, present, out=np.ones(number), where=(present > 0) & (absent > 0))
    return np.clip(weights, 1 / MOST, MOST)
