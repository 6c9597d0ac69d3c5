"""How far the features of some rows lie from those that a model was pretrained on, by its BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

LEAST_DEVIATION = 1e-3  # of the largest of its module: a channel that hardly varied has no unit to measure in


@dataclass
class Seen:
    """What came to each BatchNorm while rows passed: their number of values, sums and sums of squares per channel."""

    sums: dict[nn.Module, list[Any]] = field(default_factory=dict)

    def add(self, module: nn.Module, inputs: torch.Tensor) -> None:
        values = inputs.detach().double().transpose(0, 1).flatten(1)
        found = [values.shape[1], values.sum(dim=1), values.square().sum(dim=1)]
        known = self.sums.get(module)
        self.sums[module] = found if known is None else [a + b for a, b in zip(known, found, strict=True)]

    def shift(self) -> float | None:
        """Mean over channels of the 2-Wasserstein distance to the pretrained normal, in its standard deviations.

        0: as in pretraining. sqrt((m - mu)^2 + (s - sigma)^2) / sigma, as the Frechet distance of Heusel et al. 2017
        reads it for one channel; BatchNorm statistics as a mark of the domain: Li et al. 2017 (AdaBN). None without
        BatchNorm.
        """
        found = []
        for module, (number, total, squares) in self.sums.items():
            mean = total / number
            deviation = (squares / number - mean.square()).clamp(min=0).sqrt()
            usual, spread = (getattr(module, name).double() for name in ("running_mean", "running_var"))
            spread = spread.sqrt()
            told = spread > LEAST_DEVIATION * spread.max()
            distance = ((mean - usual).square() + (deviation - spread).square()).sqrt() / spread
            if told.any():
                found.append(float(distance[told].mean()))
        return sum(found) / len(found) if found else None


@contextmanager
def watching(norms: Sequence[nn.Module]) -> Iterator[Seen]:
    """What comes to these BatchNorms inside the block."""
    seen = Seen()
    hooks = [norm.register_forward_pre_hook(lambda norm, inputs: seen.add(norm, inputs[0])) for norm in norms]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
