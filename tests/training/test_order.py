"""The order of training rows: who sees what, when, and with how much padding."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from torch.utils.data import BatchSampler

from hf_sft.data.rows import Rows
from hf_sft.training.order import EpochOrder, epoch_order
from hf_sft.training.trainer import SftTrainer

LENGTHS = np.random.default_rng(0).lognormal(3, 0.8, 5003).astype(np.int64) + 2


def steps_of(lengths: np.ndarray, batch_size: int, processes: int, accumulation: int) -> list[list[int]]:
    """The rows of each optimizer step, fillers left out, as the Trainer's order and accelerate's shards deal them."""
    arguments = SimpleNamespace(
        per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation, world_size=processes
    )
    order = SftTrainer._order(SimpleNamespace(args=arguments, recipe=SimpleNamespace(seed=7)), lengths)
    whole = BatchSampler(order, batch_size, drop_last=False)
    shards = (
        [list(BatchSamplerShard(whole, processes, rank)) for rank in range(processes)] if processes > 1 else [whole]
    )
    assert len({len(shard) for shard in shards}) == 1, "every process takes as many batches"
    turns = list(zip(*shards, strict=True))
    steps = [turns[start : start + accumulation] for start in range(0, len(turns), accumulation)]
    return [[row for turn in step for batch in turn for row in batch if row < len(lengths)] for step in steps]


@pytest.mark.parametrize("rows", [1, 2, 31, 32, 33, 64, 1601, 5003])
@pytest.mark.parametrize("equal", [False, True], ids=["ragged", "equal lengths"])
def test_an_epoch_visits_every_row_once(rows, equal):
    lengths = np.full(rows, 9) if equal else LENGTHS[:rows]
    order = epoch_order(lengths, global_batch_size=32, seed=3, epoch=2)
    assert order.dtype == np.int64 and sorted(order) == list(range(rows))


@pytest.mark.parametrize("rows", [5, 75, 1601, 1616])
@pytest.mark.parametrize("batch_size, processes, accumulation", [(16, 2, 1), (8, 1, 4), (4, 2, 4), (4, 8, 1)])
def test_global_batches_are_the_same_however_they_are_shared(rows, batch_size, processes, accumulation):
    whole = steps_of(LENGTHS[:rows], 32, 1, 1)
    shared = steps_of(LENGTHS[:rows], batch_size, processes, accumulation)
    assert [sorted(step) for step in shared] == [sorted(step) for step in whole]
    assert sum(len(step) for step in whole) == rows


@pytest.mark.parametrize("rows", [20, 100, 5003])
def test_epochs_and_seeds_differ_and_repeat(rows):
    def order(seed: int, epoch: int) -> list[int]:
        return epoch_order(LENGTHS[:rows], global_batch_size=2, seed=seed, epoch=epoch).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(6) for epoch in range(6)}) == 36


@pytest.mark.parametrize("rows", [16, 64, 256])
def test_rows_meet_others_in_another_epoch_however_small_the_set(rows):
    lengths = np.arange(rows)
    batches = [
        {frozenset(batch) for batch in epoch_order(lengths, global_batch_size=4, seed=0, epoch=epoch).reshape(-1, 4)}
        for epoch in range(2)
    ]
    assert len(batches[0] & batches[1]) <= rows // 4 / 4


def test_batches_hold_much_less_padding_than_a_shuffle():
    def padding(order: np.ndarray) -> int:
        batches = [LENGTHS[order[start : start + 32]] for start in range(0, len(order), 32)]
        return sum(int(batch.max() * len(batch) - batch.sum()) for batch in batches)

    shuffled = np.random.default_rng(1).permutation(len(LENGTHS))
    ordered = epoch_order(LENGTHS, global_batch_size=32, seed=1, epoch=0)
    assert padding(ordered) < 0.2 * padding(shuffled)


def test_batches_of_short_rows_and_of_long_ones_take_turns():
    orders = [epoch_order(LENGTHS, global_batch_size=32, seed=1, epoch=epoch)[:4992] for epoch in range(10)]
    ranks = [LENGTHS[order].reshape(-1, 32).mean(1).argsort().argsort() for order in orders]
    neighbours = [np.corrcoef(rank[:-1], rank[1:])[0, 1] for rank in ranks]
    assert abs(np.mean(neighbours)) < 0.1, "the order of batches is random, not from long to short"


@pytest.mark.parametrize("rows", [33, 1601, 5003])
def test_the_ragged_batch_comes_last(rows):
    sizes = [len(step) for step in steps_of(LENGTHS[:rows], 32, 1, 1)]
    assert sizes == [32] * (rows // 32) + [rows % 32]


@pytest.mark.parametrize("rows", [1, 5, 16, 75, 80])
def test_fillers_complete_the_round_and_weigh_nothing(rows):
    order = EpochOrder(LENGTHS[:rows], global_batch_size=32, round_size=16, seed=0)
    indices = list(order)
    assert len(indices) == len(order) == -(-rows // 16) * 16
    data = Rows(Dataset.from_dict({"input_ids": [[index] for index in range(rows)]}), None, np.arange(rows))
    features = data.__getitems__(indices)
    counted = [feature["labels"] for feature in features if feature["weight"] == 1.0]
    assert sorted(counted) == list(range(rows))
    assert sum(feature["weight"] for feature in features) == rows
    assert all(feature["labels"] == feature["input_ids"][0] for feature in features)


def test_one_process_needs_no_fillers():
    assert len(EpochOrder(LENGTHS[:75], global_batch_size=32, round_size=1, seed=0)) == 75


def test_the_epoch_that_is_set_is_the_one_that_is_dealt():
    order = EpochOrder(LENGTHS, global_batch_size=32, round_size=1, seed=5)
    first, number = list(order), len(LENGTHS)
    order.epoch = 3
    dealt = list(order)
    assert [index % number for index in dealt] == epoch_order(LENGTHS, global_batch_size=32, seed=5, epoch=3).tolist()
    assert {index // number for index in dealt} == {2 * 3} and {index // number for index in first} == {0}
