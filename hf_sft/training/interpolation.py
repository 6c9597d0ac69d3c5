"""After training, back part of the way to the weights before it: often as good on such data and better on other.

WiSE-FT (Wortsman et al. 2022): weights = (1 - alpha) * start + alpha * fine-tuned. BatchNorm's statistics are
interpolated with the weights; they are not measured anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from hf_sft.errors import EnvironmentProblem, Finding
from hf_sft.metrics.metric import Metric
from hf_sft.training.checkpoints import save_tensors

FILE = "start.safetensors"
ALPHAS = tuple(round(tenth / 10, 1) for tenth in range(11))  # what auto chooses among
Curve = list[dict[str, float]]  # per alpha: "alpha", "loss" and the metrics on validation


def keep_start(state: Mapping[str, torch.Tensor], folder: Path, *, going_on: bool, writes: bool) -> None:
    """Note the weights before the first step, beside the checkpoints, where a run that goes on finds them.

    Raises EnvironmentProblem where it does not.
    """
    if going_on and not (folder / FILE).is_file():
        expected = "the weights before training, which tuning.wise_ft goes back to"
        fix = "put the file back, or pass --overwrite to train anew"
        raise EnvironmentProblem(Finding(place=str(folder / FILE), expected=expected, found="no such file", fix=fix))
    if writes and not going_on:
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(state, folder / FILE)


def interpolate(
    state: Mapping[str, torch.Tensor],
    folder: Path,
    *,
    alpha: float | str,
    metric: Metric,
    measure: Callable[[], dict[str, float]] | None,
) -> tuple[Curve, str]:
    """Move the model's tensors to (1 - alpha) * start + alpha * now -> (curve, what was done, in words).

    alpha auto: the best of ALPHAS. measure: loss and metrics of the model as it is, on validation; None without one.
    """
    start = load_file(folder / FILE)
    end = {name: value.detach().to("cpu", copy=True) for name, value in state.items()}

    def move(share: float) -> None:
        """Exact at both ends, as torch.lerp is."""
        with torch.no_grad():
            for name, value in state.items():
                value.copy_(torch.lerp(start[name], end[name], share))

    curve: Curve = []
    for share in () if measure is None else ALPHAS if isinstance(alpha, str) else sorted({0.0, float(alpha), 1.0}):
        move(share)
        assert measure is not None
        curve.append({"alpha": share, **measure()})
    kept = best_of(curve, metric)["alpha"] if isinstance(alpha, str) else float(alpha)
    move(kept)
    return curve, _in_words(kept, curve, metric)


def best_of(curve: Sequence[dict[str, float]], metric: Metric) -> dict[str, float]:
    """The entry with the best metric; of equals that with the lower loss, then that nearer to the trained weights."""

    def rank(entry: dict[str, float]) -> tuple[float, float, float]:
        value = entry[metric.name] if metric.greater_is_better else -entry[metric.name]
        return (-math.inf if math.isnan(value) else value, -entry["loss"], entry["alpha"])

    return max(curve, key=rank)


def _in_words(kept: float, curve: Curve, metric: Metric) -> str:
    found = {entry["alpha"]: entry[metric.name] for entry in curve}
    if not found:
        return f"wise_ft: alpha {kept:g} kept"
    others = "" if kept == 1.0 else f"; 1: {found[1.0]:.4g}"
    return f"wise_ft: alpha {kept:g} kept (validation {metric.name} {found[kept]:.4g}{others})"
