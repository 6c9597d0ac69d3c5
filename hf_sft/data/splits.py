"""Which rows train, validate and test: splits found by name, slices, a seeded validation cut, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from datasets.arrow_reader import ReadInstruction
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from hf_sft.errors import DataError, Finding, nearest
from hf_sft.recipe import SPLIT_ROLES, DataSet

USUAL_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Some rows of a source. rows: source columns; row_ids: int64 [N], their positions in the source split."""

    rows: Dataset
    row_ids: NDArray
    source: str

    def __len__(self) -> int:
        return len(self.row_ids)

    def take(self, positions: NDArray, source: str | None = None) -> Split:
        """The rows at those positions, in that order."""
        rows = self.rows.select(positions)
        return replace(self, rows=rows, row_ids=self.row_ids[positions], source=source or self.source)


def name_splits(names: Sequence[str], settings: DataSet) -> dict[str, str]:
    """Role -> split of the source (slices kept as written). Raises DataError when there is nothing to train on."""
    named = {}
    for role in SPLIT_ROLES:
        if role in settings.splits:
            if settings.splits[role] is not None:
                named[role] = str(settings.splits[role])
            continue
        found = next((name for name in USUAL_NAMES[role] if name in names), None)
        if found:
            named[role] = found
    if "train" not in named:
        raise DataError(
            Finding(
                place="dataset.splits.train",
                expected="a split to train on",
                found="splits " + ", ".join(names),
                fix=f"set dataset.splits: {{train: {next(iter(names), '...')}}}",
            )
        )
    return named


def select_splits(source: DatasetDict, settings: DataSet) -> dict[str, Split]:
    """Role -> rows. Raises DataError for splits and slices that do not exist, and for empty ones."""
    splits = {}
    for role, spec in name_splits(list(source), settings).items():
        pieces = _absolute(spec, source, role)
        rows = [source[name].select(range(start, stop)) for name, start, stop in pieces]
        ids = np.concatenate([np.arange(start, stop) for _, start, stop in pieces])
        if not len(ids):
            fix = "check dataset.splits and the files"
            raise DataError(Finding(place=f"dataset.splits.{role}", expected="rows", found=f"none in {spec}", fix=fix))
        joined = rows[0] if len(rows) == 1 else _concatenated(rows)
        splits[role] = Split(rows=joined, row_ids=ids.astype(np.int64), source=spec)
    return splits


def _concatenated(rows: list[Dataset]) -> Dataset:
    from datasets import concatenate_datasets

    return concatenate_datasets(rows)


def _absolute(spec: str, source: DatasetDict, role: str) -> list[tuple[str, int, int]]:
    sizes = {name: len(rows) for name, rows in source.items()}
    try:
        instructions = ReadInstruction.from_spec(spec).to_absolute(sizes)
    except (ValueError, AssertionError) as error:
        known = spec.partition("[")[0]
        fix = nearest(known, sizes) if known not in sizes else "slices are written train[:80%] or train[10:20]"
        found = f"{spec} ({error})"
        raise DataError(
            Finding(place=f"dataset.splits.{role}", expected="a split of the data", found=found, fix=fix)
        ) from None
    return [
        (piece.splitname, piece.from_ or 0, sizes[piece.splitname] if piece.to is None else piece.to)
        for piece in instructions
    ]


def cut_validation(
    train: Split, targets: Sequence[Any], settings: DataSet, *, stratify: bool, seed: int
) -> tuple[NDArray, NDArray, str]:
    """Positions of train that go on training, those that validate, and how they were chosen, in words.

    A pure function of its arguments: the same on every process and on resume. With dataset.group_column no group
    stands on both sides; otherwise stratified by label where every class can stand on both sides.
    Raises DataError when the rows are too few.
    """
    positions, fraction = np.arange(len(train)), settings.validation_fraction
    if settings.group_column:
        groups = _group_values(train, settings.group_column)
        if len(set(groups)) < 2:
            raise _too_few(f"one group in {settings.group_column}")
        cut = GroupShuffleSplit(n_splits=1, test_size=fraction, random_state=seed)
        rest, validation = next(cut.split(positions, groups=groups))
        how = f"grouped by {settings.group_column}"
    else:
        held = max(1, round(fraction * len(train)))
        if len(train) - held < 1:
            raise _too_few(f"{len(train)} rows")
        names = np.asarray(targets, dtype=str) if stratify else np.zeros(len(train))  # lists of names have no classes
        classes, counts = np.unique(names, return_counts=True)
        stratified = stratify and counts.min() >= 2 and min(held, len(train) - held) >= len(classes)
        rest, validation = train_test_split(
            positions,
            test_size=held,
            random_state=seed,
            stratify=names if stratified else None,
        )
        how = "stratified by label" if stratified else "at random"
    words = f"validation: {len(validation):,} rows cut from train ({fraction:.0%}, {how}, seed {seed})"
    return np.sort(rest), np.sort(validation), words


def _group_values(train: Split, column: str) -> list[Any]:
    if column not in train.rows.column_names:
        raise DataError(
            Finding(
                place="dataset.group_column",
                expected="a column of the data",
                found=column,
                fix=nearest(column, train.rows.column_names),
            )
        )
    return train.rows.select_columns([column])[:][column]


def _too_few(found: str) -> DataError:
    return DataError(
        Finding(
            place="dataset.validation_fraction",
            expected="enough rows (and groups) to cut a validation split",
            found=found,
            fix="name a validation split in dataset.splits, or set dataset.splits: {validation: null}",
        )
    )


def sample_positions(size: int, role: str, settings: DataSet, *, seed: int) -> NDArray | None:
    """Positions of at most dataset.max_samples rows, chosen by the seed, in the order of the data; None for all."""
    most = settings.max_samples.get(role)
    if most is None or size <= most:
        return None
    return np.sort(np.random.default_rng([seed, SPLIT_ROLES.index(role)]).permutation(size)[:most])
