"""The picture of a training: loss, metrics, learning rate and gradient norm over the epochs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_sft.record import RunRecord
from hf_sft.summary import asked_metrics, finite
from hf_sft.tables import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

NUM_METRICS = 6  # more lines than this cannot be told apart in a panel of 400 x 400 pixels
# Okabe & Ito 2008: eight colours that colour-blind readers tell apart (without black and yellow)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREY = "#777777"

Points = tuple[list[float], list[float]]


def metric_names(record: RunRecord) -> list[str]:
    """Metrics that the history of epochs holds, the recipe's first and in its order."""
    epochs = record.history.get("epochs", [])
    known = asked_metrics(record)
    known += [name for values in record.metrics.values() for name in values if name != "loss"]
    return [name for name in dict.fromkeys(known) if any(finite(epoch.get(name)) is not None for epoch in epochs)]


def greater_is_better(name: str) -> bool:
    """The direction of a metric of the record. A function of the caller's own counts as better when greater."""
    from hf_sft.metrics import METRICS
    from hf_sft.metrics.resolve import LOWER_IS_BETTER

    return METRICS[name].greater_is_better if name in METRICS else name not in (*LOWER_IS_BETTER, "loss")


def best_epoch(record: RunRecord) -> Mapping[str, Any] | None:
    """The entry of history["epochs"] where the first metric is best, the lowest validation loss among equals."""
    names = metric_names(record)
    if not names:
        return None
    sign = -1 if greater_is_better(names[0]) else 1
    entries = [entry for entry in record.history["epochs"] if finite(entry.get(names[0])) is not None]
    return min(entries, key=lambda entry: (sign * entry[names[0]], entry["validation_loss"] or 0.0), default=None)


def draw_curves(record: RunRecord) -> Figure:
    """Three panels of 400 x 400 pixels: loss, validation metrics, learning rate of the head with gradient norm."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with style.context("default"):  # whatever style a notebook has set
        figure = Figure(figsize=(12, 4), dpi=100, layout=ConstrainedLayoutEngine(wspace=0.04))
        FigureCanvasAgg(figure)
        last = max(
            (entry["epoch"] for kind in ("steps", "epochs") for entry in record.history.get(kind, [])), default=1
        )
        for panel, draw in zip(figure.subplots(1, 3), (_draw_loss, _draw_metrics, _draw_rate), strict=True):
            panel.set_xlim(-0.03 * last, 1.05 * last)  # all three alike
            draw(panel, record)
    return figure


def as_png(record: RunRecord) -> bytes:
    """The curves as a PNG of 1200 x 400 pixels; the same record gives the same bytes."""
    from matplotlib import style

    buffer = io.BytesIO()
    with style.context("default"):
        draw_curves(record).savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def save_curves(record: RunRecord, path: Path) -> None:
    """Write the PNG, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_png(record))


def _draw_loss(panel: Axes, record: RunRecord) -> None:
    steps, epochs = record.history.get("steps", []), record.history.get("epochs", [])
    lines = [
        *_line(panel, _points(steps, "loss"), "training, each log", color=COLOURS[0], linewidth=0.8, alpha=0.45),
        *_line(panel, _points(epochs, "train_loss"), "training, epoch mean", color=COLOURS[0], marker="o"),
        *_line(panel, _points(epochs, "validation_loss"), "validation", color=COLOURS[1], marker="s"),
    ]
    _finish(panel, "Loss", "loss", lines, empty="no loss was logged")


