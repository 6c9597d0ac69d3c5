"""Masks: images whose pixels are ids of classes. What they hold, counted once; how ids become those of the model."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset, Image
from numpy.typing import NDArray
from PIL import Image as pil
from PIL import ImageOps

from hf_sft.data.augment import IGNORED
from hf_sft.data.bad_rows import Fault
from hf_sft.data.columns import columns_of
from hf_sft.data.labels import LabelColumn, Labels, mapped_names
from hf_sft.data.pictures import CHUNK, UNREADABLE, read_bytes
from hf_sft.errors import DataError, Finding
from hf_sft.recipe import DataSet, ProblemName, Recipe

MODES = ("L", "P", "1", "I", "I;16")  # whose pixels are ids
COLOURED = ("RGB", "RGBA", "LA")
WITH_COLOURS = "with colours"
MISREAD = 3  # masks; fewer with colours are taken for bad ones
COLOURS, JPEG = "holds colours, not ids", "is a JPEG, which does not keep ids"
FLOATS = "holds floats, not whole ids"
MOST_NAMED = 20  # ids in a label_map that a warning writes out
NAMELESS = "holds ids that have no name"
FIXES = {
    NAMELESS: "name every id in dataset.labels; dataset.ignore_label, or label_map: {<id>: null}, leaves one out",
    COLOURS: "give each colour an id and save masks as grey PNG files; docs/recipe.md, under Masks, has the lines",
    FLOATS: "save masks as 8-bit grey PNG files: Image.fromarray(np.asarray(mask).astype(np.uint8))",
    JPEG: "save masks as PNG files: what JPEG keeps of ids are other ids",
}
GREY = "grey as a colour: other masks of this split hold colours"
USUAL_IGNORED = 255  # what most data sets give pixels without a class
MOST_IDS = 1 << 16


def read_ids(mask: pil.Image) -> NDArray:
    """int32 [H, W]: the ids; of a palette its places, not its colours; of colours that are all grey, as some programs

    save ids, their grey. Raises ValueError for pixels that are no ids.
    """
    if mask.mode in MODES:
        return np.asarray(mask).astype(np.int32)
    if mask.mode not in COLOURED:
        raise ValueError(f"mode {mask.mode}")
    red, green, blue = np.moveaxis(np.asarray(mask.convert("RGB")), -1, 0)
    if (red == green).all() and (red == blue).all():
        return red.astype(np.int32)
    raise ValueError(f"mode {mask.mode} {WITH_COLOURS}")


@dataclass(frozen=True, kw_only=True)
class _Look:
    """counts: pixels per id; kind: what is wrong with the mask; grey: whether it could hold colours and does not."""

    counts: dict[int, int] | None = None
    kind: str = ""
    detail: str = ""
    grey: bool = False


def read_masks(rows: Dataset, settings: DataSet) -> LabelColumn | None:
    """Pixels per id of every mask, each a dict; None where the rows have no such column.

    Every mask is read once: nothing else tells which classes there are, how rare they are, and that ids have names.
    """
    (column,) = columns_of(settings, "mask")
    if column not in rows.column_names:
        return None
    encoded = rows.select_columns([column]).cast_column(column, Image(decode=False))
    looks: list[_Look] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(encoded), CHUNK):
            looks += pool.map(lambda value: _look(value, settings), encoded[start : start + CHUNK][column])
    first = next((place for place, look in enumerate(looks) if look.detail.endswith(WITH_COLOURS)), None)
    if first is not None:
        looks = [_Look(kind=COLOURS, detail=GREY) if look.grey else look for look in looks]
        looks[first] = replace(looks[first], detail=_name_colours(encoded[first][column]))
        number = sum(look.kind == COLOURS for look in looks)
        if settings.on_bad_row == "skip" and number >= MISREAD:  # they are no bad rows, all are written in colours
            found = f"{number:,} of {len(looks):,} masks hold colours: {looks[first].detail}"
            expected = "masks whose pixels are ids of classes"
            place = "dataset.columns.mask"
            raise DataError(Finding(place=place, expected=expected, found=found, fix=FIXES[COLOURS]))
    faults = [
        Fault(
            position=position,
            role="mask",
            column=column,
            kind=look.kind,
            detail=look.detail,
            expected="a mask whose pixels are ids of classes",
            fix=FIXES.get(look.kind, ""),
        )
        for position, look in enumerate(looks)
        if look.kind
    ]
    return LabelColumn(values=[look.counts for look in looks], faults=tuple(faults))


def _name_colours(value: Mapping[str, Any]) -> str:
    """The name of a mask and some of its colours. Of one mask alone, as it takes long."""
    with pil.open(io.BytesIO(_content(value))) as image:
        mode, pixels = image.mode, np.asarray(image.convert("RGB")).astype(np.int32)
    packed = np.unique(pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]).tolist()
    shown = ", ".join(str((colour >> 16, colour >> 8 & 255, colour & 255)) for colour in packed[:3])
    many = f"{len(packed):,} colours, as" if len(packed) > 1 else "the colour"
    return f"{os.path.basename(value['path'] or '')}: mode {mode} with {many} {shown}".removeprefix(": ")


def _content(value: Mapping[str, Any]) -> bytes:
    return value["bytes"] if value["bytes"] is not None else read_bytes(value["path"])


def _look(value: Mapping[str, Any] | None, settings: DataSet) -> _Look:
    """What a mask holds; no mask at all is none, and nothing wrong with it."""
    if value is None or (value["bytes"] is None and not value["path"]):
        return _Look()
    name = os.path.basename(value["path"] or "")
    try:
        with pil.open(io.BytesIO(_content(value))) as image:
            if image.format == "JPEG":
                return _Look(kind=JPEG, detail=name)
            ids, grey = read_ids(_upright(image)), image.mode in ("RGB", "RGBA")
    except FileNotFoundError:
        return _Look(kind="names a file that does not exist", detail=str(value["path"]))
    except ValueError as error:
        if str(error) == "mode F":
            return _Look(kind=FLOATS, detail=f"{name}: {error}".removeprefix(": "))
        if str(error).startswith("mode "):
            return _Look(kind=COLOURS, detail=f"{name}: {error}".removeprefix(": "))
        return _Look(kind="does not decode as an image", detail=name)
    except UNREADABLE:
        return _Look(kind="does not decode as an image", detail=name)
    if ids.min() < 0 or ids.max() >= MOST_IDS:
        return _Look(kind=f"holds ids that are not between 0 and {MOST_IDS - 1}", detail=name, grey=grey)
    counts = np.bincount(ids.ravel())
    counted = {int(number): int(counts[number]) for number in np.flatnonzero(counts)}
    classes = [number for number in counted if number != settings.ignore_label]
    if not classes:
        detail = f"{name}: all are dataset.ignore_label".removeprefix(": ")
        return _Look(kind="holds no pixel that counts", detail=detail, grey=grey)
    named, mapped = settings.labels, _mapped_ids(settings)
    if named and (wrong := [number for number in classes if number >= len(named) and number not in mapped]):
        held = f"{name} holds {', '.join(map(str, wrong[:5]))}".strip()
        advice = f"; dataset.ignore_label: {wrong[-1]} leaves it out" if len(wrong) == 1 else ""
        if len(named) == 2 and wrong == [USUAL_IGNORED]:
            advice += f", dataset.label_map: {{{USUAL_IGNORED}: {named[1]}}} names it"
        return _Look(kind=NAMELESS, detail=f"{held}; names are known of 0 to {len(named) - 1}{advice}", grey=grey)
    return _Look(counts=counted, grey=grey)


def _upright(image: pil.Image) -> pil.Image:
    """As `datasets` and transformers turn photographs."""
    return ImageOps.exif_transpose(image) or image


def _mapped_ids(settings: DataSet) -> set[int]:
    """The keys of dataset.label_map that are ids."""
    return {int(str(key)) for key in settings.label_map or {} if str(key).isdecimal()}


def id_names(ids: Sequence[int], settings: DataSet) -> dict[int, str | None]:
    """Id -> name after dataset.label_map; None where it is dropped or does not count."""
    names = mapped_names([number for number in ids if number != settings.ignore_label], settings)
    return {number: names.get(number) for number in ids}


def name_pixels(column: LabelColumn, problem: ProblemName, settings: DataSet) -> list[Any]:
    """Per row the pixels of each class by name; None where there is no mask, or none of its pixels count."""
    seen = sorted({number for counts in column.values if counts for number in counts})
    names, entries = id_names(seen, settings), list[Any]()
    for counts in column.values:
        pixels: Counter[str] = Counter()
        for number, many in (counts or {}).items():
            if (name := names[number]) is not None:
                pixels[name] += many
        entries.append(dict(pixels) or None)
    return entries


def decide_classes(columns: Mapping[str, LabelColumn], recipe: Recipe) -> tuple[Labels, list[str]]:
    """The classes of all splits and what a reader should know. Raises DataError for ids that must be a mistake."""
    settings = recipe.dataset
    seen = {
        split: {number for counts in column.values if counts for number in counts} for split, column in columns.items()
    }
    ids = set().union(*seen.values()) - {settings.ignore_label}
    mapped = _mapped_ids(settings)
    if not settings.labels and USUAL_IGNORED in ids - mapped and USUAL_IGNORED - 1 not in ids:
        found = f"{USUAL_IGNORED}, which usually marks pixels without a class"
        fix = f"set dataset.ignore_label: {USUAL_IGNORED}, or name all classes in dataset.labels"
        if ids == {0, USUAL_IGNORED}:
            found = f"0 and {USUAL_IGNORED} alone"
            fix = f"set dataset.label_map: {{0: background, {USUAL_IGNORED}: object}}"
        expected = "ids of classes, from 0 on"
        raise DataError(Finding(place="dataset.columns.mask", expected=expected, found=found, fix=fix))
    _check_map(settings, ids)
    named = id_names(_possible_ids(settings, ids), settings)
    names = list(dict.fromkeys(name for name in named.values() if name is not None))
    learned = {name for number in seen["train"] if (name := id_names([number], settings)[number]) is not None}
    if len(learned) < 2:
        found, fix = ", ".join(sorted(learned)) or "none", "check the mask column, label_map and ignore_label"
        place, expected = "dataset.columns.mask", "at least two classes in train"
        raise DataError(Finding(place=place, expected=expected, found=found, fix=fix))
    _check_colors(settings, names)
    absent = [name for name in names if name not in learned]
    some = ", ".join(absent[:8]) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
    notes = [f"warning: labels without a row in train, which cannot be learned: {some}"] if absent else []
    if notes and not settings.labels and not mapped and len(absent) >= len(learned):
        notes = [f"{notes[0]}; {_suggest_map(sorted(number for number in ids if number is not None))}"]
    left = f"; pixels of id {settings.ignore_label} count nowhere" if settings.ignore_label is not None else ""
    return Labels(problem="pixels", names=tuple(names)), [f"a class for each pixel of {len(names)}{left}", *notes]


def _suggest_map(ids: Sequence[int]) -> str:
    """What to write where few of many ids stand in the masks, as in masks of some shades of grey."""
    pairs = [f"{number}: class_{number}" for number in ids[:MOST_NAMED]]
    more = ["..."] if len(ids) > MOST_NAMED else []
    those = f"dataset.label_map: {{{', '.join([*pairs, *more])}}}"
    return f"the masks hold {len(ids)} ids alone; set {those}, with names of your own, and no others are classes"


def _possible_ids(settings: DataSet, ids: set[int | None]) -> list[int]:
    """The ids that have a class: those with a name, else those of data and label_map, else all up to the last."""
    mapped, seen = _mapped_ids(settings), {number for number in ids if number is not None}
    if settings.labels:
        return sorted({*range(len(settings.labels)), *mapped})
    return sorted(seen | mapped) if mapped else list(range(max(seen, default=-1) + 1))


def _check_map(settings: DataSet, ids: set[int | None]) -> None:
    """A key of label_map that is neither a name nor an id in the data is a mistake."""
    known = {*(settings.labels or ()), *map(str, ids)}
    wrong = [str(key) for key in settings.label_map or {} if str(key) not in known]
    if wrong:
        found, expected = ", ".join(wrong[:5]), "ids or names of classes that stand in the masks"
        fix = f"ids there are: {', '.join(sorted(map(str, ids))[:10])}"
        raise DataError(Finding(place="dataset.label_map", expected=expected, found=found, fix=fix))


def _check_colors(settings: DataSet, names: Sequence[str]) -> None:
    wrong = [name for name in settings.label_colors if name not in names]
    if wrong:
        expected, found = "names of classes: " + ", ".join(names[:10]), ", ".join(wrong[:5])
        fix = "name classes as dataset.labels does"
        raise DataError(Finding(place="dataset.label_colors", expected=expected, found=found, fix=fix))


def lookup(settings: DataSet, labels: Labels) -> NDArray:
    """int32 [65536]: id in a mask -> id of the model, IGNORED where it does not count.

    An id that has no label counts nowhere either: splits are refused before that can matter.
    """
    table = np.full(MOST_IDS, IGNORED, dtype=np.int32)
    index_of, mapped = labels.index_of, _mapped_ids(settings)
    named = len(settings.labels) if settings.labels else _most(settings, labels)
    for number, name in id_names(sorted({*range(named), *mapped}), settings).items():
        if name in index_of:
            table[number] = index_of[name]
    return table


def _most(settings: DataSet, labels: Labels) -> int:
    """One more than the greatest id that can have a label."""
    own = [int(name) for name in labels.names if name.isdecimal()]
    return max([len(labels.names), *(number + 1 for number in (*_mapped_ids(settings), *own))])
