"""What a recipe's objective and sampling mean for a problem and its labels, or why they mean nothing there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hf_sft.data.labels import Labels
from hf_sft.errors import Finding, RecipeError, nearest
from hf_sft.recipe import Recipe
from hf_sft.tasks.load import TaskData
from hf_sft.tasks.task import Penalty, Task

SHOWN = 8  # labels whose weights are told
WITHOUT = {  # problems whose losses have nothing to smooth or to weigh -> what is needed, and why they lack it
    "regression": ("a problem with labels", "a number has no classes"),
    "boxes": ("a problem with one loss per label", "the loss of boxes weighs easy queries down by itself"),
}


def check_objective(recipe: Recipe, task: Task, found: TaskData) -> Penalty:
    """The penalty for these data; raises RecipeError, naming all that does not fit their problem or labels."""
    train, targets = found.splits.get("train"), None
    if recipe.objective.class_weights == "balanced" and train is not None and train.entries is not None:
        targets = task.problems[found.labels.problem].encode(list(train.entries), found.labels)
    return find_penalty(recipe, task, found.labels, targets)


def find_penalty(recipe: Recipe, task: Task, labels: Labels, targets: NDArray | None) -> Penalty:
    """What training adds to the loss. targets: those of the training rows; None for a stream.

    Raises RecipeError for settings that the problem or the labels do not have.
    """
    if wrong := [*_problem_findings(recipe, labels), *_label_findings(recipe, labels)]:
        raise RecipeError(wrong)
    asked, balance = recipe.objective, task.problems[labels.problem].balance
    weights: NDArray | None = None
    if asked.class_weights == "balanced":
        assert balance is not None and targets is not None
        weights = balance(targets, len(labels.names))
    elif isinstance(asked.class_weights, dict):
        weights = np.array([asked.class_weights.get(name, 1.0) for name in labels.names])
    return Penalty(
        label_smoothing=asked.label_smoothing,
        class_weights=None if weights is None else torch.tensor(weights, dtype=torch.float32),
        focal_gamma=asked.focal_gamma or 0.0,
        dice_weight=asked.dice_weight or 0.0,
    )


def describe_penalty(penalty: Penalty, labels: Labels) -> list[str]:
    """What a reader should know of it, in words."""
    if penalty.class_weights is None:
        return []
    pairs = zip(labels.names, penalty.class_weights.tolist(), strict=True)
    words = [f"{name} {weight:.3g}" for name, weight in pairs]
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return [f"class weights: {', '.join(words[:SHOWN])}{more}"]


def _problem_findings(recipe: Recipe, labels: Labels) -> list[Finding]:
    asked, problem = recipe.objective, labels.problem
    found = []
    expected, why = WITHOUT.get(problem, ("", ""))
    fix = f"leave it out: {why}"
    for key in ("class_weights", "focal_gamma", "mixup", "cutmix"):
        if expected and getattr(asked, key) is not None:
            found.append(Finding(place=f"objective.{key}", expected=expected, found=f"problem {problem}", fix=fix))
    if expected and asked.label_smoothing:
        seen = f"problem {problem}"
        found.append(Finding(place="objective.label_smoothing", expected=expected, found=seen, fix=fix))
    if problem != "single_label" and recipe.dataset.sampling == "balanced":
        fix = "leave it out"
        fix += ", or set objective.class_weights: balanced" if problem == "multi_label" else ""
        expected, seen = "one label per row (balanced sampling)", f"problem {problem}"
        found.append(Finding(place="dataset.sampling", expected=expected, found=seen, fix=fix))
    return found


def _label_findings(recipe: Recipe, labels: Labels) -> list[Finding]:
    asked = recipe.objective.class_weights
    unknown: Sequence[str] = [name for name in asked if name not in labels.names] if isinstance(asked, dict) else []
    if labels.problem == "regression":
        return []
    place, expected = "objective.class_weights", "names of labels"
    return [
        Finding(place=place, expected=expected, found=name or "an empty name", fix=nearest(name, labels.names))
        for name in unknown
    ]
