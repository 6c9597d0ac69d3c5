"""Which inputs an answer rests on: integrated gradients of words and pixels, Grad-CAM of a block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_sft.analysis.block_outputs import block_modules
from hf_sft.analysis.section import Absent

STEPS = 12  # points of the integral (Gauss-Legendre): the sum misses the change of the answer by a few per cent
MOST_EXTRA = 8  # class and register tokens that may stand before the patches
ENOUGH_PLACES = 16  # of a block, so that a map is more than four squares
BATCH, TOKENS = 16, 4096  # rows of like length, and their tokens, that gradients are taken of at once
Inputs = Mapping[str, torch.Tensor]


def contrast(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[B]: the target's logit less the mean of all others: what speaks for it, and not for every class alike."""
    own = logits.gather(1, targets[:, None])[:, 0]
    return own - (logits.sum(dim=1) - own) / max(logits.shape[1] - 1, 1)


def word_gradients(model: nn.Module, inputs: Inputs, targets: torch.Tensor, blank: int, kept: Sequence[int]) -> NDArray:
    """float64 [B, T]: what each token adds to the contrast of its row's target, against a text of blanks.

    blank: the token id that stands for nothing; kept: ids of special tokens, which stay. Integrated gradients
    (Sundararajan et al. 2017) at the embeddings.
    """
    from captum.attr import LayerIntegratedGradients

    ids = inputs["input_ids"]
    special = torch.isin(ids, torch.tensor(list(kept), device=ids.device)) if kept else torch.zeros_like(ids).bool()
    empty = torch.where(special, ids, torch.full_like(ids, blank))
    names = [name for name in inputs if name != "input_ids"]

    def answer(words: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        outputs = model(input_ids=words, **dict(zip(names, others[:-1], strict=True)))
        return contrast(logits_of(outputs), others[-1])

    method = LayerIntegratedGradients(answer, _embedding(model))
    others = (*(inputs[name] for name in names), targets)
    found = method.attribute(
        ids,
        baselines=empty,
        additional_forward_args=others,
        n_steps=STEPS,
        internal_batch_size=max(TOKENS // ids.shape[1], len(ids)),
    )
    summed = found.detach().sum(dim=-1)
    if "attention_mask" in inputs:
        summed = summed * inputs["attention_mask"]
    return numbers(summed)


def in_short_batches(
    method: Callable[[Inputs, torch.Tensor], NDArray], inputs: Inputs, targets: torch.Tensor
) -> NDArray:
    """`method` over rows of like length together, without the padding that the longest row of all brings."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    lengths = torch.full((len(ids),), ids.shape[1]) if mask is None else mask.sum(dim=1).cpu()
    found = np.zeros(tuple(ids.shape))
    order = lengths.argsort(descending=True)
    while len(order):
        longest = int(lengths[order[0]])
        number = max(1, min(BATCH, TOKENS // longest))
        some, order = order[:number], order[number:]
        cut = {name: value[some, :longest] for name, value in inputs.items()}
        found[some.numpy(), :longest] = method(cut, targets[some])
    return found


def ground_colour(pixels: torch.Tensor) -> torch.Tensor:
    """[1, C, 1, 1]: the median of each channel over some pictures, which is their ground where they have one."""
    return pixels.detach().transpose(0, 1).flatten(1).median(dim=1).values.view(1, -1, 1, 1)


def pixel_gradients(model: nn.Module, pixels: torch.Tensor, targets: torch.Tensor, colour: torch.Tensor) -> NDArray:
    """float64 [B, H, W]: what each pixel adds to the contrast of its row's target, against pictures of one colour."""
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(lambda values, classes: contrast(logits_of(model(pixel_values=values)), classes))
    found = method.attribute(
        pixels,
        baselines=colour.expand_as(pixels).contiguous(),
        additional_forward_args=(targets,),
        n_steps=STEPS,
        internal_batch_size=len(pixels),
    )
    return numbers(found.detach().sum(dim=1))


def grad_cam(model: nn.Module, pixels: torch.Tensor, targets: torch.Tensor) -> tuple[NDArray, str]:
    """(float64 [B, H, W], block): where the last block that still knows places sees what speaks for the target.

    Selvaraju et al. 2017; of a transformer the places are its patches, and the block the last whose patches are read
    (where a class token alone is read, the last but one). Blocks of fewer than 4 x 4 places are taken where there are
    no others. Raises Absent where no block has places.
    """
    modules = block_modules(model)
    blocks = [name for name in modules if name.startswith(("block.", "embeddings"))][::-1]
    found = {}
    for block in blocks:
        seen = _grid_and_slope(model, modules[block], pixels, targets)
        if seen is not None:
            found[block] = seen
            if seen[0].shape[2] * seen[0].shape[3] >= ENOUGH_PLACES:
                break
    if not found:
        raise Absent("no block of this model keeps places apart")
    block = max(found, key=lambda name: min(ENOUGH_PLACES, found[name][0].shape[2] * found[name][0].shape[3]))
    grid, slope = found[block]
    cam = (slope.mean(dim=(2, 3), keepdim=True) * grid).sum(dim=1, keepdim=True).relu()
    size = (int(pixels.shape[2]), int(pixels.shape[3]))
    return numbers(nn.functional.interpolate(cam, size=size, mode="bilinear", align_corners=False)[:, 0]), block


def _grid_and_slope(
    model: nn.Module, path: str, pixels: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What a module gives and how the answer changes with it, both [B, C, H, W]; None where it has no such places."""
    seen: list[torch.Tensor] = []
    hook = model.get_submodule(path).register_forward_hook(lambda _, __, output: seen.append(_tensor(output)))
    try:
        with torch.enable_grad():
            score = contrast(logits_of(model(pixel_values=pixels.detach().requires_grad_(True))), targets).sum()
            gradient = torch.autograd.grad(score, seen[0], allow_unused=True)[0] if seen else None
    finally:
        hook.remove()
    grid = _as_grid(seen[0].detach()) if seen else None
    slope = None if gradient is None else _as_grid(gradient)
    if grid is None or slope is None or grid.shape[2] * grid.shape[3] < 4 or not slope.abs().max() > 0:
        return None
    return grid, slope


def shuffled(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose weights stand in random order, tensor by tensor: what it looks at is no longer learned."""
    import copy

    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            flat = parameter.detach().cpu().flatten()
            mixed = flat[torch.randperm(len(flat), generator=generator)].reshape(parameter.shape)
            parameter.copy_(mixed.to(parameter.device))
    return other


def rank_correlation(one: NDArray, other: NDArray) -> float:
    """Spearman's, of absolute values; NaN where one of them does not vary."""
    from scipy import stats

    first, second = np.abs(one).ravel(), np.abs(other).ravel()
    if len(first) < 3 or not np.isfinite([first, second]).all() or not np.ptp(first) or not np.ptp(second):
        return float("nan")
    return float(stats.spearmanr(first, second).statistic)


def deletion(
    answer: Callable[[NDArray], NDArray], importance: NDArray, able: NDArray, shares: Sequence[float], seed: int
) -> tuple[NDArray, NDArray]:
    """(float [S, B], float [S, B]): the answers when that share of the places is blanked, the most important first,

    and in random order. answer: (bool [B, P], the places to blank) -> [B]. able: bool [B, P], places that may be.
    """
    noise = np.random.default_rng(seed).random(importance.shape)
    found = []
    for values in (importance, noise):
        ranks = np.argsort(np.argsort(-np.where(able, values, -np.inf), axis=1, kind="stable"), axis=1)
        limits = able.sum(axis=1, keepdims=True)
        found.append(np.stack([answer((ranks < np.round(share * limits)) & able) for share in shares]))
    return found[0], found[1]


def _embedding(model: Any) -> nn.Module:
    try:
        layer: nn.Module = model.get_input_embeddings()
    except (NotImplementedError, AttributeError) as error:
        raise Absent("this model does not tell which layer embeds its words") from error
    return layer


def logits_of(outputs: Any) -> torch.Tensor:
    found: torch.Tensor = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
    return found.float()


def _tensor(output: Any) -> torch.Tensor:
    if isinstance(output, Mapping):
        output = tuple(output.values())
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


def square_side(tokens: int) -> int:
    """Of the square of patches behind class and register tokens; 0 where more tokens are left over."""
    side = int(np.sqrt(tokens))
    return side if tokens - side * side <= MOST_EXTRA else 0


def _as_grid(value: torch.Tensor) -> torch.Tensor | None:
    """[B, C, H, W] of what a block gives: patches [B, T, C] lie in a square, behind class tokens."""
    if value.ndim == 4:
        behind = value.shape[1] == value.shape[2] != value.shape[3]
        return value.permute(0, 3, 1, 2) if behind else value
    if value.ndim != 3:
        return None
    side = square_side(value.shape[1])
    if not side:
        return None
    return value[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


def numbers(values: torch.Tensor) -> NDArray:
    found: NDArray = values.detach().cpu().double().numpy()
    return found
