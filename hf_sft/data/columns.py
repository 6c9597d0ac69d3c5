"""Which columns play which role, and whether they are there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, List, Value

from hf_sft.data.labels import LabelColumn
from hf_sft.data.splits import Split
from hf_sft.errors import DataError, Finding, nearest
from hf_sft.recipe import DataSet, Recipe

JOINED = ("text", "text_pair")  # roles that several columns play together
ALSO_CALLED = {"objects": ("box", "annotation"), "mask": ("annotation", "segmentation", "label")}


def columns_of(settings: DataSet, role: str) -> list[str]:
    """The columns of a role; where the recipe is silent, the column of the same name."""
    named = settings.columns.get(role, role)
    return [named] if isinstance(named, str) else list(named)


def check_columns(column_names: Sequence[str], roles: Mapping[str, bool], recipe: Recipe, what: str) -> None:
    """Raises DataError for every column that the recipe names (or a required role needs) and the data lack."""
    findings = []
    for role, required in roles.items():
        if not required and role not in recipe.dataset.columns:
            continue
        named = columns_of(recipe.dataset, role)
        if len(named) != 1 and role not in JOINED:
            place, fix = f"dataset.columns.{role}", f"set dataset.columns: {{{role}: {named[0]}}}"
            findings.append(Finding(place=place, expected="one column", found=", ".join(named), fix=fix))
        for column in named:
            if column not in column_names:
                findings.append(_missing(column, role, column_names, what))
    if findings:
        raise DataError(findings)


def _missing(column: str, role: str, column_names: Sequence[str], what: str) -> Finding:
    fix = nearest(column, column_names) if role in column_names or column != role else ""
    words = (role, *ALSO_CALLED.get(role, ()))
    guess = next((name for name in column_names if any(word in name or name in word for word in words)), "...")
    separator = next((mark for mark in ";\t|" if mark in "".join(column_names)), None)
    if len(column_names) == 1 and separator:
        fix = f"set dataset.options: {{sep: {json.dumps(separator)}}}"
    return Finding(
        place=f"dataset.columns.{role}",
        expected=f"a column {column!r} in {what}",
        found="columns " + ", ".join(map(repr, column_names)),
        fix=fix or f"set dataset.columns: {{{role}: {guess}}}",
    )


def label_column(rows: Dataset, settings: DataSet) -> LabelColumn | None:
    """The label column of a split, read without decoding anything else; None where it has none."""
    (name,) = columns_of(settings, "label")
    if name not in rows.column_names:
        return None
    feature = rows.features[name]
    inner = feature.feature if isinstance(feature, List) else feature
    names = tuple(inner.names) if isinstance(inner, ClassLabel) else None
    return LabelColumn(values=rows.select_columns([name])[:][name], class_names=names)


def check_texts(split: Split, columns: Sequence[str], role: str) -> None:
    """Raises DataError unless the columns hold text."""
    for column in columns:
        feature = split.rows.features[column]
        if not (isinstance(feature, Value) and feature.dtype in ("string", "large_string")):
            found = f"column {column!r} of type {getattr(feature, 'dtype', None) or type(feature).__name__}"
            fix = "name the column that holds the text"
            raise DataError(Finding(place=f"dataset.columns.{role}", expected="text", found=found, fix=fix))


def joined(batch: Mapping[str, Sequence[Any]], columns: Sequence[str]) -> list[str]:
    """Several text columns as one text per row, a line each."""
    if len(columns) == 1:
        return list(batch[columns[0]])
    return ["\n".join(parts) for parts in zip(*(batch[column] for column in columns), strict=True)]
