"""Which places of a picture an answer rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_sft.analysis.attention_maps import gradient_attention
from hf_sft.analysis.chosen_rows import Chosen, probability
from hf_sft.analysis.drawing import drawn, plain
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.map_checks import CONTROLLED, SHARES, Check, check, draw_checks, key_figures
from hf_sft.analysis.maps import deletion, grad_cam, ground_colour, pixel_gradients, rank_correlation, shuffled
from hf_sft.analysis.section import Absent, Figure, Part, Section

BATCH = 8  # pictures that gradients are taken of at once
Method = Callable[[torch.Tensor, torch.Tensor], tuple[NDArray, str]]
PLACES = {"Attention": gradient_attention, "Grad-CAM": grad_cam}  # the first that the model has
CELLS = 8  # a picture is blanked in 8 x 8 cells


def show_pictures(run: FinishedRun, chosen: Chosen) -> Section:
    """Pictures with the places and the pixels that speak for the answer, and the checks of both maps."""
    model, pixels = run.saved.model, chosen.inputs["pixel_values"]
    targets = torch.as_tensor(chosen.predicted, device=pixels.device)
    other, colour = shuffled(model, run.seed), ground_colour(pixels)
    maps: dict[str, NDArray] = {}
    checks: list[Check] = []
    notes: list[str] = []
    missing: list[str] = []
    for name, method in PLACES.items():
        try:
            maps[name], block = _in_parts(partial(method, model), pixels, targets)
            notes.append(f"{name} is taken at {block}")
            break
        except Absent as reason:
            missing.append(f"no {name}: {reason}")
    else:
        notes += missing
    maps["Integrated gradients"], _ = _in_parts(partial(_gradients, model, colour), pixels, targets)

    def _answers(some: torch.Tensor, classes: torch.Tensor) -> tuple[NDArray, str]:
        return probability(model, {"pixel_values": some}, classes), ""

    def _answer(blanked: NDArray) -> NDArray:
        return _in_parts(_answers, blank(pixels, blanked, colour), targets)[0]

    methods: dict[str, Method] = {name: partial(method, other) for name, method in PLACES.items()}
    methods["Integrated gradients"] = partial(_gradients, other, colour)
    for name, found in maps.items():
        cells = as_cells(found)
        marked, at_random = deletion(_answer, cells, np.ones(cells.shape, dtype=bool), SHARES, run.seed)
        alike = _likeness(methods[name], pixels[:CONTROLLED], targets[:CONTROLLED], cells)
        checks.append(check(name, marked, at_random, alike, run.seed))
    parts: list[Part] = [_draw(chosen, maps, run.saved.labels.names), draw_checks(checks)]
    sentence = (
        f"Where in the picture the predicted class is seen, on {len(chosen.row_ids)} rows of {chosen.role}: the worst "
        "ones and right ones. Look for light on the background, on a border, on a mark in the corner: there the model "
        "has learned your pictures and not what they show."
    )
    return Section(
        name="attribution",
        title="Attribution",
        sentence=sentence,
        parts=tuple(parts),
        key_figures=key_figures(checks, len(chosen.row_ids)),
        notes=(*notes, *(one.in_words() for one in checks)),
    )


def _likeness(method: Method, pixels: torch.Tensor, targets: torch.Tensor, cells: NDArray) -> float:
    """Mean rank correlation of the maps with those of the shuffled model; NaN where that has none."""
    try:
        control, _ = _in_parts(method, pixels, targets)
    except Absent:
        return float("nan")
    found = [rank_correlation(one, other) for one, other in zip(cells, as_cells(control), strict=False)]
    defined = [value for value in found if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _gradients(
    model: nn.Module, colour: torch.Tensor, pixels: torch.Tensor, targets: torch.Tensor
) -> tuple[NDArray, str]:
    return pixel_gradients(model, pixels, targets, colour), ""


def _in_parts(method: Method, pixels: torch.Tensor, targets: torch.Tensor) -> tuple[NDArray, str]:
    """`method` over a few pictures at a time: their graphs take memory."""
    found = [method(some, own) for some, own in zip(pixels.split(BATCH), targets.split(BATCH), strict=True)]
    return np.concatenate([values for values, _ in found]), found[0][1]


def as_cells(maps: NDArray) -> NDArray:
    """[B, 64]: the mean of a map [B, H, W] in each cell."""
    height, width = (size - size % CELLS for size in maps.shape[1:])
    if not height or not width:
        raise Absent(f"pictures of fewer than {CELLS} pixels")
    cut = maps[:, :height, :width].reshape(len(maps), CELLS, height // CELLS, CELLS, width // CELLS)
    cells: NDArray = cut.mean(axis=(2, 4)).reshape(len(maps), -1)
    return cells


def blank(pixels: torch.Tensor, cells: NDArray, colour: torch.Tensor) -> torch.Tensor:
    """The pictures with those cells (bool [B, 64]) in one colour."""
    mask = torch.as_tensor(cells, device=pixels.device).view(-1, 1, CELLS, CELLS).float()
    larger = torch.nn.functional.interpolate(mask, size=tuple(pixels.shape[2:]), mode="nearest")
    return torch.where(larger > 0.5, colour, pixels)


def _draw(chosen: Chosen, maps: dict[str, NDArray], names: Sequence[str]) -> Figure:
    shown = chosen.worst + chosen.right
    pictures = chosen.inputs["pixel_values"][:shown].detach().cpu().float().numpy().transpose(0, 2, 3, 1)
    columns = max(1, shown)
    with drawn(1.35 * columns + 0.3, 1.45 * (1 + len(maps)) + 0.5) as canvas:
        panels = np.array(canvas.panels(1 + len(maps), columns)).reshape(1 + len(maps), columns)
        for column in range(shown):
            grey = _scaled(pictures[column])
            panels[0, column].imshow(grey)
            truth, said = names[int(chosen.references[column])], names[int(chosen.predicted[column])]
            title = plain(said, 14) if truth == said else f"{plain(said, 12)}\nis {plain(truth, 11)}"
            panels[0, column].set_title(title, fontsize=7)
            for line, found in enumerate(maps.values(), 1):
                panels[line, column].imshow(grey.mean(axis=2), cmap="gray")
                panels[line, column].imshow(_scaled(found[column].clip(0)), cmap="inferno", alpha=0.6)
        for panel in panels.ravel():
            panel.set_xticks([])
            panel.set_yticks([])
        for line, name in enumerate(["input", *maps]):
            panels[line, 0].set_ylabel(plain(name, 22), fontsize=7)
    caption = f"{chosen.worst} of the worst rows (prediction, and what it is), then right ones. Bright: speaks for it."
    return canvas.figure("maps", caption, photo=True)


def _scaled(values: NDArray) -> NDArray:
    span = values.max() - values.min()
    return (values - values.min()) / span if span else np.zeros_like(values)
