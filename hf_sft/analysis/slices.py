"""Groups of rows on which the model is worse than elsewhere, looked for in every column, in length, size and light."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.proportions import adjusted, fewer_right, share
from hf_sft.analysis.section import Absent, Cell, Table
from hf_sft.data.columns import columns_of, joined

FEWEST, MOST_VALUES = 15, 30  # rows of a slice; values of a column that groups rows
SIGNIFICANT = 0.05
MOST_OPENED = 2_000  # images that are opened for their light and size

Slice = tuple[str, str, NDArray]  # what it is cut by, its name, bool [N]


def find_slices(run: FinishedRun, role: str, row_ids: NDArray, right: NDArray) -> Table:
    """Slices with their share of right rows beside that of all others; `worse` where that is no chance.

    p is one-sided and adjusted for the number of slices looked at. Raises Absent where no slice has enough rows.
    """
    if len(right) < 2 * FEWEST:
        raise Absent(f"none could be looked at: {len(right)} rows are fewer than {2 * FEWEST}, {FEWEST} on either side")
    found = [one for one in _slices(run, role, row_ids) if FEWEST <= int(one[2].sum()) <= len(right) - FEWEST]
    if not found:
        raise Absent(f"none could be looked at: nothing cuts the {len(right)} rows into groups of {FEWEST} or more")
    p_values = np.array([_p(inside, right) for _, _, inside in found])
    adjusted_p = adjusted(p_values)
    rows: list[list[Cell]] = []
    for (by, name, inside), p in zip(found, adjusted_p.tolist(), strict=True):
        rows.append(
            [
                by,
                name,
                int(inside.sum()),
                share(int(right[inside].sum()), int(inside.sum())),
                float(right[~inside].mean()),
                float(p),
                "worse" if p < SIGNIFICANT else "",
            ]
        )
    rows.sort(key=lambda row: float(str(row[5])))
    caption = "Groups of rows against all others, the most doubtful first; p allows for how many were looked at."
    if "image" in run.task.columns and len(right) > MOST_OPENED:
        caption += f" Size and light of more than {MOST_OPENED:,} pictures are not looked at."
    return Table(
        name="slices",
        caption=caption,
        heads=("by", "slice", "rows", "right", "right elsewhere", "p", ""),
        rows=rows,
        shown=25,
    )


def _p(inside: NDArray, right: NDArray) -> float:
    return fewer_right(int(right[inside].sum()), int(inside.sum()), int(right[~inside].sum()), int((~inside).sum()))


def _slices(run: FinishedRun, role: str, row_ids: NDArray) -> Iterator[Slice]:
    part = run.require(role).split
    rows = part.rows.select(run.positions(role, row_ids))
    settings = run.recipe.dataset
    roles = run.task.roles(settings.columns)
    read = {column for one in run.task.columns for column in columns_of(settings, one)}
    for column in rows.column_names:
        dtype = str(getattr(rows.features[column], "dtype", ""))
        if column in read or not dtype or dtype in ("dict", "list"):
            continue
        values = np.asarray(rows.select_columns([column])[:][column], dtype=object)
        yield from _by_value(column, values)
        if dtype.startswith(("int", "uint", "float")):
            yield from _by_quarter(column, values)
    if "text" in roles:
        columns = [
            c
            for one in ("text", "text_pair")
            if one == "text" or one in settings.columns
            for c in columns_of(settings, one)
        ]
        texts = joined(rows.select_columns(columns)[:], columns)
        yield from _by_quarter("words", np.array([len(text.split()) for text in texts]))
        yield "text", "has a digit", np.array([any(map(str.isdigit, text)) for text in texts])
        yield "text", "has a question mark", np.array(["?" in text for text in texts])
        yield "text", "has a negation", np.array([_negates(text) for text in texts])
    if "image" in roles and len(rows) <= MOST_OPENED:
        (column,) = columns_of(settings, "image")
        opened = [run.task.opened(picture) for picture in rows.select_columns([column])[:][column]]
        yield from _by_quarter("pixels of the shorter side", np.array([min(one.size) for one in opened]))
        grey = [np.asarray(one.convert("L"), dtype=float) for one in opened]
        yield from _by_quarter("brightness (0 to 255)", np.array([one.mean() for one in grey]))
        yield from _by_quarter("contrast (0 to 255)", np.array([one.std() for one in grey]))


def _by_value(column: str, values: NDArray) -> Iterator[Slice]:
    named = np.array(["(null)" if value is None else str(value) for value in values])
    different = np.unique(named)
    if 1 < len(different) <= MOST_VALUES:
        for value in different:
            yield column, str(value), named == value


def _by_quarter(name: str, values: NDArray) -> Iterator[Slice]:
    """The quarters of a number, named by their bounds."""
    numbers = np.array([np.nan if value is None else float(value) for value in values])
    known = numbers[~np.isnan(numbers)]
    if len(np.unique(known)) < 4:
        return
    bounds = np.unique(np.quantile(known, [0, 0.25, 0.5, 0.75, 1]))
    for place, (low, high) in enumerate(itertools.pairwise(bounds)):
        above = numbers >= low if place == 0 else numbers > low
        yield (
            name,
            f"{low:.4g} to {high:.4g}" if place == 0 else f"over {low:.4g}, to {high:.4g}",
            above & (numbers <= high),
        )


def _negates(text: str) -> bool:
    words = text.lower().replace("’", "'").split()
    return any(
        word.strip(".,;:!?\"'()") in ("not", "no", "never", "nothing", "without") or "n't" in word for word in words
    )
