"""Training rows that were learned early, late, never, or forgotten: the map of a data set as a training drew it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_sft.analysis.drawing import COLOURS, GREY, drawn
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.predictions import Predictions
from hf_sft.analysis.recorded_files import anything_recorded, broken, read_about, read_recorded
from hf_sft.analysis.row_dynamics import Dynamics, from_columns
from hf_sft.analysis.section import Absent, Cell, Figure, Part, Section, Table

MOST_LISTED, SHOWN = 60, 10  # rows of a list in its file, and on the page
FEW_EPOCHS = 4  # below, how sure and how often are rough


def show_cartography(run: FinishedRun, predictions: Mapping[str, Predictions]) -> Section:
    """The map, when rows were learned, and lists of the rows at its edges. Raises Absent where nothing was kept."""
    found, about = read_dynamics(run)
    if found.epochs < 2:
        raise Absent("one epoch was trained: rows have a course from the second one on")
    notes = []
    if about["rows"] < (about["rows_of_train"] or 0):
        notes.append(f"a sample of {about['rows']:,} of {about['rows_of_train']:,} training rows (seed {run.seed})")
    if found.epochs < FEW_EPOCHS:
        notes.append(f"{found.epochs} epochs tell little of a single row: look at the ends of the lists, not at ranks")
    if about["mixed"]:
        notes.append(
            "images were mixed (mixup, cutmix): a row counts in the epochs in which half or more of the mixed label is "
            "its own class, be it by an image of the same class; what the model answered there is of the mixed image"
        )
    if run.trouble or "train" not in run.splits:
        notes.append("the rows of train cannot be read again; they are named by their ids")
    never = found.learned_at == 0
    stubborn = always_another(found)
    figures: dict[str, float | int | str | None] = {
        "rows": len(found),
        "epochs": found.epochs,
        "right_from_the_first_epoch_on": int(found.always_right.sum()),
        "wrong_at_the_end": int(never.sum()),
        "forgotten_at_least_once": int((found.forgotten > 0).sum()),
        "always_given_the_same_other_label": len(stubborn),
    }
    sentence = (
        "How each training row fared while it was trained on: the probability of its own label, epoch by epoch. Below "
        "left are hard rows: wrong labels, and what cannot be told from the input. On the right are rows that waver, "
        "from which a model learns most. Above left are easy ones, of which fewer would do."
    )
    parts: list[Part] = [_draw_map(found), _draw_learning(found)]
    parts.append(_by_label(found))
    hardest = np.argsort(found.confidence, kind="stable")
    ambiguous = np.argsort(-found.variability, kind="stable")
    forgotten = np.lexsort((found.confidence, -found.forgotten))
    forgotten = forgotten[found.forgotten[forgotten] > 0]
    parts += [
        _list(run, found, "hardest", hardest, "The hardest rows: is the label right, and can it be told from the row?"),
        _list(run, found, "most_ambiguous", ambiguous, "The most ambiguous rows: the model changed its mind most."),
        _list(run, found, "most_forgotten", forgotten, "Rows that were right in one epoch and wrong in the next."),
    ]
    return Section(
        name="cartography",
        title="Rows over training",
        sentence=sentence,
        parts=tuple(parts),
        key_figures=figures,
        notes=tuple(notes),
    )


def read_dynamics(run: FinishedRun) -> tuple[Dynamics, dict[str, Any]]:
    """The course of the rows, and what it was recorded of. Raises Absent where there is none."""
    if not anything_recorded(run):
        raise Absent(
            "the run did not follow its training rows; `inspect: {record: true}` in the recipe follows them while "
            "training"
        )
    about, path = read_about(run), run.record.directory.recorded("rows")
    if about.get("rows_left_out"):
        raise Absent(about["rows_left_out"])
    columns = read_recorded(run, "rows")
    if not {"row_id", "label", "probability", "correct", "answered"} <= columns.keys():
        raise broken(path)
    return from_columns(columns), about


def always_another(found: Dynamics) -> NDArray:
    """Rows [K] that were given one and the same other label in every epoch: the first to look at for wrong labels."""
    rows = [row for row in range(len(found)) if found.other_label(row)[1] == found.seen[row] > 1]
    return np.array(rows, dtype=np.int64)


def _draw_map(found: Dynamics) -> Figure:
    from matplotlib.colors import BoundaryNorm

    with drawn(6.6, 4.6) as canvas:
        (panel,) = canvas.panels()
        steps = min(found.epochs, 10) + 1
        bounds = np.linspace(-0.5 / (steps - 1), 1 + 0.5 / (steps - 1), steps + 1)
        order = np.argsort(-found.correctness, kind="stable")  # the few wrong ones above the many right ones
        dots = panel.scatter(
            found.variability[order],
            found.confidence[order],
            c=found.correctness[order],
            cmap="RdYlBu",
            norm=BoundaryNorm(bounds, 256),
            s=9 if len(found) > 500 else 18,
            linewidths=0.2,
            edgecolors="#444444",
        )
        panel.set_xlim(left=-0.01)
        panel.set_ylim(-0.03, 1.03)
        panel.set_xlabel("variability: standard deviation over epochs")
        panel.set_ylabel("confidence: mean probability of the label")
        panel.grid(alpha=0.25)
        ticks = np.linspace(0, 1, steps)
        bar = canvas.drawing.colorbar(dots, ax=panel, ticks=ticks)
        bar.set_label("share of epochs in which it was right")
        bar.ax.set_yticklabels([f"{tick:.2g}" for tick in ticks])
    caption = f"{len(found):,} training rows, each a point. Above left easy, below left hard, on the right ambiguous."
    return canvas.figure("map", caption)


def _draw_learning(found: Dynamics) -> Figure:
    epochs = np.arange(1, found.epochs + 1)
    learned = [int((found.learned_at == epoch).sum()) for epoch in epochs]
    never = int((found.learned_at == 0).sum())
    seen = ~np.isnan(found.correct)
    right = np.nansum(found.correct, axis=0) / np.maximum(seen.sum(axis=0), 1)
    events = found.forgotten_in.sum(axis=0)[1:]
    with drawn(8.4, 3.2) as canvas:
        left, middle = canvas.panels(1, 2)
        names = [*(str(epoch) for epoch in epochs), "wrong\nat the end"]
        bars = left.bar(range(len(names)), [*learned, never], color=[*[COLOURS[0]] * found.epochs, COLOURS[1]])
        left.bar_label(bars, fontsize=8)
        left.set_xticks(range(len(names)), names)
        left.set_xlabel("always right since epoch")
        left.set_ylabel("rows")
        middle.plot(epochs, right, "o-", color=COLOURS[0])
        middle.set_ylabel("share of rows that are right")
        middle.set_xlabel("epoch")
        middle.set_xticks(epochs if found.epochs <= 12 else epochs[:: found.epochs // 8])
        middle.grid(alpha=0.25)
        beside = middle.twinx()
        beside.bar(epochs[1:], events, color=GREY, alpha=0.35, width=0.5)
        beside.set_ylabel("rows forgotten since the epoch before", color=GREY)
        beside.set_ylim(0, max(1, *events) * 1.6)
    caption = "When rows were learned for good, how many were right in each epoch, and how many were forgotten again."
    return canvas.figure("learning", caption)


def _by_label(found: Dynamics) -> Table:
    labels = np.array(found.labels, dtype=object)
    rows: list[list[Cell]] = []
    confidence = {label: float(found.confidence[labels == label].mean()) for label in sorted(set(found.labels))}
    for label in sorted(confidence, key=confidence.__getitem__):
        own = labels == label
        rows.append(
            [
                label,
                int(own.sum()),
                confidence[label],
                float(found.always_right[own].mean()),
                float((found.learned_at[own] == 0).mean()),
                float((found.forgotten[own] > 0).mean()),
            ]
        )
    heads = ("label", "rows", "confidence", "right from the first epoch on", "wrong at the end", "forgotten once")
    caption = "Labels, the hardest first; the last three columns are shares of their rows."
    return Table(name="labels", caption=caption, heads=heads, rows=rows, shown=100)


def _list(run: FinishedRun, found: Dynamics, name: str, order: NDArray, caption: str) -> Table:
    order = order[:MOST_LISTED]
    rows: list[list[Cell]] = []
    for row, shown in zip(order.tolist(), run.shown("train", found.row_ids[order]), strict=True):
        other, times = found.other_label(row)
        rows.append(
            [
                int(found.row_ids[row]),
                shown,
                found.labels[row],
                f"{other} ({times}x)" if other else "",
                float(found.confidence[row]),
                float(found.variability[row]),
                f"{round(found.correctness[row] * found.seen[row])} of {found.seen[row]}",
                int(found.forgotten[row]),
            ]
        )
    heads = ("row", "input", "label", "was given instead", "confidence", "variability", "right in epochs", "forgotten")
    return Table(name=name, caption=caption, heads=heads, rows=rows, shown=SHOWN)
