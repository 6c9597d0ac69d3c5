"""A run made ready: data, labels, metrics, model and rules checked against each other before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from hf_sft.console import say
from hf_sft.data.labels import Labels
from hf_sft.environment import Environment, silence_libraries
from hf_sft.errors import Finding, ModelError, RecipeError
from hf_sft.evaluation import Evaluator, forward
from hf_sft.metrics.metric import Metric
from hf_sft.metrics.resolve import resolve_metrics
from hf_sft.modeling.anatomy import is_convolutional
from hf_sft.modeling.build import Built, Opened, build_model, open_model
from hf_sft.modeling.parameter_groups import describe, freeze
from hf_sft.modeling.rules import Rule
from hf_sft.modeling.tuning import decide
from hf_sft.recipe import Recipe
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import Inputs, TaskData, load_data, make_inputs, stream_inputs
from hf_sft.tasks.task import Problem, Task
from hf_sft.training.arguments import fill_training, workers
from hf_sft.training.learning_rates import default_learning_rate


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a run needs, resolved to the last default. load_seconds: what getting here took."""

    recipe: Recipe
    task: Task
    environment: Environment
    data: TaskData
    labels: Labels
    metrics: Sequence[Metric]
    built: Built
    rules: Mapping[str, Rule]
    frozen: Sequence[Any]
    parameters: dict[str, Any]
    inputs: Mapping[str, Inputs]
    evaluator: Evaluator
    collate: Callable[..., Any]
    notes: tuple[str, ...]
    load_seconds: float

    @property
    def problem(self) -> Problem:
        return self.task.problems[self.labels.problem]


def prepare(
    recipe: Recipe,
    environment: Environment,
    *,
    data: Mapping[str, Any] | None = None,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    callbacks: Sequence[Any] = (),
    trust_remote_code: bool = False,
) -> Job:
    """Read the data, decide the labels, find the metrics, build the model. Raises HfSftError for what cannot work."""
    started = time.perf_counter()
    silence_libraries()
    task = TASKS[recipe.task]
    for line in (*recipe.notices, str(environment), *environment.notes):
        say(line)
    found = load_data(recipe, task, data)
    for line in (_rows_line(found), *found.notes):
        say(line)
    check_early_stopping(recipe, found)
    metrics = find_metrics(recipe, found, functions, trust_remote_code)
    opened = open_model(recipe, task, trust_remote_code=trust_remote_code)
    work = assemble(recipe, environment, found, metrics, opened, trust_remote_code=trust_remote_code)
    given = _notes(data, functions, callbacks)
    for line in given:
        say(line)
    return replace(work, notes=(*given, *work.notes), load_seconds=time.perf_counter() - started)


def check_early_stopping(recipe: Recipe, found: TaskData) -> None:
    """Raises RecipeError where there is nothing to stop by."""
    if recipe.early_stopping is not None and "validation" not in found.splits:
        expected, fix = (
            "a labelled validation split",
            "let one be cut (dataset.splits: {}), or leave early_stopping out",
        )
        raise RecipeError(Finding(place="early_stopping", expected=expected, found="none", fix=fix))


def find_metrics(
    recipe: Recipe, found: TaskData, functions: Mapping[str, Callable[..., Any]] | None, trust_remote_code: bool
) -> list[Metric]:
    """The recipe's metrics for the problem of these data. Raises RecipeError for those that do not fit."""
    return resolve_metrics(
        recipe.metrics,
        found.labels.problem,
        folder=recipe.folder,
        functions=functions or {},
        trust_remote_code=trust_remote_code,
        num_labels=len(found.labels.names),
    )


