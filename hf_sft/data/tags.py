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
from hf_sft.data.spans import read_spans
from hf_sft.data.tag_columns import PLACE, wrong_column
from hf_sft.data.words import reads_text, word_columns
from hf_sft.errors import DataError, Finding
from hf_sft.recipe import DataSet, Recipe


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
        return read_spans(rows, name, inputs)
    if not isinstance(feature, List) or not isinstance(feature.feature, (Value, ClassLabel)):
        fix = "with texts and spans set dataset.columns: {text: ..., label: ...}"
        raise wrong_column(rows, name, "a list of tags per row, one for each token", fix, words=inputs)
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
