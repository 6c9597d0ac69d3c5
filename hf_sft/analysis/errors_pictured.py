"""Errors of masks and boxes: the rows with the worst answers, beside their truth, and each class in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_sft.analysis.drawing import drawn, plain
from hf_sft.analysis.duplicates import compare
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.predictions import gone, read_table
from hf_sft.analysis.section import Absent, Cell, Figure, Part, Section, Table
from hf_sft.analysis.slices import find_slices
from hf_sft.data.columns import columns_of
from hf_sft.summary import class_metrics, counted, finite
from hf_sft.tasks.box_pictures import SHOWN

MOST_WORST, DRAWN = 100, 6  # rows that are listed, and rows that are drawn
SCORE = "mean_iou"  # of a row, where the predictions have it; else its loss tells how wrong it is


def show_pictured(run: FinishedRun) -> Section:
    """The worst rows of the judged split, drawn and listed; its classes; slices. Raises Absent without predictions."""
    role = run.judged_role
    table = read_table(run.record, role) if role else None
    if table is None or "reference" not in table.column_names:
        raise Absent("; ".join(gone(run.record)) or "the run has predicted no rows whose masks or boxes are known")
    row_ids, losses = table["row_id"].to_numpy(), np.asarray(table["loss"].to_pylist(), dtype=float)
    scored = SCORE in table.column_names
    wrong = -np.asarray(table[SCORE].to_pylist(), dtype=float) if scored else losses
    order = np.argsort(-np.nan_to_num(wrong, nan=-np.inf), kind="stable")
    parts: list[Part] = []
    notes: list[str] = []
    if role in run.splits:
        parts.append(_drawn(run, role, row_ids[order[:DRAWN]]))
    else:
        notes.append(f"no pictures: {run.trouble or 'the data have changed since the run'}")
    if classes := run.record.per_class.get(role):
        parts.append(_classes(classes, counted(run.labels.problem)))
    parts.append(_worst(run, role, table, order[:MOST_WORST]))
    figures: dict[str, float | int | str | None] = {"split": role, "rows": len(row_ids)}
    figures["lowest_mean_iou" if scored else "highest_loss"] = finite(abs(wrong[order[0]]))
    try:
        table, found = compare(run, role)
        parts.append(table)
        figures |= found
    except Absent as reason:
        notes.append(f"duplicates: {reason}")
    try:
        parts.append(find_slices(run, role, row_ids, wrong <= np.nanmedian(wrong)))
        notes.append(f"slices: a row counts as right where its {_named(scored)} is no worse than the median of all")
    except Absent as reason:
        notes.append(f"slices: {reason}")
    sentence = (
        f"The {len(row_ids):,} rows of {role}: on which of them truth and answer lie farthest apart, and which classes "
        "are missed. Look whether the model is wrong, or the truth: what was drawn carelessly costs most here."
    )
    return Section(
        name="errors", title="Errors", sentence=sentence, parts=tuple(parts), key_figures=figures, notes=tuple(notes)
    )


def _named(scored: bool) -> str:
    return "mean IoU" if scored else "loss"


def _drawn(run: FinishedRun, role: str, row_ids: NDArray) -> Figure:
    """Those rows, each with truth and answer as the task draws them; the model is asked again."""
    assert run.task.draw is not None
    inputs = run.inputs(role, run.positions(role, row_ids))
    saved = run.saved
    found = saved.evaluator().predict(saved.model, inputs.rows, inputs.lengths, saved.labels, whole=True)
    (column,) = columns_of(run.recipe.dataset, "image")
    strips: list[Any] = []
    for place in range(len(row_ids)):
        assert inputs.source is not None
        image = run.task.opened(inputs.source[[place]][column][0])
        truth, answer = inputs.rows[place]["truth"], found["answers"][place]
        strips.append(run.task.draw(image, truth, answer, saved.labels, saved.model.config))
    lines = -(-len(strips) // 2)
    tallest = max(strip.height / strip.width for strip in strips)
    with drawn(10, lines * (0.4 + 4.8 * min(tallest, 1.0))) as canvas:
        panels = canvas.panels(lines, min(2, len(strips)))
        for panel in panels:
            panel.axis("off")
        for panel, strip, row_id in zip(panels, strips, row_ids, strict=False):
            panel.imshow(strip)
            panel.set_title(plain(f"row {row_id}"), fontsize=9)
    caption = "The worst rows with their truth, and beside it what the model says. Which of the two would you mend?"
    return canvas.figure("worst", caption, photo=True)


def _classes(classes: dict[str, dict[str, float]], unit: str) -> Table:
    names = class_metrics(classes)
    rows: list[list[Cell]] = [
        [name, *(finite(values[metric]) for metric in names), int(values["support"])]
        for name, values in classes.items()
    ]
    heads = ["class", *(name.replace("_", " ") for name in names), unit]
    caption = f"Each class in the numbers of the record, and how many {unit} of the truth it has."
    return Table(name="per_class", caption=caption, heads=heads, rows=rows, shown=100)


def _worst(run: FinishedRun, role: str, table: Any, order: NDArray) -> Table:
    chosen = table.take(order)
    extra = [name for name in (SCORE, "loss") if name in chosen.column_names]
    rows: list[list[Cell]] = []
    for cell, row in zip(run.shown(role, chosen["row_id"].to_numpy()), chosen.to_pylist(), strict=True):
        answered = row["prediction"]
        if "scores" in row:
            answered = [name for name, score in zip(answered, row["scores"], strict=True) if score >= SHOWN]
        truth = _counted(row["reference"])
        rows.append([row["row_id"], cell, truth, _counted(answered), *(row[name] for name in extra)])
    caption = f"The rows with the worst {_named(SCORE in extra)}: is the model wrong, is the truth, or can nobody tell?"
    if "scores" in chosen.column_names:
        caption += f" Predictions are boxes with a score of at least {SHOWN:g}."
    heads = ["row", "input", "truth", "prediction", *(name.replace("_", " ") for name in extra)]
    return Table(name="worst_rows", caption=caption, heads=heads, rows=rows, shown=20)


def _counted(names: list[str]) -> str:
    """Labels of a row, each once, with how often it is there: `cat 2, dog`."""
    times = {name: names.count(name) for name in names}
    return ", ".join(f"{name} {count}" if count > 1 else name for name, count in times.items()) or "(none)"
