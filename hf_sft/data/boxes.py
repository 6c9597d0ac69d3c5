"""The boxes of images: read from rows in any usual form, held against the image's size, as corners in pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, List
from numpy.typing import NDArray

from hf_sft.data.bad_rows import Fault
from hf_sft.data.box_forms import UNREAD_FORMS, BoxForm
from hf_sft.data.columns import columns_of
from hf_sft.data.image_sizes import read_sizes
from hf_sft.data.labels import LabelColumn, Labels, decide_labels, names_of_each
from hf_sft.errors import DataError, Finding
from hf_sft.recipe import BOX_FORMATS, BoxFormat, DataSet, ProblemName, Recipe

BOX_KEYS = ("bbox", "bboxes", "box", "boxes")
LABEL_KEYS = ("category", "categories", "category_id", "label", "labels", "class", "classes")
OVER = 2.0  # pixels that a box may stand out of its image, by rounding; it is cut there
MISREAD = 3  # rows; fewer that fit another format are taken for bad ones
USUAL_SHARE, LEAST_SHARE = 0.98, 0.5  # of rows fit the right format, at least; where fewer than that do, it is wrong
PLACE = "dataset.columns.objects"
Size = tuple[int, int]  # width, height


class Objects(list[Any]):
    """The labels of one image's boxes, in order. boxes: float64 [n, 4], left, top, right, bottom, in pixels."""

    def __init__(self, labels: Sequence[Any], boxes: NDArray):
        super().__init__(labels)
        self.boxes = boxes


def read_objects(rows: Dataset, settings: DataSet) -> LabelColumn | None:
    """The boxes of every row as Objects; None where the split has no such column.

    A row whose boxes cannot be used has none, and a fault that says why; every row is held against its image's size.
    Raises DataError for a column of another kind.
    """
    (name,) = columns_of(settings, "objects")
    if name not in rows.column_names:
        return None
    names = _class_names(rows, name)
    cells = rows.select_columns([name])[:][name]
    sizes = read_sizes(rows, columns_of(settings, "image")[0])
    values: list[Objects | None] = []
    wrong: dict[int, tuple[str, str]] = {}  # position -> kind, detail
    for position, (cell, size) in enumerate(zip(cells, sizes, strict=True)):
        found = read_cell(cell, settings.bbox_format, size)
        if isinstance(found, tuple):
            wrong[position] = found
        values.append(None if isinstance(found, tuple) else found)
    fix, sure = _advise(cells, sizes, settings.bbox_format, len(wrong)) if wrong else ("", False)
    if sure and len(wrong) >= MISREAD and settings.on_bad_row == "skip":
        # the rows are not bad, they are misread: those that fit are as well
        found_wrong = f"{len(wrong):,} of {len(cells):,} rows are not, as {settings.bbox_format}"
        expected = "boxes inside their images"
        raise DataError(Finding(place="dataset.bbox_format", expected=expected, found=found_wrong, fix=fix))
    faults = [
        Fault(
            position=position,
            role="objects",
            column=name,
            kind=kind,
            detail=detail,
            expected=f"boxes inside the image, as dataset.bbox_format: {settings.bbox_format} says",
            fix=fix,
        )
        for position, (kind, detail) in wrong.items()
    ]
    return LabelColumn(values=values, class_names=names, faults=tuple(faults))


def _class_names(rows: Dataset, name: str) -> tuple[str, ...] | None:
    """The names of integer labels; raises DataError for a column that does not hold boxes and labels."""
    feature = rows.features[name]
    inner = feature.feature if isinstance(feature, List) else feature
    keys = box_keys(inner) if isinstance(inner, Mapping) else None
    if keys is None and getattr(inner, "dtype", "") not in ("null", "json"):
        inside = ", ".join(inner) if isinstance(inner, Mapping) else getattr(inner, "dtype", type(inner).__name__)
        found = f"column {name!r} of type {type(feature).__name__} ({inside})"
        expected = "boxes and their labels in every row: {bbox: [[...], ...], category: [...]}, or a list of such pairs"
        fix = "name the column that holds both; boxes and labels in two columns go into one"
        raise DataError(Finding(place=PLACE, expected=expected, found=found, fix=fix))
    if keys is None:
        return None
    label = inner[keys[1]]
    label = label.feature if isinstance(label, List) else label
    return tuple(label.names) if isinstance(label, ClassLabel) else None


