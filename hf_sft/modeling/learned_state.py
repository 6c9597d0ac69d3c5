"""What training changes in a model: the parameters that train, and the statistics that BatchNorm gathers meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from hf_sft.modeling.rules import Rule


def learned_state(model: nn.Module, rules: Mapping[str, Rule]) -> dict[str, torch.Tensor]:
    """Name -> parameter that trains now or later, and running statistics; the tensors are the model's own."""
    trained = {name: value for name, value in model.named_parameters() if rules[name].lr_scale > 0}
    return trained | running_statistics(model)


def running_statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name -> buffer of every running mean and variance."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in model.named_modules()
        if isinstance(module, _NormBase)
        for name, value in module.named_buffers(recurse=False)
        if value.is_floating_point()
    }
