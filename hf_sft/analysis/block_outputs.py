"""What comes out of each block of a model for some rows: one vector per row and block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_sft.analysis.section import Absent
from hf_sft.data.rows import Rows
from hf_sft.evaluation import length_batches, model_inputs
from hf_sft.modeling.anatomy import find_blocks

CALLED = ("ReLU", "ReLU6", "GELU", "SiLU", "Mish", "Hardswish", "ELU", "LeakyReLU")  # of torch; transformers' by module


@dataclass(frozen=True)
class BlockOutputs:
    """features: block -> float32 [N, D], the mean over places (words without padding, pixels).

    highest: block -> the greatest value that each unit of its activation functions gave on any row and place.
    """

    features: dict[str, NDArray]
    highest: dict[str, NDArray] = field(default_factory=dict)

    def dead(self, block: str) -> float | None:
        """Share of units that are never positive; None where the block has no activation function of its own."""
        values = self.highest.get(block)
        return None if values is None or not len(values) else float((values <= 0).mean())


def block_modules(model: nn.Module) -> dict[str, str]:
    """Block -> name of the module whose output is that of the block; blocks of loose parameters are left out.

    It is the outermost module that holds the block's last parameter and no other block's.
    """
    found = {}
    for block in find_blocks(model):
        own, path = set(block.parameters), block.parameters[-1].rpartition(".")[0]
        best = ""
        while path:
            module = model.get_submodule(path)
            if not {f"{path}.{name}" for name, _ in module.named_parameters()} <= own:
                break
            if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                best = path
            path = path.rpartition(".")[0]
        if best and block.name != "head":
            found[block.name] = best
    return found


def block_outputs(
    model: nn.Module,
    rows: Rows,
    lengths: NDArray,
    collate: Callable[[Sequence[Any]], dict[str, Any]],
    *,
    channels_last: bool = False,
    batch_size: int = 32,
) -> BlockOutputs:
    """One forward pass over the rows; float32, in the order of the rows."""
    modules, size = block_modules(model), len(rows)
    features: dict[str, NDArray] = {}
    highest: dict[str, torch.Tensor] = {}
    device = next(model.parameters()).device
    with _heard(model, modules) as heard, torch.inference_mode():
        for batch in length_batches(lengths, batch_size):
            collated = collate([rows[position] for position in batch])
            inputs = model_inputs(collated, device, channels_last)
            heard.mask = inputs.get("attention_mask")
            heard.rows = len(next(iter(inputs.values())))
            if heard.rows != len(batch):
                raise Absent("a row of this task is read in several windows")
            model(**inputs)
            for block, values in heard.outputs.items():
                if block not in features:
                    features[block] = np.zeros((size, values.shape[1]), dtype=np.float32)
                features[block][batch] = values.float().cpu().numpy()
            for block, parts in heard.units.items():
                joined = torch.cat(parts)
                highest[block] = torch.maximum(highest[block], joined) if block in highest else joined
            heard.outputs, heard.units = {}, {}
    ordered = {block: features[block] for block in modules if block in features}
    return BlockOutputs(ordered, {block: values.cpu().numpy() for block, values in highest.items()})


class _Heard:
    """Outputs of one forward pass."""

    def __init__(self) -> None:
        self.mask: torch.Tensor | None = None
        self.rows = 0
        self.outputs: dict[str, torch.Tensor] = {}
        self.units: dict[str, list[torch.Tensor]] = {}

    def block(self, name: str, output: Any) -> None:
        value = _first_tensor(output)
        if value is not None and len(value) == self.rows and value.ndim in (2, 3, 4):
            self.outputs[name] = self._pooled(value)

    def unit(self, name: str, output: Any) -> None:
        value = _first_tensor(output)
        if value is None or len(value) != self.rows or value.ndim not in (2, 3, 4):
            return
        if value.ndim == 4 and not _channels_behind(value):
            most = value.amax(dim=(0, 2, 3))
        elif value.ndim == 3 and self.mask is not None and self.mask.shape == value.shape[:2]:
            most = value.masked_fill(~self.mask.bool()[..., None], -torch.inf).amax(dim=(0, 1))
        else:
            most = value.flatten(0, -2).amax(dim=0)
        self.units.setdefault(name, []).append(most.float())

    def _pooled(self, value: torch.Tensor) -> torch.Tensor:
        if value.ndim == 4:
            return value.mean(dim=(1, 2) if _channels_behind(value) else (2, 3))
        if value.ndim == 3:
            if self.mask is not None and self.mask.shape == value.shape[:2]:
                weight = self.mask[..., None].to(value.dtype)
                return (value * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
            return value.mean(dim=1)
        return value


def _channels_behind(value: torch.Tensor) -> bool:
    """[B, H, W, C], as timm's Swin has it: two sides alike, and the last another."""
    return value.shape[1] == value.shape[2] != value.shape[3]


def _first_tensor(output: Any) -> torch.Tensor | None:
    if isinstance(output, torch.Tensor):
        return output.detach()
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, tuple) and output and isinstance(output[0], torch.Tensor):
        return output[0].detach()
    return None


@contextmanager
def _heard(model: nn.Module, modules: Mapping[str, str]) -> Iterator[_Heard]:
    heard, hooks = _Heard(), []
    paths = {path: block for block, path in modules.items()}
    for path, block in paths.items():
        module = model.get_submodule(path)
        hooks.append(module.register_forward_hook(lambda _, __, output, block=block: heard.block(block, output)))
        for name, inner in module.named_modules():
            if _is_activation(inner) and not _belongs_deeper(f"{path}.{name}", path, paths):
                hooks.append(inner.register_forward_hook(lambda _, __, output, block=block: heard.unit(block, output)))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _is_activation(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__name__ in CALLED or (kind.__module__ == "transformers.activations" and "Tanh" not in kind.__name__)


def _belongs_deeper(name: str, path: str, paths: Mapping[str, str]) -> bool:
    return any(name.startswith(f"{other}.") and other.startswith(f"{path}.") for other in paths)
