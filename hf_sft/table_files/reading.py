"""What is to be predicted, as a source of rows: a file by its ending, a folder, standard input, Python values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset
from PIL.Image import Image

from hf_sft.errors import DataError, Finding
from hf_sft.table_files.files import IMAGE_ENDINGS, ROWS_DECODED, open_folder, open_image, open_parquet
from hf_sft.table_files.lines import open_csv, open_json, open_standard_input, open_text
from hf_sft.table_files.source import RowSource, as_strings, check_options, infer_schema

ENDINGS: dict[str, Callable[[Path, Mapping[str, Any]], RowSource]] = {
    ".csv": open_csv,
    ".tsv": open_csv,
    ".json": open_json,
    ".jsonl": open_json,
    ".parquet": open_parquet,
    ".txt": open_text,
    **dict.fromkeys(IMAGE_ENDINGS, open_image),
}
STANDARD_INPUT = "-"
KINDS = "texts, images, rows as dicts, a datasets.Dataset, a pandas.DataFrame, or the path of a file or folder"


def open_rows(inputs: Any, options: Mapping[str, Any] | None = None) -> RowSource:
    """The rows of `inputs`. Raises DataError for what does not exist, has an unknown ending or cannot be read."""
    options = options or {}
    if isinstance(inputs, (str, Path)):
        return _open_path(str(inputs), options)
    check_options(options, (), "Python values")
    if isinstance(inputs, Dataset):
        return _open_dataset(inputs)
    if isinstance(inputs, Image):
        return _open_values([inputs])
    if hasattr(inputs, "iloc") and hasattr(inputs, "columns"):  # a pandas frame; pandas itself is not needed here
        return _open_frame(inputs)
    if isinstance(inputs, Iterable) and not isinstance(inputs, (bytes, Mapping)):
        return _open_values(inputs)
    raise DataError(Finding(place="inputs", expected=KINDS, found=type(inputs).__name__))


def _open_path(name: str, options: Mapping[str, Any]) -> RowSource:
    if name == STANDARD_INPUT:
        return open_standard_input(options)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return open_folder(path, options)
    if not path.is_file():
        fix = "check the path; lines of text are read from - (from Python: a list of texts)"
        raise DataError(Finding(place="input", expected="a file or folder that exists", found=name, fix=fix))
    if path.suffix.lower() not in ENDINGS:
        found, fix = path.suffix or "no ending", "rename it, or turn it into one of these"
        expected = f"a file {', '.join(ENDINGS)}"
        raise DataError(Finding(place=name, expected=expected, found=found, fix=fix))
    return ENDINGS[path.suffix.lower()](path, options)


def _open_dataset(rows: Dataset) -> RowSource:
    stored = rows.with_format("arrow")  # images stay as bytes and paths until their row's turn
    return RowSource(
        name="the data set",
        columns=tuple(rows.column_names),
        read=lambda: itertools.chain.from_iterable(table.to_pylist() for table in stored.iter(ROWS_DECODED)),
        schema=lambda: rows.features.arrow_schema,
        folder=Path.cwd(),
        total=len(rows),
    )


def _open_frame(frame: Any) -> RowSource:
    try:
        table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        found = str(error.args[-1] if error.args else error)
        raise DataError(Finding(place="inputs", expected="columns of one type each", found=found)) from error
    return RowSource(
        name="the frame",
        columns=tuple(table.column_names),
        read=lambda: itertools.chain.from_iterable(part.to_pylist() for part in table.to_batches(ROWS_DECODED)),
        schema=lambda: table.schema,
        folder=Path.cwd(),
        total=table.num_rows,
    )


def _open_values(values: Iterable[Any]) -> RowSource:
    """Texts, images, or (in a list) rows; an iterator is read as it is predicted."""
    iterator = iter(values)
    head = list(itertools.islice(iterator, 1))
    first = head[0] if head else ""
    if isinstance(first, Mapping):
        if not isinstance(values, Sequence):
            fix = "a list of rows, a datasets.Dataset or a file"
            raise DataError(Finding(place="inputs", expected="texts or images", found="an iterator of rows", fix=fix))
        return _open_mappings(values)
    column = "image" if isinstance(first, Image) else "text"
    whole = isinstance(values, Sequence)
    return RowSource(
        name="the inputs",
        columns=(column,),
        read=lambda: ({column: item} for item in (values if whole else itertools.chain(head, iterator))),
        schema=lambda: as_strings([column]),
        folder=Path.cwd(),
        total=len(values) if isinstance(values, Sequence) else None,
        holds="image" if column == "image" else None,
    )


def _open_mappings(rows: Sequence[Any]) -> RowSource:
    columns: dict[str, None] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            found = type(row).__name__
            raise DataError(Finding(place=f"row {number} of the inputs", expected="a dict, as before", found=found))
        columns.update(dict.fromkeys(row))
    return RowSource(
        name="the inputs",
        columns=tuple(columns),
        read=lambda: (dict(row) for row in rows),
        schema=lambda: infer_schema((dict(row) for row in rows), tuple(columns), "the inputs"),
        folder=Path.cwd(),
        total=len(rows),
    )
