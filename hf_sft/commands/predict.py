"""Predictions of a saved model for any number of rows: read, predicted and written a chunk at a time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from hf_sft.commands.file_names import FileNames
from hf_sft.commands.predictions import Predictions
from hf_sft.console import hides_bars
from hf_sft.data.columns import columns_of
from hf_sft.data.rows import Rows
from hf_sft.errors import DataError, EnvironmentProblem, Finding, ModelError, RecipeError, nearest
from hf_sft.metrics.temperature import tempered
from hf_sft.recipe import Recipe
from hf_sft.saved_model import SavedModel, load_saved, name_columns
from hf_sft.table_files.cells import Cells
from hf_sft.table_files.reading import open_rows
from hf_sft.table_files.source import Row, RowSource, chunked
from hf_sft.table_files.writing import STANDARD_OUTPUT, Columns, check_output, open_output
from hf_sft.tasks.task import Rows as Decoded

BATCHES_SORTED = 64  # batches of text that are sorted by length together
USUAL_THRESHOLD = 0.5  # pipeline's own
BATCHES_READ = 8  # batches of rows that all cost the same


def predict(
    model: str | Path | SavedModel,
    inputs: Any,
    output: str | Path | None = None,
    *,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    top_k: int | None = None,
    threshold: float | None = None,
    batch_size: int = 64,
    options: Mapping[str, Any] | None = None,
    prefix: str = "",
    calibrated: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> Predictions:
    """The labels (or numbers) and scores that `pipeline(task, model)` gives, for rows of any kind and number.

    model: a run directory, a model folder, a Hub id, or what `load_saved` gave, so that it is not loaded again.
    inputs: a csv, tsv, json, jsonl, parquet, txt or image file, a folder of images, "-" (lines of standard input), or
        texts, images, dicts, a datasets.Dataset, a pandas.DataFrame. options: `sep`, `encoding`, `quoting` of a csv.
    output: a csv, jsonl or parquet file, "-" (jsonl on standard output), or None: the rows are in the result. Masks and
        pictures of single rows go into a folder beside it: answers.csv has answers_files.
    columns: role -> column, or a list of columns, as in a recipe: {"text": "body"}.
    prefix: stands before the names of the columns that are added.
    top_k: the best labels instead of the score of each.
    threshold: of boxes, those whose score is above it; 0.5 where it is not given, as in pipeline().
    calibrated: logits are divided by the temperature that `hf-sft inspect` has fitted; the labels stay the same.
    Raises HfSftError for what the caller can mend; the rows predicted by then are kept in `<output>.partial`.
    """
    _check_numbers(batch_size=batch_size, top_k=top_k)
    if output is not None:
        check_output(output, overwrite=overwrite)
    source = open_rows(inputs, options)
    saved = model if isinstance(model, SavedModel) else load_saved(model, trust_remote_code=trust_remote_code)
    folder = _folder_beside(output) if saved.task.write_files else None
    if folder is not None and not overwrite:
        _check_folder(folder)
    if calibrated:
        _require_temperature(saved)
    recipe = _name_columns(saved, source, columns or {})
    added = _added_columns(saved, top_k, prefix)
    _check_clash(source, added)
    threshold = _check_threshold(saved, threshold)
    job = _Job(
        saved=saved,
        recipe=recipe,
        source=source,
        batch_size=batch_size,
        top_k=top_k,
        threshold=threshold,
        names=added.names,
        folder=folder,
        named=FileNames(),
        temperature=saved.temperature if calibrated else None,
    )
    kept: list[Row] = []
    total, started = 0, time.perf_counter()
    to = nullcontext(kept.extend) if output is None else open_output(output, _output_columns(source, added))
    with to as write:
        for chunk in job.run():
            write(chunk)
            total += len(chunk)
    path = None if output is None or str(output) == STANDARD_OUTPUT else Path(output).expanduser()
    return Predictions(rows=kept, path=path, total=total, seconds=time.perf_counter() - started)


def _check_numbers(**numbers: int | None) -> None:
    for place, number in numbers.items():
        if number is not None and number < 1:
            raise RecipeError(Finding(place=place, expected="at least 1", found=str(number)))


def _folder_beside(output: str | Path | None) -> Path | None:
    """Where files of single rows go: beside the output, in a folder of its name and `_files`."""
    if output is None or str(output) == STANDARD_OUTPUT:
        return None
    path = Path(output).expanduser()
    return path.with_name(f"{path.stem}_files")


def _check_folder(folder: Path) -> None:
    """Files that lie where masks or pictures would go may be the user's own."""
    if (folder.is_dir() and not any(folder.iterdir())) or not folder.exists():
        return
    found = "it holds files" if folder.is_dir() else "a file of that name"
    fix = "name another output, or add --overwrite (from Python: overwrite=True)"
    raise DataError(Finding(place="output", expected=f"no folder {folder} yet", found=found, fix=fix))


