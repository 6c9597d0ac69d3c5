"""From the recipe's `dataset:` to the named splits of a source: Hub, files, folders, memory, bundled sets."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from functools import partial
from lzma import LZMAError
from pathlib import Path
from tarfile import TarError
from typing import Any, TypeAlias
from zipfile import BadZipFile

import datasets
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset, load_from_disk
from datasets.exceptions import (
    CastError,
    DatasetGenerationCastError,
    DatasetGenerationError,
    DatasetNotFoundError,
    DatasetsError,
)
from yaml import YAMLError

from hf_sft.data.bundled import PREFIX, load_bundled
from hf_sft.data.coco import READER, find_coco, read_coco
from hf_sft.data.padded import keep_padded
from hf_sft.data.pairs import load_pairs
from hf_sft.errors import DataError, EnvironmentProblem, Finding
from hf_sft.hub_access import require_hub, what_to_do
from hf_sft.recipe import ROLES, DataSet, Recipe
from hf_sft.secrets import mask, reveal

Source: TypeAlias = DatasetDict | IterableDatasetDict
# A label or a text may be NA, None or null; only an empty cell is empty.
CSV_CELLS = {"keep_default_na": False, "na_values": [""]}
READERS = ("csv", "json", "parquet", "imagefolder", "text", "arrow", READER)
# What the readers of `datasets` raise for files and options they cannot use.
_READING = (ValueError, TypeError, LookupError, AttributeError, OSError, ImportError, RuntimeError, ArithmeticError)
# What unpacking raises for files that only begin like an archive.
_UNPACKING = (EOFError, BadZipFile, TarError, LZMAError, zlib.error)
HEAD = 1 << 16  # bytes that show the first row of a file
EXTENSIONS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".arrow": "arrow"}


def load_source(recipe: Recipe, data: Mapping[str, Any] | None = None) -> tuple[Source, str]:
    """All splits of the source under the source's own names, and where they come from, in words.

    data: what a notebook has in memory (split -> datasets.Dataset or pandas.DataFrame); the recipe's path is not read.
    Raises DataError for whatever cannot be read.
    """
    if data is not None:
        return _from_memory(data), "in memory"
    settings = recipe.dataset
    if settings.path.startswith(PREFIX):
        return load_bundled(settings.path), settings.path
    path = recipe.locate(settings.path)
    unreadable = partial(_unreadable, path, used=(settings.data_files, settings.options))
    _refuse_unwritable_cache()
    try:
        loaded = _read(recipe, path)
    except (ConnectionError, DatasetNotFoundError) as error:
        otherwise = "check the id and the connection, or name a local file or folder, or bundled:reviews"
        raise unreadable(_reason(error), what_to_do(error, otherwise)) from error
    except FileNotFoundError as error:
        reason = _reason(error).partition(" with any supported extension")[0]
        raise unreadable(reason, "check the path; relative paths start from the recipe's folder") from error
    except DatasetGenerationError as error:
        raise unreadable(_first_cause(error), "mend the file, or set dataset.options for its reader") from error
    except StopIteration as error:  # the json reader asks an empty file for its first row
        raise unreadable("a file without rows", "check dataset.path and data_files") from error
    except (*_READING, *_UNPACKING, DatasetsError, YAMLError) as error:
        raise unreadable(_reason(error), "check dataset.path, data_files and options") from error
    if isinstance(loaded, (Dataset, IterableDataset)):
        kind = DatasetDict if isinstance(loaded, Dataset) else IterableDatasetDict
        loaded = kind({"train": loaded})
    return loaded, path


def _refuse_unwritable_cache() -> None:
    """What is read is kept in the cache of `datasets`; a read-only home is named as what it is."""
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        place, found = "the cache of datasets", f"no permission to write in {there}"
        fix = "set HF_HOME to a folder that can be written, as HF_HOME=/tmp/huggingface"
        expected = f"a folder that can be written at {cache}"
        raise EnvironmentProblem(Finding(place=place, expected=expected, found=found, fix=fix))


def _read(recipe: Recipe, path: str) -> Any:
    settings = recipe.dataset
    options = {**reveal(settings.options, "dataset.options"), "streaming": settings.streaming}
    files = reveal(recipe.located_data_files(), "dataset.data_files")
    _refuse_null_rows([Path(path), *map(Path, _flat(files))], str(settings.options.get("field", "")))
    if (found := _find_coco(recipe, path, files)) is not None:
        return found
    if path in READERS:
        if files is None and "data_dir" not in options:  # `datasets` would read the whole working directory
            fix = "set dataset.data_files: {train: ..., test: ...}, or options: {data_dir: ...}"
            place, expected = "dataset.data_files", f"the files that {path} reads"
            raise DataError(Finding(place=place, expected=expected, found="none", fix=fix))
        options = _for_csv(options, [Path(name) for name in _flat(files)]) if path == "csv" else options
        return load_dataset(path, settings.name, data_files=files, **_folders_located(recipe, options))
    local = Path(path)
    if not local.is_absolute() and (local.suffix in EXTENSIONS or local.exists()):  # in the working directory
        raise FileNotFoundError(f"no file or folder {recipe.folder / path}")
    if local.is_file():
        _refuse(settings, ("data_files", "name", "revision"), "a single file")
        reader, suffix = _reader_of(local)
        if suffix == ".tsv":
            options = {"sep": "\t", **options}
        options = _for_csv(options, [local]) if reader == "csv" else options
        return load_dataset(reader, data_files=str(local), **options)
    if local.is_dir():
        if any((local / name).exists() for name in ("dataset_dict.json", "dataset_info.json", "state.json")):
            _refuse(settings, ("data_files", "name", "options", "revision"), "a folder saved by datasets")
            return load_from_disk(str(local))
        if "mask" in ROLES[recipe.task] and (pairs := load_pairs(local)) is not None:
            _refuse(settings, ("data_files", "name", "options"), "a folder of images and masks")
            return pairs
        options = _for_csv(options, _files_in(local)) if _holds_csv_alone(local) else options
        return load_dataset(str(local), settings.name, data_files=files, **options)
    if local.is_absolute():
        raise FileNotFoundError(f"no file or folder {local}")
    require_hub("dataset.path", path, "dataset", revision=settings.revision)
    return load_dataset(path, settings.name, revision=settings.revision, data_files=settings.data_files, **options)


def _find_coco(recipe: Recipe, path: str, files: Any) -> DatasetDict | None:
    """The rows of COCO's json files: those that are named, or what lies at a local path; None where there are none."""
    settings, local = recipe.dataset, Path(path)
    images = settings.options.get("images")
    if path == READER:
        named = files if isinstance(files, dict) else {"train": files}
        if not _flat(files):
            fix = "set dataset.data_files: {train: annotations/train.json, ...}, and options: {images: ...}"
            place = "dataset.data_files"
            raise DataError(Finding(place=place, expected="COCO's json files", found="none", fix=fix))
        found = {split: [Path(name) for name in _flat(part)] for split, part in named.items()}
    elif files is not None or "objects" not in ROLES[recipe.task] or not local.is_absolute() or not local.exists():
        return None
    else:
        found = find_coco(local)
    return read_coco(found, Path(recipe.locate_file(images)) if isinstance(images, str) else None) if found else None


