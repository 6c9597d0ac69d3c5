"""Rows as the model reads them, for training and evaluation alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from hf_sft.data.augment import Augment, Draw
from hf_sft.data.mixing import Mixing
from hf_sft.errors import DataError, Finding

Transform = Callable[[Mapping[str, Any]], dict[str, Any]]


class Rows(torch.utils.data.Dataset):
    """A split as model inputs: a list of features per row, with "labels" where targets are known and a "weight".

    An index tells the row, the epoch and whether the row counts: `row + len(self) * (2 * epoch + filler)`. A filler has
    weight 0: it fills the last batch where several processes must step together. augment and mixing draw by epoch and
    row id; with mixing a second row is read for each, and "labels" are shares of the labels. opened: what is done with
    the columns first, and with `targets` under that name, where targets move with the inputs; what transform gives then
    holds what is wanted of the model.
    """

    def __init__(
        self,
        rows: Dataset,
        transform: Transform | None,
        targets: NDArray | None,
        *,
        opened: Transform | None = None,
        augment: Augment | None = None,
        mixing: Mixing | None = None,
        row_ids: NDArray | None = None,
    ):
        self.rows = rows
        self.transform = transform
        self.targets = targets
        self.opened = opened
        self.augment = augment
        self.mixing = mixing
        self.row_ids = row_ids
        self.pools = [] if mixing is None or targets is None else mixing.pools(len(rows), targets)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        size = len(self)
        positions = [int(index) % size for index in indices]
        epochs = [int(index) // size // 2 for index in indices]
        batch, targets = self._mixed(positions, epochs) if self.pools else self._plain(positions, epochs)
        features: list[dict[str, Any]] = [{} for _ in positions]
        for name, values in batch.items():
            for feature, value in zip(features, values, strict=True):
                feature[name] = value
        for number, (feature, index) in enumerate(zip(features, indices, strict=True)):
            feature["weight"] = 0.0 if index // size % 2 else 1.0
            if targets is not None:
                feature["labels"] = targets[number]
        return features

    def _plain(self, positions: list[int], epochs: list[int]) -> tuple[Mapping[str, Any], NDArray | None]:
        targets = None if self.targets is None or self.opened is not None else self.targets[positions]
        return self._read(positions, self._draws(positions, epochs)), targets

    def _mixed(self, positions: list[int], epochs: list[int]) -> tuple[Mapping[str, Any], NDArray]:
        """Each row and its partner as they are read in that epoch, mixed."""
        assert self.mixing is not None and self.targets is not None
        draws = self._draws(positions, epochs)
        plans = [self.mixing.plan(draw, position, self.pools) for draw, position in zip(draws, positions, strict=True)]
        partners = [plan.partner for plan in plans]
        inputs = self._read(positions + partners, draws + self._draws(partners, epochs))
        return self.mixing.mix(inputs, self.targets[positions], self.targets[partners], plans)

    def _draws(self, positions: list[int], epochs: list[int]) -> list[Draw]:
        ids = positions if self.row_ids is None else self.row_ids[positions].tolist()
        return list(zip(epochs, ids, strict=True))

    def _read(self, positions: list[int], draws: list[Draw]) -> Mapping[str, Any]:
        try:
            batch: Mapping[str, Any] = self.rows[positions]
            if self.opened is not None:
                beside = {} if self.targets is None else {"targets": self.targets[positions]}
                batch = self.opened({**batch, **beside})
            batch = batch if self.augment is None else self.augment.raw(batch, draws)
            batch = batch if self.transform is None else self.transform(batch)
            return batch if self.augment is None else self.augment.inputs(batch, draws)
        except (OSError, SyntaxError) as error:  # an image that was not looked at before training, or has gone since
            found = f"{' '.join(str(error).split())[:200]} (one of rows {', '.join(map(str, positions[:40]))})"
            fix = "mend or remove that row, or set dataset.on_bad_row: skip, which looks at every row first"
            raise DataError(Finding(place="dataset", expected="rows that can be read", found=found, fix=fix)) from error


def row_lengths(rows: Dataset, column: str | None) -> NDArray:
    """int64 [N]: what each row costs; the length of its list in `column`, or 1 for all."""
    if column is None:
        return np.ones(len(rows), dtype=np.int64)
    import pyarrow.compute

    table = rows.select_columns([column]).with_format("arrow")[:]
    return pyarrow.compute.list_value_length(table[column]).to_numpy().astype(np.int64)
