"""Rows into a csv, jsonl or parquet file, a chunk at a time: written beside, renamed when all of them are there."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import PIL.Image
import pyarrow
import pyarrow.parquet

from hf_sft.console import escaped_json, onto_standard_output
from hf_sft.errors import EnvironmentProblem, Finding, HfSftError
from hf_sft.table_files.source import Row

STANDARD_OUTPUT = "-"
JOIN = "|"  # between several labels in one cell of a csv file; where one holds it, the cell is JSON


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of all rows to come; their types are asked for where a file needs them."""

    names: Sequence[str]
    schema: Callable[[], pyarrow.Schema]


class Writer(Protocol):
    """Takes rows in their order; `close` makes what was written a whole file."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


class CsvWriter:
    """Commas, quotes where needed, UTF-8; an absent value is an empty cell."""

    def __init__(self, path: Path, columns: Columns):
        self.file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self.columns = columns.names
        self.writer = csv.writer(_LineFeeds(self.file), lineterminator="\r\n")
        self.writer.writerow(self.columns)

    def write(self, rows: Sequence[Row]) -> None:
        self.writer.writerows([_as_cell(row.get(column)) for column in self.columns] for row in rows)

    def close(self) -> None:
        self.file.close()


class _LineFeeds:
    """Ends lines with a line feed; `csv` puts a cell with a carriage return in quotes only when lines end with one."""

    def __init__(self, file: IO[str]):
        self.file = file

    def write(self, line: str) -> None:
        self.file.write(line.removesuffix("\r\n") + "\n")


class JsonLinesWriter:
    """Each row with the keys it has."""

    def __init__(self, path: Path, columns: Columns):
        self.file = path.open("w", encoding="utf-8", errors="backslashreplace")

    def write(self, rows: Sequence[Row]) -> None:
        self.file.write(_as_json_lines(rows))
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def print_rows(rows: Sequence[Row]) -> None:
    """JSON lines on standard output. Raises BrokenPipeError where nobody reads them any more."""
    with onto_standard_output():
        sys.stdout.write(escaped_json(_as_json_lines(rows)))


class ParquetWriter:
    """Columns of one type each; a row that lacks a column has null there."""

    def __init__(self, path: Path, columns: Columns):
        self.schema = columns.schema()
        self.writer = pyarrow.parquet.ParquetWriter(path, self.schema)

    def write(self, rows: Sequence[Row]) -> None:
        self.writer.write_table(pyarrow.Table.from_pylist([_storable(row) for row in rows], schema=self.schema))

    def close(self) -> None:
        self.writer.close()


ENDINGS: dict[str, Callable[[Path, Columns], Writer]] = {
    ".csv": CsvWriter,
    ".jsonl": JsonLinesWriter,
    ".parquet": ParquetWriter,
}


def check_output(output: str | Path, *, overwrite: bool, endings: Sequence[str] = tuple(ENDINGS)) -> None:
    """Raises EnvironmentProblem for an unknown ending, a folder that is missing or read-only, a file that exists."""
    if str(output) == STANDARD_OUTPUT and ".jsonl" in endings:
        return
    path = Path(output).expanduser()
    expected = found = fix = ""
    if path.suffix.lower() not in endings:
        expected, found = "a file " + ", ".join(endings), path.suffix or "no ending"
    elif not path.parent.is_dir():
        expected, found, fix = "a folder that exists", str(path.parent), "make it first"
    elif not os.access(path.parent, os.W_OK):
        expected, found = "a folder that can be written", f"no permission in {path.parent}"
    elif path.is_dir():
        expected, found = "a file", "a folder"
    elif path.exists() and not overwrite:
        expected, found, fix = "a new file", "one that exists", "--overwrite (from Python: overwrite=True) replaces it"
    if expected:
        raise EnvironmentProblem(Finding(place=str(output), expected=expected, found=found, fix=fix))


@contextmanager
def open_output(output: str | Path, columns: Columns) -> Iterator[Callable[[Sequence[Row]], None]]:
    """A function that takes the next rows. The file has its name only when all went well.

    After an error the rows so far stand in `<name>.partial`, and the error says so; without any nothing is left.
    """
    if str(output) == STANDARD_OUTPUT:
        yield print_rows
        return
    path = Path(output).expanduser()
    beside, written = path.with_name(f"{path.name}.partial"), 0
    with _naming(path):
        writer = ENDINGS[path.suffix.lower()](beside, columns)

    def write(rows: Sequence[Row]) -> None:
        nonlocal written
        with _naming(path):
            writer.write(rows)
        written += len(rows)

    try:
        yield write
        with _naming(path):
            writer.close()
            os.replace(beside, path)
    except BaseException as error:
        with suppress(OSError, pyarrow.ArrowException):
            writer.close()
        if not written:
            beside.unlink(missing_ok=True)
            raise
        kept = f"the predictions of the first {written:,} rows (0 to {written - 1}) are kept"
        if isinstance(error, HfSftError):
            raise type(error)([*error.findings, Finding(place=str(beside), found=kept)]) from error
        error.add_note(f"{beside}: {kept}")
        raise


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside it to write, which takes its name when all went well; else nothing is left."""
    beside = path.with_name(f"{path.name}.partial")
    try:
        with _naming(path):
            yield beside
            os.replace(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Names the file in what the operating system refuses: no space left, no permission."""
    try:
        yield
    except OSError as error:
        found = error.strerror or str(error)
        raise EnvironmentProblem(
            Finding(place=str(path), expected="a file that can be written", found=found)
        ) from error


def _as_cell(value: Any) -> Any:
    if value is None or (isinstance(value, (str, int, float)) and not isinstance(value, bool)):
        return value
    value = _plain(value)
    if isinstance(value, list) and all(isinstance(item, str) and JOIN not in item for item in value):
        return JOIN.join(value)
    return value if isinstance(value, str) or value is None else _as_json(value)


def _as_json_lines(rows: Sequence[Row]) -> str:
    return "".join(_as_json(row) + "\n" for row in rows)


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:  # JSON has no word for NaN
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    """What a text file can hold of a value: an image's file name, a date as it is written."""
    if isinstance(value, PIL.Image.Image):
        return getattr(value, "filename", None) or None
    if isinstance(value, bytes):
        return None
    if isinstance(value, (bool, list, dict)):
        return value
    return str(value)


def _storable(row: Row) -> Row:
    return {name: _plain(value) if isinstance(value, PIL.Image.Image) else value for name, value in row.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
