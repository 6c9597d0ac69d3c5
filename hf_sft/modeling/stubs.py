"""Stubs: what stands in for a frozen module whose output nobody reads any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree

Side = int | str  # a number of entries, or "rows", "steps", "rows*steps"


@dataclass(frozen=True)
class Sizes:
    """What a batch measures: rows, and steps of its (padded) sequences; 0 where rows are no sequences."""

    rows: int
    steps: int

    def of(self, side: Side) -> int:
        return side if isinstance(side, int) else {"rows": self.rows, "steps": self.steps}.get(side, self._product())

    def _product(self) -> int:
        return self.rows * self.steps


@dataclass(frozen=True)
class Shape:
    """The shape of a tensor in terms of its batch, and its type."""

    sides: tuple[Side, ...]
    dtype: torch.dtype

    @property
    def ragged(self) -> bool:
        """Whether it holds a sequence per row."""
        return self.sides[1:2] == ("steps",)

    @property
    def by_rows(self) -> bool:
        """Whether rows stand first, steps (where there are any) second, and the rest is the same for all."""
        rest = self.sides[2:] if self.ragged else self.sides[1:]
        return self.sides[:1] == ("rows",) and all(isinstance(side, int) for side in rest)

    @property
    def of_one(self) -> tuple[int, ...]:
        """The sides of one row, or of one step of it where it is ragged."""
        return tuple(side for side in self.sides if isinstance(side, int))

    def blank(self, sizes: Sizes, device: torch.device) -> torch.Tensor:
        """A tensor of that shape that holds no number and takes no memory: whoever reads it after all gets NaN."""
        one = torch.full((1,) * len(self.sides), float("nan"), dtype=self.dtype, device=device)
        return one.expand([sizes.of(side) for side in self.sides])


@dataclass(frozen=True)
class Output:
    """What a module returns: a Shape for each tensor in it, everything else as it is."""

    leaves: tuple[Any, ...]
    spec: Any

    def blank(self, sizes: Sizes, device: torch.device) -> Any:
        leaves = [leaf.blank(sizes, device) if isinstance(leaf, Shape) else leaf for leaf in self.leaves]
        return _pytree.tree_unflatten(leaves, self.spec)


class NotByRows(ValueError):
    """A tensor that no blank can stand in for: its shape does not follow from the batch, or it has no NaN."""


def describe_shape(one: torch.Tensor, other: torch.Tensor, sizes: tuple[Sizes, Sizes]) -> Shape:
    """The shape of a tensor that was seen in two batches of different sizes. Raises NotByRows."""
    if one.ndim != other.ndim:
        raise NotByRows(f"{one.ndim} and {other.ndim} sides")
    if not one.is_floating_point():
        raise NotByRows(f"entries of {str(one.dtype).removeprefix('torch.')}, of which none says that it is missing")
    first, second = sizes
    known: dict[tuple[int, int], Side] = {
        (first.rows * first.steps, second.rows * second.steps): "rows*steps",
        (first.steps, second.steps): "steps",
        (first.rows, second.rows): "rows",
    }
    sides: list[Side] = []
    for pair in zip(one.shape, other.shape, strict=True):
        if pair[0] == pair[1]:
            sides.append(pair[0])
        elif pair in known:
            sides.append(known[pair])
        else:
            raise NotByRows(f"a side of {pair[0]} and {pair[1]} entries")
    return Shape(tuple(sides), one.dtype)


def describe_output(one: Any, other: Any, sizes: tuple[Sizes, Sizes]) -> Output:
    """What a module returns, from what it returned for two batches. Raises NotByRows."""
    leaves, spec = _pytree.tree_flatten(one)
    others, _ = _pytree.tree_flatten(other)
    if len(leaves) != len(others):
        raise NotByRows("outputs of different kinds")
    described = [
        describe_shape(leaf, others[number], sizes) if isinstance(leaf, torch.Tensor) else leaf
        for number, leaf in enumerate(leaves)
    ]
    return Output(tuple(described), spec)


def stub(output: Output, batch: Callable[[], tuple[Sizes, torch.device]]) -> Callable[..., Any]:
    """A `forward` that returns that, blank, for the batch at hand."""

    def forward(*inputs: Any, **named: Any) -> Any:
        return output.blank(*batch())

    return forward
