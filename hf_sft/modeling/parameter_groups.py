"""Rules carried out: what requires gradients, what stays in eval mode, what the optimizer gets."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from torch import nn

from hf_sft.modeling.anatomy import head_parameters
from hf_sft.modeling.rules import Rule

# Tables of positions, single learned tokens and scales: shrinking them towards zero has no meaning (BEiT, DeiT, Swin
# and timm's `no_weight_decay` agree). Biases and norms of any shape (ConvNeXt V2's GRN, attention biases) are found by
# their names too, for not all of them are vectors.
NO_DECAY = re.compile(
    r"(^|[._])(cls_token\d*|class_token|dist_token|distillation_token|mask_token|reg_token|register_tokens|"
    r"pos_embed\d*|embed_positions|positions_embed|position_embeddings?|position_ids|wpe|patch_pos|pixel_pos|"
    r"rel_pos_\w+|relative_position_bias_table|relative_attention_bias|cpb_mlp|continuous_position_bias_mlp|"
    r"attention_biases|bias|grn|layer_scale\w*|logit_scale|temperature|alpha|gamma\w*|lambda_[12])([._]|$)"
)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay reaches a parameter: matrices and kernels only, no bias, norm, scale, token or position."""
    return parameter.ndim > 1 and not NO_DECAY.search(name)


def freeze(model: nn.Module, rules: Mapping[str, Rule]) -> list[nn.Module]:
    """Set requires_grad by the rules -> every module inside a frozen part.

    These stay in eval mode during training: dropout off, BatchNorm statistics untouched. A module without parameters
    (dropout, most often) belongs to the next one beside it that has some, the last to the one before.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(rules[name].lr_scale > 0)
    return modules_within(model, [parameter for parameter in model.parameters() if not parameter.requires_grad])


def modules_within(model: nn.Module, parameters: Collection[nn.Parameter]) -> list[nn.Module]:
    """Every module inside a part of the model that has no other parameters than these."""
    inside = {id(parameter) for parameter in parameters}
    if all(id(parameter) in inside for parameter in model.parameters()):
        return list(model.modules())
    return list(_modules_within(model, inside))


def _modules_within(model: nn.Module, inside: Collection[int]) -> Iterator[nn.Module]:
    """Those below a module that is not inside as a whole. inside: ids of parameters."""
    parts = list(model.children())
    for position, part in enumerate(parts):
        deciding = list(part.parameters())
        if not deciding:
            beside = chain(parts[position + 1 :], reversed(parts))
            deciding = list(islice((parameter for other in beside for parameter in other.parameters()), 1))
        if deciding and all(id(parameter) in inside for parameter in deciding):
            yield from part.modules()
        else:
            yield from _modules_within(part, inside)


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
    where = list(dict.fromkeys("adapters" if ".lora_" in name else name for name in _outermost(model, "")))
    which = "" if len(trained) == tensors else ": " + ", ".join(where[:4]) + (" ..." if len(where) > 4 else "")
    line = f"training {len(trained)} of {tensors} tensors ({trainable:,} of {_short(total)} parameters){which}"
    return total, trainable, line


def _outermost(module: nn.Module, path: str) -> Iterator[str]:
    """Names of modules that train as a whole, and of parameters that train in others."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    if trained and all(trained):
        yield path
    elif any(trained):
        prefix = f"{path}." if path else ""
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                yield prefix + name
        for name, child in module.named_children():
            yield from _outermost(child, prefix + name)


def _short(number: int) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number:,}"
