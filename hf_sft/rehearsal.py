"""A few real steps of a prepared run, in a folder that goes again: what it will take, and that it will work."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from hf_sft import results, room
from hf_sft.console import overheard
from hf_sft.job import Job
from hf_sft.modeling.linear_probe import expected_seconds, num_features
from hf_sft.recipe import Recipe
from hf_sft.record import RunDirectory
from hf_sft.tasks.load import Inputs, take_inputs
from hf_sft.training.cache_plan import Plan, decide
from hf_sft.training.fit import train
from hf_sft.training.interpolation import ALPHAS
from hf_sft.training.order import classes_to_balance, epoch_order
from hf_sft.training.probe import probed_splits, solves, warms

STEPS = 3  # the first warms up; the others are timed
EVALUATED = 64  # rows
LEAST_STEP = 0.002  # seconds that a step takes however little it computes
CHECKPOINTS_KEPT = 3  # two and the one being written, where the recipe says nothing


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a run would take, from the steps that were measured. seconds and bytes; steps: of the optimizer.

    memory: peak of the process (or, on a GPU, of the device) in the rehearsal, the longest rows among its own.
    disk: what the run directory takes at most, and what is recorded of frozen layers; free: what is left where it will
    lie. cache: what is recorded and saved, in words; empty where nothing is.
    """

    steps: int
    seconds_per_step: float
    train_seconds: float
    total_seconds: float
    memory: int
    disk: int
    free: int
    cache: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rehearse(job: Job) -> Rehearsal:
    """Train, evaluate, save and reload on a few rows of the job, whose model is used up.

    Raises HfSftError as the run would, and EnvironmentProblem where memory or disk space runs out.
    """
    inputs = job.inputs["train"]
    batch = job.recipe.training["per_device_train_batch_size"] * job.recipe.training["gradient_accumulation_steps"]
    few = {role: _few(part, role, batch) for role, part in job.inputs.items()}
    rehearsed = replace(
        job,
        inputs=few,
        recipe=_shortened(job, has_validation="validation" in few),
        rules={name: replace(rule, after=0) for name, rule in job.rules.items()},  # the dearest: all that ever trains
    )
    clock = _Clock()
    plan = decide(job, probed=probed_splits(job.recipe, asked=False))
    with tempfile.TemporaryDirectory(prefix="hf_sft_check_") as name, overheard():
        directory = RunDirectory(Path(name))
        started = time.perf_counter()
        with room.told_apart(job.recipe):
            train(rehearsed, directory, [clock])
        checkpoint = _size(directory.checkpoints)
        before_evaluation = time.perf_counter()
        found = results.evaluate(rehearsed, directory)
        evaluated = time.perf_counter()
        results.save_model(rehearsed, directory, found)
        saving = time.perf_counter() - evaluated
        setup = max(0.0, before_evaluation - started - sum(clock.seconds))
        model = _size(directory.model)
    if solves(job.recipe):
        steps, setup = 0, 0.0
        train_seconds = _probe_seconds(job, few, evaluated - before_evaluation, ("train", "validation"))
    else:
        costs = _step_costs(few["train"], batch, job.recipe)
        steps, whole = _whole_cost(job, inputs, batch)
        timed = clock.seconds[1:] or clock.seconds
        per_cost = sum(timed) / max(1.0, float(costs[-len(timed) :].sum()))
        train_seconds = per_cost * whole
    if warms(job.recipe):
        setup += _probe_seconds(job, few, evaluated - before_evaluation, tuple(job.inputs))
    during, last = _evaluation_seconds(job, few, evaluated - before_evaluation)
    if plan is not None:
        train_seconds, during = _replayed_seconds(plan, steps, train_seconds, during)
    disk = model + checkpoint * _checkpoints(job) + _recorded_beside(plan, Path(job.recipe.output_dir))
    free = shutil.disk_usage(room.existing(Path(job.recipe.output_dir))).free
    if disk > free:
        raise room.no_room(Path(job.recipe.output_dir), disk)
    return Rehearsal(
        steps=steps,
        seconds_per_step=train_seconds / max(1, steps),
        train_seconds=train_seconds,
        total_seconds=train_seconds + during + last + setup + saving,
        memory=_peak_memory(),
        disk=disk,
        free=free,
        cache="" if plan is None else str(plan),
    )


def _recorded_beside(plan: Plan | None, folder: Path) -> int:
    """Bytes that are recorded on the disk of that folder."""
    if plan is None:
        return 0
    disks = [room.existing(path).stat().st_dev for path in (plan.store.folder, folder)]
    return plan.writes if disks[0] == disks[1] else 0


