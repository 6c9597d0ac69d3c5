"""Training a prepared job: resume, best checkpoint, early stopping."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from transformers import EarlyStoppingCallback, PrinterCallback, SchedulerType

from hf_sft.console import say
from hf_sft.errors import Finding, RecipeError
from hf_sft.modeling.batch_norm import note_batch_norm
from hf_sft.modeling.learned_state import learned_state
from hf_sft.modeling.lora import merge_adapters
from hf_sft.record import RunDirectory, write_text
from hf_sft.tasks.load import fingerprint
from hf_sft.training.activation_cache import replaying
from hf_sft.training.arguments import make_arguments
from hf_sft.training.averaging import decay_of
from hf_sft.training.cache_plan import decide
from hf_sft.training.callbacks import Progress
from hf_sft.training.global_batch import same_batch
from hf_sft.training.interpolation import Curve, interpolate, keep_start
from hf_sft.training.precision import note_precision
from hf_sft.training.probe import Probe, before_training, probed_splits, refuse_problem, solve_head, solves, warms
from hf_sft.training.recording import make_recorder
from hf_sft.training.stopping import StopOnRequest
from hf_sft.training.trainer import LossNotFinite, SftTrainer, Validation, measure

if TYPE_CHECKING:
    from hf_sft.job import Job


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How training went; the job's model now holds the weights to be kept. rows: that this call trained on.

    probe: the head solved on the model as it was loaded, where there was one. curve: what tuning.wise_ft found on its
    way. notes: what a reader of the numbers must know.
    """

    log: list[dict[str, Any]]
    seconds: float
    rows: int
    best_step: int | None
    probe: Probe | None = None
    curve: Curve = field(default_factory=list)
    notes: tuple[str, ...] = ()


def train(job: Job, directory: RunDirectory, callbacks: Sequence[Any] = (), *, with_probe: bool = False) -> Trained:
    """Train the job's model, going on from the newest checkpoint of the run directory where there is one.

    Frozen layers are computed once for all epochs, where that pays. with_probe: a linear probe is measured before, to
    compare with.
    """
    refuse_problem(job.recipe, job.labels.problem, asked=with_probe)
    plan = decide(job, probed=probed_splits(job.recipe, asked=with_probe))
    with replaying(job, plan) as work:
        if solves(job.recipe):
            trained = _solve(work, directory)
        else:
            trained = _train(work, directory, callbacks, with_probe=with_probe)
    return trained if plan is None else replace(trained, notes=(*trained.notes, str(plan)))


