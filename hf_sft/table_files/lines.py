"""Rows to predict that are lines: csv, json, text, standard input. Values are kept as they are written."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow

from hf_sft.errors import DataError, Finding, describe_value
from hf_sft.table_files.source import Row, RowSource, as_strings, check_options, infer_schema

LONGEST_CELL = 2**31 - 1  # characters; Python's own limit of 131,072 is less than some documents have
Numbered = Iterator[tuple[int, Row]]  # with the last line of each row


def open_csv(path: Path, options: Mapping[str, Any]) -> RowSource:
    """Every cell is text, exactly as written. Read through once: rows are counted, ragged ones found."""
    check_options(options, ("sep", "encoding", "quoting"), path.name)
    separator = options.get("sep", "\t" if path.suffix.lower() == ".tsv" else ",")
    separator, quoting = "\t" if separator == r"\t" else separator, options.get("quoting", 0)  # as a shell passes them
    quoting = int(quoting) if quoting in ("0", "3") else quoting
    numbered = partial(_csv_rows, path, separator, options.get("encoding", "utf-8-sig"), quoting)
    columns = tuple(next(_csv_cells(*numbered.args))[1])
    mark = next((mark for mark in ";\t|," if len(columns) == 1 and mark in columns[0]), None)
    if mark:
        found, fix = f"one: {columns[0]!r}", f"set the option sep to {mark!r}"
        raise DataError(Finding(place=f"header of {path.name}", expected="several columns", found=found, fix=fix))
    return _source(path, columns, numbered, lambda: as_strings(columns))


def _csv_cells(path: Path, separator: str, encoding: str, quoting: int) -> Iterator[tuple[int, list[str]]]:
    """The cells of the header, then of every row, with their last line; blank lines are no rows."""
    csv.field_size_limit(LONGEST_CELL)
    with _opened(path, encoding, newline="") as file:
        try:
            reader = csv.reader(file, delimiter=separator, quoting=quoting, strict=True)  # type: ignore[arg-type]
        except TypeError as error:
            expected = "sep: one character; quoting: 0 (quotes enclose) or 3 (quotes are letters)"
            raise DataError(Finding(place="options", expected=expected, found=str(error))) from None
        empty = True
        try:
            for cells in reader:
                if cells:
                    empty = False
                    yield reader.line_num, cells
        except csv.Error as error:
            place, fix = f"line {reader.line_num} of {path.name}", "mend it; option quoting=3 reads quotes as letters"
            raise DataError(Finding(place=place, expected="a row of a csv file", found=str(error), fix=fix)) from None
    if empty:
        raise DataError(Finding(place=str(path), expected="a header and rows", found="an empty file"))


def _csv_rows(path: Path, separator: str, encoding: str, quoting: int) -> Numbered:
    rows = _csv_cells(path, separator, encoding, quoting)
    _, header = next(rows)
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        found, fix = ", ".join(map(repr, twice)), "rename them"
        place = f"header of {path.name}"
        raise DataError(Finding(place=place, expected="each column once", found=f"twice: {found}", fix=fix))
    for line, cells in rows:
        if len(cells) != len(header):
            found, expected = f"{len(cells)}: {describe_value(separator.join(cells))}", f"{len(header)} cells"
            fix = "enclose texts with the separator in quotes, or set the option sep"
            place = f"line {line} of {path.name}"
            raise DataError(Finding(place=place, expected=f"{expected}, as the header has", found=found, fix=fix))
        yield line, dict(zip(header, cells, strict=True))


def open_json(path: Path, options: Mapping[str, Any]) -> RowSource:
    """One object a line (or one list of objects); later ones may have other keys. Read through once for these."""
    check_options(options, ("encoding",), path.name)
    numbered = partial(_json_rows, path, options.get("encoding", "utf-8-sig"))
    columns: dict[str, None] = {}
    for _, row in numbered():
        columns.update(dict.fromkeys(row))
    names = tuple(columns)
    if not names:
        raise DataError(Finding(place=str(path), expected="a JSON object a line", found="a file without rows"))
    source = _source(path, names, numbered, lambda: infer_schema((row for _, row in numbered()), names, path.name))
    return source


def _json_rows(path: Path, encoding: str) -> Numbered:
    with _opened(path, encoding) as file:
        start = next((line for line in file if line.strip()), "")
        file.seek(0)
        if start.lstrip("\ufeff \t").startswith("["):
            try:
                entries: Iterator[tuple[int, Any]] = enumerate(json.load(file), 1)
            except ValueError as error:
                expected = "a list of JSON objects, or one object a line"
                raise DataError(Finding(place=str(path), expected=expected, found=str(error))) from None
            kind = "entry"
        else:
            entries, kind = _json_lines(path, file), "line"
        for number, row in entries:
            if not isinstance(row, dict):
                expected, found = "a JSON object: {...}", describe_value(row)
                raise DataError(Finding(place=f"{kind} {number} of {path.name}", expected=expected, found=found))
            yield number, row


def _json_lines(path: Path, file: IO[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:
            fix = "write one object a line" if line.strip() in ("{", "}") else ""
            place, found = f"line {number} of {path.name}", f"{describe_value(line.strip())}: {error}"
            raise DataError(Finding(place=place, expected="a JSON object", found=found, fix=fix)) from None


def open_text(path: Path, options: Mapping[str, Any]) -> RowSource:
    """One text a line, empty ones too; column `text`."""
    check_options(options, ("encoding",), path.name)
    encoding = options.get("encoding", "utf-8-sig")

    def numbered() -> Numbered:
        with _opened(path, encoding) as file:
            for line, text in enumerate(file, 1):
                yield line, {"text": text.removesuffix("\n")}

    return _source(path, ("text",), numbered, lambda: as_strings(["text"]))


def open_standard_input(options: Mapping[str, Any]) -> RowSource:
    """One text a line, read as they come, as a text file is read; column `text`."""
    check_options(options, ("encoding",), "standard input")
    if sys.stdin is None:
        fix = "pipe lines into it: hf-sft predict MODEL - < lines.txt"
        raise DataError(Finding(place="standard input", expected="lines of text", found="it is closed", fix=fix))
    return RowSource(
        name="standard input",
        columns=("text",),
        read=partial(_standard_input_rows, options.get("encoding", "utf-8-sig")),
        schema=lambda: as_strings(["text"]),
        folder=Path.cwd(),
    )


def _standard_input_rows(encoding: str) -> Iterator[Row]:
    """In that encoding whatever the terminal's is, with any end of line."""
    with _refusals_named(Path("standard input"), encoding):
        buffer = getattr(sys.stdin, "buffer", None)
        stream = None if buffer is None else io.TextIOWrapper(buffer, encoding=encoding)
        try:
            for line in stream or sys.stdin:
                yield {"text": line.removesuffix("\n")}
        finally:
            if stream is not None:
                stream.detach()  # else the buffer would be closed with it


