"""Where a model's parts are, found from structure: its backbone and its head."""

from __future__ import annotations

import torch
from torch import nn


def head_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of everything that stands on top of the backbone and has parameters, in the order of the model.

    transformers names the backbone (`base_model_prefix`), timm the classifier (`get_classifier`).
    """
    if getattr(model.config, "model_type", "") == "timm_wrapper":
        classifier = model.get_submodule("timm_model").get_classifier()  # type: ignore[operator]
        return {name: module for name, module in model.named_modules() if module is classifier}
    return {
        name: module
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    }


def head_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters of the head."""
    return [
        f"{prefix}.{name}" for prefix, module in head_modules(model).items() for name, _ in module.named_parameters()
    ]


def output_layer(model: nn.Module, num_outputs: int) -> tuple[str, nn.Module]:
    """Name and module of the last layer with one row of weights per output. Raises LookupError where there is none."""
    found = None
    for prefix, head in head_modules(model).items():
        for name, module in head.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.shape[:1] == (num_outputs,) and weight.ndim > 1:
                found = (f"{prefix}.{name}".rstrip("."), module)
    if found is None:
        raise LookupError(f"{type(model).__name__} has no layer with {num_outputs} outputs in its head")
    return found


def may_be_new(name: str, model: nn.Module) -> bool:
    """Whether a checkpoint may lack this parameter: it belongs to the head, or to the pooler below it,

    which checkpoints of masked language models do not carry.
    """
    return name in set(head_parameters(model)) or "pooler" in name.split(".")


def is_convolutional(model: nn.Module) -> bool:
    """Whether most weights are convolutions, so that the channels-last memory format can pay."""
    convolutions = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    return 2 * convolutions > sum(parameter.numel() for parameter in model.parameters())
