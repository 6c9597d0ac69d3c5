"""Whether the frozen part is worth recording: what a run would record, what that saves, what it takes."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch.utils.flop_counter import FlopCounterMode

from hf_sft.console import say
from hf_sft.data import recorded
from hf_sft.data.activation_store import Store
from hf_sft.data.recorded import amount
from hf_sft.errors import EnvironmentProblem, Finding, RecipeError
from hf_sft.evaluation import model_inputs
from hf_sft.modeling.anatomy import find_blocks
from hf_sft.modeling.cut import find_cut
from hf_sft.modeling.replay import Cut, record
from hf_sft.tasks.load import Inputs
from hf_sft.training.cache_key import describe_computation
from hf_sft.training.probe import warms
from hf_sft.training.probe_batches import STEPS, probe_features, usual_features
from hf_sft.training.replayed_rows import RowKeys, blank_feature, key_rows

if TYPE_CHECKING:
    from hf_sft.job import Job

LEAST_SAVING = 1.1  # times less work from which recording pays by itself; reading back is work too
NO_LOSS = 0.999  # of a head that is solved, in one pass: recorded, it serves the next run
MOST_OF_DISK = 0.5  # of what is free: more is taken only when asked for


@dataclass(frozen=True, kw_only=True)
class Work:
    """What rows cost, in multiplications. before, after: of the cut, per row and forward pass.

    asked: epochs of training; epochs: passes over its rows, a probe's among them; evaluations: of the other rows
    meanwhile. A backward pass is twice a forward pass.
    """

    asked: float
    before: float
    after: float
    train: int
    validation: int
    epochs: float
    evaluations: float

    def times_less(self, missing: int) -> float:
        """Work as it is over work with the cache. missing: rows, times views, that have to be recorded first."""
        trained, evaluated = self.epochs * self.train, self.evaluations * self.validation
        live = trained * (self.before + 3 * self.after) + evaluated * (self.before + self.after)
        kept = missing * self.before + trained * 3 * self.after + evaluated * self.after
        return live / kept if kept else math.inf


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is replayed, and recorded before.

    boundary: the last frozen block. keys: role -> its rows as the store knows them. missing: of them, times views,
    those that are not there yet. bytes: of all that is read; writes: of what is missing.
    """

    cut: Cut
    boundary: str
    store: Store
    keys: Mapping[str, RowKeys]
    views: int
    missing: int
    bytes: int
    writes: int
    work: Work

    @property
    def times_less(self) -> float:
        return self.work.times_less(self.missing)

    def __str__(self) -> str:
        times = f"about {self.times_less:,.1f} times less work over {_epochs_in_words(self.work.asked)}"
        views = f" in {self.views} views" if self.views > 1 else ""
        there = "" if self.missing else ", all there already"
        rows = self.work.train + self.work.validation
        cached = f"frozen up to {self.boundary}: {rows:,} rows cached{views} ({amount(self.bytes)}){there}"
        return f"{cached}, {times}" if self.missing and self.times_less >= LEAST_SAVING else cached


def decide(job: Job, *, probed: Sequence[str] = ()) -> Plan | None:
    """The plan, where the recipe wants one. auto: where it saves work; why not is said where something is frozen.

    probed: splits of which a linear probe reads the features too. All processes decide alike. Raises RecipeError where
    tuning.cache: on cannot be, EnvironmentProblem where the disk has no room for it.
    """
    wanted, tuning = job.recipe.tuning.cache, job.recipe.tuning
    keys = [f"tuning.{key}" for key in ("cache_dir", "cache_views") if getattr(tuning, key) is not None]
    idle = f"without effect: {' and '.join(keys)}" if keys else ""
    if wanted == "off":
        return None
    if wanted == "auto" and not job.frozen and tuning.strategy != "gradual":
        if idle:
            say(f"{idle}; {_nothing_stays(job)}")
        return None
    found = _refusal(job, probed) or _plan(job, wanted, probed)
    if isinstance(found, Plan):
        return found
    if wanted == "on":
        fix = "leave tuning.cache at auto"
        raise RecipeError(Finding(place="tuning.cache", expected="frozen layers to record", found=found, fix=fix))
    say("; ".join(filter(None, [f"frozen layers are computed anew each epoch: {found}", idle])))
    return None


def _nothing_stays(job: Job) -> str:
    """Why no weight is frozen throughout."""
    if job.recipe.tuning.strategy == "gradual":
        return "strategy gradual moves the boundary as blocks are unfrozen"
    return "every weight trains from the start"


