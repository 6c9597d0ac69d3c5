"""Where the model is wrong: confusions, classes, the worst rows, doubtful labels, rows in two splits, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hf_sft.analysis.confusion import count, draw, per_class, top_confusions
from hf_sft.analysis.drawing import COLOURS, drawn
from hf_sft.analysis.duplicates import compare
from hf_sft.analysis.errors_pictured import show_pictured
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.label_errors import likely_label_errors
from hf_sft.analysis.predictions import PICTURED, Predictions, judged
from hf_sft.analysis.section import Absent, Cell, Figure, Interval, Part, Section, Table
from hf_sft.analysis.slices import find_slices
from hf_sft.metrics.temperature import doubt, fit_temperature, tempered

MOST_WORST, MOST_DOUBTFUL = 100, 200


def show_errors(run: FinishedRun, predictions: Mapping[str, Predictions]) -> Section:
    """What is wrong on the test split (else on validation), with likely label errors of every predicted split."""
    if run.labels.problem in PICTURED:
        return show_pictured(run)
    part = judged(predictions, run.record)
    parts: list[Part] = []
    notes: list[str] = []
    figures: dict[str, float | int | str | None] = {"split": part.split, "rows": len(part)}
    if part.problem == "regression":
        parts.append(_draw_numbers(part))
        right = np.abs(part.references - part.predictions) <= np.median(np.abs(part.references - part.predictions))
        notes.append("slices: a row counts as right where its error is at most the median of all")
    else:
        right = part.right
        figures["wrong"] = int((~right).sum())
        parts += _classes(part, run.seed)
    parts.append(_worst(run, part))
    if part.problem == "single_label":
        able, unable = _able_to_doubt(predictions)
        temperature, uncertain = _temperature(predictions.get("validation"))
        doubtful = _doubtful(run, able, temperature)
        parts.append(doubtful)
        notes += [*unable, *(uncertain if able else [])]
        figures["likely_label_errors"] = len(doubtful.rows)
    for what, make in (("duplicates", _duplicates), ("slices", _slices)):
        try:
            table, found = make(run, part, right)
            parts.append(table)
            figures |= found
        except Absent as reason:
            notes.append(f"{what}: {reason}")
    sentence = (
        f"The {len(part):,} rows of {part.split}: which classes are taken for which, on which rows the model is most "
        "wrong, and whether the fault lies with model or labels. Look for confusions that make sense, for rows whose "
        "label you would have given otherwise, and for a slice that is worse."
    )
    return Section(
        name="errors", title="Errors", sentence=sentence, parts=tuple(parts), key_figures=figures, notes=tuple(notes)
    )


def _classes(part: Predictions, seed: int) -> list[Part]:
    if part.problem == "multi_label":
        hits = (part.references & part.predictions).sum(axis=0)
        predicted, support = part.predictions.sum(axis=0), part.references.sum(axis=0)
        return [per_class(hits, predicted, support, part.names, len(part), seed=seed)]
    unit = "words" if part.problem == "tags" else "rows"
    matrix = count(part.references, part.predictions, len(part.names))
    hits, predicted, support = matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)
    classes = per_class(hits, predicted, support, part.names, len(part.references), seed=seed, unit=unit)
    return [*draw(matrix, part.names), top_confusions(matrix, part.names, unit=unit), classes]


def _draw_numbers(part: Predictions) -> Figure:
    with drawn(9, 3.8) as canvas:
        left, right = canvas.panels(1, 2)
        both = np.concatenate([part.references, part.predictions])
        left.plot([both.min(), both.max()], [both.min(), both.max()], color="#777777", linewidth=0.8)
        left.plot(part.references, part.predictions, ".", color=COLOURS[0], alpha=0.5)
        left.set_xlabel("truth")
        left.set_ylabel("prediction")
        right.hist(part.predictions - part.references, bins=40, color=COLOURS[0])
        right.set_xlabel("prediction less truth")
        right.set_ylabel("rows")
    caption = "Each row's number and the model's: off the line it is wrong; a tilt means that extremes are drawn in."
    return canvas.figure("numbers", caption)


def _worst(run: FinishedRun, part: Predictions) -> Table:
    """The rows with the greatest loss, with their text or picture."""
    order = np.argsort(-np.nan_to_num(part.losses, nan=-np.inf), kind="stable")[:MOST_WORST]
    scored = part.problem == "single_label"
    rows: list[list[Cell]] = []
    for row, cell in zip(order.tolist(), run.shown(part.split, part.row_ids[order]), strict=True):
        line: list[Cell] = [
            int(part.row_ids[row]),
            cell,
            part.describe(part.references, row),
            part.describe(part.predictions, row),
        ]
        if scored:
            scores = part.scores[row]
            line += [float(scores[part.references[row]]), float(scores[part.predictions[row]])]
        rows.append([*line, float(part.losses[row])])
    heads = ["row", "input", "truth", "prediction", *(["p(truth)", "p(prediction)"] if scored else []), "loss"]
    caption = "The rows that cost most: is the model wrong, is the label, or can nobody tell?"
    if part.split not in run.splits:
        caption += f" Their inputs cannot be shown: {run.trouble or 'the data have changed since the run'}."
    return Table(name="worst_rows", caption=caption, heads=heads, rows=rows, shown=20)


def _able_to_doubt(predictions: Mapping[str, Predictions]) -> tuple[list[Predictions], list[str]]:
    """The splits where the model knows more than which class is the largest, and a note for each other one."""
    able, notes = [], []
    for part in predictions.values():
        right = float(part.right.mean())
        largest = float(np.bincount(part.references).max()) / max(len(part), 1)
        if right > largest:
            able.append(part)
        else:
            notes.append(
                f"no likely label errors of {part.split}: with {right:.1%} right the model knows no more than the "
                f"share of the largest class ({largest:.1%}), so its doubts tell nothing"
            )
    return able, notes


def _temperature(known: Predictions | None) -> tuple[float, list[str]]:
    """What makes probabilities as sure as they are right; 1, with a note, where none is to be had from validation."""
    if known is None:
        return 1.0, ["likely label errors: by the probabilities as they are, there is no validation to calibrate them"]
    temperature = fit_temperature(known.references, known.scores)
    if why := doubt(temperature, len(known)):
        return 1.0, [f"likely label errors: by the probabilities as they are, not calibrated: {why}"]
    return temperature, []


def _doubtful(run: FinishedRun, able: Sequence[Predictions], temperature: float) -> Table:
    """Rows of the predicted splits whose label is likely wrong: the model was not trained on them."""
    rows: list[list[Cell]] = []
    for part in able:
        calibrated = tempered(part.scores, temperature)
        found = likely_label_errors(part.references, calibrated)[:MOST_DOUBTFUL]
        for row, cell in zip(found.tolist(), run.shown(part.split, part.row_ids[found]), strict=True):
            scores, given = calibrated[row], int(part.references[row])
            suggested = int(scores.argmax())
            margin = float(scores[suggested] - scores[given])
            names = part.names
            rows.append([part.split, int(part.row_ids[row]), cell, names[given], names[suggested], margin])
    rows.sort(key=lambda row: -float(str(row[-1])))
    caption = (
        "Labels that are likely wrong, by confident learning: the model is surer of another class than it usually is "
        "of that class's own rows. Read them before mending any: a weak model doubts right labels too."
    )
    heads = ("split", "row", "input", "label given", "label suggested", "margin")
    return Table(name="label_errors", caption=caption, heads=heads, rows=rows, shown=20)


def _duplicates(
    run: FinishedRun, part: Predictions, right: object
) -> tuple[Table, dict[str, float | int | str | None]]:
    return compare(run, part.split)


def _slices(
    run: FinishedRun, part: Predictions, right: np.ndarray
) -> tuple[Table, dict[str, float | int | str | None]]:
    table = find_slices(run, part.split, part.row_ids, right)
    worse = [row for row in table.rows if row[-1] == "worse"]
    figures: dict[str, float | int | str | None] = {"worse_slices": len(worse)}
    if worse:
        by, name, rows, inside, elsewhere, *_ = worse[0]
        figures["worst_slice"] = f"{by} {name}" if by == "text" else f"{by} is {name}"
        figures["worst_slice_rows"] = int(str(rows))
        figures["worst_slice_right"] = inside.value if isinstance(inside, Interval) else None
        figures["worst_slice_right_elsewhere"] = float(str(elsewhere))
    return table, figures
