"""Words with tags, or texts with spans, found among the columns of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.compute
from datasets import ClassLabel, Dataset, List, Value

from hf_sft.data.labels import OUTSIDE
from hf_sft.data.spans import SPAN_KEYS
from hf_sft.data.tags import type_of
from hf_sft.guessing.profile import sample

WORDS = ("tokens", "words", "token", "word", "sentence", "text")  # the earlier, the likelier
TEXTS = ("text", "sentence", "content", "document", "body")


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """columns: role -> column; why: role -> reason; others: columns that could be the labels as well."""

    columns: dict[str, str | list[str]]
    why: dict[str, str]
    others: list[str]


def find_tagged(rows: Dataset) -> Tagged | None:
    """The columns of words and of their tags in IOB2, or of texts and of spans in them; None where there are none."""
    return _find_tags(rows) or _find_spans(rows)


def _find_tags(rows: Dataset) -> Tagged | None:
    lists = {name: feature.feature for name, feature in rows.features.items() if isinstance(feature, List)}
    if not lists:
        return None
    table = sample(rows.select_columns(list(lists))).with_format("arrow")[:]
    tags = {name: types for name, inner in lists.items() if (types := _types(inner, table, name)) is not None}
    words = [name for name, inner in lists.items() if name not in tags and _is_text(inner)]
    for column in sorted(words, key=lambda name: _rank(name, WORDS)):
        lengths = pyarrow.compute.list_value_length(table[column])
        fitting = [name for name in tags if pyarrow.compute.list_value_length(table[name]).equals(lengths)]
        if fitting:
            first = min(fitting, key=lambda name: ("ner" not in name.lower(), list(tags).index(name)))
            shown = ", ".join(tags[first][:4]) + (", ..." if len(tags[first]) > 4 else "")
            why = {"tokens": "lists of words", "label": f"a tag for each word; entities of {shown}"}
            others = [name for name in fitting if name != first]
            return Tagged(columns={"tokens": column, "label": first}, why=why, others=others)
    return None


def _types(inner: Any, table: Any, name: str) -> list[str] | None:
    """The types of entities that the tags in a list column name; None for what are no tags of IOB2."""
    if isinstance(inner, ClassLabel):
        tags = list(inner.names)
    elif _is_text(inner):
        tags = pyarrow.compute.list_flatten(table[name]).drop_null().unique().to_pylist()[:1000]
    else:
        return None
    types = list(dict.fromkeys(kind for tag in sorted(tags) if (kind := type_of(tag)) is not None))
    return types if types and all(tag == OUTSIDE or type_of(tag) for tag in tags) else None


def _find_spans(rows: Dataset) -> Tagged | None:
    spans = [name for name, feature in rows.features.items() if _holds_spans(feature)]
    texts = [name for name, feature in rows.features.items() if _is_text(feature)]
    if not spans or not texts:
        return None
    text = min(texts, key=lambda name: _rank(name, TEXTS))
    why = {"text": "texts", "label": "spans of the text: start, end, label"}
    return Tagged(columns={"text": text, "label": spans[0]}, why=why, others=spans[1:])


def _holds_spans(feature: Any) -> bool:
    inner = feature.feature if isinstance(feature, List) else feature
    return isinstance(inner, Mapping) and set(SPAN_KEYS) <= set(inner)


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _rank(name: str, known: tuple[str, ...]) -> int:
    return known.index(name.lower()) if name.lower() in known else len(known)
