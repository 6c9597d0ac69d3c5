"""How each training row fared in each epoch, read from the forward passes of training itself.

As Swayamdipta et al. 2020 ("Dataset Cartography") do: the probability of the true class at the moment when the row is
trained on, with dropout and augmentation as they are. It costs no pass of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_sft.tasks.classification import logits_of

MOST_ROWS = 10_000
ROW = "row_position"  # the name under which features and batches carry a row's position in the split
Gather = Callable[[torch.Tensor], torch.Tensor]  # tensor of this process -> those of all, one after another


class PositionedRows(torch.utils.data.Dataset):
    """Rows that tell their position beside what the model reads."""

    def __init__(self, rows: Any):
        self.rows = rows
        self.targets = rows.targets

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        features = self.rows.__getitems__(indices)
        size = len(self)
        return [{**feature, ROW: int(index) % size} for feature, index in zip(features, indices, strict=True)]


def with_positions(collate: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A collator of `PositionedRows`: what collate makes of the rows, and their positions."""
    return partial(_collate, collate)


def _collate(collate: Callable[..., dict[str, Any]], features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    plain = [{name: value for name, value in feature.items() if name != ROW} for feature in features]
    return {**collate(plain), ROW: torch.tensor([feature[ROW] for feature in features])}


class RowCourse:
    """Per epoch and row: the sum of the true class's probabilities, how often it was seen, a wrong answer (or -1).

    targets: class ids of all training rows. Of more than `MOST_ROWS` rows a seeded sample is watched: `chosen` are
    their positions. Each process holds what it saw itself; `state` is that of all.
    """

    def __init__(self, targets: NDArray, *, seed: int, device: torch.device | str = "cpu"):
        size = len(targets)
        chosen = np.arange(size)
        if size > MOST_ROWS:
            chosen = np.sort(np.random.default_rng(seed).choice(size, size=MOST_ROWS, replace=False))
        places = np.full(size, len(chosen), dtype=np.int64)  # of rows that are not watched: a place that nobody reads
        places[chosen] = np.arange(len(chosen))
        self.chosen = chosen
        self.device = torch.device(device)
        self.places = torch.from_numpy(places).to(device)
        self.targets = torch.from_numpy(np.asarray(targets, dtype=np.int64)).to(device)
        self.values: dict[int, torch.Tensor] = {}
        self.wrong: dict[int, torch.Tensor] = {}

    def see(self, epoch: int, rows: torch.Tensor, outputs: Any, batch: Mapping[str, Any]) -> None:
        """What a batch of training gave. Fillers do not count; of mixed images those do whose label is by half or more

        the row's own class, whichever of the two images brought it.
        """
        values, wrong = self._of(epoch)
        rows, weight, labels = (entry.to(self.device) for entry in (rows, batch["weight"], batch["labels"]))
        truth, scores = self.targets[rows], logits_of(outputs).detach().to(self.device).softmax(-1)
        counts = weight > 0
        if labels.ndim == 2:
            counts = counts & (labels.gather(1, truth[:, None])[:, 0] >= 0.5)
        places = torch.where(counts, self.places[rows], len(self.chosen))
        values[0].index_add_(0, places, scores.gather(1, truth[:, None])[:, 0].to(values))
        values[1].index_add_(0, places, torch.ones(len(rows), device=self.device))
        answers = scores.argmax(-1)
        wrong.scatter_reduce_(0, places, torch.where(answers == truth, -1, answers), "amax")

    def _of(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        for number in range(len(self.values), epoch + 1):
            self.values[number] = torch.zeros(2, len(self.chosen) + 1, device=self.device)
            self.wrong[number] = torch.full((len(self.chosen) + 1,), -1, dtype=torch.int64, device=self.device)
        return self.values[epoch], self.wrong[epoch]

    def state(self, gather: Gather | None) -> dict[str, torch.Tensor]:
        """values [epochs, 2, rows], wrong [epochs, rows] over all processes, which call this together."""
        values = [self.values[epoch][:, :-1] for epoch in sorted(self.values)]
        wrong = [self.wrong[epoch][:-1] for epoch in sorted(self.wrong)]
        one = torch.stack(values) if values else torch.zeros(0, 2, len(self.chosen), device=self.device)
        other = torch.stack(wrong) if wrong else torch.zeros(0, len(self.chosen), dtype=torch.int64, device=self.device)
        if gather is not None and values:
            one, other = gather(one[None]).sum(0), gather(other[None]).amax(0)
        return {"values": one, "wrong": other}

    def restore(self, state: Mapping[str, torch.Tensor], *, main: bool) -> None:
        """What all processes had seen; one of them goes on with it, the others begin with nothing."""
        self.values, self.wrong = {}, {}
        for epoch, (values, wrong) in enumerate(zip(state["values"], state["wrong"], strict=True)):
            own = self._of(epoch)
            if main:
                own[0][:, :-1], own[1][:-1] = values.to(self.device), wrong.to(self.device)

    def table(self, state: Mapping[str, torch.Tensor], row_ids: NDArray, names: Sequence[str]) -> dict[str, list[Any]]:
        """Columns: row_id, label, and per epoch: probability of that label, whether it was answered, another answer.

        Lists have an entry per epoch; None where the row was not seen in it, or was answered rightly.
        """
        values, wrong = state["values"].cpu().double().numpy(), state["wrong"].cpu().numpy()
        targets = self.targets.cpu().numpy()[self.chosen]
        epochs = range(len(values))
        seen = values[:, 1] > 0 if len(values) else np.zeros((0, len(self.chosen)), dtype=bool)
        rows = range(len(self.chosen))
        return {
            "row_id": row_ids[self.chosen].tolist(),
            "label": [names[target] for target in targets],
            "probability": [
                [float(values[at, 0, row] / values[at, 1, row]) if seen[at, row] else None for at in epochs]
                for row in rows
            ],
            "correct": [[bool(wrong[at, row] < 0) if seen[at, row] else None for at in epochs] for row in rows],
            "answered": [[names[wrong[at, row]] if wrong[at, row] >= 0 else None for at in epochs] for row in rows],
        }
