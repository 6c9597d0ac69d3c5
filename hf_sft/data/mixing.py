"""Two training images as one, and their labels by shares: drawn per (seed, epoch, row), whatever stands in a batch.

mixup: Zhang et al. 2018; CutMix: Yun et al. 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from hf_sft.data.augment import Draw

PIXELS = "pixel_values"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a row is mixed. partner: position in the split; share: what the row itself keeps, from 0 to 1.

    centre: of the box that the partner's image fills, as shares of height and width; None where images are blended.
    """

    partner: int
    share: float
    centre: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """mixup, cutmix: alpha of the Beta distribution that shares come from; of two, one is drawn for each row.

    num_labels: length of a target. by_class: whether a partner is of each class equally often. Travels to workers.
    """

    seed: int
    num_labels: int
    mixup: float | None = None
    cutmix: float | None = None
    by_class: bool = False

    def pools(self, size: int, targets: NDArray) -> list[NDArray]:
        """Positions among which a partner is drawn, each pool equally often."""
        if not self.by_class:
            return [np.arange(size)]
        return [np.flatnonzero(targets == label) for label in np.unique(targets)]

    def plan(self, draw: Draw, position: int, pools: Sequence[NDArray]) -> Plan:
        """What is drawn for the row at that position: another row of the split, a share, a place."""
        seed = xxhash.xxh64_intdigest(f"mixing {self.seed} {draw[0]} {draw[1]}".encode())
        generator = np.random.default_rng(seed)
        cuts = self.mixup is None or (self.cutmix is not None and generator.random() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        assert alpha is not None
        share = float(generator.beta(alpha, alpha))
        centre = (float(generator.random()), float(generator.random())) if cuts else None
        if sum(map(len, pools)) < 2:
            return Plan(partner=position, share=1.0, centre=None)
        partner = position
        while partner == position:
            pool = pools[int(generator.integers(len(pools)))]
            partner = int(pool[int(generator.integers(len(pool)))])
        return Plan(partner=partner, share=share, centre=centre)

    def mix(
        self, inputs: Mapping[str, Any], targets: NDArray, partner_targets: NDArray, plans: Sequence[Plan]
    ) -> tuple[dict[str, Any], NDArray]:
        """Mixed rows and their float32 targets [B, num_labels]; inputs: of the rows, then of their partners."""
        number, mixed, shares = len(plans), [], []
        images = inputs[PIXELS]
        for plan, own, other in zip(plans, images[:number], images[number:], strict=True):
            image, share = _blend(own, other, plan.share) if plan.centre is None else _paste(own, other, plan)
            mixed.append(image)
            shares.append(share)
        kept = np.array(shares, dtype=np.float32)[:, None]
        soft = kept * self._soft(targets) + (1 - kept) * self._soft(partner_targets)
        return {name: values[:number] for name, values in inputs.items()} | {PIXELS: torch.stack(mixed)}, soft

    def _soft(self, targets: NDArray) -> NDArray:
        """float32 [B, num_labels] of indices [B]; targets that are vectors already stay."""
        return targets if targets.ndim > 1 else (targets[:, None] == np.arange(self.num_labels)).astype(np.float32)


def _blend(own: torch.Tensor, other: torch.Tensor, share: float) -> tuple[torch.Tensor, float]:
    return share * own + (1 - share) * other, share


def _paste(own: torch.Tensor, other: torch.Tensor, plan: Plan) -> tuple[torch.Tensor, float]:
    """A box of the other image, its sides sqrt(1 - share) of the image's, cut off at the border; the share that is

    left is counted in pixels.
    """
    assert plan.centre is not None
    spans = []
    for side, centre in zip(own.shape[-2:], plan.centre, strict=True):
        length, middle = int(side * (1 - plan.share) ** 0.5), int(side * centre)
        start = middle - length // 2
        spans.append(slice(max(0, start), min(side, start + length)))
    rows, columns = spans
    image = own.clone()
    image[..., rows, columns] = other[..., rows, columns]
    covered = (rows.stop - rows.start) * (columns.stop - columns.start)
    return image, 1 - covered / (own.shape[-2] * own.shape[-1])
