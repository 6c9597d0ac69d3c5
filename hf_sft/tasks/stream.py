"""Training rows read as they are needed: `dataset.streaming: true`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from datasets import ClassLabel, Dataset, IterableDataset, List

from hf_sft.data.augment import Draw, configure_augment
from hf_sft.data.columns import check_columns, columns_of
from hf_sft.data.labels import LabelColumn, Labels, decide_labels, targets_as_names
from hf_sft.data.load import load_source
from hf_sft.data.splits import name_splits
from hf_sft.errors import DataError, Finding, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.tasks.task import Problem, Task

SHUFFLE_BUFFER = 10_000  # rows among which the next one is drawn
CHUNK = 256  # rows transformed together


class StreamRows(torch.utils.data.IterableDataset):
    """Model inputs of an endless stream: shuffled in a buffer, begun anew (in another order) when it ends.

    Endless, so that training up to max_steps is one pass, and resuming skips exactly the rows that were seen.
    """

    def __init__(self, rows: IterableDataset, recipe: Recipe, task: Task, labels: Labels, processor: Any):
        self.rows = rows.shuffle(seed=recipe.seed, buffer_size=SHUFFLE_BUFFER)
        self.settings = recipe.dataset
        self.transform = task.transform(processor, recipe)
        columns = [name for role in task.columns if role != task.target for name in columns_of(recipe.dataset, role)]
        self.columns = known = [name for name in columns if name in (rows.column_names or columns)]
        pixels = task.pixels(processor)
        self.augment = configure_augment(
            recipe.augmentations, known, seed=recipe.seed, pixels=pixels, opened=task.opened
        )
        self.target = task.target
        self.labels = labels
        self.problem: Problem = task.problems[labels.problem]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for epoch in itertools.count():
            self.rows.set_epoch(epoch)
            number = start = 0
            for batch in self.rows.iter(CHUNK):
                size = len(next(iter(batch.values())))
                for feature in self._features(batch, [(epoch, start + row) for row in range(size)]):
                    number += 1
                    yield feature
                start += size
            if not number:
                raise DataError(Finding(place="dataset", expected="rows in the training stream", found="none"))

    def _null_inputs(self, batch: dict[str, Any]) -> set[int]:
        return {row for name in self.columns for row, value in enumerate(batch[name]) if value is None}

    def _features(self, batch: dict[str, Any], draws: list[Draw]) -> list[dict[str, Any]]:
        (column,) = columns_of(self.settings, self.target)
        values = LabelColumn(values=batch[column], class_names=_class_names(self.rows, column))
        names = targets_as_names(values, self.labels.problem, self.settings)
        null = self._null_inputs(batch)
        kept = [position for position, name in enumerate(names) if name is not None and position not in null]
        missing = [position for position, value in enumerate(values.values) if values.is_missing(value)]
        if (missing or null) and self.settings.on_bad_row == "error":
            fix = "mend those rows, or set dataset.on_bad_row: skip"
            what = "label" if missing else "input"
            found = f"none in {len(missing or null)} of {len(names)} rows read together"
            place = f"dataset.columns.{self.target}" if missing else "dataset.columns"
            raise DataError(Finding(place=place, expected=f"a {what} in every row", found=found, fix=fix))
        known = set(self.labels.names)
        for position in kept:
            here = names[position] if isinstance(names[position], list) else [names[position]]
            if self.labels.problem != "regression" and not known.issuperset(here):
                fix = "name every label in dataset.labels"
                expected = "a label among " + ", ".join(self.labels.names[:10])
                raise DataError(Finding(place="dataset.labels", expected=expected, found=str(here), fix=fix))
        if not kept:
            return []
        batch = {name: [cells[position] for position in kept] for name, cells in batch.items()}
        targets = self.problem.encode([names[position] for position in kept], self.labels)
        draws = [draws[position] for position in kept]
        batch = batch if self.augment is None else self.augment.raw(batch, draws)
        inputs: Mapping[str, Any] = self.transform(batch)
        inputs = inputs if self.augment is None else self.augment.inputs(inputs, draws)
        return [
            {**{name: values[row] for name, values in inputs.items()}, "labels": targets[row], "weight": 1.0}
            for row in range(len(kept))
        ]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The training stream, the splits that are evaluated (read whole), the labels, and where it comes from."""

    train: IterableDataset
    evaluated: dict[str, Dataset]
    labels: Labels
    origin: str


def open_stream(recipe: Recipe, task: Task) -> Stream:
    """Raises RecipeError, naming all of them, when what streaming needs is not given."""
    _check_needs(recipe)
    source, origin = load_source(recipe)
    named = name_splits(list(source), recipe.dataset)
    wrong = [spec for spec in named.values() if spec not in source]
    if wrong:
        fix = "name whole splits; a stream has no slices"
        found = ", ".join(wrong)
        raise DataError(Finding(place="dataset.splits", expected="one of " + ", ".join(source), found=found, fix=fix))
    train = source[named["train"]]
    first = next(iter(train), None)
    if first is None:
        raise DataError(Finding(place="dataset.splits.train", expected="rows", found="none"))
    check_columns(list(first), task.columns, recipe, f"the train split ({named['train']})")
    (column,) = columns_of(recipe.dataset, task.target)
    names = _class_names(train, column) or tuple(recipe.dataset.labels or ())
    if not names and recipe.dataset.problem != "regression":
        fix = "set dataset.labels: [name, ...]"
        raise RecipeError(Finding(place="dataset.labels", expected="known labels (streaming)", found="none", fix=fix))
    declared: list[Any] = [1.0] if recipe.dataset.problem == "regression" else list(names)
    if recipe.dataset.problem == "multi_label":
        declared = [[name] for name in names]
    labels, _ = decide_labels({"train": LabelColumn(values=declared)}, recipe.dataset)
    evaluated = {role: _read_whole(source[named[role]], recipe, role) for role in named if role != "train"}
    return Stream(train=train, evaluated=evaluated, labels=labels, origin=f"{origin} (streamed)")


def _check_needs(recipe: Recipe) -> None:
    settings = recipe.dataset
    needs = {
        "dataset.splits.train": (settings.splits.get("train"), "set dataset.splits: {train: train, validation: ...}"),
        "training.max_steps": (recipe.training.get("max_steps"), "set training.max_steps; a stream has no length"),
    }
    findings = [
        Finding(place=place, expected="this key (dataset.streaming needs it)", found="nothing", fix=fix)
        for place, (value, fix) in needs.items()
        if not value
    ]
    if "train" in settings.max_samples:
        place, found = "dataset.max_samples.train", str(settings.max_samples["train"])
        fix = "set training.max_steps; a stream is read as far as that"
        findings.append(Finding(place=place, expected="no sample (streaming)", found=found, fix=fix))
    if settings.group_column:
        fix = "cut the splits beforehand"
        findings.append(Finding(place="dataset.group_column", expected="no cut (streaming)", found="one", fix=fix))
    if findings:
        raise RecipeError(findings)


def _class_names(rows: IterableDataset, column: str) -> tuple[str, ...] | None:
    feature = (rows.features or {}).get(column)
    inner = feature.feature if isinstance(feature, List) else feature
    return tuple(inner.names) if isinstance(inner, ClassLabel) else None


def _read_whole(rows: IterableDataset, recipe: Recipe, role: str) -> Dataset:
    most = recipe.dataset.max_samples.get(role)
    taken = list(rows.take(most) if most else rows)
    return Dataset.from_list(taken, features=rows.features)
