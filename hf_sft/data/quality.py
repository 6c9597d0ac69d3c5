"""What a set of rows looks like and what a reader of its results should know, before anything is trained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from hf_sft.data.columns import columns_of, joined
from hf_sft.data.pictures import read_pictures
from hf_sft.data.splits import Split
from hf_sft.errors import Finding, first_few
from hf_sft.recipe import Recipe

IMBALANCED = 10.0  # rows of the largest class to rows of the smallest, from which on it is worth a word
MOSTLY_NUMBERS = 0.5  # share of texts without a letter, from which on the column is likely another one
TINY, HUGE = 16, 4096  # pixels of an image's shorter and longer side
ODD_MODES = {"CMYK", "F", "HSV", "I", "I;16", "I;16B", "I;16L", "LAB", "YCbCr"}  # conversion to RGB may surprise
DECLARED_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was seen of a split. positions: the rows looked at; keys: kind of equality -> a hash per such row.

    Rows with one hash are equal in that sense ("exact", "normalised"); facts are numbers by name.
    """

    split: str
    positions: NDArray
    row_ids: NDArray
    keys: Mapping[str, NDArray]
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[Finding, ...] = ()


def inspect_texts(role: str, split: Split, recipe: Recipe, positions: NDArray) -> Inspection:
    """Empty, constant and letterless texts; hashes of the texts as they are, and of their words in lower case."""
    columns = [
        name for part in ("text", "text_pair") if _has(recipe, part) for name in columns_of(recipe.dataset, part)
    ]
    rows = split.rows.select(positions)
    texts = joined(rows.select_columns(columns)[:], columns) if columns else []
    ids, place = split.row_ids[positions], "dataset.columns.text"
    blank = [position for position, text in enumerate(texts) if not text.strip()]
    letterless = sum(not any(map(str.isalpha, text)) for text in texts)
    found = []
    if blank:
        what = f"{len(blank):,} without one in {role}: rows {first_few(ids[blank])}"
        fix = "mend or remove those rows; they are trained on as they are"
        found.append(Finding(place=place, expected="a text in every row", found=what, fix=fix))
    if len(texts) > 1 and len(set(texts)) == 1:
        fix = "is this the right column?"
        what = f"one text {texts[0][:40]!r} in all rows of {role}"
        found.append(Finding(place=place, expected="texts that differ", found=what, fix=fix))
    elif letterless - len(blank) > MOSTLY_NUMBERS * max(1, len(texts)):
        what = f"{letterless:,} of {len(texts):,} rows of {role} without a letter, as {texts[0][:40]!r}"
        found.append(Finding(place=place, expected="text in words", found=what, fix="is this the right column?"))
    lengths = np.array([len(text.split()) for text in texts] or [0])
    facts = {"words": {"median": float(np.median(lengths)), "most": int(lengths.max())}}
    keys = {"exact": hash_texts(texts), "normalised": hash_texts(map(normalise, texts))}
    return Inspection(split=role, positions=positions, row_ids=ids, keys=keys, facts=facts, warnings=tuple(found))


def inspect_images(role: str, split: Split, recipe: Recipe, positions: NDArray) -> Inspection:
    """Sizes and modes of the images, hashes of their pixels. Images that do not decode are another function's."""
    (column,) = columns_of(recipe.dataset, "image")
    pictures = [picture for picture in read_pictures(split.rows, column, positions, digest=True) if not picture.fault]
    looked = np.array([picture.position for picture in pictures], dtype=np.int64)
    widths, heights = (
        np.array([getattr(picture, side) for picture in pictures] or [0]) for side in ("width", "height")
    )
    modes, place = Counter(picture.mode for picture in pictures), "dataset.columns.image"
    found = []
    odd = {mode: count for mode, count in modes.items() if mode not in DECLARED_MODES}
    if odd:
        what = ", ".join(f"{count:,} of mode {mode}" for mode, count in odd.items()) + f" in {role}"
        fix = "look at how they convert to RGB (16-bit values are cut at 255), or convert them beforehand"
        found.append(Finding(place=place, expected="images of 8 bits: grey, RGB, palette", found=what, fix=fix))
    for which, words, fix in (
        (np.minimum(widths, heights) < TINY, f"under {TINY} pixels", "they are enlarged to processor.size"),
        (np.maximum(widths, heights) > HUGE, f"over {HUGE} pixels", "scale them down once, or reading takes most time"),
    ):
        if which.any() and len(pictures):
            what = f"{int(which.sum()):,} {words} in {role}: rows {first_few(split.row_ids[looked[which]])}"
            found.append(Finding(place=place, expected="images of usual sizes", found=what, fix=fix))
    facts = {
        "modes": dict(modes.most_common()),
        "size": {
            "smallest": f"{widths.min()} x {heights.min()}",
            "median": f"{int(np.median(widths))} x {int(np.median(heights))}",
            "largest": f"{widths.max()} x {heights.max()}",
        },
    }
    keys = {"exact": np.array([picture.digest for picture in pictures], dtype=np.uint64)}
    ids = split.row_ids[looked]
    return Inspection(split=role, positions=looked, row_ids=ids, keys=keys, facts=facts, warnings=tuple(found))


