"""What a reader should know of a run that was made ready: its rows, what is cut, what the recipe does not repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_sft.modeling.build import Built
from hf_sft.modeling.convex import METHODS
from hf_sft.modeling.rules import Rule
from hf_sft.modeling.source import find_model
from hf_sft.recipe import Recipe
from hf_sft.sense import num_steps
from hf_sft.tasks.load import Inputs, TaskData
from hf_sft.tasks.task import Task
from hf_sft.training import probe
from hf_sft.training.gradual import describe_turns


def rows_line(found: TaskData) -> str:
    sizes = ", ".join(f"{role} {len(part.split):,}" for role, part in found.splits.items())
    names = found.labels.names
    labels = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"{found.origin}: {sizes} rows; {found.labels.problem}: {labels}"


def notes_of_given(data: Any, functions: Any, callbacks: Sequence[Any]) -> list[str]:
    notes = []
    if data is not None:
        notes.append("the data was given in memory; the recipe alone does not reproduce this run")
    if functions:
        notes.append(f"metrics given as functions: {', '.join(functions)}; the recipe alone does not compute them")
    if callbacks:
        names = ", ".join(type(callback).__name__ for callback in callbacks)
        notes.append(f"callbacks given: {names}; the recipe alone does not repeat what they do")
    return notes


def truncation_notes(inputs: Mapping[str, Inputs], task: Task, built: Built) -> list[str]:
    if task.length is None:
        return []
    limit = built.processor.model_max_length
    if not task.cuts:
        return _window_notes(inputs, limit)
    share = float(np.mean(inputs["train"].lengths >= limit)) if inputs["train"].size else 0.0
    return [f"{share:.1%} of the training rows are cut at processor.max_length {limit}"] if share >= 0.005 else []


def base_notes(recipe: Recipe) -> list[str]:
    """Adapters alone are as good as the path of their base."""
    if recipe.tuning.lora is None or recipe.tuning.lora.merge:
        return []
    base = find_model(recipe).name
    if not Path(base).is_absolute():
        return []
    return [f"model/ holds adapters alone (tuning.lora.merge: false): it loads only where its base lies at {base}"]


def tuning_notes(
    recipe: Recipe, rules: Mapping[str, Rule], rows: int | None, processes: int, built: Built
) -> list[str]:
    """What tuning means for a run of this length and this model; recipe: with all defaults filled in.

    Raises RecipeError for a gradual schedule that does nothing.
    """
    steps = num_steps(recipe.training, rows, processes)
    per_epoch = num_steps({**recipe.training, "max_steps": 0, "num_train_epochs": 1}, rows, processes)
    epochs = steps / per_epoch if steps and per_epoch else None
    notes = describe_turns(rules, recipe.tuning, steps=steps, epochs=epochs)
    drawn = recipe.tuning.reinit_layers is not None or not probe.warms(recipe)
    if recipe.tuning.wise_ft and built.new and drawn and not probe.solves(recipe):
        notes.append(f"wise_ft goes back towards weights that were drawn at random, {_remedy(built, rows)}")
    return notes


def _remedy(built: Built, rows: int | None) -> str:
    """rows: None for a stream, of which no head is solved."""
    if built.labels.problem not in METHODS or rows is None:
        return "so that alphas far from 1 can hardly do, and no head can be solved here to go back to"
    solved = "with tuning.warm_start: linear_probe, and without reinit_layers, it goes back to a head that was solved"
    return f"so that alphas far from 1 can hardly do; {solved}"


def _window_notes(inputs: Mapping[str, Inputs], limit: int) -> list[str]:
    """Of training rows the row ids tell which were one."""
    _, parts = np.unique(inputs["train"].row_ids, return_counts=True)
    share = float(np.mean(parts > 1)) if len(parts) else 0.0
    return [f"{share:.1%} of the training rows are read in windows of {limit} tokens"] if share >= 0.005 else []
