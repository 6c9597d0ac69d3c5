"""Where a model's parts are, found from structure: its backbone and its head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_sft.errors import Finding, ModelError


def head_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of everything that stands on top of the backbone and has parameters, in the order of the model.

    timm names its classifiers (`get_classifier`; distilled models have two), transformers the backbone
    (`base_model_prefix`). Where no module has that name (CLIP, SigLIP) the largest one is the backbone's last part.
    """
    if getattr(model.config, "model_type", "") == "timm_wrapper":
        timm_model: Any = model.get_submodule("timm_model")
        classifiers = timm_model.get_classifier() if hasattr(timm_model, "get_classifier") else ()  # bare encoders
        wanted = {id(part) for part in (classifiers if isinstance(classifiers, tuple) else (classifiers,))}
        return {name: module for name, module in model.named_modules() if id(module) in wanted}
    parts = {name: module for name, module in model.named_children() if any(True for _ in module.parameters())}
    if model.base_model_prefix in parts:
        return {name: module for name, module in parts.items() if name != model.base_model_prefix}
    sizes = [sum(parameter.numel() for parameter in module.parameters()) for module in parts.values()]
    return dict(list(parts.items())[sizes.index(max(sizes)) + 1 :])


def head_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters of the head."""
    return [
        f"{prefix}.{name}" for prefix, module in head_modules(model).items() for name, _ in module.named_parameters()
    ]


def output_layers(model: nn.Module, num_outputs: int) -> dict[str, nn.Module]:
    """Name -> module of the layers with one row of weights per output: one, or two where a model was distilled.

    Raises ModelError where there is none.
    """
    found: dict[str, nn.Module] = {}
    for prefix, head in head_modules(model).items():
        for name, module in head.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.shape[:1] == (num_outputs,) and weight.ndim > 1:
                found[f"{prefix}.{name}".rstrip(".")] = module
    if not found:
        expected = f"a head with {num_outputs} outputs"
        raise ModelError(Finding(place="model.name", expected=expected, found=f"{type(model).__name__} has none"))
    # A square layer before the last is a dense layer of as many features as there happen to be labels.
    last = next(reversed(found))
    return {name: layer for name, layer in found.items() if name == last or layer.weight.shape[1] != num_outputs}  # type: ignore[index]


def may_be_new(name: str, model: nn.Module) -> bool:
    """Whether a checkpoint may lack this parameter: it belongs to the head, or to the pooler below it,

    which checkpoints of masked language models do not carry.
    """
    return name in set(head_parameters(model)) or "pooler" in name.split(".")


def is_convolutional(model: nn.Module) -> bool:
    """Whether most weights are convolutions, so that the channels-last memory format can pay."""
    convolutions = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    return 2 * convolutions > sum(parameter.numel() for parameter in model.parameters())
