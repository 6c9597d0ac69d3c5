"""The norm of the gradients of each block of a model, at the steps that are logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hf_sft.modeling.anatomy import find_blocks


def parameters_of_blocks(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Block -> its parameters, in forward order; frozen ones too, for they may join later."""
    parameters = dict(model.named_parameters())
    return {block.name: [parameters[name] for name in block.parameters] for block in find_blocks(model)}


def block_norms(blocks: Mapping[str, Sequence[nn.Parameter]], total: Any) -> torch.Tensor:
    """float [blocks]: as they were before the gradients were clipped; NaN of a block that has none.

    total: the norm of all gradients before that. Clipping scales all alike, so that its ratio to what they now have in
    all leads back; where float16 overflowed it is no number, and every norm is infinite.
    """
    found = [[value.grad for value in parameters if value.grad is not None] for parameters in blocks.values()]
    device = next((grads[0].device for grads in found if grads), torch.device("cpu"))
    absent = torch.tensor(float("nan"), device=device)
    norms = [
        torch.stack([norm.to(device) for norm in torch._foreach_norm(grads)]).norm() if grads else absent
        for grads in found
    ]
    clipped = torch.stack(norms)
    there = torch.tensor([bool(grads) for grads in found], device=device)
    now = torch.where(there, clipped, torch.zeros_like(clipped)).norm()
    before = torch.as_tensor(total, device=device).to(clipped)
    scaled = torch.where(now > 0, clipped * (before / now), clipped)
    infinite = torch.where(there, torch.full_like(clipped, float("inf")), clipped)
    return torch.where(before.isfinite(), scaled, infinite)


class BlockNorms:
    """Seen at every step, kept at those that are logged. logged: [step, epoch, norm of each block]."""

    def __init__(self, model: nn.Module):
        self.blocks = parameters_of_blocks(model)
        self.last: torch.Tensor | None = None
        self.logged: list[list[float]] = []

    def see(self, total: Any) -> None:
        """After the gradients of a step were clipped; total: their norm before."""
        self.last = block_norms(self.blocks, total)

    def keep(self, step: int, epoch: float) -> None:
        if self.last is not None:
            self.logged.append([float(step), epoch, *self.last.tolist()])

    def state(self) -> torch.Tensor:
        return torch.tensor(self.logged, dtype=torch.float64).reshape(len(self.logged), 2 + len(self.blocks))

    def restore(self, state: torch.Tensor) -> None:
        self.logged = state.tolist()
