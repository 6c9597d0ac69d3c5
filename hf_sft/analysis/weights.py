"""How far the weights moved in training, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_sft.analysis.drawing import COLOURS, GREY, drawn, plain
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.predictions import Predictions
from hf_sft.analysis.section import Absent, Cell, Figure, Part, Section, Table
from hf_sft.modeling.anatomy import find_blocks

DIRECTIONS = 4  # largest singular values of a change that are told
MOST_HISTOGRAMS, MOST_FILTERS = 8, 64
Weights = Mapping[str, torch.Tensor]
SAMPLED = 200_000  # weights of a block that a histogram is drawn from


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far one block moved. relative: norm of the change by the norm before; cosine: of before and after.

    moved: share of its numbers that changed. low_rank: share of the squared change of its largest matrix that the four
    largest singular directions hold, None where nothing moved.
    """

    block: str
    parameters: int
    moved: float
    relative: float
    cosine: float
    low_rank: float | None
    values: tuple[float, ...]
    largest: str


def show_weights(run: FinishedRun, predictions: Mapping[str, Predictions]) -> Section:
    """Each block's distance from the pretrained weights, what the change is like, histograms, first filters."""
    before, after = dict(run.before.named_parameters()), dict(run.saved.model.named_parameters())
    if {name: p.shape for name, p in before.items()} != {name: p.shape for name, p in after.items()}:
        raise Absent("the model before training has other weights than the one that was saved")
    with torch.inference_mode():
        drifts = measure_drift(run.before, run.saved.model, seed=run.seed)
    still = [drift.block for drift in drifts if drift.moved == 0]
    backbone = [drift for drift in drifts if drift.block != "head"]
    most = max(backbone, key=lambda drift: drift.relative, default=None)
    figures: dict[str, float | int | str | None] = {
        "blocks": len(drifts),
        "blocks_unchanged": len(still),
        "farthest_block": most.block if most and most.relative > 0 else "none",
        "farthest_relative_norm": most.relative if most else None,
    }
    parts: list[Part] = [_bars(drifts), _table(drifts)]
    parts += [*_histograms(before, after, run.before), *_filters(before, after)]
    notes = []
    if any(block.name == "head" and run.new.intersection(block.parameters) for block in find_blocks(run.before)):
        notes.append("the head is new: it is compared with what it was drawn as, so its distance says little")
    if layers := run.recipe.tuning.reinit_layers:
        notes.append(
            f"training began with the last {layers} blocks drawn anew (tuning.reinit_layers): they are compared with "
            "the pretrained weights, which they never had, so their distance says little"
        )
    if still:
        notes.append(f"exactly as before training: {', '.join(still)}")
    if statistics_moved(run.before, run.saved.model):
        notes.append("running statistics of normalisation layers moved too")
    sentence = (
        "How far each block moved from the weights that training began with, as a share of their size. Early blocks "
        "usually move least; a block that moved much more than its neighbours, or a backbone that moved by tens of "
        "per cent, has likely forgotten what it knew. Frozen blocks show exactly zero."
    )
    return Section(
        name="weights", title="Weights", sentence=sentence, parts=tuple(parts), key_figures=figures, notes=tuple(notes)
    )


def measure_drift(before: nn.Module, after: nn.Module, *, seed: int = 0) -> list[Drift]:
    """One entry per block, in forward order; both models of one architecture."""
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    return [_drift(block.name, block.parameters, old, new, seed) for block in find_blocks(before)]


def _drift(
    block: str, names: Sequence[str], old: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], seed: int
) -> Drift:
    changed = total = 0
    squares = {"change": 0.0, "before": 0.0, "after": 0.0, "product": 0.0}
    largest, size = "", -1.0
    for name in names:
        one, other = old[name].detach().double(), new[name].detach().double()
        change = other - one
        changed += int((change != 0).sum())
        total += change.numel()
        square = float(change.square().sum())
        squares["change"] += square
        squares["before"] += float(one.square().sum())
        squares["after"] += float(other.square().sum())
        squares["product"] += float((one * other).sum())
        if change.ndim > 1 and square > size:
            largest, size = name, square
    values: tuple[float, ...] = ()
    if size > 0:
        values = _singular_values((new[largest] - old[largest]).detach(), seed)
    low_rank = min(1.0, sum(value**2 for value in values) / size) if size > 0 else None
    lengths = np.sqrt(squares["before"] * squares["after"])
    return Drift(
        block=block,
        parameters=total,
        moved=changed / max(total, 1),
        relative=float(np.sqrt(squares["change"] / max(squares["before"], 1e-300))),
        cosine=1.0 if not squares["change"] else float(squares["product"] / max(lengths, 1e-300)),
        low_rank=low_rank,
        values=values,
        largest=largest if size > 0 else "",
    )


