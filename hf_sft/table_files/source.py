"""Rows to predict, wherever they come from: what is known of them beforehand, and one row after the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow

from hf_sft.errors import DataError, Finding, nearest

Row = dict[str, Any]
Item = TypeVar("Item")
TYPES_READ_TOGETHER = 4096  # rows


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """Rows that are read one by one; never are all of them held.

    name: what messages call it. columns: those of all rows; a row may lack some (json).
    read: the rows from the first on; standard input and iterators give theirs once.
    schema: the arrow types of the columns; json files are read once more for them.
    folder: where relative paths in the rows start. total: number of rows, None where unknown.
    line: row -> line of the file, where rows are lines. holds: the one role the rows can play, None where any.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[], Iterator[Row]]
    schema: Callable[[], pyarrow.Schema]
    folder: Path
    total: int | None = None
    line: Callable[[int], int] | None = None
    holds: str | None = None

    def place(self, row: int) -> str:
        """Where a row stands, counted from 0 as everywhere; with its line, which an editor shows."""
        line = f" (line {self.line(row)})" if self.line else ""
        return f"row {row} of {self.name}{line}"


def chunked(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def as_strings(columns: Sequence[str]) -> pyarrow.Schema:
    """The schema of columns of text."""
    return pyarrow.schema([(name, pyarrow.string()) for name in columns])


def infer_schema(rows: Iterable[Row], columns: Sequence[str], name: str) -> pyarrow.Schema:
    """Types that fit every row; whole numbers and numbers become numbers. Raises DataError where none fits."""
    found = pyarrow.schema([(column, pyarrow.null()) for column in columns])
    for chunk in chunked(rows, TYPES_READ_TOGETHER):
        for position, column in enumerate(columns):
            try:
                field = pyarrow.field(column, pyarrow.array([row.get(column) for row in chunk]).type)
                parts = [pyarrow.schema([part]) for part in (found.field(position), field)]
                merged = pyarrow.unify_schemas(parts, promote_options="permissive")
            except (pyarrow.ArrowException, OverflowError) as error:
                place, expected = f"column {column!r} of {name}", "values of one type, as parquet needs"
                found_here = (str(error).splitlines() or [type(error).__name__])[0]
                finding = Finding(place=place, expected=expected, found=found_here, fix="write OUT as .jsonl")
                raise DataError(finding) from None
            found = found.set(position, merged.field(0))
    return found


def check_options(options: Mapping[str, Any], known: Sequence[str], name: str) -> None:
    """Raises DataError for options that the reader of this input does not have."""
    findings = [
        Finding(
            place=f"options.{option}",
            expected=f"an option for reading {name}",
            found=option,
            fix=nearest(option, known) or "this input takes no options",
        )
        for option in options
        if option not in known
    ]
    if findings:
        raise DataError(findings)