def _flat(files: Any) -> list[str]:
    parts = list(files.values()) if isinstance(files, dict) else [files]
    return [name for part in parts for name in (part if isinstance(part, list) else [part]) if isinstance(name, str)]


def _refuse_null_rows(paths: list[Path], field: str) -> None:
    """A json file whose first row is null: pyarrow 26 ends the whole process there, without an exception."""
    first = rb"(\xef\xbb\xbf)?\s*(\[\s*)?null\b"
    first += rb"|.*?" + re.escape(json.dumps(field).encode()) + rb"\s*:\s*\[\s*null\b" if field else b""
    for path in paths:
        inside = sorted(path.rglob("*.json*"))[:100] if path.is_absolute() and path.is_dir() else [path]
        for file in inside:
            if file.suffix in (".json", ".jsonl") and file.is_file():
                with file.open("rb") as stream:
                    if re.match(first, stream.read(HEAD), re.DOTALL):
                        raise _unreadable(str(file), "null instead of the first row", "mend the file")


def _for_csv(options: dict[str, Any], files: list[Path]) -> dict[str, Any]:
    """The options, with those that keep cells as they are written where they say nothing."""
    return {**CSV_CELLS, **keep_padded(files, options), **options}


def _files_in(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]


def _holds_csv_alone(folder: Path) -> bool:
    """Whether the reader of csv will be chosen: nothing else lies there, a README with a configuration neither."""
    kinds = {
        next((EXTENSIONS[suffix] for suffix in file.suffixes if suffix in EXTENSIONS), None)
        for file in _files_in(folder)
    }
    return kinds == {"csv"}


