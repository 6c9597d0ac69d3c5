"""Columns of csv files whose numbers are padded with zeros (00, 01, 007): a reader of numbers would change names."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any, TextIO

HEAD = 1 << 28  # characters of a file that are looked at: a few seconds
LONGEST = (1 << 31) - 1  # characters of a cell; what C's long holds everywhere
PADDED = re.compile(r"\s*0\d+\s*")
DIALECT = ("quotechar", "escapechar", "doublequote", "skipinitialspace")  # named alike in both readers
UNDERSTOOD = {
    *("sep", "delimiter", "encoding", "names", "keep_default_na", "na_values", "streaming"),
    *DIALECT,
    "quoting",
}


def keep_padded(files: Sequence[Path], options: Mapping[str, Any]) -> dict[str, Any]:
    """The option with which such columns stay text in all of these files, beside those given. A file may be a pattern.

    Empty where options say more than how cells are told apart: whoever sets them means what the reader makes of them.
    """
    if not set(options) <= UNDERSTOOD:
        return {}
    found = {name: as_written for file in files for part in _matching(file) for name in _find(part, options)}
    return {"converters": found} if found else {}


def as_written(cell: str) -> str | None:
    """A cell as it stands, a number without the spaces around it; None where it is empty."""
    return (cell.strip() if cell.strip().isdecimal() else cell) or None


def _matching(file: Path) -> list[Path]:
    if file.is_file():
        return [file]
    return [found for name in glob(str(file), recursive=True) if (found := Path(name)).is_file()]


def _find(file: Path, options: Mapping[str, Any]) -> set[str]:
    """Names of the columns in a file with a whole number that begins with a zero."""
    separator = options.get("delimiter") or options.get("sep") or ("\t" if ".tsv" in file.suffixes else ",")
    if len(separator) != 1:
        return set()
    dialect = {key: options[key] for key in DIALECT if key in options}
    if options.get("quoting") == csv.QUOTE_NONE:
        dialect["quoting"] = csv.QUOTE_NONE
    usual = csv.field_size_limit(LONGEST)
    try:
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as stream:
            text = io.TextIOWrapper(stream, options.get("encoding") or "utf-8", errors="ignore", newline="")
            rows = csv.reader(_lines(text), delimiter=separator, **dialect)
            names = list(options.get("names") or next((row for row in rows if "".join(row).strip()), []))
            return {name for row in rows for name, cell in zip(names, row, strict=False) if PADDED.fullmatch(cell)}
    except (OSError, EOFError, LookupError, TypeError, ValueError, csv.Error):  # the reader that comes next says why
        return set()
    finally:
        csv.field_size_limit(usual)


def _lines(text: TextIO) -> Iterator[str]:
    """The lines of the head of a file, without the mark that some programs write before the first."""
    read = 0
    for line in text:
        yield line if read else line.removeprefix("\ufeff")
        read += len(line)
        if read > HEAD:
            return
