"""Images with boxes, found among the columns of a data set, and the format that the boxes are in, by their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, List

from hf_sft.data.boxes import (
    BOX_KEYS,
    LEAST_SHARE,
    USUAL_SHARE,
    box_keys,
    count_fitting,
    find_boxes,
    find_forms,
    say_forms,
    unnest,
)
from hf_sft.data.image_sizes import read_sizes
from hf_sft.errors import DataError, Finding
from hf_sft.guessing.profile import Column, sample
from hf_sft.recipe import BOX_FORMATS, BoxFormat

IMAGES = ("image", "img", "picture", "photo", "file_name")  # the earlier, the likelier
OBJECTS = ("objects", "annotations", "boxes", "bboxes", "labels")
LOOKED_AT = 500  # rows whose boxes are held against their images
AS_WELL = 0.9  # of the rows that fit the likeliest format: where so many fit another one, it may be that
IN_WORDS: dict[BoxFormat, str] = {
    "xywh": "left, top, width, height in pixels",
    "xyxy": "left, top, right, bottom in pixels",
    "cxcywh_normalised": "centre, width, height as shares of the image",
}


@dataclass(frozen=True, kw_only=True)
class Boxed:
    """columns: role -> column; kind: the format of the boxes; why: role, and bbox_format, -> reason; doubts: what else

    it could be; others: columns that could be the boxes as well.
    """

    columns: dict[str, str | list[str]]
    kind: BoxFormat
    why: dict[str, str]
    doubts: tuple[str, ...]
    others: tuple[str, ...]


def find_boxed(rows: Dataset, columns: Mapping[str, Column], folder: Path, data: str) -> Boxed | None:
    """The columns of images and of their boxes; None where there are none.

    columns: what they hold; folder: where paths of images start from; data: what to call the data. Raises DataError for
    boxes that fit no format.
    """
    images = [name for name, column in columns.items() if column.kind in ("image", "path")]
    boxes = [name for name in rows.column_names if _holds_boxes(rows, name)]
    if not images or not boxes:
        return None
    image, objects = (
        min(images, key=lambda name: _rank(name, IMAGES)),
        min(boxes, key=lambda name: _rank(name, OBJECTS)),
    )
    kind, why, doubts = _guess_format(rows, image, objects, folder, data)
    return Boxed(
        columns={"image": image, "objects": objects},
        kind=kind,
        why={
            "image": "images" if columns[image].kind == "image" else "paths of images",
            "objects": "boxes, with a label each",
            "bbox_format": why,
        },
        doubts=tuple(doubts),
        others=tuple(name for name in boxes if name != objects),
    )


def doubt_lone_boxes(rows: Dataset) -> list[str]:
    """A doubt where a column holds boxes without their labels, as no task reads them."""
    lone = [
        name
        for name, feature in rows.features.items()
        if name.lower() in BOX_KEYS and isinstance(feature, List) and isinstance(feature.feature, List)
    ]
    wanted = "object-detection wants boxes and labels in one column, {bbox: [...], category: [...]}"
    return [f"task: column {name!r} seems to hold boxes; {wanted}" for name in lone]


def _holds_boxes(rows: Dataset, name: str) -> bool:
    """By the names inside; of columns whose type says nothing, by the first row that holds something."""
    feature = rows.features[name]
    inner: Any = feature.feature if isinstance(feature, List) else feature
    if isinstance(inner, Mapping):
        return box_keys(inner) is not None
    if getattr(inner, "dtype", "") != "json":
        return False
    cells = sample(rows.select_columns([name]), LOOKED_AT)[:][name]
    return any((parts := unnest(cell)) is not None and bool(parts[0]) for cell in cells if cell)


def _guess_format(rows: Dataset, image: str, objects: str, folder: Path, data: str) -> tuple[BoxFormat, str, list[str]]:
    """The format that most rows fit, why, and what is doubtful."""
    some = sample(rows.select_columns([image, objects]), LOOKED_AT)
    cells, sizes = some[:][objects] if len(some) else [], _read_sizes(some, image, folder)
    counts, number = count_fitting(cells, sizes)
    best = max(BOX_FORMATS, key=lambda name: (counts[name], -BOX_FORMATS.index(name)))
    others = [name for name in BOX_FORMATS if name != best]
    if not number:
        doubt = f"bbox_format: no row has both boxes and an image that opens; {best} is the usual one"
        return best, IN_WORDS[best], [doubt]
    forms = find_forms(cells, sizes) if counts[best] < number else []
    if counts[best] < LEAST_SHARE * number:
        held = "; ".join(f"{name}: {IN_WORDS[name]}" for name in BOX_FORMATS)
        few = f"{counts[best]:,} of {number:,} rows fit {best}, fewer any other" if counts[best] else ""
        found = (few or f"none of {number:,} rows fits one") + _example(cells, sizes)
        fix = f"write the boxes of column {objects!r} in one of them" + (f"; {say_forms(forms)}" if forms else "")
        raise DataError(Finding(place=data, expected=f"boxes in a format known here ({held})", found=found, fix=fix))
    fits = f"{counts[best]:,} of {number:,} images fit it"
    why = f"{IN_WORDS[best]}; {fits}, " + ", ".join(f"{counts[name]:,} {name}" for name in others)
    few = f"bbox_format: only {counts[best]:,} of {number:,} images fit {best}, the likeliest"
    if forms:
        return best, why, [f"{few}; {say_forms(forms)}"]
    if counts[best] < USUAL_SHARE * number:
        return best, why, [f"{few}; hf-sft check draws rows: boxes in none of the known formats must be rewritten"]
    rivals = [name for name in others if counts[name] >= AS_WELL * counts[best]]
    if not rivals:
        return best, why, []
    same = "as well" if counts[rivals[0]] == counts[best] else f"in {counts[rivals[0]]:,} of {number:,} images"
    doubt = f"bbox_format: {best} is taken, {rivals[0]} fits {same}; hf-sft check draws rows, so that you can see"
    return best, why, [f"{doubt} (dataset.bbox_format)"]


def _read_sizes(rows: Dataset, image: str, folder: Path) -> list[tuple[int, int] | None]:
    if not isinstance(rows.features[image], Image):
        if getattr(rows.features[image], "dtype", "") in ("string", "large_string"):
            paths = [path if path is None else str(folder / path) for path in rows[:][image]]
            rows = Dataset.from_dict({image: paths})
        rows = rows.select_columns([image]).cast_column(image, Image(decode=False))
    return read_sizes(rows, image)


def _example(cells: Sequence[Any], sizes: Sequence[tuple[int, int] | None]) -> str:
    for cell, size in zip(cells, sizes, strict=True):
        if cell and size and (boxes := find_boxes(cell)):
            return f", as {boxes[0]} in an image of {size[0]} x {size[1]}"
    return ""


def _rank(name: str, usual: tuple[str, ...]) -> int:
    return usual.index(name.lower()) if name.lower() in usual else len(usual)