def _singular_values(change: torch.Tensor, seed: int) -> tuple[float, ...]:
    """The largest singular values of a change, kernels as matrices of one row per output (Halko et al. 2011)."""
    matrix = change.flatten(1).float()
    rank = min(DIRECTIONS, *matrix.shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _, values, _ = torch.svd_lowrank(matrix, q=min(rank + 4, *matrix.shape), niter=4)
    return tuple(float(value) for value in values[:rank])


def statistics_moved(before: nn.Module, after: nn.Module) -> bool:
    """Whether a buffer of decimal numbers (running means and variances) differs."""
    new = dict(after.named_buffers())
    return any(
        value.is_floating_point() and name in new and not torch.equal(value, new[name])
        for name, value in before.named_buffers()
    )


def _bars(drifts: Sequence[Drift]) -> Figure:
    names = [plain(drift.block) for drift in drifts]
    with drawn(9.5, max(2.6, 0.27 * len(drifts) + 1)) as canvas:
        left, right = canvas.panels(1, 2, sharey=True)
        places = np.arange(len(drifts))
        colours = [GREY if drift.block == "head" else COLOURS[0] for drift in drifts]
        left.barh(places, [drift.relative for drift in drifts], color=colours)
        left.set_yticks(places, names, fontsize=8)
        left.invert_yaxis()
        left.set_xlabel("norm of the change / norm before")
        right.barh(places, [drift.low_rank or 0.0 for drift in drifts], color=COLOURS[2])
        right.set_xlabel(f"share of the change in {DIRECTIONS} directions")
        right.set_xlim(0, 1)
        for place, drift in enumerate(drifts):
            if not drift.moved:
                left.annotate(" unchanged", (0, place), va="center", fontsize=8, color=GREY)
    caption = (
        "Left: how far each block moved, input above, output below. Right: how much of the change of its largest "
        "matrix four directions hold; near 1, adapters of that rank would have done."
    )
    return canvas.figure("drift", caption)


def _table(drifts: Sequence[Drift]) -> Table:
    rows: list[list[Cell]] = [
        [
            drift.block,
            drift.parameters,
            drift.moved,
            drift.relative,
            drift.cosine,
            ", ".join(f"{value:.3g}" for value in drift.values) or "-",
            drift.largest or "-",
        ]
        for drift in drifts
    ]
    heads = ("block", "parameters", "share changed", "relative norm", "cosine", "largest singular values", "of")
    caption = "Each block in numbers: the singular values are those of the change of the matrix that moved most."
    return Table(name="blocks", caption=caption, heads=heads, rows=rows, shown=200)


def _histograms(before: Weights, after: Weights, model: nn.Module) -> list[Figure]:
    blocks = [block for block in find_blocks(model) if block.name != "head"]
    blocks = [blocks[place] for place in np.unique(np.linspace(0, len(blocks) - 1, MOST_HISTOGRAMS).astype(int))]
    if not blocks:
        return []
    columns = min(4, len(blocks))
    lines = -(-len(blocks) // columns)
    with drawn(2.7 * columns, 2.2 * lines + 0.2) as canvas:
        panels = canvas.panels(lines, columns)
        for panel, block in zip(panels, blocks, strict=False):
            old, new = (_sampled(block.parameters, weights) for weights in (before, after))
            edge = float(np.quantile(np.abs(old), 0.999)) or 1.0
            bins = np.linspace(-edge, edge, 61).tolist()
            panel.hist(old, bins=bins, color=GREY, alpha=0.45, label="before")
            panel.hist(new, bins=bins, histtype="step", color=COLOURS[1], label="after")
            panel.set_title(plain(block.name), fontsize=9)
            panel.set_yticks([])
            panel.tick_params(labelsize=7)
        for panel in panels[len(blocks) :]:
            panel.set_visible(False)
        panels[0].legend(fontsize=7, frameon=False)
    caption = "Weights before (grey) and after (line): fine-tuning hardly shows here, unless it broke something."
    return [canvas.figure("histograms", caption)]


def _sampled(names: Sequence[str], weights: Mapping[str, torch.Tensor]) -> Any:
    parts = [weights[name].detach().flatten().float().cpu() for name in names]
    step = max(1, sum(part.numel() for part in parts) // SAMPLED)
    return torch.cat([part[::step] for part in parts]).numpy()


def _filters(before: Weights, after: Weights) -> list[Figure]:
    """The kernels that read the pixels, as pictures."""
    name = next((name for name, value in before.items() if value.ndim == 4 and value.shape[1] in (1, 3)), None)
    if name is None or before[name].shape[-1] < 3:
        return []
    old, new = (weights[name].detach().cpu().numpy()[:MOST_FILTERS] for weights in (before, after))
    change = new - old
    rows = ((old, "before"), (new, "after"), (change, "change" + ("" if change.any() else ": none")))
    with drawn(10.5, 3.9) as canvas:
        for panel, (kernels, title) in zip(canvas.panels(1, 3), rows, strict=True):
            panel.imshow(_mosaic(kernels), cmap="gray" if old.shape[1] == 1 else None, interpolation="nearest")
            panel.set_title(title, fontsize=10)
            panel.set_axis_off()
    caption = (
        f"The first layer's filters ({name}), each scaled to its own range: edges and colours, as a rule left alone."
    )
    return [canvas.figure("filters", caption, photo=True)]


def _mosaic(kernels: Any) -> Any:
    """[N, C, H, W] side by side, each from 0 to 1, with white between."""
    number, channels, height, width = kernels.shape
    columns = int(np.ceil(np.sqrt(number)))
    lines = -(-number // columns)
    picture = np.ones((lines * (height + 1), columns * (width + 1), channels))
    for place, kernel in enumerate(kernels):
        line, column = divmod(place, columns)
        span = kernel.max() - kernel.min()
        scaled = (kernel - kernel.min()) / span if span else np.full_like(kernel, 0.5)
        top, left = line * (height + 1), column * (width + 1)
        picture[top : top + height, left : left + width] = scaled.transpose(1, 2, 0)
    return picture.squeeze()