def compare_splits(inspections: Sequence[Inspection]) -> list[Finding]:
    """Rows that stand in two splits, each pair of splits once; what is not exactly equal is counted apart."""
    found = []
    for number, one in enumerate(inspections):
        for other in inspections[number + 1 :]:
            counts, example = {}, ""
            for kind in one.keys:
                shared, here, there = np.intersect1d(one.keys[kind], other.keys[kind], return_indices=True)
                counts[kind] = int(np.isin(other.keys[kind], shared).sum())
                if len(shared) and not example:
                    example = f"{one.split} row {one.row_ids[here[0]]} is {other.split} row {other.row_ids[there[0]]}"
            if not any(counts.values()):
                continue
            exact = counts.pop("exact")
            more = next((count - exact for count in counts.values() if count > exact), 0)
            also = f" ({more:,} more but for case, spaces and punctuation)" if more else ""
            what = f"{exact:,} rows of {other.split} stand in {one.split}{also}: {example}"
            fix = "remove them from one side: results on them are too good"
            place = f"dataset.splits.{other.split}"
            found.append(Finding(place=place, expected="rows that stand in one split", found=what, fix=fix))
    return found


def conflicting(inspection: Inspection, entries: Sequence[Any]) -> Finding | None:
    """Equal rows with different labels in one split; `entries` are the labels of the rows that were looked at."""
    labels: dict[int, set[str]] = {}
    for key, entry in zip(inspection.keys["exact"].tolist(), entries, strict=True):
        labels.setdefault(key, set()).add(str(entry))
    number = sum(len(names) > 1 for names in labels.values())
    if not number:
        return None
    ids = [
        int(row)
        for row, key in zip(inspection.row_ids, inspection.keys["exact"].tolist(), strict=True)
        if len(labels[key]) > 1
    ]
    what = f"{number:,} inputs of {inspection.split} with several: rows {first_few(ids)}"
    fix = "decide for one label each"
    return Finding(place="dataset.columns.label", expected="one label for equal inputs", found=what, fix=fix)


def label_findings(counts: Mapping[str, Counter[str]], problem: str) -> list[Finding]:
    """Imbalance of train, and labels that a split lacks. counts: split -> label -> rows."""
    found, train = [], counts["train"]
    if problem == "single_label" and train:
        (most, top), (least, low) = train.most_common()[0], train.most_common()[-1]
        if top >= IMBALANCED * low:
            what = f"{top / low:.0f} to 1: {most!r} {top:,} rows, {least!r} {low:,}"
            fix = "judge by macro_f1 (metrics: [macro_f1, ...]): accuracy hardly sees rare classes"
            found.append(Finding(place="dataset", expected="classes of like size in train", found=what, fix=fix))
    for split in counts:
        absent = [name for name in train if not counts[split][name]]
        if split != "train" and absent and problem != "regression":
            what = (
                f"{len(absent)} without a row in {split}: {', '.join(absent[:6])}{', ...' if len(absent) > 6 else ''}"
            )
            fix = f"results on {split} say nothing about them; add rows or cut the split anew"
            found.append(Finding(place=f"dataset.splits.{split}", expected="every label", found=what, fix=fix))
    return found


def normalise(text: str) -> str:
    """Words alone, in lower case."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _has(recipe: Recipe, role: str) -> bool:
    return role == "text" or role in recipe.dataset.columns


def hash_texts(texts: Iterable[str]) -> NDArray:
    """uint64 [N]: equal for equal texts."""
    return np.array([xxhash.xxh64_intdigest(text.encode("utf-8", "replace")) for text in texts], dtype=np.uint64)
