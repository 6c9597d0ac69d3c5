"""What the answers rest on: words or places of a picture, with checks that tell whether such a map can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_sft.analysis.drawing import COLOURS, GREY, drawn
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.predictions import Predictions, single_label
from hf_sft.analysis.proportions import bootstrap
from hf_sft.analysis.section import Absent, Figure, Interval, Section
from hf_sft.evaluation import model_inputs

SHOWN = 6  # rows of each kind that are shown: right ones, and those with the greatest loss
MOST = 48  # rows that are looked at in all
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
CONTROLLED = 12  # of these, rows whose map is compared with that of a shuffled model
ALIKE = 0.5  # rank correlation with the map of a shuffled model from which on a map explains the input, not the model


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Rows that are looked at: worst and right ones first. predicted: class ids, what the maps explain."""

    role: str
    row_ids: NDArray
    references: NDArray
    predicted: NDArray
    losses: NDArray
    inputs: dict[str, torch.Tensor]
    worst: int
    right: int


@dataclass(frozen=True, kw_only=True)
class Check:
    """Whether a map can be believed. curve, random: mean probability at each share that is blanked.

    gain: how much faster the answer falls than in random order, the mean over the curve; alike: rank correlation with
    the map of a model whose weights were shuffled (Adebayo et al. 2018).
    """

    method: str
    curve: NDArray
    random: NDArray
    gain: Interval
    alike: float

    def in_words(self) -> str:
        if self.gain.low <= 0:
            return f"{self.method}: blanking what it marks hurts no more than blanking at random; do not trust it here"
        if self.alike > ALIKE:
            return f"{self.method}: a model with shuffled weights gets a like map (rank correlation {self.alike:.2f})"
        return f"{self.method}: blanking what it marks costs {self.gain.value:.2f} more probability than at random"


def show_attribution(run: FinishedRun, predictions: Mapping[str, Predictions]) -> Section:
    """Integrated gradients of words; Grad-CAM and integrated gradients of pictures; deletion and shuffling checks."""
    part = single_label(predictions, "what an answer rests on")
    if find_spec("captum") is None:
        raise Absent("it needs captum: pip install 'hf-sft[report]'")
    chosen = choose(run, part)
    if "pixel_values" in chosen.inputs:
        from hf_sft.analysis.attributed_pictures import show_pictures

        return show_pictures(run, chosen)
    if "input_ids" in chosen.inputs:
        from hf_sft.analysis.attributed_words import show_words

        return show_words(run, chosen)
    raise Absent("the model reads neither words nor pixels")


def choose(run: FinishedRun, part: Predictions) -> Chosen:
    """The worst wrong rows, right rows across the range of losses, and a seeded sample of the others."""
    generator = np.random.default_rng(run.seed)
    wrong = np.flatnonzero(~part.right)
    worst = wrong[np.argsort(-part.losses[wrong], kind="stable")][:SHOWN]
    right = np.flatnonzero(part.right)
    right = right[np.argsort(part.losses[right], kind="stable")]
    right = right[np.unique(np.linspace(0, len(right) - 1, SHOWN).astype(int))] if len(right) else right
    others = np.setdiff1d(np.arange(len(part)), np.concatenate([worst, right]))
    others = generator.permutation(others)[: max(0, min(MOST, run.rows) - len(worst) - len(right))]
    rows = np.concatenate([worst, right, others]).astype(int)
    inputs = run.inputs(part.split, run.positions(part.split, part.row_ids[rows]))
    collate = run.task.collate(run.saved.processor, run.recipe)
    batch = collate([inputs.rows[position] for position in range(len(rows))])
    device = next(run.saved.model.parameters()).device
    return Chosen(
        role=part.split,
        row_ids=part.row_ids[rows],
        references=part.references[rows],
        predicted=part.predictions[rows],
        losses=part.losses[rows],
        inputs=model_inputs(batch, device, run.saved.channels_last),
        worst=len(worst),
        right=len(right),
    )


def probability(model: Any, inputs: Mapping[str, torch.Tensor], targets: torch.Tensor) -> NDArray:
    """float64 [B]: of each row's target."""
    with torch.inference_mode():
        logits = model(**inputs)["logits"].float()
    found: NDArray = logits.softmax(-1).gather(1, targets[:, None])[:, 0].cpu().double().numpy()
    return found


def check(method: str, marked: NDArray, at_random: NDArray, alike: float, seed: int) -> Check:
    """marked, at_random: [S, B], the probabilities as more and more is blanked."""
    gain = bootstrap((at_random - marked)[1:-1].mean(axis=0), seed=seed)
    return Check(method=method, curve=marked.mean(axis=1), random=at_random.mean(axis=1), gain=gain, alike=alike)


def draw_checks(checks: list[Check]) -> Figure:
    with drawn(4.4 * len(checks) + 0.6, 3.3) as canvas:
        for panel, one in zip(canvas.panels(1, len(checks), sharey=True), checks, strict=True):
            panel.plot(SHARES, one.curve, "o-", color=COLOURS[1], label="most important first")
            panel.plot(SHARES, one.random, "o--", color=GREY, label="at random")
            panel.set_ylim(0, 1.02)
            panel.set_xlabel("share of the input that is blanked")
            panel.set_title(f"{one.method} (shuffled weights: {one.alike:.2f})", fontsize=10)
            panel.grid(alpha=0.25)
            panel.legend(fontsize=8, frameon=False)
    caption = (
        "The probability of the predicted class as more and more is blanked. A map that explains something falls well "
        "below random order; in brackets, how alike the map of a model with shuffled weights is (near 0 is good)."
    )
    return canvas.figure("deletion", caption)


def key_figures(checks: list[Check], rows: int) -> dict[str, float | int | str | None]:
    figures: dict[str, float | int | str | None] = {"rows": rows}
    for one in checks:
        name = one.method.lower().replace(" ", "_").replace("-", "_")
        figures[f"{name}_gain_over_random"] = one.gain.value
        figures[f"{name}_like_shuffled"] = one.alike
    return figures


def kinds(chosen: Chosen) -> list[str]:
    """What each row is shown as."""
    rest = len(chosen.row_ids) - chosen.worst - chosen.right
    return ["worst"] * chosen.worst + ["right"] * chosen.right + ["sample"] * rest
