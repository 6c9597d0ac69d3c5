"""Runs of tiny models for the laws of training: prepared and trained, without the files of a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tiny import (
    DETECTION_FAMILIES,
    SEGMENTATION_FAMILIES,
    TEXT_FAMILIES,
    drawn,
    images,
    masked,
    save_detector,
    save_image_model,
    save_segmentation_model,
    save_text_model,
    tagged,
    texts,
)
from transformers import TrainerCallback

from hf_sft import environment, job, run_directory
from hf_sft.job import Job
from hf_sft.recipe import Recipe
from hf_sft.training import fit

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TAGGING = tuple(f"{family}_tags" for family in TEXT_FAMILIES)  # text models that give each word a tag
ROLES = {"train": 0, "validation": 1, "test": 2}


def save_model(family: str, folder: Path) -> Path:
    """The model of that family in `folder`, made on first use."""
    path = folder / family
    if not path.exists():
        text = family in TEXT_FAMILIES or family in TAGGING
        save: Any = save_segmentation_model if family in SEGMENTATION_FAMILIES else save_image_model
        save = save_detector if family in DETECTION_FAMILIES else save
        (save_text_model if text else save)(family.removesuffix("_tags"), path)
    return path


def make_data(family: str, problem: str = "single_label", **sizes: int) -> dict[str, Dataset]:
    """Split -> rows, each split drawn with its own seed."""
    if family in TAGGING:
        return {role: tagged(number, seed=ROLES[role]) for role, number in sizes.items()}
    if family in SEGMENTATION_FAMILIES:
        return {role: masked(number, seed=ROLES[role]) for role, number in sizes.items()}
    if family in DETECTION_FAMILIES:
        return {role: drawn(number, seed=ROLES[role]) for role, number in sizes.items()}
    make = texts if family in TEXT_FAMILIES else images
    return {role: _pose(make(number, seed=ROLES[role]), problem, ROLES[role]) for role, number in sizes.items()}


def _pose(rows: Dataset, problem: str, seed: int) -> Dataset:
    """The labels of `rows` replaced by lists of names, or by numbers."""
    generator = np.random.default_rng(seed)
    if problem == "single_label":
        return rows
    if problem == "multi_label":
        labels: list[Any] = [
            [name for name in ("a", "b", "c") if generator.random() < 0.4] + ["even"] * (index % 2 == 0)
            for index in range(len(rows))
        ]
    else:
        labels = [float(generator.normal() + index % 2) for index in range(len(rows))]
    return rows.remove_columns("label").add_column("label", labels)


def make_recipe(family: str, models: Path, output_dir: Path, **changes: Any) -> Recipe:
    """A recipe over data in memory; `changes` replace keys, those of `training`, `model` and `dataset` one by one."""
    text = family in TEXT_FAMILIES
    content: dict[str, Any] = {
        "task": "text-classification" if text else "image-classification",
        "model": {"name": str(save_model(family, models))},
        "dataset": {"path": "memory", "columns": {"text" if text else "image": "text" if text else "image"}},
        "training": {"num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-2},
        "output_dir": str(output_dir),
    }
    if family in TAGGING:
        content["task"] = "token-classification"
        content["dataset"]["columns"] = {"tokens": "tokens", "label": "ner_tags"}
    if family in SEGMENTATION_FAMILIES:
        content["task"] = "image-segmentation"
        content["dataset"]["columns"] = {}
    if family in DETECTION_FAMILIES:
        content["task"] = "object-detection"
        content["dataset"]["columns"] = {}
    for key, value in changes.items():
        content[key] = {**content[key], **value} if key in ("model", "dataset", "training") else value
    return Recipe.from_dict(content)


def prepare(recipe: Recipe, data: Mapping[str, Dataset], *, double: bool = False, **options: Any) -> Job:
    """The recipe's job; with `double`, in float64 from the inputs on."""
    work = job.prepare(recipe, environment.prepare_environment(recipe), data=data, **options)
    if not double:
        return work
    work.built.model.double()
    collate = _InDouble(work.collate)
    return replace(work, collate=collate, evaluator=replace(work.evaluator, collate=collate))


@dataclass(frozen=True)
class _InDouble:
    collate: Any

    def __call__(self, features: Sequence[Any]) -> dict[str, Any]:
        batch = self.collate(features)
        return {name: _doubled(value) for name, value in batch.items()}


def _doubled(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def train(work: Job, callbacks: Sequence[Any] = ()) -> fit.Trained:
    """Train a prepared job in its output_dir, going on from a checkpoint where there is one."""
    directory = run_directory.open_run(work.recipe, {}, overwrite=False)
    return fit.train(work, directory, callbacks)


def weights(work: Job) -> dict[str, np.ndarray]:
    """Parameters and buffers of the job's model as they are now."""
    return {name: value.detach().numpy().copy() for name, value in work.built.model.state_dict().items()}


def largest_difference(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    """Over all entries of all arrays; the names must agree."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max(initial=0.0)) for name in one)


def logged(found: fit.Trained, *keys: str) -> np.ndarray:
    """[steps, keys] of the optimizer log."""
    return np.array([[entry[key] for key in keys] for entry in found.log if "loss" in entry])


class StopAfter(TrainerCallback):
    """Ctrl-C at the first `event` at or after a step: what an interrupted run looks like to the next one."""

    def __init__(self, step: int, event: str = "on_step_end"):
        self.step = step
        setattr(self, event, self._stop)

    def _stop(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self.step:
            raise KeyboardInterrupt


class Spy(TrainerCallback):
    """Calls `see(state, model, optimizer)` before every optimizer step."""

    def __init__(self, see: Any):
        self.see = see

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.see(state, kwargs["model"], kwargs["optimizer"])


def gradients(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Of every parameter that has one."""
    return {
        name: parameter.grad.detach().numpy().copy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
