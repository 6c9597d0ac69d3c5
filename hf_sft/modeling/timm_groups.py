"""The order of a timm model's parts, as timm itself groups them for layer-wise learning rates."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn

from hf_sft.modeling.stacks import Part

INSIDE = "timm_model"  # where transformers keeps the model
UNMATCHED = "~"  # a name that no pattern finds: timm puts such names into one last group, with the head


def timm_parts(model: nn.Module, head: frozenset[str]) -> list[Part]:
    """Stem, layers and what follows; empty where timm has no grouping for this architecture."""
    from timm.models import group_parameters

    inside: Any = model.get_submodule(INSIDE)
    matcher = inside.group_matcher(coarse=False) if hasattr(inside, "group_matcher") else None
    if not isinstance(matcher, dict) or next(iter(matcher)) != "stem":
        return []
    parameters = {name: value for name, value in inside.named_parameters() if f"{INSIDE}.{name}" not in head}
    named: Any = SimpleNamespace(named_parameters=lambda: ((name, None) for name in [*parameters, UNMATCHED]))
    grouped = group_parameters(named, matcher)
    stem, *layers, last = [list(names) for _, names in sorted(grouped.items())]
    last.remove(UNMATCHED)
    layers = _with_their_norms([stem, *layers], parameters)
    stem, layers = layers[0], layers[1:]
    if layers:  # timm puts what follows the last layer into its group; a layer is all in one part of the model
        part = layers[-1][0].partition(".")[0]
        last = [name for name in layers[-1] if name.partition(".")[0] != part] + last
        layers[-1] = [name for name in layers[-1] if name not in last]
    found = [
        Part(False, _full(stem)),
        *(Part(True, _full(names)) for names in layers),
        Part(False, _full(last)),
    ]
    return [part for part in found if part.names]


def _with_their_norms(groups: list[list[str]], parameters: dict[str, nn.Parameter]) -> list[list[str]]:
    """Groups in which a norm alone, as timm has them for VGG, is part of what stands before it."""
    found: list[list[str]] = []
    for names in groups:
        if found and all(parameters[name].ndim < 2 for name in names):
            found[-1] += names
        else:
            found.append(names)
    return found


def _full(names: list[str]) -> tuple[str, ...]:
    return tuple(f"{INSIDE}.{name}" for name in names)
