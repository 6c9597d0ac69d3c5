"""The rows whose answers are explained: the worst, right ones, and a sample of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.predictions import Predictions
from hf_sft.evaluation import model_inputs

SHOWN = 6  # rows of each kind that are shown: right ones, and those with the greatest loss
MOST = 48  # rows that are looked at in all


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


def kinds(chosen: Chosen) -> list[str]:
    """What each row is shown as."""
    rest = len(chosen.row_ids) - chosen.worst - chosen.right
    return ["worst"] * chosen.worst + ["right"] * chosen.right + ["sample"] * rest
