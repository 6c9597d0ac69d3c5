"""Two runs on the same rows: which changed sides, whether that is chance, and how alike their insides are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hf_sft.analysis.drawing import drawn, plain
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.predictions import Predictions, judged
from hf_sft.analysis.proportions import bootstrap, mcnemar
from hf_sft.analysis.section import Absent, Cell, Figure, Part, Section, Table
from hf_sft.analysis.similarity import linear_cka
from hf_sft.errors import DataError, Finding

MOST_ROWS = 300


def compare_runs(
    one: FinishedRun,
    other: FinishedRun,
    first: Mapping[str, Predictions],
    second: Mapping[str, Predictions],
    *,
    names: tuple[str, str],
    features: Callable[[FinishedRun], Mapping[str, NDArray]],
    number: int = 1,
) -> Section:
    """The second run against the first. Raises DataError where they were not judged on the same rows.

    names: what the two are called; features: what a run's blocks give for the same sample of rows.
    """
    mine, theirs = _matched(one, other, judged(first, one.record), second)
    notes: list[str] = []
    parts: list[Part] = []
    figures: dict[str, float | int | str | None] = {"split": mine.split, "rows": len(mine)}
    loss = bootstrap(theirs.losses - mine.losses, seed=one.seed)
    rows: list[list[Cell]] = []
    if mine.problem == "regression":
        notes.append("numbers have no right and wrong: the rows' squared errors are compared")
    else:
        only_first, only_second = int((mine.right & ~theirs.right).sum()), int((theirs.right & ~mine.right).sum())
        p = mcnemar(only_first, only_second)
        gain = bootstrap(theirs.right.astype(float) - mine.right, seed=one.seed)
        figures |= {"only_first_right": only_first, "only_second_right": only_second, "mcnemar_p": p}
        figures |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
        rows.append(["share of rows right", float(mine.right.mean()), float(theirs.right.mean()), gain])
        parts.append(_sides(mine, theirs, names))
    rows.append(["mean loss", float(mine.losses.mean()), float(theirs.losses.mean()), loss])
    heads = ("what", names[0], names[1], "difference")
    caption = "Paired differences with 95 % bootstrap intervals over rows: an interval that holds 0 may be chance."
    parts.append(Table(name="difference", caption=caption, heads=heads, rows=rows))
    if mine.problem == "single_label":
        parts.append(_per_class(mine, theirs, names))
    if mine.problem != "regression":
        parts.append(_changed(one, mine, theirs, names))
    try:
        picture, alike = _similarity(features(one), features(other), names)
        parts.append(picture)
        figures["cka_last_blocks"] = alike
    except Absent as reason:
        notes.append(f"similarity of the blocks: {reason}")
    return Section(
        name=f"comparison_{number}",
        title=f"{names[0]} and {names[1]}",
        sentence=_sentence(figures, names, mine),
        parts=tuple(parts),
        key_figures=figures,
        notes=tuple(notes),
    )


def _sentence(figures: Mapping[str, float | int | str | None], names: tuple[str, str], part: Predictions) -> str:
    text = f"The same {len(part):,} rows of {part.split} answered by both. "
    p = figures.get("mcnemar_p")
    if isinstance(p, float):
        verdict = "more than chance" if p < 0.05 else "no more than chance may bring"
        text += (
            f"{names[0]} alone is right on {figures['only_first_right']} of them, {names[1]} alone on "
            f"{figures['only_second_right']}: {verdict} (McNemar, p = {p:.2g}). "
        )
    return text + "Look at the rows that changed sides: one kind of mistake mended, or mistakes merely moved?"


def told_apart(runs: Sequence[FinishedRun]) -> list[str]:
    """The name of each run, after those of as many folders above it as tell it from all others."""
    paths = [run.path.resolve().parts for run in runs]
    names: list[str] = []
    for number, (run, path) in enumerate(zip(runs, paths, strict=True)):
        others = [other for other in paths if other != path]
        depth = next((size for size in range(1, len(path)) if path[-size:] not in [one[-size:] for one in others]), 1)
        name = "/".join(path[-depth:]) if depth > 1 else run.name
        again = paths[:number].count(path)
        names.append(f"{name} ({again + 1})" if again else name)
    return names


def _matched(
    one: FinishedRun, other: FinishedRun, mine: Predictions, second: Mapping[str, Predictions]
) -> tuple[Predictions, Predictions]:
    theirs = second.get(mine.split)
    prints = [run.record.data.get(mine.split, {}).get("fingerprint") for run in (one, other)]
    place, expected = f"{one.path} and {other.path}", f"runs judged on the same rows of {mine.split}"
    fix = "hf-sft evaluate compares models on any data; give both runs the same dataset section"
    if theirs is None or theirs.problem != mine.problem or set(theirs.names) != set(mine.names):
        found = "other labels" if theirs is not None else f"no predictions of {mine.split} in the second"
        raise DataError(Finding(place=place, expected=expected, found=found, fix=fix))
    if prints[0] != prints[1] or not np.array_equal(mine.row_ids, theirs.row_ids):
        raise DataError(Finding(place=place, expected=expected, found="other rows, or rows read otherwise", fix=fix))
    return mine, theirs


def _sides(mine: Predictions, theirs: Predictions, names: tuple[str, str]) -> Table:
    rows: list[list[Cell]] = []
    for right, word in ((True, "right"), (False, "wrong")):
        inside = mine.right == right
        rows.append([f"{names[0]} {word}", int((inside & theirs.right).sum()), int((inside & ~theirs.right).sum())])
    heads = ("rows", f"{names[1]} right", f"{names[1]} wrong")
    return Table(name="sides", caption="How many rows both, one or none of them has right.", heads=heads, rows=rows)


def _per_class(mine: Predictions, theirs: Predictions, names: tuple[str, str]) -> Table:
    """Which classes gained and lost, by their recall."""
    rows: list[list[Cell]] = []
    truth = np.array(mine.names, dtype=object)[mine.references]
    for name in mine.names:
        inside = truth == name
        if not inside.any():
            continue
        first, second = mine.right[inside], theirs.right[inside]
        p = mcnemar(int((first & ~second).sum()), int((second & ~first).sum()))
        gain = float(second.mean() - first.mean())
        rows.append([name, int(inside.sum()), float(first.mean()), float(second.mean()), gain, p])
    rows.sort(key=lambda row: float(str(row[4])))
    heads = ("class", "rows", f"recall, {names[0]}", f"recall, {names[1]}", "gain", "p")
    caption = "Classes that lost first. p of one class says little where many are looked at."
    return Table(name="per_class", caption=caption, heads=heads, rows=rows, shown=100)


def _changed(run: FinishedRun, mine: Predictions, theirs: Predictions, names: tuple[str, str]) -> Table:
    """Rows that one alone has right, those that cost most first."""
    changed = np.flatnonzero(mine.right != theirs.right)
    order = changed[np.argsort(-np.abs(theirs.losses - mine.losses)[changed], kind="stable")][:MOST_ROWS]
    rows: list[list[Cell]] = []
    for row, cell in zip(order.tolist(), run.shown(mine.split, mine.row_ids[order]), strict=True):
        answers = (part.describe(part.predictions, row) for part in (mine, theirs))
        change = float(theirs.losses[row] - mine.losses[row])
        rows.append([int(mine.row_ids[row]), cell, mine.describe(mine.references, row), *answers, change])
    heads = ("row", "input", "truth", names[0], names[1], "change of loss")
    caption = "Rows that changed sides."
    return Table(name="changed_rows", caption=caption, heads=heads, rows=rows, shown=25)


def _similarity(
    first: Mapping[str, NDArray], second: Mapping[str, NDArray], names: tuple[str, str]
) -> tuple[Figure, float]:
    """CKA of each block of one with each of the other, on the same sample."""
    values = np.array([[linear_cka(mine, theirs) for theirs in second.values()] for mine in first.values()])
    if not values.size:
        raise Absent("no block of these models gives one output per row")
    with drawn(0.32 * values.shape[1] + 2.6, 0.32 * values.shape[0] + 2.0) as canvas:
        (panel,) = canvas.panels()
        image = panel.imshow(values, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        panel.set_xticks(range(values.shape[1]), [plain(name, 14) for name in second], rotation=90, fontsize=8)
        panel.set_yticks(range(values.shape[0]), [plain(name, 14) for name in first], fontsize=8)
        panel.set_xlabel(plain(names[1]))
        panel.set_ylabel(plain(names[0]))
        canvas.drawing.colorbar(image, ax=panel, label="CKA")
    caption = "How alike the blocks of both are (CKA): where the diagonal is dark, they see the same rows differently."
    return canvas.figure("similarity", caption), float(values[-1, -1])