def _refusal(job: Job, probed: Sequence[str]) -> str:
    """What of the recipe or the machine does not go with it; empty where nothing does."""
    recipe, environment = job.recipe, os.environ
    if not job.frozen:
        return _nothing_stays(job)
    if recipe.dataset.streaming:
        return "a stream is read once"
    if job.task.parts is not None:
        return "rows that are read in windows are not recorded"
    if job.task.travels:
        return "targets that are read with the image are not recorded"
    if recipe.augment and probed:
        return "a linear probe reads rows as they are, not augmented"
    if recipe.augment and recipe.tuning.cache_views is None:
        return "augmentation changes the rows; tuning.cache_views: 4 would keep four views of each"
    if recipe.objective.mixup is not None or recipe.objective.cutmix is not None:
        return "objective.mixup and cutmix mix each row with another one"
    if recipe.tuning.strategy == "gradual":
        return _nothing_stays(job)
    for key, why in (
        ("torch_compile", "takes the model as a whole"),
        ("activation_checkpointing", "computes layers twice, from inputs that were not recorded"),
        ("fsdp", "shares the weights out"),
        ("deepspeed", "shares the weights out"),
    ):
        if recipe.training.get(key):
            return f"training.{key} {why}"
    if environment.get("LOCAL_WORLD_SIZE", "1") != environment.get("WORLD_SIZE", "1"):
        return "processes on several machines do not share a disk"
    return ""


def _plan(job: Job, wanted: str, probed: Sequence[str]) -> Plan | str:
    """The plan, or why there is none. Rows are read only when it can still be worth it."""
    tuning, inputs = job.recipe.tuning, _cached_inputs(job, probed)
    least = NO_LOSS if tuning.solver == "logistic" else LEAST_SAVING
    if tuning.cache_views is not None:
        least = 0.0  # views are other rows than fresh draws: what lies there already must not decide which
    if job.task.length is not None and not inputs["train"].lengths.any():
        return "no row has a token"
    job.built.model.to(PartialState().device)  # where the Trainer would put it a moment later
    cut, work = _cut(job, inputs)
    (reason, *_) = sorted(gather_object([cut if isinstance(cut, str) else ""]), reverse=True)
    if isinstance(cut, str) or work is None or reason:
        return str(reason)
    root = Path(tuning.cache_dir) if tuning.cache_dir else recorded.default_root()
    store = Store(root.absolute() / describe_computation(job, cut))
    (there,) = broadcast_object_list([store.complete_segments()])
    views = tuning.cache_views or 1
    too_little = f"recording them would not pay in {_epochs_in_words(work.epochs)}"
    if wanted == "auto" and not there and work.times_less(views * work.train + work.validation) < least:
        return too_little
    store.read(there)
    length = job.task.length if any(shape.ragged for shape in cut.crossing) else None
    augmented = json.dumps([job.recipe.seed, job.recipe.augmentations], default=str)
    keys = {
        role: key_rows(part, views if role == "train" else 1, length, augmented=augmented)
        for role, part in inputs.items()
    }
    plan = _with_sizes(
        Plan(
            cut=cut,
            boundary=_last_frozen_block(job),
            store=store,
            keys=keys,
            views=views,
            missing=0,
            bytes=0,
            writes=0,
            work=work,
        ),
        np.dtype(tuning.cache_dtype).itemsize,
    )
    if wanted == "auto" and plan.times_less < least:
        return too_little
    return _where_there_is_room(plan, wanted)


def _cached_inputs(job: Job, probed: Sequence[str]) -> dict[str, Inputs]:
    evaluated = ("validation",) if job.recipe.training["eval_strategy"] != "no" else ()
    return {role: job.inputs[role] for role in dict.fromkeys(("train", *evaluated, *probed)) if role in job.inputs}


