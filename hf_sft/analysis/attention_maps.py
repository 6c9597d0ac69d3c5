"""Where a vision transformer looks: the attention of all its blocks, weighted by what it changes in the answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from hf_sft.analysis.maps import contrast, logits_of, numbers, square_side
from hf_sft.analysis.section import Absent


def gradient_attention(model: nn.Module, pixels: torch.Tensor, targets: torch.Tensor) -> tuple[NDArray, str]:
    """(float64 [B, H, W], the blocks): which patches the answer for the target draws on, through all blocks.

    Attention rollout (Abnar and Zuidema 2020) over attention that is weighted by its gradient, positive parts only
    (Chefer et al. 2021). Raises Absent where a model gives no attention, or not one among all patches, as in windows.
    """
    with torch.enable_grad(), _attention_kept(model) as kept:
        outputs = model(pixel_values=pixels.detach().requires_grad_(True), **_asked(model))
        attention = kept or list(getattr(outputs, "attentions", None) or ())
        if not attention or any(one is None or one.shape != attention[0].shape for one in attention):
            raise Absent("the model gives no attention among all its patches")
        score = contrast(logits_of(outputs), targets).sum()
        slopes = torch.autograd.grad(score, attention, allow_unused=True)
    rows, _, tokens, _ = attention[0].shape
    side = square_side(tokens)
    if rows != len(pixels) or side < 2:
        raise Absent("its attention is not among the patches of a square")
    relevance = torch.eye(tokens, device=pixels.device).expand(rows, -1, -1)
    for one, slope in zip(attention, slopes, strict=True):
        if slope is not None:
            relevance = relevance + (one.detach() * slope).clamp(min=0).mean(dim=1) @ relevance
    read = relevance[:, 0] if tokens > side * side else relevance.mean(dim=1)  # by the class token, or by all alike
    grid = read[:, -side * side :].reshape(rows, 1, side, side).float()
    if not grid.abs().max() > 0:
        raise Absent("no attention speaks for the answer")
    size = (int(pixels.shape[2]), int(pixels.shape[3]))
    larger = nn.functional.interpolate(grid, size=size, mode="bilinear", align_corners=False)
    return numbers(larger[:, 0]), f"all {len(attention)} blocks"


@contextmanager
def _attention_kept(model: Any) -> Iterator[list[torch.Tensor]]:
    """Attention is computed step by step, so that its weights exist; of timm's models they come in the list."""
    if not _is_timm(model):
        usual = getattr(getattr(model, "config", None), "_attn_implementation", None)
        if usual is None or not hasattr(model, "set_attn_implementation"):
            raise Absent("the model has no attention")
        model.set_attn_implementation("eager")
        try:
            yield []
        finally:
            model.set_attn_implementation(usual)
        return
    kept: list[torch.Tensor] = []
    layers = [layer for layer in model.modules() if hasattr(layer, "fused_attn") and hasattr(layer, "attn_drop")]
    fused = [layer.fused_attn for layer in layers]
    hooks = [layer.attn_drop.register_forward_hook(lambda _, __, output: kept.append(output)) for layer in layers]
    try:
        for layer in layers:
            layer.fused_attn = False
        yield kept
    finally:
        for layer, before in zip(layers, fused, strict=True):
            layer.fused_attn = before
        for hook in hooks:
            hook.remove()


def _asked(model: nn.Module) -> dict[str, bool]:
    return {} if _is_timm(model) else {"output_attentions": True}


def _is_timm(model: nn.Module) -> bool:
    return hasattr(model, "timm_model")