def _train(job: Job, directory: RunDirectory, callbacks: Sequence[Any], *, with_probe: bool) -> Trained:
    validation = _validation(job) if job.recipe.training["eval_strategy"] != "no" else None
    first = job.metrics[0] if validation else None
    arguments = make_arguments(job.recipe, directory.checkpoints, precision=job.environment.precision, metric=first)
    stop = StopOnRequest(max_hours=job.recipe.run.max_hours, started=time.perf_counter() - job.load_seconds)
    recorder = make_recorder(job, arguments.device)
    rows, collate = job.inputs["train"].rows, job.collate
    if recorder:
        rows, collate = recorder.watched(rows, collate)
    trainer = SftTrainer(
        model=job.built.model,
        arguments=arguments,
        recipe=job.recipe,
        problem=job.problem,
        penalty=job.penalty,
        labels=job.labels,
        rules=job.rules,
        frozen=[*job.frozen, *job.norms],
        train_rows=rows,
        train_lengths=None if job.inputs["train"].size is None else job.inputs["train"].lengths,
        collate=collate,
        evaluator=job.evaluator,
        validation=validation,
        recorder=recorder,
        callbacks=[Progress(first.name if first else None), stop, *_early_stopping(job), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    if arguments.should_save:
        write_text(directory.recipe, job.recipe.to_yaml(absolute_paths=True))
        note_precision(directory.checkpoints, job.environment.precision)
        note_batch_norm(directory.checkpoints, job.recipe.tuning.batch_norm)
    checkpoint = trainer.newest_checkpoint() if job.recipe.resume != "never" else None
    _same_rows(job, directory, going_on=checkpoint is not None, writes=arguments.should_save)
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    going_on = checkpoint is not None
    same_batch(directory.checkpoints, batch, arguments.world_size, going_on=going_on, writes=arguments.should_save)
    if checkpoint:
        say(f"going on from {checkpoint}")
        if job.recipe.resume == "extend":
            schedule = SchedulerType(arguments.lr_scheduler_type).value
            say(f"the {schedule} schedule is laid over the longer run, as if it had been asked for")
        arguments.eval_on_start = False
    elif "validation" in job.inputs and not arguments.load_best_model_at_end:
        say("training.save_strategy is not eval_strategy: the last weights are kept, not the best")
    before = _step_of(checkpoint)
    probe = before_training(job, directory.checkpoints, going_on=going_on, asked=with_probe)
    if job.recipe.tuning.wise_ft:
        first_weights = learned_state(job.built.model, job.rules)
        keep_start(first_weights, directory.checkpoints, going_on=going_on, writes=arguments.should_save)
    started = time.perf_counter()
    with stop.listening(), _rows_noted(job, directory):
        trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    if recorder:
        recorder.write(directory, trainer.gather)
    _end_autocast(job.built.model)
    if job.recipe.tuning.lora and job.recipe.tuning.lora.merge:
        merge_adapters(job.built.model)
    state = trainer.state
    epoch_rows = job.inputs["train"].size
    steps = state.global_step - before
    rows = steps * batch if epoch_rows is None else round(steps / -(-epoch_rows // batch) * epoch_rows)
    if first and arguments.load_best_model_at_end and not state.best_global_step:
        say(f"{first.name} was not defined at any evaluation; the last weights are kept")
    if state.best_global_step and state.best_global_step != state.global_step and arguments.load_best_model_at_end:
        say(f"best {first.name if first else 'loss'} at step {state.best_global_step}; those weights are kept")
    notes = list(_averaged(job, state.max_steps))
    curve: Curve = []
    if job.recipe.tuning.wise_ft:
        curve, words = _interpolate(job, directory)
        notes.append(words)
    for line in notes:
        say(line)
    if probe and warms(job.recipe):
        notes.append(f"warm start: {probe.words}")
    if probe and probe.below:
        notes.append(f"linear probe: {probe.below}")
    return Trained(
        log=state.log_history,
        seconds=seconds,
        rows=rows,
        best_step=state.best_global_step,
        probe=probe,
        curve=curve,
        notes=tuple(notes),
    )


def _solve(job: Job, directory: RunDirectory) -> Trained:
    """The head solved in place of training: no steps, no checkpoints."""
    if PartialState().is_main_process:
        write_text(directory.recipe, job.recipe.to_yaml(absolute_paths=True))
    probe, log, seconds = solve_head(job)
    rows = len(job.inputs["train"].row_ids)
    return Trained(log=log, seconds=seconds, rows=rows, best_step=None, probe=probe, notes=(probe.words,))


def _validation(job: Job) -> Validation | None:
    part = job.inputs.get("validation")
    if part is None:
        return None
    assert part.targets is not None
    return Validation(rows=part.rows, lengths=part.lengths, targets=part.targets)


def _averaged(job: Job, steps: int) -> Iterator[str]:
    if job.recipe.tuning.ema is not None:
        decay = decay_of(job.recipe.tuning.ema, steps)
        yield f"the weights kept are a moving average over training (ema, decay {decay:.6g} in {steps:,} steps)"


def _interpolate(job: Job, directory: RunDirectory) -> tuple[Curve, str]:
    settings, split, model = job.recipe.tuning.wise_ft, _validation(job), job.built.model
    assert settings is not None
    return interpolate(
        learned_state(model, job.rules),
        directory.checkpoints,
        alpha=settings.alpha,
        metric=job.metrics[0],
        measure=None if split is None else lambda: measure(job.evaluator, model, split, job.labels),
    )


def _same_rows(job: Job, directory: RunDirectory, *, going_on: bool, writes: bool) -> None:
    """Raises RecipeError where a run would go on with other rows than it began with: those it validates on may have

    been trained on.
    """
    file = directory.checkpoints / "data.json"
    now = {role: fingerprint(part, job.recipe, job.task) for role, part in job.data.splits.items()}
    if going_on and file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        others = [role for role in {**before, **now} if before.get(role) != now.get(role)]
        if others:
            expected, found = "the rows that the run began with", f"others in {', '.join(others)}"
            fix = "put the data back as they were, or pass --overwrite to train anew"
            raise RecipeError(Finding(place="dataset", expected=expected, found=found, fix=fix))
    if writes:
        write_text(file, json.dumps(now))


@contextmanager
def _rows_noted(job: Job, directory: RunDirectory) -> Iterator[None]:
    """Which rows were in the step whose loss was not finite goes into report/not_finite.json."""
    try:
        yield
    except LossNotFinite as error:
        rows = job.inputs["train"].row_ids[error.positions].tolist() if error.positions else []
        noted = {"step": error.step, "loss": str(error.loss), "learning_rate": error.learning_rate, "row_ids": rows}
        write_text(directory.report / "not_finite.json", json.dumps(noted) + "\n")
        say(f"the rows of that step are listed in {directory.report / 'not_finite.json'}")
        raise


def _end_autocast(model: Any) -> None:
    """Take off what Accelerate put around `forward` for mixed precision: what is reported of the trained model from

    here on is what anyone gets who loads its float32 weights.
    """
    for name in ("forward", "_original_forward"):
        model.__dict__.pop(name, None)


def _step_of(checkpoint: str | None) -> int:
    return int(checkpoint.rpartition("-")[2]) if checkpoint else 0


def _early_stopping(job: Job) -> list[Any]:
    settings = job.recipe.early_stopping
    return [] if settings is None else [EarlyStoppingCallback(settings.patience, settings.threshold)]


def remove_checkpoints(directory: RunDirectory) -> None:
    """What only resuming needs, once there is nothing left to resume."""
    shutil.rmtree(directory.checkpoints, ignore_errors=True)
