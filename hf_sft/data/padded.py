"""Columns of csv files whose numbers are padded with zeros (00, 01, 007): a reader of numbers would change names."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HEAD = 1 << 19  # bytes of a file that are looked at
PADDED = re.compile(r"0\d+")
UNDERSTOOD = {"sep", "delimiter", "encoding", "names", "keep_default_na", "na_values", "streaming"}


def keep_padded(files: Sequence[Path], options: Mapping[str, Any]) -> dict[str, Any]:
    """The option with which such columns stay text in all of these files, beside those given.

    Empty where options say more than how cells are told apart: whoever sets them means what the reader makes of them.
    """
    if not set(options) <= UNDERSTOOD:
        return {}
    found = {name: as_written for file in files for name in _find(file, options)}
    return {"converters": found} if found else {}


def as_written(cell: str) -> str | None:
    """A cell as it stands; None where it is empty."""
    return cell or None


def _find(file: Path, options: Mapping[str, Any]) -> set[str]:
    """Names of the columns in the head of a file with a whole number that begins with a zero."""
    separator = options.get("delimiter") or options.get("sep") or ("\t" if ".tsv" in file.suffixes else ",")
    if len(separator) != 1:
        return set()
    try:
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as stream:
            text = stream.read(HEAD).decode(options.get("encoding") or "utf-8", errors="ignore")
        rows = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=separator)
        names = list(options.get("names") or next(rows, []))
        return {name for row in rows for name, cell in zip(names, row, strict=False) if PADDED.fullmatch(cell)}
    except (OSError, EOFError, LookupError, csv.Error):  # the reader that comes next says what is wrong
        return set()