def assemble(
    recipe: Recipe,
    environment: Environment,
    found: TaskData,
    metrics: Sequence[Metric],
    opened: Opened,
    *,
    trust_remote_code: bool = False,
) -> Job:
    """Load the weights and bring data, labels, metrics and model together."""
    started = time.perf_counter()
    task = TASKS[recipe.task]
    set_seed(recipe.seed)
    built = build_model(recipe, task, found.labels, opened=opened, trust_remote_code=trust_remote_code)
    rules = decide(built.model, built.new, recipe.tuning)
    frozen = freeze(built.model, rules)
    total, trainable, line = describe(built.model)
    say(f"{recipe.model.name}: {built.report}")
    say(line)
    inputs = {
        role: make_inputs(part, recipe, task, built.labels, built.processor, augmented=role == "train")
        for role, part in found.splits.items()
    }
    if found.stream is not None:
        inputs["train"] = stream_inputs(found.stream, recipe, task, built.labels, built.processor)
    resolved = _resolve(recipe, found, metrics, built, inputs, environment, task)
    collate = task.collate(built.processor, resolved)
    channels_last = task.channels_last and is_convolutional(built.model)
    if channels_last:
        built.model.to(memory_format=torch.channels_last)
    evaluator = Evaluator(
        problem=task.problems[found.labels.problem],
        collate=collate,
        metrics=metrics,
        batch_size=resolved.training["per_device_eval_batch_size"],
        workers=workers(resolved),
        channels_last=channels_last,
    )
    notes = _truncation_notes(inputs, task, built)
    for line in notes:
        say(line)
    _try_one_row(built.model, inputs["train"], collate, channels_last)
    return Job(
        recipe=resolved,
        task=task,
        environment=environment,
        data=found,
        labels=built.labels,
        metrics=metrics,
        built=built,
        rules=rules,
        frozen=frozen,
        parameters={"total": total, "trainable": trainable, "head": built.report},
        inputs=inputs,
        evaluator=evaluator,
        collate=collate,
        notes=tuple(notes),
        load_seconds=time.perf_counter() - started,
    )


def _rows_line(found: TaskData) -> str:
    sizes = ", ".join(f"{role} {len(part.split):,}" for role, part in found.splits.items())
    names = found.labels.names
    labels = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"{found.origin}: {sizes} rows; {found.labels.problem}: {labels}"


def _resolve(
    recipe: Recipe,
    found: TaskData,
    metrics: Sequence[Metric],
    built: Built,
    inputs: Mapping[str, Inputs],
    environment: Environment,
    task: Task,
) -> Recipe:
    """The recipe with every default that a reader would want to know written out."""
    optimizer = str(recipe.training.get("optim", ""))
    rate, why = default_learning_rate(
        built.model.config, recipe.tuning.strategy, random=recipe.model.weights == "random", optimizer=optimizer
    )
    if "learning_rate" in recipe.training:
        rate = recipe.training["learning_rate"]
    else:
        say(f"learning rate {rate:g}: {why}")
    training = fill_training(
        recipe,
        learning_rate=rate,
        rows=inputs["train"].size,
        processes=environment.processes,
        validates="validation" in inputs,
        task_defaults=task.training_defaults,
    )
    named = recipe.metrics or [metric.name for metric in metrics if not metric.name.startswith("function:")]
    processor = recipe.processor
    if task.length is not None:
        processor = processor.model_copy(update={"max_length": built.processor.model_max_length})
    resolved = recipe.model_copy(
        update={
            "training": training,
            "metrics": list(named),
            "dataset": recipe.dataset.model_copy(update={"problem": found.labels.problem}),
            "processor": processor,
        }
    )
    return resolved


def _notes(data: Any, functions: Any, callbacks: Sequence[Any]) -> list[str]:
    notes = []
    if data is not None:
        notes.append("the data was given in memory; the recipe alone does not reproduce this run")
    if functions:
        notes.append(f"metrics given as functions: {', '.join(functions)}; the recipe alone does not compute them")
    if callbacks:
        names = ", ".join(type(callback).__name__ for callback in callbacks)
        notes.append(f"callbacks given: {names}; the recipe alone does not repeat what they do")
    return notes


def _truncation_notes(inputs: Mapping[str, Inputs], task: Task, built: Built) -> list[str]:
    if task.length is None:
        return []
    limit = built.processor.model_max_length
    if not task.cuts:
        return _window_notes(inputs, limit)
    share = float(np.mean(inputs["train"].lengths >= limit)) if inputs["train"].size else 0.0
    return [f"{share:.1%} of the training rows are cut at processor.max_length {limit}"] if share >= 0.005 else []


def _window_notes(inputs: Mapping[str, Inputs], limit: int) -> list[str]:
    """Of training rows the row ids tell which were one."""
    _, parts = np.unique(inputs["train"].row_ids, return_counts=True)
    share = float(np.mean(parts > 1)) if len(parts) else 0.0
    return [f"{share:.1%} of the training rows are read in windows of {limit} tokens"] if share >= 0.005 else []


def _try_one_row(model: Any, inputs: Inputs, collate: Callable[..., Any], channels_last: bool) -> None:
    """One forward pass of one row: what the model cannot take is found now."""
    batch = collate(inputs.features(1))
    model.eval()
    try:
        with torch.inference_mode():
            forward(model, batch, channels_last)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items() if name != "weight")
        found = f"{(str(error).splitlines() or [type(error).__name__])[0]} for {shapes}"
        fix = "check processor.size or max_length against the model's own"
        raise ModelError(Finding(place="model", expected="a forward pass of one row", found=found, fix=fix)) from error
