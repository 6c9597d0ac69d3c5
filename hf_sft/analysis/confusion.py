"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hf_sft.analysis.drawing import drawn, heatmap
from hf_sft.analysis.proportions import f1_interval, share
from hf_sft.analysis.section import Cell, Figure, Table

SIDE_BY_SIDE = 15  # classes up to which both matrices fit beside each other


def count(references: NDArray, predictions: NDArray, size: int) -> NDArray:
    """int64 [L, L]: rows of each class (first axis) that were taken for each (second)."""
    found = np.bincount(references * size + predictions, minlength=size * size)
    return found.reshape(size, size)


def clustered(matrix: NDArray) -> NDArray:
    """Order of the classes in which those that are taken for each other stand together."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(matrix) < 4:
        return np.arange(len(matrix))
    shares = normalised(matrix)
    alike = (shares + shares.T) / 2
    distance = 1 - alike / max(alike[~np.eye(len(matrix), dtype=bool)].max(), 1e-12)
    np.fill_diagonal(distance, 0)
    order: NDArray = leaves_list(linkage(squareform(distance.clip(0), checks=False), "average", optimal_ordering=True))
    return order


def normalised(matrix: NDArray) -> NDArray:
    """Shares of each row; zeros where a class has no row."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def draw(matrix: NDArray, names: Sequence[str]) -> list[Figure]:
    """The matrix as counts and as shares of each true class, its classes in clustered order where there are many."""
    few = len(names) <= SIDE_BY_SIDE
    order = np.arange(len(names)) if few else clustered(matrix)
    counts, labels = matrix[np.ix_(order, order)], [names[number] for number in order.tolist()]
    both = ((counts, False, "rows"), (normalised(counts), True, "share of the true class"))
    told = "" if few else " Classes that are taken for each other stand side by side."
    caption = "Truth downwards, prediction across: what lies off the diagonal is taken for something else." + told
    if few:
        side = max(3.6, 0.42 * len(names) + 1.6)
        with drawn(2 * side + 0.4, side) as canvas:
            for panel, (values, shares, title) in zip(canvas.panels(1, 2), both, strict=True):
                heatmap(panel, values, labels, shares=shares, title=title)
        return [canvas.figure("confusion", caption)]
    found = []
    for name, (values, shares, title) in zip(("confusion", "confusion_shares"), both, strict=True):
        side = min(13.0, 0.13 * len(names) + 3)
        with drawn(side, side) as canvas:
            heatmap(canvas.panels()[0], values, labels, shares=shares, title=title)
        found.append(canvas.figure(name, caption))
    return found


def top_confusions(matrix: NDArray, names: Sequence[str], *, unit: str = "rows") -> Table:
    """The pairs that cost most rows."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[: int((wrong > 0).sum())]
    rows: list[list[Cell]] = []
    for place in order.tolist():
        truth, taken = divmod(place, len(names))
        hits, support = int(wrong[truth, taken]), int(matrix[truth].sum())
        rows.append([names[truth], names[taken], hits, share(hits, support)])
    return Table(
        name="confusions",
        caption="The most frequent confusions, with the share of the true class that they take.",
        heads=("truth", "taken for", unit, "share of the class"),
        rows=rows,
        shown=20,
    )


def per_class(
    hits: NDArray,
    predicted: NDArray,
    support: NDArray,
    names: Sequence[str],
    total: int,
    *,
    seed: int,
    unit: str = "rows",
) -> Table:
    """Precision, recall and F1 of each class with 95 % intervals, the weakest first."""
    rows: list[list[Cell]] = []
    for name, hit, found, true in zip(names, hits.tolist(), predicted.tolist(), support.tolist(), strict=True):
        f1 = f1_interval(hit, found, true, total, seed=seed)
        rows.append([name, share(hit, found), share(hit, true), f1, true, found])
    weakest = np.argsort(2 * hits / np.maximum(predicted + support, 1), kind="stable")
    rows = [rows[place] for place in weakest.tolist()]
    return Table(
        name="per_class",
        caption="Each class with 95 % intervals, the weakest first: a wide interval says that there are too few rows.",
        heads=("class", "precision", "recall", "F1", unit, "predicted"),
        rows=rows,
        shown=100,
    )
