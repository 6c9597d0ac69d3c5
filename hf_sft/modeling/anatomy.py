"""Where a model's parts are, found from structure: its ordered blocks and its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_sft.errors import Finding, ModelError
from hf_sft.modeling.stacks import parts_in_order
from hf_sft.modeling.timm_groups import timm_parts

LABEL_HEADS = ("class_embed", "enc_score_head", "class_labels_classifier")  # of detectors: what scores labels
BOX_HEADS = ("bbox_embed", "enc_bbox_head", "bbox_predictor")


@dataclass(frozen=True)
class Block:
    """One step of a model's way from input to output: `embeddings`, `block.0` ..., `final` or `head`."""

    name: str
    parameters: tuple[str, ...]

    @property
    def is_layer(self) -> bool:
        return self.name.startswith("block.")


def find_blocks(model: nn.Module) -> list[Block]:
    """The blocks of a model in forward order; every parameter belongs to exactly one, and none is empty.

    `block.0` ... are the layers of a transformer, the residual blocks of a convolutional network; what stands between
    two of them (a downsampling) belongs to the second. `final` is what follows the last: a norm, a pooler. A backbone
    whose layers cannot be told apart is one block.
    """
    head = frozenset(head_parameters(model))
    parts = (_is_timm(model) and timm_parts(model, head)) or parts_in_order(model, head)
    if not any(part.is_layer for part in parts):
        backbone = tuple(name for name, _ in model.named_parameters() if name not in head)
        return _named({"block.0": backbone, "head": tuple(head_parameters(model))})
    layers: list[tuple[str, ...]] = []
    embeddings: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    for part in parts:
        if not part.is_layer:
            waiting += part.names
        elif layers:
            layers.append(waiting + part.names)
            waiting = ()
        else:
            layers.append(part.names)
            embeddings, waiting = waiting, ()
    numbered = {f"block.{number}": names for number, names in enumerate(layers)}
    return _named({"embeddings": embeddings, **numbered, "final": waiting, "head": tuple(head_parameters(model))})


def _named(blocks: dict[str, tuple[str, ...]]) -> list[Block]:
    return [Block(name, parameters) for name, parameters in blocks.items() if parameters]


def _is_timm(model: Any) -> bool:
    return getattr(model.config, "model_type", "") == "timm_wrapper"


def head_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of everything that stands on top of the backbone and has parameters, in the order of the model.

    timm names its classifiers (`get_classifier`; distilled models have two), transformers the backbone
    (`base_model_prefix`); detectors have heads within it, at each layer of the decoder. Where no module has that name
    (CLIP, SigLIP) the largest one is the backbone's last part.
    """
    if _is_timm(model):
        timm_model: Any = model.get_submodule("timm_model")
        classifiers = timm_model.get_classifier() if hasattr(timm_model, "get_classifier") else ()  # bare encoders
        wanted = {id(part) for part in (classifiers if isinstance(classifiers, tuple) else (classifiers,))}
        return {name: module for name, module in model.named_modules() if id(module) in wanted}
    if detectors := _named_modules(model, (*LABEL_HEADS, *BOX_HEADS)):
        return detectors
    parts = {name: module for name, module in model.named_children() if any(True for _ in module.parameters())}
    for backbone in (model.base_model_prefix, "backbone"):
        if backbone in parts:
            return {name: module for name, module in parts.items() if name != backbone}
    sizes = [sum(parameter.numel() for parameter in module.parameters()) for module in parts.values()]
    return dict(list(parts.items())[sizes.index(max(sizes)) + 1 :])


def _named_modules(model: nn.Module, names: tuple[str, ...]) -> dict[str, nn.Module]:
    """Name -> module of the outermost modules that bear one of these names, wherever they stand."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if name.rpartition(".")[2] in names and not inside and any(True for _ in module.parameters()):
            found[name] = module
    return found


def head_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters of the head; a tied one is known by its first name."""
    own = {name for name, _ in model.named_parameters()}
    return [
        f"{prefix}.{name}"
        for prefix, module in head_modules(model).items()
        for name, _ in module.named_parameters()
        if f"{prefix}.{name}" in own
    ]


def output_layers(model: nn.Module, num_outputs: int) -> dict[str, nn.Module]:
    """Name -> module of the layers with one row of weights per output: one, or two where a model was distilled.

    Raises ModelError where there is none.
    """
    found: dict[str, nn.Module] = {}
    detectors = _named_modules(model, LABEL_HEADS)
    sizes = (num_outputs, num_outputs + 1) if detectors else (num_outputs,)  # "no object" may be an output of its own
    for prefix, head in (detectors or head_modules(model)).items():
        for name, module in head.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.shape[:1].numel() in sizes and weight.ndim > 1:
                found[f"{prefix}.{name}".rstrip(".")] = module
    if not found:
        expected = f"a head with {num_outputs} outputs"
        raise ModelError(Finding(place="model.name", expected=expected, found=f"{type(model).__name__} has none"))
    # A square layer before the last is a dense layer of as many features as there happen to be labels.
    if detectors:  # a layer whose weights are tied to another's is the same
        weights = {id(layer.weight): name for name, layer in reversed(found.items())}
        return {name: layer for name, layer in found.items() if name in weights.values()}
    last = next(reversed(found))
    return {name: layer for name, layer in found.items() if name == last or layer.weight.shape[1] != num_outputs}  # type: ignore[index]


def may_be_new(name: str, model: nn.Module) -> bool:
    """Whether a checkpoint may lack this parameter or statistic: it belongs to the head, or to the pooler below it,

    which checkpoints of masked language models do not carry.
    """
    return any(name.startswith(f"{head}.") for head in head_modules(model)) or "pooler" in name.split(".")


def is_convolutional(model: nn.Module) -> bool:
    """Whether most weights are convolutions, so that the channels-last memory format can pay."""
    convolutions = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    return 2 * convolutions > sum(parameter.numel() for parameter in model.parameters())
