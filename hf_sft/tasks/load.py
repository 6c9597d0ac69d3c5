"""From a recipe to the rows of its task: splits, labels decided once, targets, model inputs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xxhash
from accelerate import PartialState
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray

from hf_sft.data.augment import configure_augment
from hf_sft.data.bad_rows import BadRow, Fault, name_rows, refuse
from hf_sft.data.columns import check_columns, columns_of
from hf_sft.data.labels import LabelColumn, Labels
from hf_sft.data.load import load_source
from hf_sft.data.mixing import Mixing
from hf_sft.data.rows import Rows, row_lengths
from hf_sft.data.splits import Split, cut_validation, sample_positions, select_splits
from hf_sft.errors import DataError, Finding, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.tasks.stream import SHUFFLE_BUFFER, StreamRows, open_stream
from hf_sft.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class LabelledSplit:
    """A split and what its label column says: names, lists of names or numbers; None where nobody labelled it."""

    split: Split
    entries: NDArray | None

    def take(self, positions: NDArray, source: str | None = None) -> LabelledSplit:
        entries = None if self.entries is None else self.entries[positions]
        return LabelledSplit(split=self.split.take(positions, source), entries=entries)


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """The splits by role, the labels of all of them, and the decisions taken, in words.

    stream: the training rows where they are streamed; `splits` then holds no "train".
    bad_rows: those that dataset.on_bad_row: skip left out.
    """

    splits: Mapping[str, LabelledSplit]
    labels: Labels
    origin: str
    notes: tuple[str, ...]
    stream: IterableDataset | None = None
    bad_rows: tuple[BadRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A split as the model reads it. lengths: int64 [N], what each row costs; targets: None where unlabelled.

    source: the columns that the rows are made from. Of a stream there are rows alone: lengths and row_ids are empty,
    targets and source None.
    """

    rows: Any  # data.rows.Rows, or tasks.stream.StreamRows
    lengths: NDArray
    targets: NDArray | None
    row_ids: NDArray
    source: Dataset | None = None

    @property
    def size(self) -> int | None:
        """Number of rows; None for a stream."""
        return len(self.rows) if isinstance(self.rows, Rows) else None

    def features(self, number: int) -> list[dict[str, Any]]:
        """The first rows as the collator takes them."""
        if isinstance(self.rows, Rows):
            return self.rows.__getitems__(range(min(number, len(self.rows))))
        return list(itertools.islice(iter(self.rows), number))


def load_data(recipe: Recipe, task: Task, data: Mapping[str, Any] | None = None) -> TaskData:
    """Raises DataError for what cannot be read, columns that are missing, labels that are missing or of one class."""
    _check_task(recipe, task)
    if recipe.dataset.streaming and data is None:
        return _load_stream(recipe, task)
    source, origin = load_source(recipe, data)
    raw = select_splits(source, recipe.dataset)
    splits, columns, notes = {}, {}, []
    for role, split in raw.items():
        needed = _needed(task, role, recipe)
        check_columns(split.rows.column_names, needed, recipe, f"the {role} split ({split.source})")
        split, column = read_labels(split, recipe, task)
        if column is None or column.unlabelled:
            if role == "train":
                fix = "name the column that holds the labels, or another split"
                place = f"dataset.columns.{task.target}"
                raise DataError(Finding(place=place, expected="labels in train", found="none", fix=fix))
            what = "not used" if role == "validation" else "predicted, not evaluated"
            notes.append(f"{role}: no labels ({split.source}); {what}")
        else:
            columns[role] = column
        splits[role] = split
    bad = drop_unlabelled_rows(splits, columns, recipe, task)
    labels, label_notes = task.decide_labels(columns, recipe)
    labelled = {
        role: _with_labels(role, split, columns.get(role), labels, recipe, task, notes)
        for role, split in splits.items()
    }
    if "validation" in labelled and labelled["validation"].entries is None:
        labelled.pop("validation")
    if "validation" not in labelled and recipe.dataset.splits.get("validation", "") is not None:
        labelled |= _cut(labelled["train"], recipe, labels, notes)
    for role, part in labelled.items():
        positions = sample_positions(len(part.split), role, recipe.dataset, seed=recipe.seed)
        if positions is not None:
            labelled[role] = part.take(positions, f"{part.split.source}, {len(positions):,} sampled")
    ready, unreadable = ready_splits(labelled, recipe, task)
    bad += unreadable
    notes += [*_count(bad), *_check_train(ready["train"], labels, label_notes, task)]
    return TaskData(splits=ready, labels=labels, origin=origin, notes=(*label_notes, *notes), bad_rows=tuple(bad))


