"""Rows that cannot be used: all of them named, then refused or (dataset.on_bad_row: skip) left out and listed."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow.compute
from datasets import Dataset
from numpy.typing import NDArray

from hf_sft.errors import DataError, Finding, first_few

MOST_LOOKED_AT = 10_000  # rows a split whose images are decoded before training, unless bad rows are to be skipped
WORDS = {"image": "an image", "objects": "a list of boxes with labels"}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with the row at `position` of a split. kind: in words that follow a column's name.

    expected: where that is more than a value of the role in every row. fix: where the rows need not be mended.
    """

    position: int
    role: str
    column: str
    kind: str
    detail: str = ""
    expected: str = ""
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A fault by the split it stands in and the row's id in the source."""

    split: str
    source: str
    row_id: int
    fault: Fault


def null_faults(rows: Dataset, column: str, role: str) -> list[Fault]:
    """One fault per row without a value in the column."""
    values = rows.select_columns([column]).with_format("arrow")[:][column]
    if not values.null_count:
        return []
    empty = pyarrow.compute.indices_nonzero(values.is_null()).to_pylist()
    return [Fault(position=row, role=role, column=column, kind="is empty (null)") for row in empty]


def looked_at(size: int, most: int | None) -> NDArray:
    """Positions of all rows, or of `most` of them, evenly spread."""
    if most is None or size <= most:
        return np.arange(size)
    return np.linspace(0, size - 1, most).astype(np.int64)


def name_rows(split: str, source: str, row_ids: NDArray, faults: Sequence[Fault]) -> list[BadRow]:
    """The faults of a split under the ids that its rows have in the source."""
    return [
        BadRow(split=split, source=source, row_id=int(row_ids[fault.position]), fault=fault)
        for fault in sorted(faults, key=lambda fault: fault.position)
    ]


def refuse(bad: Sequence[BadRow], *, none_left: bool = False) -> DataError:
    """The error that names them: one finding per split, column and kind of fault.

    none_left: whether a split has no other rows, so that none can be skipped.
    """
    usual_fix = "mend or remove those rows, or set dataset.on_bad_row: skip"
    if none_left:
        usual_fix = "mend the rows or the recipe's dataset section: with dataset.on_bad_row: skip no row is left"

    def kind(row: BadRow) -> tuple[str, str, str, str, str]:
        return row.split, row.source, row.fault.role, row.fault.column, row.fault.kind

    findings = []
    for (_, source, role, column, words), group in groupby(sorted(bad, key=kind), key=kind):
        rows = list(group)
        ids = first_few([row.row_id for row in rows])
        count = f"{len(rows):,} rows" if len(rows) > 1 else "1 row"
        detail = f" ({rows[0].fault.detail})" if rows[0].fault.detail else ""
        usual = f"{WORDS.get(role) or 'a ' + role.partition('_')[0]} in every row"
        findings.append(
            Finding(
                place=f"dataset.columns.{role}",
                expected=rows[0].fault.expected or usual,
                found=f"column {column!r} {words} in {count} of {source}: {ids}{detail}",
                fix=rows[0].fault.fix or usual_fix,
            )
        )
    return DataError(findings)


def as_csv(bad: Sequence[BadRow]) -> str:
    """report/bad_rows.csv: split, source, row_id, column, reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "source", "row_id", "column", "reason"])
    for row in bad:
        reason = row.fault.kind + (f": {row.fault.detail}" if row.fault.detail else "")
        writer.writerow([row.split, row.source, row.row_id, row.fault.column, reason])
    return text.getvalue()
