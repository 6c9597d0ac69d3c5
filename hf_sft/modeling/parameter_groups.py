"""Rules carried out: what requires gradients, what stays in eval mode, what the optimizer gets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from hf_sft.modeling.anatomy import head_parameters
from hf_sft.modeling.tuning import Rule

# Tables of positions and single learned tokens: shrinking them towards zero has no meaning (BEiT, DeiT, timm agree).
NO_DECAY = re.compile(
    r"(^|[._])(cls_token|class_token|dist_token|distillation_token|mask_token|reg_token|register_tokens|pos_embed|"
    r"position_embeddings?|position_embedding|position_ids|wpe|relative_position_bias_table|relative_attention_bias|"
    r"layer_scale\w*|gamma\w*|lambda_[12])([._]|$)"
)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay reaches a parameter: matrices and kernels only, no bias, norm, scale, token or position."""
    return parameter.ndim > 1 and not NO_DECAY.search(name)


def freeze(model: nn.Module, rules: Mapping[str, Rule]) -> list[nn.Module]:
    """Set requires_grad by the rules -> every module inside a frozen part.

    These stay in eval mode during training: dropout off, BatchNorm statistics untouched.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(rules[name].lr_scale > 0)
    frozen: dict[int, nn.Module] = {}
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            frozen.update((id(part), part) for part in module.modules())
    return list(frozen.values())


def parameter_groups(
    model: nn.Module, rules: Mapping[str, Rule], *, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups by rate and decay. The head's come first: the Trainer logs the rate of the first group."""
    head = set(head_parameters(model))
    groups: dict[tuple[bool, float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rule = rules[name]
            decay = weight_decay if rule.weight_decay is None else rule.weight_decay
            key = (name not in head, learning_rate * rule.lr_scale, decay if decays(name, parameter) else 0.0)
            groups.setdefault(key, []).append((name, parameter))
    return [
        {"params": [parameter for _, parameter in members], "lr": rate, "weight_decay": decay}
        for (_, rate, decay), members in sorted(groups.items(), key=lambda item: item[0])
    ]


def describe(model: nn.Module) -> tuple[int, int, str]:
    """(all parameters, those that train, one line that says so)."""
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    trainable = sum(parameter.numel() for _, parameter in trained)
    tensors = sum(1 for _ in model.parameters())
    where = sorted({name.rpartition(".")[0] for name, _ in trained})
    which = "" if len(trained) == tensors else ": " + ", ".join(where[:4]) + (" ..." if len(where) > 4 else "")
    line = f"training {len(trained)} of {tensors} tensors ({trainable:,} of {_short(total)} parameters){which}"
    return total, trainable, line


def _short(number: int) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number:,}"
