"""Rows as the model reads them, for training and evaluation alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from hf_sft.errors import DataError, Finding

Transform = Callable[[Mapping[str, Any]], dict[str, Any]]


class Rows(torch.utils.data.Dataset):
    """A split as model inputs: a list of features per row, with "labels" where targets are known and a "weight".

    An index of at least `len(self)` means the row `index - len(self)` once more with weight 0: it fills the last
    batch where several processes must step together, and counts for nothing.
    """

    def __init__(self, rows: Dataset, transform: Transform | None, targets: NDArray | None):
        self.rows = rows
        self.transform = transform
        self.targets = targets

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        size = len(self)
        positions = [int(index) % size for index in indices]
        batch = self._read(positions)
        features: list[dict[str, Any]] = [{} for _ in positions]
        for name, values in batch.items():
            for feature, value in zip(features, values, strict=True):
                feature[name] = value
        for feature, position, index in zip(features, positions, indices, strict=True):
            feature["weight"] = 1.0 if index < size else 0.0
            if self.targets is not None:
                feature["labels"] = self.targets[position]
        return features

    def _read(self, positions: list[int]) -> Mapping[str, Any]:
        try:
            batch: Mapping[str, Any] = self.rows[positions]
            return batch if self.transform is None else self.transform(batch)
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
