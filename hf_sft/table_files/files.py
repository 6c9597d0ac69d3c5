"""Rows to predict that are no lines: parquet, images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet

from hf_sft.errors import DataError, Finding
from hf_sft.table_files.source import Row, RowSource, as_strings, check_options

IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif",
)  # fmt: skip
ROWS_DECODED = 256  # rows that are Python values at a time


def open_parquet(path: Path, options: Mapping[str, Any]) -> RowSource:
    """Columns with their types; a few rows are decoded at a time."""
    check_options(options, (), path.name)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema, total = file.schema_arrow, file.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        found = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(Finding(place=str(path), expected="a parquet file", found=found)) from error

    def read() -> Iterator[Row]:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=ROWS_DECODED):
                    yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            found = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(Finding(place=str(path), expected="a whole parquet file", found=found)) from error

    return RowSource(
        name=path.name,
        columns=tuple(schema.names),
        read=read,
        schema=lambda: schema,
        folder=path.resolve().parent,
        total=total,
    )


def open_image(path: Path, options: Mapping[str, Any]) -> RowSource:
    """One image."""
    return _image_files(path, path.resolve().parent, [path.name], options)


def open_folder(path: Path, options: Mapping[str, Any]) -> RowSource:
    """The images in a folder and those below it, 2 before 10; hidden files and all that is no image are passed over."""
    files = (file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() in IMAGE_ENDINGS)
    names = [name.as_posix() for name in files if not any(part.startswith(".") for part in name.parts)]
    names = sorted((name for name in names if (path / name).is_file()), key=_natural)
    if not names:
        expected = "images (" + ", ".join(ending[1:] for ending in IMAGE_ENDINGS) + ") in the folder"
        raise DataError(Finding(place=str(path), expected=expected, found="none", fix="name a file to predict a table"))
    return _image_files(path, path.resolve(), names, options)


def _image_files(path: Path, folder: Path, names: list[str], options: Mapping[str, Any]) -> RowSource:
    check_options(options, (), path.name)
    return RowSource(
        name=path.name or str(path),
        columns=("file_name",),
        read=lambda: ({"file_name": name} for name in names),
        schema=lambda: as_strings(["file_name"]),
        folder=folder,
        total=len(names),
        holds="image",
    )


def _natural(name: str) -> list[Any]:
    """Numbers by value: digits and the rest alternate, so that like is compared with like."""
    parts = re.split(r"(\d+)", name.lower())
    return [*(int(part) if part.isdecimal() else part for part in parts), name]