def read_labels(split: Split, recipe: Recipe, task: Task) -> tuple[Split, LabelColumn | None]:
    """What the label column says, None where there is none; the split, ready to be read where its targets travel."""
    ready = task.prepare(split, recipe) if task.travels else split
    return ready, task.read_labels(ready.rows, recipe.dataset)


def _check_task(recipe: Recipe, task: Task) -> None:
    """Raises RecipeError for keys of the data section that have no meaning for the task."""
    problem = recipe.dataset.problem
    if problem is not None and problem not in task.problems:
        expected, fix = f"a problem of {task.name}: {', '.join(task.problems)}", "leave it out: it is decided once"
        raise RecipeError(Finding(place="dataset.problem", expected=expected, found=problem, fix=fix))
    if recipe.dataset.streaming and not task.streams:
        expected, fix = f"false for {task.name}", "leave it out: the rows are read from disk as they are needed anyway"
        raise RecipeError(Finding(place="dataset.streaming", expected=expected, found="true", fix=fix))


def _check_train(train: LabelledSplit, labels: Labels, said: Sequence[str], task: Task) -> list[str]:
    """A warning for labels that the cut, a sample or bad rows left without a row in train.

    Raises DataError where one class is left.
    """
    assert train.entries is not None
    if labels.problem == "regression":
        return []
    counts = Counter(name for entry in train.entries for name in ([entry] if isinstance(entry, str) else entry))
    if labels.problem == "single_label" and len(counts) < 2:
        expected, fix = "at least two classes in train", "train on more rows: dataset.max_samples, validation_fraction"
        found = f"{next(iter(counts), 'none')!r} alone in {len(train.split):,} rows"
        place = f"dataset.columns.{task.target}"
        raise DataError(Finding(place=place, expected=expected, found=found, fix=fix))
    absent = [name for name in labels.names if not counts[name]]
    if not absent or any(note.startswith("warning: labels without a row") for note in said):
        return []
    some = ", ".join(absent[:8]) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
    return [f"warning: labels without a row in train (cut, sampled or skipped), which cannot be learned: {some}"]


def drop_unlabelled_rows(
    splits: dict[str, Split], columns: dict[str, LabelColumn], recipe: Recipe, task: Task
) -> list[BadRow]:
    """Take rows without a label out of both; raises DataError naming them unless they are to be skipped."""
    (name,) = columns_of(recipe.dataset, task.target)
    bad: list[BadRow] = []
    for role, column in columns.items():
        missing = [position for position, value in enumerate(column.values) if column.is_missing(value)]
        if not missing:
            continue
        kind = "is empty (null, or -1 of a ClassLabel)" if column.class_names else "is empty (null)"
        said = {fault.position: fault for fault in column.faults}
        empty = [Fault(position=position, role=task.target, column=name, kind=kind) for position in missing]
        faults = [said.get(fault.position, fault) for fault in empty]
        bad += name_rows(role, splits[role].source, splits[role].row_ids, faults)
        kept = np.setdiff1d(np.arange(len(column.values)), missing)
        if not len(kept) and recipe.dataset.on_bad_row == "skip":
            raise refuse(bad, none_left=True)
        splits[role] = splits[role].take(kept)
        columns[role] = replace(column, values=[column.values[position] for position in kept], faults=())
    if bad and recipe.dataset.on_bad_row == "error":
        raise refuse(bad)
    return bad


