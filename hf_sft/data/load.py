"""From the recipe's `dataset:` to the named splits of a source: Hub, files, folders, memory, bundled sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from hf_sft.data.bundled import PREFIX, load_bundled
from hf_sft.errors import DataError, Finding
from hf_sft.recipe import Recipe

Source: TypeAlias = DatasetDict | IterableDatasetDict
READERS = ("csv", "json", "parquet", "imagefolder", "text", "arrow")
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
    try:
        loaded = _read(recipe, path)
    except FileNotFoundError as error:
        raise _unreadable(path, str(error), "check the path; relative paths start from the recipe's folder") from error
    except (ConnectionError, DatasetNotFoundError) as error:
        fix = "check the id and the connection, or name a local file or folder, or bundled:reviews"
        raise _unreadable(path, str(error).splitlines()[0], fix) from error
    except DatasetGenerationError as error:
        raise _unreadable(path, _first_cause(error), "mend the file, or set dataset.options for its reader") from error
    except (ValueError, TypeError, KeyError, OSError, UnicodeError, ImportError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _unreadable(path, reason, "check dataset.path, data_files and options") from error
    if isinstance(loaded, (Dataset, IterableDataset)):
        kind = DatasetDict if isinstance(loaded, Dataset) else IterableDatasetDict
        loaded = kind({"train": loaded})
    return loaded, path


def _read(recipe: Recipe, path: str) -> Any:
    settings = recipe.dataset
    options = {**settings.options, "streaming": settings.streaming}
    files = recipe.located_data_files()
    if settings.path in READERS and not Path(path).exists():
        return load_dataset(settings.path, settings.name, data_files=files, **_folders_located(recipe, options))
    local = Path(path)
    if local.is_file():
        reader, suffix = _reader_of(local)
        if suffix == ".tsv":
            options = {"sep": "\t", **options}
        return load_dataset(reader, data_files=str(local), **options)
    if local.is_dir():
        if any((local / name).exists() for name in ("dataset_dict.json", "dataset_info.json", "state.json")):
            return load_from_disk(str(local))
        return load_dataset(str(local), settings.name, data_files=files, **options)
    if local.is_absolute():
        raise FileNotFoundError(f"no file or folder {local}")
    return load_dataset(path, settings.name, data_files=settings.data_files, **options)


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
    splits = {}
    for name, rows in data.items():
        if isinstance(rows, Dataset):
            splits[name] = rows
        elif hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # a pandas frame; pandas itself is not needed here
            splits[name] = Dataset.from_pandas(rows, preserve_index=False)
        else:
            raise DataError(
                Finding(
                    place=f"data[{name!r}]",
                    expected="a datasets.Dataset or a pandas.DataFrame",
                    found=type(rows).__name__,
                    fix="datasets.Dataset.from_dict or from_list makes one",
                )
            )
    if not splits:
        raise DataError(Finding(place="data", expected="at least {'train': ...}", found="no split"))
    return DatasetDict(splits)


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unreadable(path: str, found: str, fix: str) -> DataError:
    return DataError(Finding(place="dataset.path", expected=f"data that can be read at {path}", found=found, fix=fix))