def box_keys(found: Mapping[str, Any]) -> tuple[str, str] | None:
    """Under which names the boxes and their labels stand."""
    box = next((key for key in BOX_KEYS if key in found), None)
    label = next((key for key in LABEL_KEYS if key in found), None)
    return None if box is None or label is None else (box, label)


def unnest(cell: Any) -> tuple[list[Any], list[Any]] | None:
    """(boxes, labels) of a cell: a struct of two lists, or a list of structs; None where it is neither."""
    if isinstance(cell, Mapping):
        keys = box_keys(cell)
        return None if keys is None else (list(cell[keys[0]] or []), list(cell[keys[1]] or []))
    if not isinstance(cell, Sequence) or isinstance(cell, str):
        return None
    pairs = [(entry, box_keys(entry)) if isinstance(entry, Mapping) else (entry, None) for entry in cell]
    if any(keys is None for _, keys in pairs):
        return None
    return [entry[keys[0]] for entry, keys in pairs if keys], [entry[keys[1]] for entry, keys in pairs if keys]


def read_cell(cell: Any, kind: BoxFormat, size: Size | None) -> Objects | tuple[str, str] | None:
    """The objects of a row, None for an empty cell, or (what is wrong, an example), in words that follow a column.

    size: of the image; None where it cannot be read, which is another function's complaint.
    """
    if cell is None:
        return None
    parts = unnest(cell)
    if parts is None:
        return "holds what is no list of boxes with labels", str(cell)[:60]
    boxes, labels = parts
    if len(boxes) != len(labels):
        return "has not one label for each box", f"{len(labels)} labels for {len(boxes)} boxes in the first of them"
    if any(label is None for label in labels):
        return "holds a box without a label (null)", f"box {labels.index(None)} of the first of them"
    try:
        given = np.array(boxes, dtype=np.float64).reshape(len(boxes), 4)
    except (TypeError, ValueError):
        return "holds boxes that are not four numbers", str(boxes[0])[:60]
    if size is None:
        return Objects(labels, given[:0]) if not len(boxes) else Objects(labels, to_corners(given, kind, (1, 1)))
    wrong = find_wrong(given, kind, size)
    if wrong is not None:
        return wrong
    corners = to_corners(given, kind, size)
    return Objects(labels, corners.clip(0, np.tile(size, 2).astype(float)))


def to_corners(boxes: NDArray, kind: BoxFormat, size: Size) -> NDArray:
    """float64 [n, 4]: left, top, right, bottom in pixels of an image of that width and height."""
    if kind == "xyxy":
        return boxes.copy()
    if kind == "xywh":
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    scale = np.asarray(size, dtype=float)
    half = boxes[:, 2:] / 2
    return np.concatenate([(boxes[:, :2] - half) * scale, (boxes[:, :2] + half) * scale], axis=1)


def find_wrong(boxes: NDArray, kind: BoxFormat, size: Size) -> tuple[str, str] | None:
    """What no box of that format can be, and the first that is it; None where all can be used."""
    corners = to_corners(boxes, kind, size)
    sides = corners[:, 2:] - corners[:, :2]
    low, high = corners[:, :2].min(1, initial=0), (corners[:, 2:] - np.asarray(size)).max(1, initial=0)
    small = kind != "cxcywh_normalised" and len(boxes) > 0 and bool((np.abs(boxes) <= 1).all())
    for words, bad in (
        ("holds boxes that are not finite", ~np.isfinite(boxes).all(1)),
        ("holds boxes of less than a pixel, as shares of the image are", np.full(len(boxes), small)),
        ("holds boxes with swapped corners", (sides < 0).any(1) & (kind == "xyxy")),
        ("holds boxes of no area", (sides <= 0).any(1)),
        ("holds boxes outside the image", (low < -OVER) | (high > OVER)),
        ("holds boxes outside the image", (corners[:, :2] >= np.asarray(size)).any(1) | (corners[:, 2:] <= 0).any(1)),
    ):
        if bad.any():
            example = ", ".join(f"{value:g}" for value in boxes[int(bad.argmax())])
            return words, f"[{example}] in an image of {size[0]} x {size[1]}"
    return None