def _require_temperature(saved: SavedModel) -> None:
    if saved.temperature is None or saved.labels.problem != "single_label":
        fix = "hf-sft inspect RUN --only confidence fits it; or leave --calibrated out"
        found = "none" if saved.labels.problem == "single_label" else f"a model of problem {saved.labels.problem}"
        expected = "a model of one label per row, with its temperature in config.json"
        raise ModelError(Finding(place="calibrated", expected=expected, found=found, fix=fix))


def _name_columns(saved: SavedModel, source: RowSource, given: Mapping[str, Any]) -> Recipe:
    roles = [role for role in saved.task.columns if role != saved.task.target]
    wrong = [role for role in given if role not in roles]
    if wrong:
        expected, fix = f"what a {saved.task.name} model reads", nearest(wrong[0], roles)
        raise RecipeError(Finding(place=f"columns.{wrong[0]}", expected=expected, found=wrong[0], fix=fix))
    if source.holds and source.holds not in roles:
        expected, found = f"a column of {roles[0]} for {saved.task.name}", f"{source.holds}s ({source.name})"
        raise DataError(Finding(place="input", expected=expected, found=found, fix="name another model or input"))
    return name_columns(saved, source.columns, given, source.name)


def _added_columns(saved: SavedModel, top_k: int | None, prefix: str) -> pyarrow.Schema:
    """The columns that predictions add to every row."""
    number, text = pyarrow.float64(), pyarrow.string()
    labels, columns = saved.labels, {**saved.problem.answers(saved.labels), **saved.task.file_columns}
    if top_k is not None and not saved.problem.ranked:
        fix, found = "leave top_k out", f"a model for {labels.problem}"
        raise RecipeError(Finding(place="top_k", expected="a model with labels of rows", found=found, fix=fix))
    if top_k is not None:
        ranks = range(1, min(top_k, len(labels.names)) + 1)
        columns = {
            name: kind for rank in ranks for name, kind in ((f"prediction_{rank}", text), (f"score_{rank}", number))
        }
    return pyarrow.schema([(prefix + name, kind) for name, kind in columns.items()])


def _check_threshold(saved: SavedModel, threshold: float | None) -> float | None:
    if saved.problem.keep_above is None:
        if threshold is not None:
            fix, found = "leave threshold out", f"a {saved.task.name} model"
            expected = "a model whose answers are parts, each with a score"
            raise RecipeError(Finding(place="threshold", expected=expected, found=found, fix=fix))
        return None
    threshold = USUAL_THRESHOLD if threshold is None else threshold
    if not 0 <= threshold <= 1:
        raise RecipeError(Finding(place="threshold", expected="a score from 0 to 1", found=str(threshold)))
    return threshold


def _check_clash(source: RowSource, added: pyarrow.Schema) -> None:
    both = [name for name in added.names if name in source.columns]
    if both:
        expected, found = f"a name that {source.name} does not use", "a column of the input as well"
        fix = "--prefix new_ (from Python: prefix='new_') is put before the names of the added columns"
        raise DataError([Finding(place=f"column {name}", expected=expected, found=found, fix=fix) for name in both[:3]])


