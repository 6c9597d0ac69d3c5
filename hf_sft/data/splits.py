"""Which rows train, validate and test: splits found by name, slices, a seeded validation cut, samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value
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

Piece = tuple[str, int, int]  # split of the source, first row, row after the last


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
    splits, taken = {}, {}
    for role, spec in name_splits(list(source), settings).items():
        pieces = taken[role] = _absolute(spec, source, role)
        if not pieces:
            fix = "check dataset.splits and the files"
            raise DataError(Finding(place=f"dataset.splits.{role}", expected="rows", found=f"none in {spec}", fix=fix))
        rows = [source[name].select(range(start, stop)) for name, start, stop in pieces]
        ids = np.concatenate([np.arange(start, stop) for _, start, stop in pieces])
        joined = rows[0] if len(rows) == 1 else _concatenated(rows)
        splits[role] = Split(rows=joined, row_ids=ids.astype(np.int64), source=spec)
    _check_apart(taken)
    if settings.group_column:
        _check_group_column(splits["train"].rows, settings.group_column)
    return splits


def _check_apart(taken: Mapping[str, list[Piece]]) -> None:
    """Rows of the test split must not stand elsewhere: they would be trained on, or choose the checkpoint."""
    findings = []
    for role, pieces in taken.items():
        shared = sum(_overlap(one, other) for one in pieces for other in taken.get("test", ()))
        if role != "test" and shared:
            expected, found = "rows that stand in no other split", f"{shared:,} of them in {role} as well"
            fix = f"slice {role} and test apart, or set dataset.splits: {{test: null}}"
            findings.append(Finding(place="dataset.splits.test", expected=expected, found=found, fix=fix))
    if findings:
        raise DataError(findings)


def _overlap(one: Piece, other: Piece) -> int:
    return max(0, min(one[2], other[2]) - max(one[1], other[1])) if one[0] == other[0] else 0


def _concatenated(rows: list[Dataset]) -> Dataset:
    from datasets import concatenate_datasets

    return concatenate_datasets(rows)


def _absolute(spec: str, source: DatasetDict, role: str) -> list[Piece]:
    sizes = {name: len(rows) for name, rows in source.items()}
    if spec in sizes:  # whatever characters its name holds
        return [(spec, 0, sizes[spec])] if sizes[spec] else []
    try:
        instructions = ReadInstruction.from_spec(spec).to_absolute(sizes)
    except (ValueError, AssertionError) as error:
        known = spec.partition("[")[0]
        fix = nearest(known, sizes) if known not in sizes else "slices are written train[:80%] or train[10:20]"
        found = f"{spec} ({error})"
        raise DataError(
            Finding(place=f"dataset.splits.{role}", expected="a split of the data", found=found, fix=fix)
        ) from None
    pieces = [
        (piece.splitname, piece.from_ or 0, sizes[piece.splitname] if piece.to is None else piece.to)
        for piece in instructions
    ]
    return [piece for piece in pieces if piece[1] < piece[2]]


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
        groups = _group_values(train.rows, settings.group_column)
        number = len(set(groups))
        if number < 2:
            raise _too_few(f"one group in {settings.group_column}")
        held = min(max(1, round(fraction * number)), number - 1)
        cut = GroupShuffleSplit(n_splits=1, test_size=held, random_state=seed)
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
        _keep_classes(rest, validation, names)
        how = "stratified by label" if stratified else "at random"
    words = f"validation: {len(validation):,} rows cut from train ({100 * fraction:.3g}%, {how}, seed {seed})"
    return np.sort(rest), np.sort(validation), words


def _keep_classes(rest: NDArray, validation: NDArray, names: NDArray) -> None:
    """Exchange rows, in place, until every class that validates is trained on, as far as there are rows to give."""
    kept = Counter(names[rest].tolist())
    candidates = iter(range(len(rest)))
    for place, name in enumerate(names[validation].tolist()):
        if kept[name]:
            continue
        spare = next((number for number in candidates if kept[names[rest[number]]] > 1), None)
        if spare is None:
            return
        kept.subtract([names[rest[spare]]])
        kept.update([name])
        rest[spare], validation[place] = validation[place], rest[spare]


def _check_group_column(rows: Dataset, column: str) -> None:
    if column not in rows.column_names:
        fix = nearest(column, rows.column_names)
        raise DataError(Finding(place="dataset.group_column", expected="a column of the data", found=column, fix=fix))
    if not isinstance(rows.features[column], (Value, ClassLabel)) or None in _group_values(rows, column):
        found, fix = f"{column!r} with lists, structures or nulls", "give every row the name of its group"
        raise DataError(Finding(place="dataset.group_column", expected="one value per row", found=found, fix=fix))


def _group_values(rows: Dataset, column: str) -> list[Any]:
    return rows.select_columns([column])[:][column]


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
