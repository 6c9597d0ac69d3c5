"""A run made ready: data, labels, metrics, model and rules checked against each other before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from hf_sft.console import say
from hf_sft.data.labels import Labels
from hf_sft.environment import Environment, silence_libraries
from hf_sft.errors import Finding, ModelError, RecipeError
from hf_sft.evaluation import Evaluator, forward
from hf_sft.job_notes import base_notes, notes_of_given, rows_line, truncation_notes, tuning_notes
from hf_sft.metrics.metric import Metric
from hf_sft.metrics.resolve import resolve_metrics
from hf_sft.modeling.anatomy import is_convolutional
from hf_sft.modeling.batch_norm import pretrained_norms, settle_batch_norm
from hf_sft.modeling.build import Built, Opened, build_model, open_model
from hf_sft.modeling.lora import every_adapter_used, let_drop
from hf_sft.modeling.parameter_groups import describe, freeze
from hf_sft.modeling.reinit import reinit_layers
from hf_sft.modeling.rules import Rule
from hf_sft.modeling.tuning import adapt, decide
from hf_sft.packages import require_package
from hf_sft.recipe import Recipe
from hf_sft.record import RunDirectory
from hf_sft.sense import num_steps
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import Inputs, TaskData, load_data, make_inputs, stream_inputs
from hf_sft.tasks.objective import check_objective, describe_penalty, find_penalty
from hf_sft.tasks.task import BESIDE_INPUTS, Penalty, Problem, Task
from hf_sft.training import probe
from hf_sft.training.arguments import fill_training, largest_batch, workers
from hf_sft.training.global_batch import describe_batch, share_batch
from hf_sft.training.learning_rates import default_learning_rate
from hf_sft.training.lone_rows import refuse_lone_row
from hf_sft.training.precision import ROWS, measured_precision
from hf_sft.training.tracking import check_trackers
from hf_sft.training.warm_start import settle_warm_start


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a run needs, resolved to the last default. load_seconds: what getting here took.

    frozen: modules whose weights stay; norms: BatchNorm that keeps its statistics while its scales learn.
    origins: what is known of where model and data come from, for the record.
    """

    recipe: Recipe
    task: Task
    environment: Environment
    data: TaskData
    labels: Labels
    penalty: Penalty
    metrics: Sequence[Metric]
    built: Built
    rules: Mapping[str, Rule]
    frozen: Sequence[Any]
    norms: Sequence[Any]
    parameters: dict[str, Any]
    inputs: Mapping[str, Inputs]
    evaluator: Evaluator
    collate: Callable[..., Any]
    notes: tuple[str, ...]
    load_seconds: float
    origins: Mapping[str, Any] = field(default_factory=dict)

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
    overwrite: bool = False,
) -> Job:
    """Read the data, decide the labels, find the metrics, build the model. Raises HfSftError for what cannot work.

    overwrite: what an earlier run in output_dir began with does not count.
    """
    started = time.perf_counter()
    silence_libraries()
    check_packages(recipe)
    check_batch(recipe, environment)
    task = TASKS[recipe.task]
    for line in (*recipe.notices, str(environment), *environment.notes):
        say(line)
    found = load_data(recipe, task, data)
    for line in (rows_line(found), *found.notes):
        say(line)
    check_validation(recipe, found)
    probe.refuse_problem(recipe, found.labels.problem)
    for line in describe_penalty(check_objective(recipe, task, found), found.labels):
        say(line)
    metrics = find_metrics(recipe, found, functions, trust_remote_code)
    opened = open_model(recipe, task, trust_remote_code=trust_remote_code)
    work = assemble(
        recipe, environment, found, metrics, opened, trust_remote_code=trust_remote_code, overwrite=overwrite
    )
    given = notes_of_given(data, functions, callbacks)
    for line in given:
        say(line)
    return replace(work, notes=(*given, *work.notes), load_seconds=time.perf_counter() - started)


def check_packages(recipe: Recipe) -> None:
    """Raises MissingExtraError where strategy, task or a tracker needs a package that is not installed."""
    for package in TASKS[recipe.task].packages:
        require_package(package, "task")
    check_trackers(recipe)
    if recipe.tuning.strategy == "lora":
        require_package("peft", "tuning.strategy")


def check_batch(recipe: Recipe, environment: Environment) -> None:
    """Raises RecipeError where these processes cannot share run.global_batch_size."""
    share_batch(recipe, largest_batch(recipe), environment.processes)


def check_validation(recipe: Recipe, found: TaskData) -> None:
    """Raises RecipeError where there is nothing to stop by, or to choose by."""
    if "validation" in found.splits:
        return
    expected, cut, findings = "a labelled validation split", "let one be cut (dataset.splits: {})", list[Finding]()
    if recipe.early_stopping is not None:
        fix = f"{cut}, or leave early_stopping out"
        findings.append(Finding(place="early_stopping", expected=expected, found="none", fix=fix))
    if recipe.tuning.wise_ft is not None and recipe.tuning.wise_ft.alpha == "auto" and not probe.solves(recipe):
        fix = f"{cut}, or set a number between 0 and 1"
        findings.append(Finding(place="tuning.wise_ft.alpha", expected=expected, found="none", fix=fix))
    if findings:
        raise RecipeError(findings)


