"""A model replayed from what was recorded at its frozen boundary: same module, same weights, no frozen work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree

from hf_sft.modeling.stubs import Output, Shape, Sizes, stub

ACTIVATION = "recorded_"  # and a number: the names under which a batch carries what was recorded


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where a model is cut.

    point: name of the module whose inputs are recorded. places: which of its inputs, flattened, are activations.
    crossing: the shape of each. stubs: frozen module -> what it returned; nobody reads it once the inputs of `point`
    are given. steps_from: the input whose second side is the number of steps; None where rows are no sequences.
    unread: inputs of one row that nobody reads when it is replayed, as blanks; batches need not carry them.
    """

    point: str
    places: tuple[int, ...]
    crossing: tuple[Shape, ...]
    stubs: Mapping[str, Output]
    steps_from: str | None
    unread: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Reached(Exception):
    """The forward pass came to the point where it is recorded; what follows need not be computed."""


def sizes_of(batch: Mapping[str, Any], steps_from: str | None) -> Sizes:
    """Rows and steps of a collated batch."""
    rows = next(value.shape[0] for value in batch.values() if isinstance(value, torch.Tensor))
    return Sizes(rows, batch[steps_from].shape[1] if steps_from is not None else 0)


@contextmanager
def stubbed(
    model: nn.Module, stubs: Mapping[str, Output], steps_from: str | None, unread: Mapping[str, torch.Tensor]
) -> Iterator[dict[str, torch.Tensor]]:
    """Those modules return blanks. Yields the activations that the last batch carried, by name."""
    carried: dict[str, torch.Tensor] = {}
    measured: list[tuple[Sizes, torch.device]] = []

    def unpack(module: nn.Module, inputs: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        sizes, device = sizes_of(named, steps_from), next(model.parameters()).device
        measured[:] = [(sizes, device)]
        carried.clear()
        carried.update({name: value for name, value in named.items() if name.startswith(ACTIVATION)})
        blanks = {name: one.to(device).expand(sizes.rows, *one.shape) for name, one in unread.items()}
        return inputs, {**blanks, **{name: value for name, value in named.items() if name not in carried}}

    modules = {name: model.get_submodule(name) for name in stubs}
    handle = model.register_forward_pre_hook(unpack, with_kwargs=True)
    for name, module in modules.items():
        module.forward = stub(stubs[name], lambda: measured[0])
    try:
        yield carried
    finally:
        handle.remove()
        for module in modules.values():
            del module.forward


@contextmanager
def replayed(model: nn.Module, cut: Cut) -> Iterator[None]:
    """The model takes batches that carry recorded activations; its frozen modules are not computed.

    Weights, names and modes stay as they are, so that it is trained, saved and resumed as ever. A batch without
    activations, and a second pass over the point (activation checkpointing), give NaN.
    """

    def give(module: nn.Module, inputs: Any, named: dict[str, Any]) -> Any:
        if not carried:  # a module that is called again further on
            return None
        leaves, spec = _pytree.tree_flatten((inputs, named))
        for number, place in enumerate(cut.places):
            leaves[place] = carried.pop(f"{ACTIVATION}{number}")
        return _pytree.tree_unflatten(leaves, spec)

    with stubbed(model, cut.stubs, cut.steps_from, cut.unread) as carried:
        handle = model.get_submodule(cut.point).register_forward_pre_hook(give, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def watched(model: nn.Module, point: str, *, stop: bool) -> Iterator[list[list[Any]]]:
    """Notes the flattened inputs of each call of a module. stop: the forward pass ends there, with Reached."""
    seen: list[list[Any]] = []

    def note(module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        seen.append(_pytree.tree_flatten((inputs, named))[0])
        if stop:
            raise Reached

    handle = model.get_submodule(point).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def record(model: nn.Module, cut: Cut, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The activations of a batch at the cut; what lies behind it is not computed."""
    with watched(model, cut.point, stop=True) as seen, suppress(Reached):
        model(**inputs)
    return [seen[0][place] for place in cut.places]


def as_carried(activations: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Activations under the names that a batch carries them by."""
    return {f"{ACTIVATION}{number}": value for number, value in enumerate(activations)}
