"""The order of training rows: a pure function of seed, epoch and batch size, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

GROUP = 50  # global batches whose rows are sorted by length together: little padding, and still a shuffle
FEWEST_GROUPS = 4  # so that small sets too meet in other batches each epoch (as in transformers' LengthGroupedSampler)


def epoch_order(lengths: NDArray, *, global_batch_size: int, seed: int, epoch: int) -> NDArray:
    """int64 [N], every row once: rows of similar length stand in one global batch, the batches in random order.

    The ragged batch stands last. Where all lengths are equal this is a plain shuffle.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    if len(lengths) == 0 or lengths.min() == lengths.max():
        return order
    span = max(1, min(GROUP, len(order) // (FEWEST_GROUPS * global_batch_size))) * global_batch_size
    groups = [order[start : start + span] for start in range(0, len(order), span)]
    order = np.concatenate([group[np.argsort(-lengths[group], kind="stable")] for group in groups])
    whole = len(order) // global_batch_size * global_batch_size
    batches = order[:whole].reshape(-1, global_batch_size)
    return np.concatenate([generator.permutation(batches, axis=0).reshape(-1), order[whole:]])


class EpochOrder(Sampler[int]):
    """Row indices of one epoch; set `epoch` before each.

    Several processes take turns batch by batch, so the epoch is filled up to a whole round of batches. A filler
    repeats a row with weight 0: no row counts twice. Indices tell row, epoch and filler as `data.rows.Rows` reads them.
    """

    def __init__(self, lengths: NDArray, *, global_batch_size: int, round_size: int, seed: int):
        """round_size: rows that all processes take in one round; 1 where a ragged last batch is no problem."""
        self.lengths = lengths
        self.global_batch_size = global_batch_size
        self.round_size = round_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.round_size) * self.round_size

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.lengths, global_batch_size=self.global_batch_size, seed=self.seed, epoch=self.epoch)
        fillers = order[np.arange(len(self) - len(order)) % max(len(order), 1)] + len(order)
        return iter((np.concatenate([order, fillers]) + 2 * len(order) * self.epoch).tolist())

    def rows_of_step(self, step: int) -> list[int]:
        """Rows of the optimizer step that follows on `step` earlier ones of the run, over all processes."""
        per_epoch = -(-len(self.lengths) // self.global_batch_size)
        epoch, start = step // per_epoch, step % per_epoch * self.global_batch_size
        order = epoch_order(self.lengths, global_batch_size=self.global_batch_size, seed=self.seed, epoch=epoch)
        return order[start : start + self.global_batch_size].tolist()
