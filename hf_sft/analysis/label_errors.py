"""Labels that are likely wrong: confident learning (Northcutt, Jiang & Chuang 2021, "Confident Learning")."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_MARGIN = 0.8  # of the suggested label's probability above the given one's: a weak model doubts half of all labels


def likely_label_errors(references: NDArray, scores: NDArray, *, least_margin: float = LEAST_MARGIN) -> NDArray:
    """Positions of rows whose label is likely wrong, the most suspicious first.

    references: int64 [N], labels as given. scores: float [N, L], of a model that was not trained on these rows.
    A row counts where the model is at least as sure of another class as it is, on average, of the rows that carry
    that class, of no class more, and by `least_margin` more than of the given label; ordered by that margin. Calibrated
    scores keep a model that is too sure of itself from doubting everything it gets wrong.
    """
    size = scores.shape[1]
    sure = np.full(size, np.inf)
    for label in np.unique(references):
        sure[label] = scores[references == label, label].mean()
    confident = np.where(scores >= sure - 1e-12, scores, -1.0)
    suggested = confident.argmax(axis=1)
    suspicious = (confident.max(axis=1) >= 0) & (suggested != references)
    rows = np.arange(len(references))
    margin = scores[rows, suggested] - scores[rows, references]
    found = np.flatnonzero(suspicious & (margin >= max(least_margin, 1e-12)))
    return found[np.argsort(-margin[found], kind="stable")]
