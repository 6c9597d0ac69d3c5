"""Rows that stand in two splits: equal ones, and ones that the model before training can hardly tell apart."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.section import Cell, Table
from hf_sft.errors import ModelError
from hf_sft.features import extract_features

NEAR = 0.95  # cosine of two rows' embeddings, after the mean of all is taken away, from which on they are shown
MOST_OPENED = 10_000  # pictures of a split that are opened
MOST_TRAIN = 4  # training rows that are looked at, in samples

Pair = tuple[int, int, float]  # row id in the first split, row id in the second, likeness
SHOWN = 200  # pairs of two splits that the table holds
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class _Rows:
    """What is compared of a split. keys: a hash per row of `ids`; features: unit vectors of the rows `sampled`."""

    keys: NDArray
    ids: NDArray
    features: NDArray
    sampled: NDArray


def compare(run: FinishedRun, role: str) -> tuple[Table, dict[str, float | int | str | None]]:
    """The rows that (nearly) stand in two splits, the most alike first: train and `role`, then each two others.

    Equal rows are looked for in all rows (of pictures in at most 10,000 of each split), near ones in a sample. Raises
    Absent where train or `role` cannot be read.
    """
    for one in ("train", role):
        run.require(one)
    splits = {one: _keys(run, one) for one in SPLITS if one in run.splits}
    without = ""
    try:
        splits = _embedded(run, splits)
    except ModelError as error:
        without = str(error.findings[0].found if error.findings else error)
    rows: list[list[Cell]] = []
    figures: dict[str, float | int | str | None] = {}
    others = [pair for pair in itertools.combinations(splits, 2) if pair != ("train", role)]
    for one, other in [("train", role), *others]:
        equal, near = _pairs(splits[one], splits[other])
        rows += _lines(run, one, other, [*equal, *near][:SHOWN])
        name = f"rows_in_{one}" if (one, other) == ("train", role) else f"rows_of_{other}_in_{one}"
        figures[f"equal_{name}"] = len(equal)
        if not without:
            figures[f"near_{name}"] = len(near)
    caption = (
        f"Rows that stand in two splits (likeness 1) or nearly do (cosine of their embeddings before training, from "
        f"{NEAR:g} on). Results on them are too good, or validation chose by rows that test has; where their labels "
        "differ, one label is likely wrong."
    )
    if without:
        caption += f" Near ones are not looked for: {without}."
    heads = ("likeness", "splits", "row of the first", "label", "row of the second", "label ")
    return Table(name="duplicates", caption=caption, heads=heads, rows=rows, shown=15), figures


def _keys(run: FinishedRun, role: str) -> _Rows:
    split = run.require(role).split
    positions = np.arange(len(split)) if run.task.ahead else run.sample(role, MOST_OPENED)
    seen = run.task.inspect(role, split, run.recipe, positions)
    kind = "normalised" if "normalised" in seen.keys else "exact"
    none = np.zeros(0, dtype=np.int64)
    return _Rows(seen.keys[kind], seen.row_ids, np.zeros((0, 1), dtype=np.float32), none)


def _embedded(run: FinishedRun, splits: Mapping[str, _Rows]) -> dict[str, _Rows]:
    """With features of a sample of each split, less their mean over train. Raises ModelError for heads without any."""
    found = {role: embed(run, role, run.rows * (MOST_TRAIN if role == "train" else 1)) for role in splits}
    mean = found["train"][0].mean(axis=0)
    return {
        role: replace(rows, features=_unit(found[role][0] - mean), sampled=found[role][1])
        for role, rows in splits.items()
    }


def _pairs(one: _Rows, other: _Rows) -> tuple[list[Pair], list[Pair]]:
    """(equal ones, near ones that are not equal), by the rows of `other`."""
    first = {int(key): int(row_id) for key, row_id in zip(one.keys[::-1], one.ids[::-1], strict=True)}
    equal = [
        (first[int(key)], int(row_id), 1.0)
        for key, row_id in zip(other.keys, other.ids, strict=True)
        if int(key) in first
    ]
    if not len(one.features) or not len(other.features):
        return equal, []
    likeness = other.features @ one.features.T
    nearest = likeness.argmax(axis=1)
    best = likeness[np.arange(len(likeness)), nearest]
    known = {row_id for _, row_id, _ in equal}
    order = [place for place in np.argsort(-best) if best[place] >= NEAR and int(other.sampled[place]) not in known]
    return equal, [(int(one.sampled[nearest[place]]), int(other.sampled[place]), float(best[place])) for place in order]


def _lines(run: FinishedRun, one: str, other: str, pairs: Sequence[Pair]) -> list[list[Cell]]:
    sides = [
        (run.shown(role, row_ids), _labels(run, role, row_ids))
        for role, row_ids in ((one, [pair[0] for pair in pairs]), (other, [pair[1] for pair in pairs]))
    ]
    (here, first), (there, second) = sides
    return [
        [pair[2], f"{one}, {other}", *cells] for pair, *cells in zip(pairs, here, first, there, second, strict=True)
    ]


def embed(run: FinishedRun, role: str, most: int) -> tuple[NDArray, NDArray]:
    """What reaches the last layer of the model before training, and the row ids."""
    positions = run.sample(role, most)
    inputs = run.inputs(role, positions)
    found = extract_features(
        run.before,
        inputs.rows,
        inputs.lengths,
        run.task.collate(run.saved.processor, run.recipe),
        batch_size=64,
        channels_last=run.saved.channels_last,
    )
    return found.astype(np.float32), inputs.row_ids


def _unit(values: NDArray) -> NDArray:
    lengths: NDArray = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.maximum(lengths, 1e-12)


def _labels(run: FinishedRun, role: str, row_ids: Sequence[int]) -> list[str]:
    entries = run.require(role).entries
    return ["(none)" if entries is None else _word(entries[place]) for place in run.positions(role, row_ids)]


def _word(entry: Any) -> str:
    if entry is None or isinstance(entry, str):
        return entry or "(none)"
    return ", ".join(map(str, entry)) if hasattr(entry, "__iter__") else f"{entry:g}"