def _output_columns(source: RowSource, added: pyarrow.Schema) -> Columns:
    def schema() -> pyarrow.Schema:
        types = source.schema()
        return pyarrow.schema([*types, *added], metadata=types.metadata)

    return Columns(names=[*source.columns, *added.names], schema=schema)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One pass over the rows. names: of the added columns, in the order in which they are made.

    folder: where files of single rows go; named: what they are called.
    """

    saved: SavedModel
    recipe: Recipe
    source: RowSource
    batch_size: int
    top_k: int | None
    threshold: float | None
    names: Sequence[str]
    folder: Path | None
    named: FileNames
    temperature: float | None = None

    def run(self) -> Iterator[list[Row]]:
        """The rows with their predictions, a chunk at a time, under a bar on standard error (on a terminal)."""
        batches = 1 if self.saved.task.write_files else BATCHES_SORTED if self.saved.task.ahead else BATCHES_READ
        size = self.batch_size * batches
        first = 0
        with tqdm(total=self.source.total, unit=" rows", disable=hides_bars(), file=sys.stderr, leave=False) as bar:
            for rows in chunked(self.source.read(), size):
                cells = Cells(self.source, rows, self._roles(), first)
                columns = self._columns(self._decode(cells, first, bar), cells, rows, first)
                named = (dict(zip(self.names, cells, strict=True)) for cells in zip(*columns, strict=True))
                yield [row | added for row, added in zip(rows, named, strict=True)]
                first += len(rows)

    def _decode(self, cells: Cells, first: int, bar: Any) -> Decoded:
        task, labels = self.saved.task, self.saved.labels
        transform: Any = task.transform(self.saved.processor, self.recipe)
        opened = task.open_rows(self.recipe, labels, False) if task.open_rows else None
        read: Any = cells
        lengths = np.ones(len(cells), dtype=np.int64)
        if task.ahead:
            read, transform = _Transformed(transform(read[range(len(cells))])), None
        if task.length is not None:
            lengths = np.asarray([len(entry) for entry in read.columns[task.length]])
            _check_lengths(lengths, first, self.source)
        evaluator = self.saved.evaluator(batch_size=self.batch_size)
        try:
            shown: Any = Rows(_Shown(read, bar), transform, None, opened=opened)
            rows = evaluator.predict(self.saved.model, shown, lengths, labels, whole=task.write_files is not None)
            if self.temperature is not None:
                rows["scores"] = tempered(rows["scores"], self.temperature)
            return rows
        except torch.OutOfMemoryError as error:
            fix, found = f"--batch-size {max(1, self.batch_size // 4)}", f"none left at {self.batch_size} rows a batch"
            raise EnvironmentProblem(Finding(place="device", expected="enough memory", found=found, fix=fix)) from error

    def _roles(self) -> dict[str, list[str]]:
        """Role -> columns, of the roles that the model reads here."""
        settings = self.recipe.dataset
        roles = self.saved.task.roles(settings.columns)
        asked = {role: need or role in settings.columns for role, need in roles.items()}
        return {
            role: columns_of(settings, role) for role, read in asked.items() if read and role != self.saved.task.target
        }

    def _columns(self, decoded: Decoded, cells: Cells, rows: Sequence[Row], first: int) -> list[list[Any]]:
        if self.top_k is None:
            task, labels = self.saved.task, self.saved.labels
            if self.threshold is not None and self.saved.problem.keep_above is not None:
                decoded = self.saved.problem.keep_above(decoded, self.threshold)
            written = task.write(decoded, labels, self.recipe, cells)
            if task.write_files is not None:
                called = [self.named.of(row, first + number) for number, row in enumerate(rows)]
                config = self.saved.model.config
                written |= task.write_files(decoded, labels, config, self.recipe, cells, self.folder, called)
            return [_as_list(values) for values in written.values()]
        best = np.argsort(-decoded["scores"], axis=-1, kind="stable")[:, : self.top_k]
        scores = np.take_along_axis(decoded["scores"], best, axis=-1)
        names = np.asarray(self.saved.labels.names, dtype=object)[best]
        pairs = zip(names.T.tolist(), scores.T.tolist(), strict=True)
        return [column for pair in pairs for column in pair]


class _Transformed:
    """Model inputs by columns, read by positions."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]):
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, positions: Sequence[int]) -> dict[str, list[Any]]:
        return {name: [values[position] for position in positions] for name, values in self.columns.items()}


class _Shown:
    """Rows that move the bar when they are read, which is just before they are predicted."""

    def __init__(self, rows: Any, bar: Any):
        self.rows, self.bar = rows, bar

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: Sequence[int]) -> Mapping[str, Sequence[Any]]:
        batch: Mapping[str, Sequence[Any]] = self.rows[positions]
        self.bar.update(len(positions))
        return batch


def _check_lengths(lengths: NDArray, first: int, source: RowSource) -> None:
    """A tokenizer without special tokens makes nothing of an empty text, and a model cannot read nothing."""
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        place, fix = source.place(first + int(empty[0])), "fill or remove it"
        found = "none" + (f" (nor in {len(empty) - 1:,} rows after it)" if len(empty) > 1 else "")
        raise DataError(Finding(place=place, expected="a text with at least one token", found=found, fix=fix))


def _as_list(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)