def ready_splits(
    labelled: Mapping[str, LabelledSplit], recipe: Recipe, task: Task
) -> tuple[dict[str, LabelledSplit], list[BadRow]]:
    """The splits with columns that can be read, without rows whose input cannot be used.

    Raises DataError naming such rows unless they are to be skipped, and for a split that has no others.
    """
    ready, bad = {}, []
    for role, part in labelled.items():
        prepared = replace(part, split=task.prepare(part.split, recipe))
        faults = task.find_faults(prepared.split, recipe)
        bad += name_rows(role, part.split.source, part.split.row_ids, faults)
        kept = np.setdiff1d(np.arange(len(part.split)), [fault.position for fault in faults])
        if faults and recipe.dataset.on_bad_row == "skip":
            if not len(kept):
                raise refuse(bad, none_left=True)
            prepared = prepared.take(kept)
        ready[role] = prepared
    if bad and recipe.dataset.on_bad_row == "error":
        raise refuse(bad)
    return ready, bad


def _count(bad: Sequence[BadRow]) -> list[str]:
    """How many rows each split lost, and why, in words."""
    counts = Counter((row.split, f"column {row.fault.column!r} {row.fault.kind}") for row in bad)
    return [
        f"{role}: {number:,} bad row{'s' if number > 1 else ''} skipped: {why}"
        for (role, why), number in counts.items()
    ]


def _needed(task: Task, role: str, recipe: Recipe) -> dict[str, bool]:
    """Columns of a split, required or not; a test split may lack its labels, whatever the recipe calls them."""
    roles = task.roles(recipe.dataset.columns)
    return {name: required for name, required in roles.items() if name != task.target or role != "test"}


def _load_stream(recipe: Recipe, task: Task) -> TaskData:
    stream, notes = open_stream(recipe, task), [f"training rows are streamed, {SHUFFLE_BUFFER:,} at a time"]
    splits, columns = {}, {}
    for role, rows in stream.evaluated.items():
        check_columns(rows.column_names, _needed(task, role, recipe), recipe, f"the {role} split")
        splits[role] = Split(rows=rows, row_ids=np.arange(len(rows)), source=role)
        column = task.read_labels(rows, recipe.dataset)
        if column is not None and not column.unlabelled:
            columns[role] = column
    bad = drop_unlabelled_rows(splits, columns, recipe, task)
    labelled = {
        role: _with_labels(role, split, columns.get(role), stream.labels, recipe, task, notes)
        for role, split in splits.items()
    }
    ready, unreadable = ready_splits(labelled, recipe, task)
    bad += unreadable
    return TaskData(
        splits=ready,
        labels=stream.labels,
        origin=stream.origin,
        notes=(*notes, *_count(bad)),
        stream=stream.train,
        bad_rows=tuple(bad),
    )


def _with_labels(
    role: str,
    split: Split,
    column: LabelColumn | None,
    labels: Labels,
    recipe: Recipe,
    task: Task,
    notes: list[str],
) -> LabelledSplit:
    if column is None:
        return LabelledSplit(split=split, entries=None)
    names = task.name_targets(column, labels.problem, recipe.dataset)
    entries = np.empty(len(names), dtype=object)
    entries[:] = names
    kept = np.flatnonzero([entry is not None for entry in names])
    whole = LabelledSplit(split=split, entries=entries)
    if len(kept) == len(names):
        return whole
    if not len(kept):
        fix = f"keep a label of it, or set dataset.splits: {{{role}: null}}"
        found = f"none in {role}: dataset.label_map drops them all"
        raise DataError(Finding(place="dataset.label_map", expected="rows", found=found, fix=fix))
    notes.append(f"{role}: {len(names) - len(kept):,} rows dropped by dataset.label_map")
    return whole.take(kept)


def _cut(train: LabelledSplit, recipe: Recipe, labels: Labels, notes: list[str]) -> dict[str, LabelledSplit]:
    assert train.entries is not None
    rest, validation, words = cut_validation(
        train.split,
        list(train.entries),
        recipe.dataset,
        stratify=labels.problem == "single_label",
        seed=recipe.seed,
    )
    notes.append(words)
    source = train.split.source
    return {"train": train.take(rest), "validation": train.take(validation, f"{source}, cut for validation")}