def _source(
    path: Path, columns: tuple[str, ...], numbered: Callable[[], Numbered], schema: Callable[[], pyarrow.Schema]
) -> RowSource:
    """The source of a file whose rows are lines; counting them reads, and so checks, all of it."""
    return RowSource(
        name=path.name,
        columns=columns,
        read=lambda: (row for _, row in numbered()),
        schema=schema,
        folder=path.resolve().parent,
        total=sum(1 for _ in numbered()),
        line=lambda row: next(itertools.islice(numbered(), row, None))[0],
    )


@contextmanager
def _opened(path: Path, encoding: str, newline: str | None = None) -> Iterator[IO[str]]:
    with _refusals_named(path, encoding), path.open(encoding=encoding, newline=newline) as file:
        yield file


@contextmanager
def _refusals_named(path: Path, encoding: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:
        fix = "set the option encoding, such as latin-1"
        found = f"other bytes: {error}"
        raise DataError(Finding(place=str(path), expected=f"text in {encoding}", found=found, fix=fix)) from None
    except LookupError:
        raise DataError(Finding(place="options.encoding", expected="an encoding", found=str(encoding))) from None
    except OSError as error:
        found = error.strerror or str(error)
        raise DataError(Finding(place=str(path), expected="a file that can be read", found=found)) from error
