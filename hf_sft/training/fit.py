"""Training a prepared job: resume, best checkpoint, early stopping."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from transformers import EarlyStoppingCallback, PrinterCallback

from hf_sft.console import say
from hf_sft.errors import Finding, RecipeError
from hf_sft.record import RunDirectory, write_text
from hf_sft.tasks.load import fingerprint
from hf_sft.training.activation_cache import replaying
from hf_sft.training.arguments import make_arguments
from hf_sft.training.cache_plan import decide
from hf_sft.training.callbacks import Progress
from hf_sft.training.stopping import StopOnRequest
from hf_sft.training.trainer import LossNotFinite, SftTrainer, Validation

if TYPE_CHECKING:
    from hf_sft.job import Job


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How training went; the job's model now holds the weights that were best. rows: that this call trained on.

    notes: what a reader of the record must know of it.
    """

    log: list[dict[str, Any]]
    seconds: float
    rows: int
    best_step: int | None
    notes: tuple[str, ...] = ()


def train(job: Job, directory: RunDirectory, callbacks: Sequence[Any] = ()) -> Trained:
    """Train the job's model, going on from the newest checkpoint of the run directory where there is one.

    Frozen layers are computed once for all epochs, where that pays.
    """
    plan = decide(job)
    with replaying(job, plan) as work:
        trained = _train(work, directory, callbacks)
    return trained if plan is None else replace(trained, notes=(*trained.notes, str(plan)))


def _train(job: Job, directory: RunDirectory, callbacks: Sequence[Any]) -> Trained:
    validation = None
    if "validation" in job.inputs and job.recipe.training["eval_strategy"] != "no":
        part = job.inputs["validation"]
        assert part.targets is not None
        validation = Validation(rows=part.rows, lengths=part.lengths, targets=part.targets)
    first = job.metrics[0] if validation else None
    arguments = make_arguments(job.recipe, directory.checkpoints, precision=job.environment.precision, metric=first)
    stop = StopOnRequest(max_hours=job.recipe.run.max_hours, started=time.perf_counter() - job.load_seconds)
    trainer = SftTrainer(
        model=job.built.model,
        arguments=arguments,
        recipe=job.recipe,
        problem=job.problem,
        labels=job.labels,
        rules=job.rules,
        frozen=job.frozen,
        train_rows=job.inputs["train"].rows,
        train_lengths=None if job.inputs["train"].size is None else job.inputs["train"].lengths,
        collate=job.collate,
        evaluator=job.evaluator,
        validation=validation,
        callbacks=[Progress(first.name if first else None), stop, *_early_stopping(job), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    if arguments.should_save:
        write_text(directory.recipe, job.recipe.to_yaml(absolute_paths=True))
    checkpoint = trainer.newest_checkpoint() if job.recipe.resume != "never" else None
    _same_rows(job, directory, going_on=checkpoint is not None, writes=arguments.should_save)
    if checkpoint:
        say(f"going on from {checkpoint}")
        if job.recipe.resume == "extend":
            say(f"the {arguments.lr_scheduler_type} schedule is laid over the longer run, as if it had been asked for")
        arguments.eval_on_start = False
    elif "validation" in job.inputs and not arguments.load_best_model_at_end:
        say("training.save_strategy is not eval_strategy: the last weights are kept, not the best")
    before = _step_of(checkpoint)
    started = time.perf_counter()
    with stop.listening(), _rows_noted(job, directory):
        trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    _end_autocast(job.built.model)
    state = trainer.state
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    epoch_rows = job.inputs["train"].size
    steps = state.global_step - before
    rows = steps * batch if epoch_rows is None else round(steps / -(-epoch_rows // batch) * epoch_rows)
    if first and arguments.load_best_model_at_end and not state.best_global_step:
        say(f"{first.name} was not defined at any evaluation; the last weights are kept")
    if state.best_global_step and state.best_global_step != state.global_step and arguments.load_best_model_at_end:
        say(f"best {first.name if first else 'loss'} at step {state.best_global_step}; those weights are kept")
    return Trained(log=state.log_history, seconds=seconds, rows=rows, best_step=state.best_global_step)


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
