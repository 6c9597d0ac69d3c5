"""The cells that a model reads of some rows: checked beforehand, decoded at their turn, each with its row's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import PIL.Image

from hf_sft.data.pictures import UNREADABLE
from hf_sft.errors import DataError, Finding, describe_value
from hf_sft.table_files.source import Row, RowSource

MOST_NAMED = 5  # cells with a fault


class Cells:
    """The columns of some rows, read by positions as a `datasets.Dataset` is. columns: role -> names.

    Raises DataError naming the rows whose cells are not what their role needs.
    first: the number of the first row.
    """

    def __init__(self, source: RowSource, rows: Sequence[Row], columns: Mapping[str, Sequence[str]], first: int):
        self.source, self.rows, self.first = source, rows, first
        self.roles = {name: role for role, names in columns.items() for name in names}
        self._check()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: Sequence[int]) -> dict[str, list[Any]]:
        return {name: [self._read(position, name) for position in positions] for name in self.roles}

    def _check(self) -> None:
        findings, faults = [], 0
        for position, row in enumerate(self.rows):
            for name, role in self.roles.items():
                expected, fault_of = EXPECTED[role]
                fault = fault_of(row[name], self.source.folder) if name in row else f"no {name!r}"
                faults += bool(fault)
                if fault and faults <= MOST_NAMED:
                    place = self.source.place(self.first + position)
                    findings.append(Finding(place=place, expected=f"{expected} in {name!r}", found=fault))
        if faults > MOST_NAMED:
            findings.append(Finding(place=f"{faults - MOST_NAMED:,} more rows among the next {len(self.rows):,}"))
        if findings:
            raise DataError(findings)

    def _read(self, position: int, name: str) -> Any:
        value, reader = self.rows[position][name], READERS.get(self.roles[name])
        if reader is None:
            return value
        try:
            return reader(value, self.source.folder)
        except UNREADABLE as error:
            place, found = self.source.place(self.first + position), _name_image(value) + " ".join(str(error).split())
            expected, fix = f"an image that decodes in {name!r}", "mend or remove it"
            raise DataError(Finding(place=place, expected=expected, found=found[:300], fix=fix)) from error


def text_fault(value: Any, folder: Path) -> str:
    """What the cell is instead of text; empty where it is text."""
    if not isinstance(value, str):
        return describe_value(value)
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"half a character (a lone surrogate) in {value!r:.100}"
    return ""


def words_fault(value: Any, folder: Path) -> str:
    """What the cell is instead of a list of words."""
    if not isinstance(value, (list, tuple)):
        return describe_value(value)
    return next((f"{fault} in the list" for item in value if (fault := text_fault(item, folder))), "")


def image_fault(value: Any, folder: Path) -> str:
    """What the cell is instead of an image, as far as that shows without decoding."""
    value = _content(value)
    if isinstance(value, (str, Path)) and str(value):
        return "" if (folder / value).is_file() else f"no file {folder / value}"
    return "" if isinstance(value, (bytes, PIL.Image.Image)) else describe_value(value)


def read_image(value: Any, folder: Path) -> PIL.Image.Image:
    """The decoded image of a cell without a fault. Raises one of UNREADABLE where it does not decode."""
    value = _content(value)
    if isinstance(value, PIL.Image.Image):
        return value
    with PIL.Image.open(BytesIO(value) if isinstance(value, bytes) else folder / value) as image:
        image.load()
        return image


def _content(value: Any) -> Any:
    """Of the pair of bytes and path that data sets store: what is there."""
    if isinstance(value, Mapping) and {"bytes", "path"} <= set(value):
        return value["bytes"] if value["bytes"] is not None else value["path"]
    return value


def _name_image(value: Any) -> str:
    value = value.get("path") if isinstance(value, Mapping) else value
    return f"{value}: " if isinstance(value, (str, Path)) else ""


# role -> what is expected, what is wrong with a cell
EXPECTED: dict[str, tuple[str, Callable[[Any, Path], str]]] = {
    "text": ("text", text_fault),
    "text_pair": ("text", text_fault),
    "tokens": ("a list of words", words_fault),
    "image": ("an image, or the path of one,", image_fault),
}
READERS: dict[str, Callable[[Any, Path], Any]] = {"image": read_image}