def make_inputs(
    part: LabelledSplit, recipe: Recipe, task: Task, labels: Labels, processor: Any, *, augmented: bool = False
) -> Inputs:
    """Rows the model reads: transformed ahead (and cached by `datasets`) or as they are read, as the task says.

    augmented: changed anew in each epoch, as the recipe's `augment`, `objective.mixup` and `cutmix` say.
    """
    split, augment, mixing = part.split, None, None
    targets = None if part.entries is None else task.problems[labels.problem].encode(list(part.entries), labels)
    transform = task.transform(processor, recipe)
    reads_targets = task.travels and part.entries is not None
    roles = [role for role in task.roles(recipe.dataset.columns) if role != task.target or reads_targets]
    inputs = [column for role in roles for column in _present(split.rows, recipe, role)]
    source, row_ids = split.rows.select_columns(inputs), split.row_ids
    if augmented:
        entries, pixels = recipe.augmentations, task.pixels(processor)
        columns = None if task.travels else inputs
        augment = configure_augment(entries, columns, seed=recipe.seed, pixels=pixels, opened=task.opened)
        mixing = _configure_mixing(recipe, labels)
    opened = task.open_rows(recipe, labels, augmented) if task.open_rows else None
    raw = Rows(source, transform, targets, opened=opened, augment=augment, mixing=mixing, row_ids=row_ids)
    if task.ahead:
        with PartialState().main_process_first():
            mapped = split.rows.map(transform, batched=True, remove_columns=split.rows.column_names)
            if augmented and task.parts is not None and targets is not None:
                mapped, targets, positions = task.parts(mapped, targets)
                source, row_ids = source.select(positions), row_ids[positions]
        rows, lengths = Rows(mapped, None, targets) if augment is None else raw, row_lengths(mapped, task.length)
    else:
        rows, lengths = raw, row_lengths(raw.rows, task.length)
    return Inputs(rows=rows, lengths=lengths, targets=targets, row_ids=row_ids, source=source)


def _configure_mixing(recipe: Recipe, labels: Labels) -> Mixing | None:
    asked = recipe.objective
    if asked.mixup is None and asked.cutmix is None:
        return None
    return Mixing(
        seed=recipe.seed,
        num_labels=len(labels.names),
        mixup=asked.mixup,
        cutmix=asked.cutmix,
        by_class=recipe.dataset.sampling == "balanced",
    )


def take_inputs(inputs: Inputs, positions: NDArray) -> Inputs:
    """The rows at those positions, in that order."""
    targets = None if inputs.targets is None else inputs.targets[positions]
    ids, own = inputs.row_ids[positions], inputs.rows
    chosen = own.rows.select(positions)
    rows = Rows(chosen, own.transform, targets, opened=own.opened, augment=own.augment, mixing=own.mixing, row_ids=ids)
    source = None if inputs.source is None else inputs.source.select(positions)
    return Inputs(rows=rows, lengths=inputs.lengths[positions], targets=targets, row_ids=ids, source=source)


def stream_inputs(rows: IterableDataset, recipe: Recipe, task: Task, labels: Labels, processor: Any) -> Inputs:
    """The training stream as the model reads it."""
    none = np.zeros(0, dtype=np.int64)
    return Inputs(rows=StreamRows(rows, recipe, task, labels, processor), lengths=none, targets=None, row_ids=none)


def _present(rows: Dataset, recipe: Recipe, role: str) -> list[str]:
    return [column for column in columns_of(recipe.dataset, role) if column in rows.column_names]


def fingerprint(part: LabelledSplit, recipe: Recipe, task: Task) -> str:
    """A hash of the rows as they are stored: input columns, labels and ids. Files that a row names are not opened."""
    import pyarrow

    columns = [column for role in task.columns for column in _present(part.split.rows, recipe, role)]
    digest = xxhash.xxh64(part.split.row_ids.tobytes())
    for table in part.split.rows.select_columns(list(dict.fromkeys(columns))).with_format("arrow").iter(1000):
        for batch in table.combine_chunks().to_batches():
            digest.update(pyarrow.RecordBatch.from_arrays(batch.columns, batch.schema.names).serialize())
    return digest.hexdigest()