def _replayed_seconds(plan: Plan, steps: int, training: float, during: float) -> tuple[float, float]:
    """(of training, recording included, of evaluating meanwhile), from what they would take without the cache."""
    return max(training / plan.times_less, LEAST_STEP * steps), during / plan.times_less


class _Clock(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def _few(part: Inputs, role: str, batch: int) -> Inputs:
    """Rows of a rehearsal: of train the longest batch and others at random, of the rest some at random."""
    if part.size is None:
        return part
    generator = np.random.default_rng(0)
    if role != "train":
        return take_inputs(part, np.sort(generator.permutation(part.size)[:EVALUATED]))
    longest = np.argsort(-part.lengths, kind="stable")[:batch]
    others = np.setdiff1d(generator.permutation(part.size)[: STEPS * batch], longest)[: (STEPS - 1) * batch]
    return take_inputs(part, np.concatenate([longest, others]))


def _shortened(job: Job, *, has_validation: bool) -> Any:
    training = {
        **job.recipe.training,
        "max_steps": STEPS,
        "logging_steps": 1,
        "eval_strategy": "steps" if has_validation else "no",
        "eval_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": STEPS,
        "save_total_limit": 1,
        "report_to": "none",
    }
    tuning = job.recipe.tuning.model_copy(update={"wise_ft": None, "cache": "off"})
    return job.recipe.model_copy(update={"training": training, "tuning": tuning, "early_stopping": None})


def _step_costs(few: Inputs, batch: int, recipe: Recipe) -> NDArray:
    """What each step of the rehearsal costs: rows times the longest of them, as they are padded."""
    if few.size is None:
        return np.ones(STEPS)
    classes = classes_to_balance(recipe, few.rows)
    order = epoch_order(few.lengths, global_batch_size=batch, seed=recipe.seed, epoch=0, classes=classes)
    return np.resize(_costs(few.lengths, order, batch), STEPS)


def _costs(lengths: NDArray, order: NDArray, batch: int) -> NDArray:
    parts = [order[start : start + batch] for start in range(0, len(order), batch)]
    return np.array([float(lengths[part].max() * len(part)) for part in parts])


def _whole_cost(job: Job, inputs: Inputs, batch: int) -> tuple[int, float]:
    """Optimizer steps of the whole run and their cost, in the units of a step's cost."""
    training = job.recipe.training
    most = int(training.get("max_steps") or 0)
    if inputs.size is None:
        return most, float(most)
    classes = classes_to_balance(job.recipe, inputs.rows)
    order = epoch_order(inputs.lengths, global_batch_size=batch, seed=job.recipe.seed, epoch=0, classes=classes)
    costs = _costs(inputs.lengths, order, batch)
    steps = most if most > 0 else int(np.ceil(len(costs) * training["num_train_epochs"]))
    return steps, float(costs.sum() / len(costs) * steps)


def _evaluation_seconds(job: Job, few: dict[str, Inputs], seconds: float) -> tuple[float, float]:
    """(of every evaluation in training, of the last one of all splits), from that of the few rows."""
    splits = {role: part for role, part in job.inputs.items() if role != "train" and part.size}
    looked = sum(int(few[role].lengths.sum()) for role in splits)
    if not looked:
        return 0.0, 0.0
    per_cost = seconds / looked
    training = job.recipe.training
    often = training["num_train_epochs"] if training["eval_strategy"] == "epoch" else 1
    often = 0 if solves(job.recipe) else often
    if (wise_ft := job.recipe.tuning.wise_ft) is not None:
        often += len(ALPHAS) if wise_ft.alpha == "auto" else 3
    during = often * splits["validation"].lengths.sum() if "validation" in splits and often else 0.0
    return float(per_cost * during), float(per_cost * sum(part.lengths.sum() for part in splits.values()))


def _probe_seconds(job: Job, few: dict[str, Inputs], seconds: float, roles: Sequence[str]) -> float:
    """Of one pass over these splits, from an evaluation of the few rows, and of solving the head."""
    looked = sum(int(part.lengths.sum()) for role, part in few.items() if role != "train")
    whole = sum(float(job.inputs[role].lengths.sum()) for role in roles if role in job.inputs)
    model = job.built.model
    solving = expected_seconds(len(job.inputs["train"].row_ids), num_features(model), model.config.num_labels)
    return seconds / max(1, looked) * whole + solving


def _checkpoints(job: Job) -> int:
    training = job.recipe.training
    if training["save_strategy"] == "no" or solves(job.recipe):
        return 0
    return int(training.get("save_total_limit") or CHECKPOINTS_KEPT - 1) + 1


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _peak_memory() -> int:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)
