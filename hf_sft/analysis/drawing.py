"""How the pictures of a report are drawn: one style, on white, the same bytes for the same figures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from hf_sft.analysis.section import Figure
from hf_sft.curves import COLOURS, GREY
from hf_sft.tables import printable

DPI = 110
MOST_WRITTEN = 15  # classes up to which the cells of a matrix carry numbers
LONGEST_NAME = 24
PALETTE = (*COLOURS, "#000000", "#8c564b", "#7f7f7f", "#bcbd22")
DEFAULTS = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False}

__all__ = ["COLOURS", "GREY", "PALETTE", "drawn", "heatmap", "plain"]


class Canvas:
    """A drawing under way; `figure()` gives what a section carries."""

    def __init__(self, drawing: Drawing):
        self.drawing = drawing
        self.png = b""

    def panels(self, rows: int = 1, columns: int = 1, **options: Any) -> list[Axes]:
        found = self.drawing.subplots(rows, columns, squeeze=False, **options)
        return [panel for row in found for panel in row]

    def figure(self, name: str, caption: str, *, photo: bool = False) -> Figure:
        return Figure(name=name, caption=caption, png=self.png, photo=photo)


@contextmanager
def drawn(width: float, height: float) -> Iterator[Canvas]:
    """A drawing of so many inches; turned into a PNG when the block ends."""
    with style.context(["default", DEFAULTS]):
        drawing = Drawing(figsize=(width, height), dpi=DPI, layout=ConstrainedLayoutEngine())
        FigureCanvasAgg(drawing)
        canvas = Canvas(drawing)
        yield canvas
        buffer = io.BytesIO()
        drawing.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        canvas.png = buffer.getvalue()


def plain(text: str, longest: int = LONGEST_NAME) -> str:
    """Text from data inside a drawing: one line, no formulas, cut where it is long."""
    text = printable(text).replace("$", r"\$")
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def heatmap(panel: Axes, values: NDArray, names: Sequence[str], *, shares: bool, title: str) -> None:
    """A square matrix with its classes on both sides; numbers in the cells where they can be read."""
    from matplotlib.colors import PowerNorm

    most = 1.0 if shares else max(1.0, float(np.nanmax(values, initial=0)))
    panel.imshow(values, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=most), interpolation="nearest")
    size = 8 if len(names) <= MOST_WRITTEN else min(8.0, max(4.0, 500 / len(names)))
    labels = [plain(name, 18 if len(names) <= MOST_WRITTEN else 30) for name in names]
    panel.set_xticks(range(len(names)), labels, fontsize=size, rotation=90 if len(names) > 3 else 0)
    panel.set_yticks(range(len(names)), labels, fontsize=size)
    panel.set_xlabel("prediction")
    panel.set_ylabel("truth")
    panel.set_title(title, fontsize=10)
    for side in panel.spines.values():
        side.set_visible(True)
    if len(names) > MOST_WRITTEN:
        return
    for row, column in np.ndindex(*values.shape):
        value = values[row, column]
        text = (f"{value:.2f}" if shares else f"{int(value):,}") if value else ""
        dark = value > 0.4 * most
        panel.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