def _cut(job: Job, inputs: Mapping[str, Inputs]) -> tuple[Cut | str, Work | None]:
    """(where the model is cut, or why it cannot be; what rows cost)."""
    length, model = job.task.length, job.built.model
    device = next(model.parameters()).device

    def collated(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return model_inputs(job.collate(features), device, job.evaluator.channels_last)

    features = probe_features(inputs["train"], length)
    one, other = map(collated, features)
    unread = {} if job.task.ahead else blank_feature(features[0][0])
    blanks = {name: value.to(device) for name, value in unread.items()}
    steps = None if length is None else STEPS
    cut = find_cut(model, job.frozen, (one, other), steps_from=length, steps=steps, unread=blanks)
    if isinstance(cut, str):
        return cut, None
    cut = replace(cut, unread=unread)
    batch = other if length is None else collated(usual_features(inputs["train"]))
    return cut, _measure(job, cut, batch, inputs)


def _measure(job: Job, cut: Cut, batch: Mapping[str, torch.Tensor], inputs: Mapping[str, Inputs]) -> Work:
    model, training = job.built.model, job.recipe.training
    model.eval()
    with torch.no_grad():
        with FlopCounterMode(display=False) as whole:
            model(**batch)
        with FlopCounterMode(display=False) as first:
            record(model, cut, batch)
    rows = next(iter(batch.values())).shape[0]
    before = first.get_total_flops() / rows
    train = len(inputs["train"].lengths)
    size = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] * job.environment.processes
    most = int(training.get("max_steps") or 0)
    epochs = most * size / max(1, train) if most > 0 else float(training["num_train_epochs"])
    asked = epochs
    every = training.get("eval_steps") or training.get("logging_steps") or 500
    often = 1 / every if every < 1 else epochs * train / size / every
    often = often if training["eval_strategy"] == "steps" else epochs
    if job.recipe.tuning.solver == "logistic":
        epochs, often = 1.0, 1.0
    elif warms(job.recipe):
        epochs, often = epochs + 1, often + 1
    return Work(
        asked=asked,
        before=before,
        after=whole.get_total_flops() / rows - before,
        train=train,
        validation=sum(len(part.lengths) for role, part in inputs.items() if role != "train"),
        epochs=epochs,
        evaluations=often,
    )


def _with_sizes(plan: Plan, width: int) -> Plan:
    """The plan with what is missing and its bytes. width: of a number."""
    step = width * sum(math.prod(shape.of_one) for shape in plan.cut.crossing)
    missing: dict[bytes, int] = {}
    everything: dict[bytes, int] = {}
    for part in plan.keys.values():
        for keys, steps in zip(part.keys, part.steps.tolist(), strict=True):
            everything |= dict(zip(keys, steps, strict=True))
    missing = {key: steps for key, steps in everything.items() if plan.store.find(key) is None}
    return replace(
        plan, missing=len(missing), bytes=step * sum(everything.values()), writes=step * sum(missing.values())
    )


def _where_there_is_room(plan: Plan, wanted: str) -> Plan | str:
    folder = next(path for path in (plan.store.folder, *plan.store.folder.parents) if path.exists())
    free, writable = broadcast_object_list([shutil.disk_usage(folder).free, os.access(folder, os.W_OK)])
    if plan.writes and not writable:
        if wanted == "on":
            raise not_writable(plan, f"{folder} cannot be written to")
        return f"{folder} cannot be written to"
    if plan.writes <= free * (1 if wanted == "on" else MOST_OF_DISK):
        return plan
    if wanted == "on":
        raise no_room(plan, free)
    return f"they would take {amount(plan.writes)} of {amount(free)} free in {plan.store.folder.parent}"


def not_writable(plan: Plan, found: str) -> EnvironmentProblem:
    """found: what is in the way, in words."""
    expected, fix = f"to write to {plan.store.folder.parent}", "name another folder, or set tuning.cache: off"
    return EnvironmentProblem(Finding(place="tuning.cache_dir", expected=expected, found=found, fix=fix))


def no_room(plan: Plan, free: int) -> EnvironmentProblem:
    """free: bytes."""
    expected = f"{amount(plan.writes)} free in {plan.store.folder.parent}"
    fix = "free some (hf-sft cache list), name another tuning.cache_dir, or set tuning.cache: off"
    return EnvironmentProblem(
        Finding(place="tuning.cache_dir", expected=expected, found=f"{amount(free)} free", fix=fix)
    )


def _last_frozen_block(job: Job) -> str:
    """The block before the first that trains, in part or whole."""
    learning = {name for name, parameter in job.built.model.named_parameters() if parameter.requires_grad}
    last = "the first layers"
    for block in find_blocks(job.built.model):
        if learning & set(block.parameters):
            break
        last = block.name
    return last


def _epochs_in_words(epochs: float) -> str:
    return "1 epoch" if epochs == 1 else f"{epochs:.3g} epochs"
