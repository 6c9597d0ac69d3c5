"""Laws of balanced sampling: classes in turns, every row of a class before one comes again, the same however shared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from forked import in_two_processes
from tiny_runs import (
    NO_DROPOUT,
    StopAfter,
    largest_difference,
    make_data,
    make_recipe,
    prepare,
    train,
    weights,
)

from hf_sft import check
from hf_sft.job import Job
from hf_sft.training.order import EpochOrder, balanced_draws, epoch_order

CLASSES = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [70, 25, 5]))
LENGTHS = np.random.default_rng(1).integers(2, 40, len(CLASSES))


def order(epoch: int, seed: int = 3, batch: int = 8) -> np.ndarray:
    return epoch_order(LENGTHS, global_batch_size=batch, seed=seed, epoch=epoch, classes=CLASSES)


@pytest.mark.parametrize("epoch", [0, 1, 2, 7])
def test_classes_with_rows_come_equally_often_in_as_many_rows(epoch: int) -> None:
    counts = Counter(CLASSES[order(epoch)].tolist())
    assert sum(counts.values()) == len(CLASSES)
    assert set(counts) == {0, 1, 3} and max(counts.values()) - min(counts.values()) <= 1


def test_over_epochs_classes_come_equally_often_too() -> None:
    counts = Counter(np.concatenate([CLASSES[order(epoch)] for epoch in range(8)]).tolist())
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("label", [0, 1, 3])
def test_every_row_of_a_class_is_drawn_before_one_comes_again_over_epochs_too(label: int) -> None:
    drawn = [balanced_draws(CLASSES, seed=3, epoch=epoch) for epoch in range(9)]
    mine, own = np.concatenate([rows[CLASSES[rows] == label] for rows in drawn]), [*np.flatnonzero(label == CLASSES)]
    size = len(own)
    rounds = [mine[start : start + size] for start in range(0, len(mine) - size + 1, size)]
    assert len(rounds) > 3
    assert all(sorted(one) == own for one in rounds)
    assert len({tuple(one) for one in rounds}) > len(rounds) / 2, "in another order, as chance has it"


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    assert [order(epoch).tolist() for epoch in (4, 0)] == [order(epoch).tolist() for epoch in (4, 0)]
    assert len({tuple(order(epoch, seed)) for seed in range(4) for epoch in range(4)}) == 16
    assert sorted(order(2, batch=8)) == sorted(order(2, batch=32)), "whatever the batch"


def test_rows_of_similar_length_still_stand_together() -> None:
    def padding(rows: np.ndarray) -> int:
        parts = [LENGTHS[rows[start : start + 4]] for start in range(0, len(rows), 4)]
        return sum(int(part.max() * len(part) - part.sum()) for part in parts)

    drawn = [balanced_draws(CLASSES, seed=3, epoch=epoch) for epoch in range(5)]
    assert sum(padding(order(epoch, batch=4)) for epoch in range(5)) < 0.7 * sum(map(padding, drawn))


def test_indices_tell_row_and_epoch_and_steps_name_their_rows() -> None:
    sampler = EpochOrder(LENGTHS, global_batch_size=8, round_size=16, seed=3, classes=CLASSES)
    sampler.epoch, size = 2, len(CLASSES)
    indices = np.array(list(sampler))
    assert len(indices) == len(sampler) == 112 and (indices[:size] % size == order(2)).all()
    assert set(indices[:size] // size) == {4} and set(indices[size:] // size) == {5}
    assert sampler.rows_of_step(13 * 2 + 1) == order(2)[8:16].tolist()


# in training


def uneven(family: str, rows: int = 44) -> dict[str, Dataset]:
    data = make_data(family, train=5 * rows, validation=8)
    kept = [index for index in range(5 * rows) if index % 2 == 0 or index % 10 == 1][:rows]
    return data | {"train": data["train"].select(kept)}


def watch(work: Job, seen: list[int]) -> None:
    """Note the indices of training rows as they are read."""
    rows = work.inputs["train"].rows
    read = rows.__getitems__

    def read_and_note(indices: list[int]) -> Any:
        seen.extend(indices)
        return read(indices)

    rows.__getitems__ = read_and_note


def run(family: str, models: Path, folder: Path, batch: int) -> dict[str, np.ndarray]:
    model = {"config": NO_DROPOUT}
    recipe = make_recipe(
        family,
        models,
        folder,
        model=model,
        dataset={"sampling": "balanced"},
        training={"per_device_train_batch_size": batch},
    )
    work = prepare(recipe, uneven(family, 37), double=True)
    train(work)
    return weights(work)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_two_processes_draw_what_one_draws(family: str, models: Path, tmp_path: Path) -> None:
    one = run(family, models, tmp_path / "one", 8)
    for other in in_two_processes(run, family, models, tmp_path / "two", 4):
        assert largest_difference(one, other) < 1e-10


def test_a_resumed_run_draws_what_the_whole_one_drew(models: Path, tmp_path: Path) -> None:
    data = uneven("bert")
    seen: dict[str, list[Any]] = {"whole": [], "parts": []}

    def go_on(name: str, *callbacks: Any) -> dict[str, np.ndarray]:
        settings = {"save_strategy": "steps", "save_steps": 2}
        changes: dict[str, Any] = {"dataset": {"sampling": "balanced"}, "training": settings}
        work = prepare(make_recipe("bert", models, tmp_path / name, **changes), data)
        watch(work, seen[name])
        train(work, callbacks)
        return weights(work)

    whole = go_on("whole")
    with pytest.raises(KeyboardInterrupt):
        go_on("parts", StopAfter(9))
    assert largest_difference(whole, go_on("parts")) == 0.0
    assert set(seen["whole"]) == set(seen["parts"])


def test_a_run_draws_its_classes_equally_often(models: Path, tmp_path: Path) -> None:
    counts = {}
    for sampling in ("natural", "balanced"):
        work = prepare(make_recipe("bert", models, tmp_path / sampling, dataset={"sampling": sampling}), uneven("bert"))
        seen: list[int] = []
        watch(work, seen)
        train(work)
        rows = work.inputs["train"].rows
        counts[sampling] = Counter(rows.targets[np.array(seen) % len(rows)].tolist())
    assert sum(counts["natural"].values()) == sum(counts["balanced"].values()) == 88
    assert set(counts["natural"].values()) == {16, 72}
    assert set(counts["balanced"].values()) == {44}


def test_a_balanced_run_can_be_rehearsed(models: Path, tmp_path: Path) -> None:
    recipe = make_recipe("bert", models, tmp_path / "run", dataset={"sampling": "balanced"})
    report = check(recipe, data=uneven("bert"))
    assert report.ok and report.rehearsal is not None and report.rehearsal.steps == 12