def _draw_metrics(panel: Axes, record: RunRecord) -> None:
    epochs, names = record.history.get("epochs", []), metric_names(record)
    series = {name: _points(epochs, name) for name in names[:NUM_METRICS]}
    bounded = [name for name, (_, values) in series.items() if all(-1 <= value <= 1 for value in values)]
    other = panel.twinx() if bounded and len(bounded) < len(series) else panel
    best, lines = best_epoch(record), []
    for place, (name, points) in enumerate(series.items()):
        axis = panel if name in bounded else other
        label = name
        if place == 0 and best is not None:
            label = f"{name} (best {best[name]:.4g}, epoch {best['epoch']:g})"
            panel.axvline(best["epoch"], color=GREY, linewidth=0.8, linestyle=":")
            axis.plot([best["epoch"]], [best[name]], "*", color=COLOURS[0], markersize=15, zorder=5)
        label += " (right)" if axis is not panel else ""
        width, marker = (2.4, "o") if place == 0 else (1.2, ".")
        dashes = "-" if axis is panel else "--"
        lines += _line(axis, points, label, color=COLOURS[place], linewidth=width, marker=marker, linestyle=dashes)
    if other is not panel:
        other.tick_params(labelsize=8)
    shown = f" ({len(series)} of {len(names)})" if len(names) > len(series) else ""
    _finish(panel, f"Validation metrics{shown}", "value", lines, empty="no metrics on validation")


def _draw_rate(panel: Axes, record: RunRecord) -> None:
    from matplotlib.ticker import FuncFormatter

    steps = record.history.get("steps", [])
    norms = panel.twinx()
    norms.set_zorder(panel.get_zorder() - 1)  # the noisy norm behind the rate
    panel.patch.set_visible(False)
    lines = [
        *_line(panel, _points(steps, "learning_rate"), "learning rate (head)", color=COLOURS[2]),
        *_line(norms, _points(steps, "grad_norm"), "gradient norm (right)", color=GREY, linewidth=0.7, alpha=0.5),
    ]
    norms.set_ylabel("gradient norm", fontsize=9)
    norms.tick_params(labelsize=8)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in (panel, norms):
        axis.set_ylim(bottom=0)
        axis.yaxis.set_visible(bool(axis.lines))
    _finish(panel, "Learning rate and gradient norm", "learning rate", lines, empty="no step was logged")


def _points(entries: Sequence[Mapping[str, Any]], key: str) -> Points:
    """(epochs, values) of the entries that hold a finite number under `key`."""
    found = [(entry["epoch"], value) for entry in entries if (value := finite(entry.get(key))) is not None]
    return [epoch for epoch, _ in found], [value for _, value in found]


def _line(axis: Axes, points: Points, label: str, **look: Any) -> list[Line2D]:
    """A line, a dot where one point is all there is, nothing where there is none."""
    if not points[0]:
        return []
    if len(points[0]) == 1:
        look = {"marker": "o", **look}
    # A leading underscore would hide it from the legend, dollars would start a formula.
    return axis.plot(*points, label=printable(label).lstrip("_").replace("$", r"\$") or "metric", **look)


def _finish(panel: Axes, title: str, ylabel: str, lines: list[Line2D], empty: str) -> None:
    """Title, labels, grid; the legend below the panel, where it hides no curve."""
    from matplotlib.ticker import MaxNLocator

    panel.set_title(title, fontsize=10)
    panel.tick_params(labelsize=8)
    if not lines:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.text(0.5, 0.5, empty, transform=panel.transAxes, ha="center", va="center", color=GREY)
        return
    panel.set_xlabel("epoch", fontsize=9)
    panel.set_ylabel(ylabel, fontsize=9)
    panel.grid(alpha=0.25)
    panel.xaxis.set_major_locator(
        MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=panel.get_xlim()[1] > 2, min_n_ticks=1)
    )
    panel.legend(
        handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=_columns(lines), fontsize=8, frameon=False
    )


def _columns(lines: Sequence[Line2D]) -> int:
    """Two where both columns fit below a panel: a letter takes 6 of its 400 pixels, the samples take 90."""
    widths = [len(str(line.get_label())) for line in lines]
    half = (len(lines) + 1) // 2
    return 2 if len(lines) > 1 and max(widths[:half]) + max(widths[half:]) <= 50 else 1