def _advise(cells: Sequence[Any], sizes: Sequence[Size | None], kind: BoxFormat, wrong: int) -> tuple[str, bool]:
    """The fix where boxes are hardly in that format (empty: the rows are bad ones), and whether that is sure."""
    counts, number = count_fitting(cells, sizes)
    best, fits = max(BOX_FORMATS, key=lambda name: counts[name]), f"{counts[kind]:,} of {number:,} rows fit {kind}"
    if best != kind and number - counts[best] <= 0.1 * wrong:
        held = f"{counts[best]:,} of {number:,} rows fit it, {counts[kind]:,} fit {kind}"
        return f"set dataset.bbox_format: {best} ({held})", True
    if number - counts[kind] < MISREAD or counts[kind] >= USUAL_SHARE * number:
        return "", False
    if forms := find_forms(cells, sizes):
        return f"{say_forms(forms)} ({fits})", True
    known = ", ".join(BOX_FORMATS)
    fix = f"check that the boxes are in this format ({fits}; known: {known}); mend or remove rows only if they are"
    return fix, counts[kind] < LEAST_SHARE * number


def find_forms(cells: Sequence[Any], sizes: Sequence[Size | None]) -> list[BoxForm]:
    """The forms that none of BOX_FORMATS reads and that the boxes of every row fit."""
    filled = _filled(cells, sizes)
    return [form for form in UNREAD_FORMS if filled and all(_fits(cell, form, size) for cell, size in filled)]


def say_forms(forms: Sequence[BoxForm]) -> str:
    """How to turn boxes of these forms into one that is read."""
    return "; or ".join(f"all boxes fit as {form.words}: {form.fix}, for bbox_format: {form.kind}" for form in forms)


def _fits(cell: Any, form: BoxForm, size: Size) -> bool:
    if isinstance(read_cell(cell, form.kind, None), tuple):
        return False
    boxes = form.turn(np.array(find_boxes(cell), dtype=np.float64).reshape(-1, 4))
    return find_wrong(boxes, form.kind, size) is None


def _filled(cells: Sequence[Any], sizes: Sequence[Size | None]) -> list[tuple[Any, Size]]:
    """Rows with boxes and an image that can be read; those whose boxes are no four numbers only where all are so."""
    filled = [(cell, size) for cell, size in zip(cells, sizes, strict=True) if size and cell and find_boxes(cell) != []]
    return [row for row in filled if not isinstance(read_cell(row[0], "xyxy", None), tuple)] or filled


def count_fitting(cells: Sequence[Any], sizes: Sequence[Size | None]) -> tuple[dict[BoxFormat, int], int]:
    """Format -> rows whose boxes can be used in it; and how many rows have boxes and an image that can be read."""
    filled = _filled(cells, sizes)
    counts = {
        kind: sum(not isinstance(read_cell(cell, kind, size), tuple) for cell, size in filled) for kind in BOX_FORMATS
    }
    return counts, len(filled)


def find_boxes(cell: Any) -> list[Any] | None:
    """The boxes of a cell as they are written; None where it holds what is no list of boxes with labels."""
    parts = unnest(cell)
    return None if parts is None else parts[0]


def name_objects(column: LabelColumn, problem: ProblemName, settings: DataSet) -> list[Any]:
    """One Objects per row with labels by name, after dataset.label_map, which may drop some; None for no such row."""
    entries: list[Any] = []
    for value in column.values:
        if value is None:
            entries.append(None)
            continue
        names = names_of_each(value, column, settings)
        kept = [place for place, name in enumerate(names) if name is not None]
        entries.append(Objects([names[place] for place in kept], value.boxes[kept]))
    return entries


def decide_objects(columns: Mapping[str, LabelColumn], recipe: Recipe) -> tuple[Labels, list[str]]:
    """The labels of the boxes of all splits. Raises DataError for labels that cannot be used."""
    labels, notes = decide_labels(columns, recipe.dataset, problem="boxes")
    return replace(labels, problem="boxes"), notes