def _settle_batch_norm(
    recipe: Recipe, built: Built, frozen: Sequence[nn.Module], rows: int | None, processes: int, begun: Path | None
) -> tuple[Recipe, list[nn.Module]]:
    """The recipe with tuning.batch_norm decided, and the norms that stay in eval mode beside the frozen modules.

    begun: the checkpoints of a run that may go on.
    """
    tuning = recipe.tuning
    norms = pretrained_norms(built.model, built.new, frozen)
    chosen, line = settle_batch_norm(
        tuning.batch_norm,
        norms,
        trained_before=recipe.model.weights != "random",
        steps=num_steps(recipe.training, rows, processes),
        begun=begun,
    )
    if line:
        say(line)
    settled = recipe.model_copy(update={"tuning": tuning.model_copy(update={"batch_norm": chosen})})
    return settled, norms if chosen == "frozen" else []


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
    overwrite: bool = False,
) -> Job:
    """Load the weights and bring data, labels, metrics and model together."""
    started = time.perf_counter()
    task = TASKS[recipe.task]
    built, rules, frozen = _ready_model(recipe, task, found.labels, opened, trust_remote_code)
    total, trainable, line = describe(built.model)
    say(line)
    inputs = {
        role: make_inputs(part, recipe, task, built.labels, built.processor, augmented=role == "train")
        for role, part in found.splits.items()
    }
    if found.stream is not None:
        inputs["train"] = stream_inputs(found.stream, recipe, task, built.labels, built.processor)
    resolved = _resolve(recipe, found, metrics, built, inputs, environment, task)
    begun = None if overwrite else RunDirectory(Path(recipe.output_dir)).checkpoints
    resolved, norms = _settle_batch_norm(resolved, built, frozen, inputs["train"].size, environment.processes, begun)
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
    with every_adapter_used(built.model):
        _try_one_row(built.model, inputs["train"], collate, channels_last)
    if not probe.solves(recipe):
        one, rows = collate(inputs["train"].features(1)), inputs["train"].size
        processes = environment.processes
        refuse_lone_row(built.model, [*frozen, *norms], one, resolved.training, rows=rows, processes=processes)
    work = Job(
        recipe=resolved,
        task=task,
        environment=environment,
        data=found,
        labels=built.labels,
        penalty=find_penalty(recipe, task, built.labels, inputs["train"].targets),
        metrics=metrics,
        built=built,
        rules=rules,
        frozen=frozen,
        norms=norms,
        parameters={"total": total, "trainable": trainable, "head": built.report},
        inputs=inputs,
        evaluator=evaluator,
        collate=collate,
        notes=(),
        load_seconds=0.0,
    )
    work, words = settle_warm_start(work)
    asked = recipe.model_copy(update={"tuning": work.recipe.tuning})
    notes = [*truncation_notes(inputs, task, built), *probe.notes(asked, built), *base_notes(recipe)]
    notes += tuning_notes(work.recipe, rules, inputs["train"].size, environment.processes, built)
    for line in filter(None, (words, *notes)):
        say(line)
    work = replace(work, notes=tuple(notes))
    return replace(work, environment=_settle_precision(work, begun), load_seconds=time.perf_counter() - started)


def _ready_model(
    recipe: Recipe, task: Task, labels: Labels, opened: Opened, trust_remote_code: bool
) -> tuple[Built, Mapping[str, Rule], list[nn.Module]]:
    """The model with its head and adapters, the rules of its parameters, and the modules that stay still."""
    set_seed(recipe.seed)
    built = build_model(recipe, task, labels, opened=opened, trust_remote_code=trust_remote_code)
    adapted = adapt(built.model, built.new, recipe.tuning)
    rules = decide(built.model, built.new, recipe.tuning)
    if probe.warms(recipe):
        probe.refuse_frozen_head(built.model, rules)
    if recipe.tuning.reinit_layers is not None:
        built = _with_layers_drawn_anew(built, recipe.tuning.reinit_layers, rules)
    frozen = let_drop(built.model, freeze(built.model, rules))
    say(f"{recipe.model.name}: {built.report}")
    if adapted:
        say(adapted)
    return built, rules, frozen


def _settle_precision(work: Job, begun: Path | None) -> Environment:
    """The machine, with the precision that this model trains in."""
    if probe.solves(work.recipe):  # what is solved is what the float32 model gives
        return replace(work.environment, precision="fp32")
    if work.recipe.run.precision != "auto" or work.environment.device != "cpu":
        return work.environment
    precision, line = measured_precision(
        work.built.model,
        [*work.frozen, *work.norms],
        work.collate(work.inputs["train"].features(ROWS)),
        work.problem,
        work.penalty,
        channels_last=work.evaluator.channels_last,
        begun=begun,
    )
    if line:
        say(line)
    return replace(work.environment, precision=precision)


def _with_layers_drawn_anew(built: Built, number: int, rules: Mapping[str, Rule]) -> Built:
    blocks = reinit_layers(built.model, number, rules)
    words = f"{built.report}; drawn anew: {', '.join(block.name for block in blocks)}"
    return replace(built, report=words, new=built.new | {name for block in blocks for name in block.parameters})


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
    elif not probe.solves(recipe):
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
    line = "" if probe.solves(recipe) else describe_batch(resolved, environment.processes)
    if line:
        say(line)
    return resolved


def _try_one_row(model: Any, inputs: Inputs, collate: Callable[..., Any], channels_last: bool) -> None:
    """One forward pass of one row: what the model cannot take is found now."""
    batch = collate(inputs.features(1))
    model.eval()
    try:
        with torch.inference_mode():
            forward(model, batch, channels_last)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items() if name not in BESIDE_INPUTS)
        found = f"{(str(error).splitlines() or [type(error).__name__])[0]} for {shapes}"
        fix = "check processor.size or max_length against the model's own"
        raise ModelError(Finding(place="model", expected="a forward pass of one row", found=found, fix=fix)) from error