def _refuse(settings: DataSet, keys: tuple[str, ...], what: str) -> None:
    """A key that would have no effect is a mistake."""
    given = {key: getattr(settings, key) for key in keys if getattr(settings, key)}
    if given:
        expected = f"nothing, as dataset.path is {what}"
        raise DataError(
            [
                Finding(place=f"dataset.{key}", expected=expected, found=str(value), fix="remove this key")
                for key, value in given.items()
            ]
        )


def _folders_located(recipe: Recipe, options: dict[str, Any]) -> dict[str, Any]:
    if isinstance(options.get("data_dir"), str):
        return {**options, "data_dir": recipe.locate_file(options["data_dir"])}
    return options


def _reader_of(file: Path) -> tuple[str, str]:
    for suffix in reversed(file.suffixes):  # train.csv.gz is a csv
        if suffix in EXTENSIONS:
            return EXTENSIONS[suffix], suffix
    raise _unreadable(str(file), file.suffix or "no ending", "files end in " + ", ".join(EXTENSIONS))


def _from_memory(data: Mapping[str, Any]) -> DatasetDict:
    if not isinstance(data, Mapping):
        found, fix = type(data).__name__, "{'train': rows} names it"
        raise DataError(Finding(place="data", expected="splits by name", found=found, fix=fix))
    if not data:
        fix = "fine_tune(recipe, data={'train': rows})"
        raise DataError(Finding(place="data", expected="at least {'train': ...}", found="no split", fix=fix))
    return DatasetDict({str(name): _rows_in_memory(str(name), rows) for name, rows in data.items()})


def _rows_in_memory(name: str, rows: Any) -> Dataset:
    expected, found = "a datasets.Dataset or a pandas.DataFrame", type(rows).__name__
    if isinstance(rows, Dataset):
        return rows.with_format(None)  # values as stored, whatever the notebook reads them as
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # a pandas frame; pandas itself is not needed here
        try:
            return Dataset.from_pandas(rows, preserve_index=False)
        except (TypeError, ValueError, NotImplementedError) as error:  # pyarrow's errors
            expected, found = "columns of one type each", str(error.args[-1] if error.args else error)
    fix = "datasets.Dataset.from_dict or from_list makes one"
    raise DataError(Finding(place=f"data[{name!r}]", expected=expected, found=found, fix=fix))


def _reason(error: BaseException) -> str:
    if "corresponds to no data" in str(error):  # what `datasets` says of files that hold a heading alone
        return "a file without rows"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None and not isinstance(error, DatasetGenerationCastError):
        error = error.__cause__
    different = error if isinstance(error, CastError) else error.__context__
    if isinstance(different, CastError):  # which says no more in its first line than that it could not cast
        return f"files with different columns: {different.details()}"[:300]
    return _reason(error)


def _unreadable(path: str, found: str, fix: str, used: Any = None) -> DataError:
    """used: what may name the variables whose values an error of the libraries quotes."""
    expected = f"data that can be read at {path}"
    return DataError(Finding(place="dataset.path", expected=expected, found=mask(found, used), fix=fix))
