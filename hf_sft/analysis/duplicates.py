"""Rows that stand in two splits: equal ones, and ones that the model before training can hardly tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.section import Absent, Cell, Table
from hf_sft.errors import ModelError
from hf_sft.features import extract_features

NEAR = 0.95  # cosine of two rows' embeddings, after the mean of all is taken away, from which on they are shown
MOST_OPENED = 10_000  # pictures of a split that are opened
MOST_TRAIN = 4  # training rows that are looked at, in samples

Pair = tuple[int, int, float]  # row id in train, row id in the other split, likeness


def compare(run: FinishedRun, role: str) -> tuple[Table, dict[str, float | int | str | None]]:
    """The rows of a split that (nearly) stand in train, the most alike first, with the count of equal ones.

    Equal rows are looked for in all rows (of pictures in at most 10,000 of each split), near ones in a sample.
    """
    exact = _equal(run, role)
    known = {there for _, there, _ in exact}
    near = [pair for pair in _near(run, role) if pair[1] not in known]
    pairs = [*exact, *near]
    here = run.shown("train", [pair[0] for pair in pairs[:200]])
    there = run.shown(role, [pair[1] for pair in pairs[:200]])
    labels_here = _labels(run, "train", [pair[0] for pair in pairs[:200]])
    labels_there = _labels(run, role, [pair[1] for pair in pairs[:200]])
    rows: list[list[Cell]] = [
        [pair[2], one, first, other, second]
        for pair, one, first, other, second in zip(pairs, here, labels_here, there, labels_there, strict=False)
    ]
    caption = (
        f"Rows of {role} that stand in train (likeness 1) or nearly do (cosine of their embeddings before training, "
        f"from {NEAR:g} on). Results on them are too good; where their labels differ, one label is likely wrong."
    )
    heads = ("likeness", "row of train", "label", f"row of {role}", "label ")
    table = Table(name="duplicates", caption=caption, heads=heads, rows=rows, shown=15)
    return table, {"equal_rows_in_train": len(known), "near_rows_in_train": len(near)}


def _equal(run: FinishedRun, role: str) -> list[Pair]:
    train, other = run.require("train").split, run.require(role).split
    found = {}
    for name, split in (("train", train), (role, other)):
        positions = np.arange(len(split)) if run.task.ahead else run.sample(name, MOST_OPENED)
        seen = run.task.inspect(name, split, run.recipe, positions)
        kind = "normalised" if "normalised" in seen.keys else "exact"
        found[name] = (seen.keys[kind], seen.row_ids)
    keys, ids = found["train"]
    first = {int(key): int(row_id) for key, row_id in zip(keys[::-1], ids[::-1], strict=True)}
    return [(first[int(key)], int(row_id), 1.0) for key, row_id in zip(*found[role], strict=True) if int(key) in first]


def _near(run: FinishedRun, role: str) -> list[Pair]:
    try:
        one, ids = embed(run, "train", run.rows * MOST_TRAIN)
        other, others = embed(run, role, run.rows)
    except ModelError as error:
        raise Absent(str(error.findings[0].found if error.findings else error)) from error
    mean = one.mean(axis=0)
    one, other = (_unit(values - mean) for values in (one, other))
    likeness = other @ one.T
    nearest = likeness.argmax(axis=1)
    best = likeness[np.arange(len(other)), nearest]
    order = [place for place in np.argsort(-best) if best[place] >= NEAR]
    return [(int(ids[nearest[place]]), int(others[place]), float(best[place])) for place in order]


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
    if entries is None:
        return ["(none)"] * len(row_ids)
    chosen = [entries[place] for place in run.positions(role, row_ids)]
    return [
        entry
        if isinstance(entry, str)
        else ", ".join(map(str, entry))
        if isinstance(entry, (list, tuple))
        else f"{entry:g}"
        for entry in chosen
    ]
