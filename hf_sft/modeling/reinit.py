"""The last layers of a pretrained model drawn anew before training (Zhang et al. 2021, few-sample fine-tuning)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch

from hf_sft.errors import Finding, RecipeError
from hf_sft.modeling.anatomy import Block, find_blocks
from hf_sft.modeling.rules import Rule


def reinit_layers(model: Any, number: int, rules: Mapping[str, Rule]) -> list[Block]:
    """Give the last so many blocks the weights (and buffers) that the model would start with untrained -> the blocks.

    Drawn from torch's generator as it stands, by a second model of the same configuration: all that such a model sets
    itself, scales and tables too, is as it would be. Raises RecipeError where there are fewer layers, or where rules
    freeze a part of them.
    """
    layers = [block for block in find_blocks(model) if block.is_layer]
    if number > len(layers):
        expected = f"at most {len(layers)}, the layers that this model has"
        fix = "model.weights: random draws all weights anew"
        raise RecipeError(Finding(place="tuning.reinit_layers", expected=expected, found=str(number), fix=fix))
    chosen = layers[-number:]
    names = {name for block in chosen for name in block.parameters}
    frozen = [block.name for block in chosen if any(rules[name].lr_scale == 0 for name in block.parameters)]
    if frozen:
        expected, found = "layers that train: they start untrained", f"{', '.join(frozen)} frozen by the strategy"
        fix = "let them train, or draw fewer layers anew"
        raise RecipeError(Finding(place="tuning.reinit_layers", expected=expected, found=found, fix=fix))
    fresh = dict(_untrained(model).state_dict())
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name in names or _is_buffer_of(name, names):
                value.copy_(fresh[name])
    return chosen


def _untrained(model: Any) -> Any:
    config = deepcopy(model.config)
    config.architectures = config.architectures or []
    return type(model)(config).float()


def _is_buffer_of(name: str, parameters: set[str]) -> bool:
    """Whether a buffer (statistics of a BatchNorm) stands in one module with these parameters."""
    module = name.rpartition(".")[0]
    return any(other.rpartition(".")[0] == module for other in parameters)
