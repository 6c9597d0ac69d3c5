"""The order of training rows: a pure function of seed, epoch and batch size, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from hf_sft.recipe import Recipe

GROUP = 50  # global batches whose rows are sorted by length together: little padding, and still a shuffle
FEWEST_GROUPS = 4  # so that small sets too meet in other batches each epoch (as in transformers' LengthGroupedSampler)


def epoch_order(
    lengths: NDArray, *, global_batch_size: int, seed: int, epoch: int, classes: NDArray | None = None
) -> NDArray:
    """int64 [N], every row once: rows of similar length stand in one global batch, the batches in random order.

    The ragged batch stands last. Where all lengths are equal this is a plain shuffle. classes: int [N] where rows are
    drawn so that each class comes equally often, as `balanced_draws` says; then rows may stand several times or not.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths) if classes is None else balanced_draws(classes, seed=seed, epoch=epoch))
    if len(lengths) == 0 or lengths.min() == lengths.max():
        return order
    span = max(1, min(GROUP, len(order) // (FEWEST_GROUPS * global_batch_size))) * global_batch_size
    groups = [order[start : start + span] for start in range(0, len(order), span)]
    order = np.concatenate([group[np.argsort(-lengths[group], kind="stable")] for group in groups])
    whole = len(order) // global_batch_size * global_batch_size
    batches = order[:whole].reshape(-1, global_batch_size)
    return np.concatenate([generator.permutation(batches, axis=0).reshape(-1), order[whole:]])


def balanced_draws(classes: NDArray, *, seed: int, epoch: int) -> NDArray:
    """int64 [N], rows drawn in that epoch: as many as there are, the classes that have rows in turns.

    Turns go on from epoch to epoch, and so does each class: all its rows are drawn, in random order, before one of them
    is drawn again.
    """
    present, size = np.unique(classes), len(classes)
    drawn = []
    for turn, label in enumerate(present):
        rows = np.flatnonzero(classes == label)
        before, after = (-(-(number * size - turn) // len(present)) for number in (epoch, epoch + 1))
        rounds = range(before // len(rows), -(-after // len(rows)))
        shuffled = [np.random.default_rng([seed, int(label), number, 1]).permutation(rows) for number in rounds]
        start = before - rounds.start * len(rows)
        drawn.append(np.concatenate([rows[:0], *shuffled])[start : start + after - before])
    return np.concatenate(drawn)


def classes_to_balance(recipe: Recipe, rows: Any) -> NDArray | None:
    """The class of each training row where the recipe draws them equally often, else None."""
    return rows.targets if recipe.dataset.sampling == "balanced" else None


class EpochOrder(Sampler[int]):
    """Row indices of one epoch; set `epoch` before each.

    Several processes take turns batch by batch, so the epoch is filled up to a whole round of batches. A filler
    repeats a row with weight 0: no row counts twice. Indices tell row, epoch and filler as `data.rows.Rows` reads them.
    """

    def __init__(
        self, lengths: NDArray, *, global_batch_size: int, round_size: int, seed: int, classes: NDArray | None = None
    ):
        """round_size: rows that all processes take in one round; 1 where a ragged last batch is no problem.

        classes: of each row, where all are to come equally often.
        """
        self.lengths = lengths
        self.classes = classes
        self.global_batch_size = global_batch_size
        self.round_size = round_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.round_size) * self.round_size

    def __iter__(self) -> Iterator[int]:
        order = self._order(self.epoch)
        fillers = order[np.arange(len(self) - len(order)) % max(len(order), 1)] + len(order)
        return iter((np.concatenate([order, fillers]) + 2 * len(order) * self.epoch).tolist())

    def rows_of_step(self, step: int) -> list[int]:
        """Rows of the optimizer step that follows on `step` earlier ones of the run, over all processes."""
        per_epoch = -(-len(self.lengths) // self.global_batch_size)
        epoch, start = step // per_epoch, step % per_epoch * self.global_batch_size
        order = self._order(epoch)
        return order[start : start + self.global_batch_size].tolist()

    def _order(self, epoch: int) -> NDArray:
        size = self.global_batch_size
        return epoch_order(self.lengths, global_batch_size=size, seed=self.seed, epoch=epoch, classes=self.classes)
