"""Which labels are taken for which: counts for the record, a picture for the card."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_sft.tables import printable

MOST_LABELS = 100  # whose counts are recorded
MOST_COUNTED = 12  # whose counts are written into it

Counts = Sequence[Sequence[int]]


def count_confusion(references: NDArray, predictions: NDArray, num_labels: int) -> list[list[int]]:
    """[true label][predicted label] -> rows; both int arrays [N] of label ids."""
    counts = np.bincount(references * num_labels + predictions, minlength=num_labels**2)
    return [[int(count) for count in row] for row in counts.reshape(num_labels, num_labels)]


def save_confusion(counts: Counts, names: Sequence[str], path: Path) -> None:
    """Write the PNG, its folder too; the same counts give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_png(counts, names))


def as_png(counts: Counts, names: Sequence[str]) -> bytes:
    """The share of each true label's rows by predicted label, a row of the picture each."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = np.asarray(counts, dtype=np.float64)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    shown = [_short(name) for name in names]
    margin = 0.75 + 0.065 * max(map(len, shown))  # inches; a letter of 8 points is about 0.065 wide
    side = max(2.0, 0.24 * len(names))
    width, height = margin + side + 0.2, margin + side + 0.4
    buffer = io.BytesIO()
    with style.context("default"):
        figure = Figure(figsize=(width, height), dpi=100)
        FigureCanvasAgg(figure)
        panel = figure.add_axes((margin / width, margin / height, side / width, side / height))
        panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        panel.set_xticks(range(len(names)), shown, rotation=90, fontsize=8)
        panel.set_yticks(range(len(names)), shown, fontsize=8)
        panel.set_xlabel("predicted", fontsize=9)
        panel.set_ylabel("true", fontsize=9)
        panel.set_title("darker: more of the true label's rows", fontsize=8)
        if len(names) <= MOST_COUNTED:
            _write_counts(panel, table, shares)
        figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def _write_counts(panel: Any, table: NDArray, shares: NDArray) -> None:
    for (true, predicted), count in np.ndenumerate(table):
        colour = "white" if shares[true, predicted] > 0.5 else "black"
        panel.text(predicted, true, f"{int(count)}", ha="center", va="center", color=colour, fontsize=8)


def _short(name: str) -> str:
    """A label as a tick: dollars would start a formula."""
    text = printable(name)
    return (text if len(text) <= 24 else f"{text[:23]}…").replace("$", r"\$")
