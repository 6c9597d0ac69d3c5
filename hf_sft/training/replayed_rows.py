"""Rows of which the frozen part is recorded: how they are known, read and collated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
import xxhash
from datasets.utils.file_utils import xopen
from numpy.typing import NDArray

from hf_sft.data.activation_store import Place, Store
from hf_sft.data.augment import Draw
from hf_sft.data.rows import Rows
from hf_sft.modeling.replay import ACTIVATION, Cut
from hf_sft.tasks.load import Inputs

READ_AT_ONCE = 1000  # rows


@dataclass(frozen=True, kw_only=True)
class RowKeys:
    """The rows of a split as the store knows them: per view and row a key; steps: int64 [views, N], of each."""

    keys: Sequence[Sequence[bytes]]
    steps: NDArray


def key_rows(inputs: Inputs, views: int, length: str | None, *, augmented: str) -> RowKeys:
    """length: the input that is as long as a row has steps; None where rows are no sequences.

    augmented: the changes that views draw, in words; they depend on the row's id too.
    """
    contents = [xxhash.xxh3_128_digest(content) for content in _contents(inputs.rows.rows)]
    keys, steps = [], []
    for view in range(views):
        drawn = inputs.rows.augment is not None
        marks = [f"{augmented} {view} {row}".encode() if drawn else b"" for row in inputs.row_ids.tolist()]
        keys.append([xxhash.xxh3_128_digest(content + mark) for content, mark in zip(contents, marks, strict=True)])
        if length is None:
            steps.append(np.ones(len(contents), dtype=np.int64))
        elif drawn:
            steps.append(np.array([len(row[length]) for row in _viewed(inputs.rows, view)], dtype=np.int64))
        else:
            steps.append(inputs.lengths)
    return RowKeys(keys=keys, steps=np.stack(steps))


def _viewed(rows: Rows, view: int) -> Iterator[dict[str, Any]]:
    for start in range(0, len(rows), READ_AT_ONCE):
        positions = range(start, min(start + READ_AT_ONCE, len(rows)))
        yield from rows.__getitems__([position + 2 * view * len(rows) for position in positions])


def _contents(rows: datasets.Dataset) -> Iterator[bytes]:
    """What each row holds, images as the bytes of their files."""
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    for batch in rows.with_format(None).iter(READ_AT_ONCE):
        for values in zip(*batch.values(), strict=True):
            yield b"\0".join(_content(value) for value in values)


def _content(value: Any) -> bytes:
    if isinstance(value, dict) and {"bytes", "path"} == value.keys():
        if value["bytes"] is not None:
            return bytes(value["bytes"])
        with xopen(value["path"], "rb") as file:
            return bytes(file.read())
    return json.dumps(value, default=str).encode()


class ReplayedRows(Rows):
    """Rows of which the frozen part is recorded: the model's inputs and the activations.

    places: per view, where each row lies in the store. An epoch draws one view per row.
    """

    def __init__(
        self,
        own: Rows,
        store: Store,
        places: Sequence[Sequence[Place]],
        cut: Cut,
        *,
        seed: int,
    ):
        super().__init__(own.rows, own.transform, own.targets, augment=own.augment, row_ids=own.row_ids)
        self.own = own
        self.store = store
        self.places = places
        self.ragged = [shape.ragged for shape in cut.crossing]
        self.unread = list(cut.unread)
        self.seed = seed

    def _read(self, positions: list[int], draws: list[Draw]) -> Mapping[str, Any]:
        views = [self._view(draw) for draw in draws]
        if self.unread:  # of these rows nothing else is
            batch: dict[str, Any] = {name: [torch.empty(0)] * len(positions) for name in self.unread}
        else:
            batch = dict(self.own._read(positions, [(view, row) for view, (_, row) in zip(views, draws, strict=True)]))
        lying = [self.places[view][position] for view, position in zip(views, positions, strict=True)]
        for number, ragged in enumerate(self.ragged):
            batch[f"{ACTIVATION}{number}"] = [self.store.row(place, number, ragged=ragged) for place in lying]
        return batch

    def _view(self, draw: Draw) -> int:
        if len(self.places) == 1:
            return 0
        epoch, row = draw
        return xxhash.xxh64_intdigest(f"{self.seed} {epoch} {row} view".encode()) % len(self.places)


def collate_replayed(
    collate: Callable[[Sequence[Any]], dict[str, Any]],
    cut: Cut,
    features: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """A batch with its activations, sequences padded with zeros to the steps of the batch, without what is not read."""
    plain = [
        {name: value for name, value in feature.items() if not name.startswith(ACTIVATION)} for feature in features
    ]
    batch = {name: value for name, value in collate(plain).items() if name not in cut.unread}
    for number, shape in enumerate(cut.crossing):
        rows = [feature[f"{ACTIVATION}{number}"] for feature in features]
        if shape.ragged:
            steps = batch[str(cut.steps_from)].shape[1]
            padded = np.zeros((len(rows), steps, *rows[0].shape[1:]), dtype=rows[0].dtype)
            for row, values in enumerate(rows):
                padded[row, : len(values)] = values
        else:
            padded = np.stack(rows)
        batch[f"{ACTIVATION}{number}"] = torch.from_numpy(padded).to(shape.dtype)
    return batch


def blank_feature(feature: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The model's inputs for one row, without what they hold: nobody reads an image again; who does gets NaN."""
    return {
        name: torch.full((), float("nan"), dtype=value.dtype).expand(value.shape)
        for name, value in feature.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
