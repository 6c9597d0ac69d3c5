"""What the columns of a data set hold: images, texts, labels by name or number, and how many different ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Image, List, Value

IDS = {"id", "ids", "idx", "index", "uuid", "guid", "unnamed", "pk", "rowid"}
NAMED = ("label", "labels", "class", "category", "target", "intent", "topic")  # whose ids are labels
ASIDES = {
    "domain", "source", "split", "fold", "set", "subset", "user", "username", "author", "date", "time", "timestamp",
    "created", "year", "month", "day", "hour", "location", "country", "city", "state", "region", "timezone", "platform",
    "annotator", "worker", "confidence", "count", "counts", "votes", "vote", "helpful", "likes", "retweets", "length",
    "len", "num", "n", "width", "height", "size", "age", "gender", "name", "group", "price", "version", "reason",
    "verified", "agent", "company", "lat", "lon", "coord", "url", "link", "hash", "path", "file", "filename",
}  # fmt: skip
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MOST_LOST = 0.5  # of the paths of images; where more are not there, they start from another folder
LOOKED_AT = 2000  # rows whose texts are read
KINDS = {
    "image": "images",
    "path": "paths of images",
    "lost path": "paths of images that are not there",
    "class": "classes",
    "list": "lists",
    "text": "text",
    "truth": "true or false",
    "whole": "whole numbers",
    "fraction": "numbers",
    "other": "neither text, number nor image",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column holds.

    kind: of KINDS; a class is an integer with a name.
    distinct: different values, of lists those inside; words: those of a median text.
    lost: paths of images that are not there, of those looked at.
    """

    name: str
    kind: str
    rows: int
    distinct: int = 0
    nulls: int = 0
    words: float = 0.0
    lost: int = 0

    @property
    def tokens(self) -> list[str]:
        """reviewText, review_text and "review text" are all review, text."""
        return [token.lower() for token in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])|\d+", self.name)] or [
            self.name
        ]

    @property
    def plain_name(self) -> str:
        return "_".join(self.tokens)

    @property
    def last_word(self) -> str:
        """label of fine_label and of label2."""
        return next((token for token in reversed(self.tokens) if not token.isdigit()), "")

    @property
    def is_aside(self) -> bool:
        """By its name, something that goes with a row and is rarely what it is to be classified by."""
        return self.last_word in ASIDES or self.tokens[0] in ("num", "n", "date", "time")

    @property
    def is_id(self) -> bool:
        """A number of the row, by its name; label_id is none."""
        return (self.tokens[-1] in IDS or self.tokens[0] in ("unnamed", "index")) and self.tokens[0] not in NAMED


def sample(rows: Dataset, most: int = LOOKED_AT) -> Dataset:
    """At most so many rows, spread evenly."""
    if len(rows) <= most:
        return rows
    return rows.select(np.linspace(0, len(rows) - 1, most).astype(np.int64))


def look_at(rows: Dataset, folder: Path) -> dict[str, Column]:
    """Every column by name. folder: where paths of images start from."""
    return {name: _look_at(rows, name, feature, folder) for name, feature in rows.features.items()}


def _look_at(rows: Dataset, name: str, feature: Any, folder: Path) -> Column:
    size = len(rows)
    if _holds_images(feature):
        return Column(name=name, kind="image", rows=size)
    if not isinstance(feature, (Value, ClassLabel, List)):
        return Column(name=name, kind="other", rows=size)
    values = rows.select_columns([name]).with_format("arrow")[:][name]
    if isinstance(feature, List):
        if not isinstance(feature.feature, (Value, ClassLabel)):
            return Column(name=name, kind="other", rows=size)
        inside = _distinct(pc.list_flatten(values))
        return Column(name=name, kind="list", rows=size, distinct=inside, nulls=values.null_count)
    if pyarrow.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    kind = "class" if isinstance(feature, ClassLabel) else _kind(values)
    words, lost = 0.0, 0
    if kind == "text":
        texts = [text for text in sample(rows.select_columns([name]))[:][name] if text is not None]
        if _are_paths(texts):
            lost = sum(not (folder / text).is_file() for text in texts)
            kind = "path" if lost <= MOST_LOST * len(texts) else "lost path"
        words = float(np.median([_count_words(text) for text in texts] or [0]))
    return Column(
        name=name,
        kind=kind,
        rows=size,
        distinct=0 if kind == "other" else _distinct(values),
        nulls=values.null_count,
        words=words,
        lost=lost,
    )


def _kind(values: Any) -> str:
    """Of a column with one value a row; a column without any is other."""
    if values.null_count == len(values):
        return "other"
    if pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type):
        return "text"
    if pyarrow.types.is_boolean(values.type):
        return "truth"
    if pyarrow.types.is_integer(values.type):
        return "whole"
    if pyarrow.types.is_floating(values.type):
        return "whole" if pc.all(pc.equal(pc.floor(values), values)).as_py() else "fraction"
    return "other"


def _holds_images(feature: Any) -> bool:
    """Images, files as bytes, or the pairs of bytes and path that parquet files hold."""
    if isinstance(feature, Value):
        return feature.dtype in ("binary", "large_binary")
    return isinstance(feature, Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _distinct(values: Any) -> int:
    """How many different values; 0 for kinds of values that are no labels."""
    if pyarrow.types.is_null(values.type) or pyarrow.types.is_nested(values.type):
        return 0
    return len(values.drop_null().unique())


def _are_paths(texts: Sequence[str]) -> bool:
    return bool(texts) and all(text.lower().endswith(PICTURES) and "\n" not in text for text in texts)


def _count_words(text: str) -> float:
    """Words; in writing without spaces two characters count as one."""
    return max(len(text.split()), sum(character > "\u2e7f" for character in text) / 2)


def describe_columns(columns: Mapping[str, Column]) -> str:
    """All columns with what they hold, as a Finding says what was found."""
    shown = [
        f"{column.name!r} ({KINDS[column.kind]}" + (f", {column.distinct:,} distinct)" if column.distinct else ")")
        for column in columns.values()
    ]
    return "columns " + ", ".join(shown)
