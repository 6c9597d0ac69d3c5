"""The labels of words: tags in IOB2 (O, B-<type>, I-<type>), as they are given or made from spans of characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute
from datasets import ClassLabel, Dataset, List, Value

from hf_sft.data.bad_rows import Fault
from hf_sft.data.columns import columns_of, label_column
from hf_sft.data.labels import OUTSIDE, LabelColumn, Labels, decide_labels
from hf_sft.data.words import Words, reads_text, split_text, word_columns
from hf_sft.errors import DataError, Finding
from hf_sft.recipe import DataSet, Recipe

SPAN_KEYS = ("start", "end", "label")
PLACE = "dataset.columns.label"


def type_of(tag: str) -> str | None:
    """The type of the entity that a tag belongs to; None for O, and for what is no tag of IOB2."""
    return tag[2:] if tag[:2] in ("B-", "I-") and len(tag) > 2 else None


def types_of(tags: Sequence[str]) -> list[str]:
    """The types of entities in the order in which tags name them."""
    return list(dict.fromkeys(kind for tag in tags if (kind := type_of(tag)) is not None))


def read_tags(rows: Dataset, settings: DataSet) -> LabelColumn | None:
    """The tags of every row; None where the split has no such column.

    A row whose tags cannot be used has none, and a fault that says why.
    Raises DataError for a column of another kind.
    """
    (name,) = columns_of(settings, "label")
    if name not in rows.column_names:
        return None
    (inputs,) = word_columns(settings)
    feature = rows.features[name]
    if reads_text(settings):
        return _tags_of_spans(rows, name, inputs, feature)
    if not isinstance(feature, List) or not isinstance(feature.feature, (Value, ClassLabel)):
        fix = "with texts and spans set dataset.columns: {text: ..., label: ...}"
        raise _wrong_column(name, feature, "a list of tags per row, one for each token", fix)
    column = label_column(rows, settings)
    assert column is not None
    return _with_one_tag_each(rows, column, name, inputs)


def _with_one_tag_each(rows: Dataset, column: LabelColumn, name: str, inputs: str) -> LabelColumn:
    if inputs not in rows.column_names or not isinstance(rows.features[inputs], List):
        return column  # another function's complaint
    table = rows.select_columns(list(dict.fromkeys([name, inputs]))).with_format("arrow")[:]
    tags, tokens = (_list_lengths(table[column]) for column in (name, inputs))
    faults = [
        Fault(
            position=int(position),
            role="label",
            column=name,
            kind="has not one tag for each token",
            detail=f"{tags[position]} tags for {tokens[position]} tokens in the first of them",
            expected="as many tags as tokens in every row",
        )
        for position in np.flatnonzero((tags != tokens) & (tags >= 0) & (tokens >= 0))
    ]
    return _without(column, faults)


def _list_lengths(values: Any) -> Any:
    """int64 [N], -1 where there is no list."""
    return pyarrow.compute.fill_null(pyarrow.compute.list_value_length(values), -1).to_numpy().astype(np.int64)


def _without(column: LabelColumn, faults: Sequence[Fault]) -> LabelColumn:
    """The column with no tags in the rows with a fault."""
    if not faults:
        return column
    values = list(column.values)
    for fault in faults:
        values[fault.position] = None
    return replace(column, values=values, faults=tuple(faults))


def _tags_of_spans(rows: Dataset, name: str, text: str, feature: Any) -> LabelColumn:
    inner = feature.feature if isinstance(feature, List) else feature
    keys = inner if isinstance(inner, dict) else {}
    nested = isinstance(feature, dict)  # {"start": [...], "end": [...], "label": [...]}
    if not set(SPAN_KEYS) <= set(keys) and not _is_plain(feature):
        expected = "a list of spans per row: {start, end, label}, in characters"
        raise _wrong_column(name, feature, expected, "with a list of words set dataset.columns: {tokens: ...}")
    kind = keys.get("label")
    kind = kind.feature if isinstance(kind, List) else kind
    names = kind.names if isinstance(kind, ClassLabel) else None
    values, faults = [], []
    columns = [name, *([text] if text in rows.column_names else [])]
    batch = rows.select_columns(columns)[:]
    for position, cell in enumerate(batch[name]):
        spans = _unnested(cell) if nested and cell is not None else cell
        content = batch[text][position] if text in batch else None
        made = tag_words(split_text(content), spans, names) if isinstance(content, str) and spans is not None else None
        if isinstance(made, str):
            problem, _, detail = made.partition(": ")
            expected = "spans on the borders of words, inside the text and apart"
            fault = Fault(position=position, role="label", column=name, kind=problem, detail=detail, expected=expected)
            faults.append(fault)
            made = None
        elif made is None and spans is not None and not isinstance(content, str):
            made = []  # a text that is not there is another function's complaint
        values.append(made)
    return LabelColumn(values=values, faults=tuple(faults))


def _is_plain(feature: Any) -> bool:
    """A column in which nothing but empty lists stands, or one that json could give no type."""
    return not isinstance(feature, (Value, ClassLabel, dict)) and (
        not isinstance(feature, List) or getattr(feature.feature, "dtype", "") == "null"
    )


def _unnested(cell: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(SPAN_KEYS, parts, strict=True)) for parts in zip(*(cell[key] for key in SPAN_KEYS), strict=True)]


def tag_words(words: Words, spans: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> list[str] | str:
    """A tag per word; or, where a span cannot be one, what is wrong with it, in words that follow a column's name.

    Space at a span's borders is no part of it. names: of labels that are integers.
    """
    tags, text = [OUTSIDE] * len(words.starts), words.text
    for span in spans:
        start, end, label = (span.get(key) if isinstance(span, Mapping) else None for key in SPAN_KEYS)
        if not isinstance(start, int) or not isinstance(end, int) or label is None:
            return f"holds what is no span: {str(span)[:60]}"
        shown = f"{start} to {end}, {text[start:end][:40]!r}" if 0 <= start < end else f"{start} to {end}"
        if not 0 <= start < end <= len(text):
            return f"holds spans outside the text: {shown}, in a text of {len(text)} characters"
        first = int(np.searchsorted(words.ends, start, side="right"))
        last = int(np.searchsorted(words.starts, end, side="left"))
        if first >= last:
            return f"holds spans without a word: {shown}"
        if words.starts[first] < start or words.ends[last - 1] > end:
            return f"holds spans that cut a word: {shown}"
        if any(tag != OUTSIDE for tag in tags[first:last]):
            return f"holds spans that overlap: {shown}"
        kind = names[label] if names is not None and isinstance(label, int) else str(label)
        tags[first:last] = [f"B-{kind}"] + [f"I-{kind}"] * (last - first - 1)
    return tags


def decide_tags(columns: Mapping[str, LabelColumn], recipe: Recipe) -> tuple[Labels, list[str]]:
    """The tags of all splits: in the order that the data or the recipe give them, else O, then each type's.

    Raises DataError for names that are no tags of IOB2.
    """
    settings = recipe.dataset
    labels, notes = decide_labels(columns, settings, problem="tags")
    wrong = [name for name in labels.names if name != OUTSIDE and type_of(name) is None]
    if wrong:
        numbers = all(name.removeprefix("-").isdecimal() for name in wrong)
        fix = "name them in dataset.labels: [O, B-..., I-..., ...]" if numbers else ""
        fix = fix or f"rename tags in dataset.label_map: {{{wrong[0]}: B-...}} (BIOES: S- is B-, E- is I-)"
        some = ", ".join(map(repr, wrong[:6])) + (f" and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        expected = "tags of IOB2: O, B-<type>, I-<type>"
        raise DataError(Finding(place=PLACE, expected=expected, found=some, fix=fix))
    if not (columns["train"].class_names or settings.labels):
        labels = replace(labels, names=tuple(sorted(labels.names, key=_order)))
    return replace(labels, constrained=bool(recipe.processor.constrained_decoding)), notes


def _order(tag: str) -> tuple[bool, str, str]:
    return tag != OUTSIDE, tag[2:], tag[:1]


def _wrong_column(name: str, feature: Any, expected: str, fix: str) -> DataError:
    kind = getattr(feature, "dtype", None) or type(feature).__name__
    inner = feature.feature if isinstance(feature, List) else None
    inside = "" if inner is None else f" of {getattr(inner, 'dtype', None) or type(inner).__name__}"
    found = f"column {name!r} of type {kind}{inside}"
    return DataError(Finding(place=PLACE, expected=expected, found=found, fix=fix))
