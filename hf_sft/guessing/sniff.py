"""What a file's plain reader gets wrong, found by looking at the file: separator, encoding, header, field of a json."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import datasets
from datasets import DatasetDict

from hf_sft.data.coco import find_coco, read_coco
from hf_sft.data.load import load_source
from hf_sft.data.pairs import load_pairs
from hf_sft.errors import DataError
from hf_sft.recipe import Recipe, TaskName

SEPARATORS = (",", ";", "\t", "|")
HEAD = 1 << 19  # bytes that tell separator and header
LOOKED_AT = 500  # rows of them


def read_data(
    dataset: dict[str, Any], folder: Path, task: TaskName | None = None
) -> tuple[dict[str, Any], DatasetDict]:
    """All splits of a recipe's `dataset:`, and the reader options they need beyond those given.

    task: where it is known. Raises DataError where no options help.
    """
    if (laid_out := _laid_out(dataset, folder, task)) is not None:
        return {}, laid_out
    file = _first_file(Recipe.from_dict(_recipe(dataset), folder))
    options: dict[str, Any] = {}
    try:
        source = _load(dataset, folder)
        if file is not None:
            options = _options_for(file, source)
    except DataError:
        options = _options_for(file, None) if file is not None else {}
        if not options:
            raise
    if not options:
        return {}, source
    return options, _load({**dataset, "options": {**dataset.get("options", {}), **options}}, folder)


def _laid_out(dataset: dict[str, Any], folder: Path, task: TaskName | None) -> DatasetDict | None:
    """The splits of COCO's json files, or of a folder of images and masks."""
    path = Path(Recipe.from_dict(_recipe(dataset), folder).locate(dataset["path"]))
    if not path.is_absolute() or not path.exists():
        return None
    if task in (None, "object-detection") and (files := find_coco(path)):
        return read_coco(files)
    return load_pairs(path) if path.is_dir() and task in (None, "image-segmentation") else None


def _recipe(dataset: dict[str, Any]) -> dict[str, Any]:
    return {"task": "text-classification", "model": {"name": "none"}, "dataset": dataset}


def _load(dataset: dict[str, Any], folder: Path) -> DatasetDict:
    with _quiet():
        source, _ = load_source(Recipe.from_dict(_recipe(dataset), folder))
    assert isinstance(source, DatasetDict)
    return source


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own words about a file that it cannot read: a second try may follow."""
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)


def _first_file(recipe: Recipe) -> Path | None:
    """The csv or json file that the path names, or the first in the folder that it names."""
    path = Path(recipe.locate(recipe.dataset.path))
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_absolute() and path.is_dir() else []
    return next((file for file in files if file.is_file() and _kind(file) in ("csv", "tsv", "json")), None)


def _kind(file: Path) -> str:
    return file.name.lower().removesuffix(".gz").rpartition(".")[2]


def _options_for(file: Path, source: DatasetDict | None) -> dict[str, Any]:
    """source: what the plain reader made of the file; None where it failed."""
    if _kind(file) == "json":
        suspicious = source is None or any(len(rows) <= 1 for rows in source.values())
        return _sniff_json(file) if suspicious else {}
    options = sniff_csv(file, whole=source is None)
    if source is None or any(len(rows.column_names) == 1 for rows in source.values()):
        return options
    return options if "names" in options else {}  # several columns were read: only the header is in question


def sniff_csv(file: Path, *, whole: bool = True) -> dict[str, Any]:
    """Options for a csv file beyond the plain reader's; empty where it needs none. whole: read all for its encoding."""
    options: dict[str, Any] = {}
    encoding = _encoding(file) if whole else "utf-8"
    if encoding != "utf-8":
        options["encoding"] = encoding
    with _opened(file) as stream:
        head = stream.read(HEAD)
    text = head.decode(encoding, errors="replace").lstrip("\ufeff")
    tables = {separator: _table(text, separator, cut=len(head) == HEAD) for separator in SEPARATORS}
    usual = "\t" if _kind(file) == "tsv" else ","
    separator = max(SEPARATORS, key=lambda mark: (_regularity(tables[mark]), mark == usual))
    if separator != usual and _regularity(tables[separator]) > 0:
        options["sep"] = separator
    else:
        separator = usual
    if _header_is_data(tables[separator]):
        options["names"] = [f"column_{number}" for number in range(1, len(tables[separator][0]) + 1)]
    return options


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as stream:
        yield stream  # type: ignore[misc]


def _encoding(file: Path) -> str:
    with _opened(file) as stream:
        if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
    return next((name for name in ("utf-8", "cp1252") if _decodes(file, name)), "latin-1")


def _decodes(file: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with _opened(file) as stream:
        try:
            while piece := stream.read(1 << 20):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _table(text: str, separator: str, *, cut: bool) -> list[list[str]]:
    """The first rows; without the last one where the text was cut."""
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            rows.append(row)
            if len(rows) > LOOKED_AT:
                break
    except csv.Error:  # a field beyond the csv module's limit
        return rows
    return [row for row in (rows[:-1] if cut else rows) if row]


def _regularity(rows: list[list[str]]) -> float:
    """Share of rows as wide as the header; 0 where that is one column."""
    if not rows or len(rows[0]) < 2:
        return 0.0
    return Counter(map(len, rows))[len(rows[0])] / len(rows)


def _header_is_data(rows: list[list[str]]) -> bool:
    """Whether the first row says what stands below it too, or numbers over numbers. Column names 0, 1, 2 are names."""
    if len(rows) < 3 or len(rows[0]) < 2:
        return False
    header, below = rows[0], [row for row in rows[1:] if row != rows[0]]  # files were put together with their headers
    named = [cell for cell in header if cell.strip()]
    if len(named) < len(header) - 1 or named == [str(number) for number in range(len(named))]:
        return False
    columns = [
        (cell.strip(), [row[place].strip() for row in below if len(row) > place]) for place, cell in enumerate(header)
    ]
    return any(
        cell and (cell in column or (_is_number(cell) and all(map(_is_number, column)))) for cell, column in columns
    )


def _is_number(cell: str) -> bool:
    return cell.strip().lstrip("+-").replace(".", "", 1).isdigit()


def _sniff_json(file: Path) -> dict[str, Any]:
    """The field that holds the rows, where the file is one object."""
    try:
        with _opened(file) as stream:
            content = json.load(stream)
    except (ValueError, OSError):
        return {}
    if not isinstance(content, dict):
        return {}
    fields = [key for key, value in content.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return {"field": fields[0]} if len(fields) == 1 else {}
