"""A head solved on the features of a prepared run: in place of training, before it, or to compare with."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray

from hf_sft.console import say
from hf_sft.data.rows import Rows
from hf_sft.errors import Finding, RecipeError
from hf_sft.features import extract_features
from hf_sft.modeling.anatomy import output_layers
from hf_sft.modeling.convex import METHODS
from hf_sft.modeling.linear_probe import Solved, has_bias, new_below_output, solve, write_head
from hf_sft.modeling.rules import Rule
from hf_sft.recipe import Objective, Recipe
from hf_sft.record import write_text
from hf_sft.summary import number
from hf_sft.training.precision import autocast
from hf_sft.training.replayed_rows import ReplayedRows

if TYPE_CHECKING:
    from hf_sft.job import Job
    from hf_sft.modeling.build import Built
    from hf_sft.tasks.load import Inputs

# Keys of `training` that a solved head still uses; all others have no effect.
USED = (
    "per_device_eval_batch_size",
    "ddp_backend",
    "ddp_timeout",
    "log_level",
    "full_determinism",
    "report_to",
    "run_name",
)
Values = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear probe of the model as it was loaded. words: how it was solved. metrics: split -> name -> value.

    below: one line on new layers below the output layer; empty where there are none.
    """

    words: str
    metrics: Mapping[str, Values]
    below: str = ""


def solves(recipe: Recipe) -> bool:
    """Whether the head is solved in place of training."""
    return recipe.tuning.solver == "logistic"


def warms(recipe: Recipe) -> bool:
    """Whether the head is solved before the first step; auto counts once a job has settled it."""
    return recipe.tuning.warm_start == "linear_probe"


def probed_splits(recipe: Recipe, *, asked: bool) -> tuple[str, ...]:
    """The splits whose features are read: to solve the head, to begin with it, or to compare with."""
    if solves(recipe):
        return ("train", "validation")
    return ("train", "validation", "test") if asked or warms(recipe) else ()


def refuse_stream(recipe: Recipe) -> None:
    """Raises RecipeError where a probe is asked for and the training rows are streamed."""
    if recipe.dataset.streaming:
        expected, fix = "training rows that can be read at once", "leave out --with-probe (with_probe), or streaming"
        raise RecipeError(
            Finding(place="dataset.streaming", expected=expected, found="streaming: true, and a linear probe", fix=fix)
        )


def refuse_problem(recipe: Recipe, problem: str, *, asked: bool = False) -> None:
    """Raises RecipeError where a probe is wanted of a problem that has none."""
    if problem in METHODS or not probed_splits(recipe, asked=asked):
        return
    place = "tuning.solver" if solves(recipe) else "tuning.warm_start" if warms(recipe) else "with_probe"
    expected = f"a problem whose head can be solved: {', '.join(METHODS)}"
    fix = "leave out --with-probe (with_probe)" if place == "with_probe" else "leave it out, and train the head"
    raise RecipeError(Finding(place=place, expected=expected, found=f"problem {problem}", fix=fix))


def refuse_frozen_head(model: Any, rules: Mapping[str, Rule]) -> None:
    """Raises RecipeError where the head that a warm start would solve does not train."""
    layers = output_layers(model, model.config.num_labels)
    if all(
        rules[f"{name}.{part}"].lr_scale == 0 for name, layer in layers.items() for part, _ in layer.named_parameters()
    ):
        expected, found = "a head that trains, which it solves first", f"{' and '.join(layers)} frozen"
        fix = "let a rule train the head, or leave warm_start out"
        raise RecipeError(Finding(place="tuning.warm_start", expected=expected, found=found, fix=fix))


def notes(recipe: Recipe, built: Built) -> list[str]:
    """What a reader must know where the recipe (as it was given) lets the head be solved."""
    if not solves(recipe) and not warms(recipe):
        return []
    found = []
    if solves(recipe) and (idle := idle_keys(recipe)):
        found.append(
            f"the head is solved, not trained: without effect {'is' if len(idle) == 1 else 'are'} {', '.join(idle)}"
        )
    below = [] if recipe.model.weights == "random" else new_below_output(built.model, built.new)
    if below:
        found.append(_in_words(below))
    if not set(built.new) - set(below):
        found.append("the classifier that the model brought is replaced by the solved head")
    return found


def _in_words(below: Sequence[str]) -> str:
    shown = ", ".join(below[:4]) + (f" and {len(below) - 4} more" if len(below) > 4 else "")
    return f"new below the output layer, and as it was drawn when the head is solved: {shown}"


def idle_keys(recipe: Recipe) -> list[str]:
    """Keys of a recipe whose head is solved that have no effect, as they are written."""
    silent = Objective()
    keys = [f"training.{key}" for key in recipe.training if key not in USED]
    keys += [
        f"objective.{key}" for key in Objective.model_fields if getattr(recipe.objective, key) != getattr(silent, key)
    ]
    others = {
        "early_stopping": recipe.early_stopping is not None,
        "run.global_batch_size": recipe.run.global_batch_size is not None,
        "augment": bool(recipe.augment),
        "dataset.sampling": recipe.dataset.sampling != "natural",
        "tuning.head_lr_scale": recipe.tuning.head_lr_scale != 1,
        "tuning.ema": recipe.tuning.ema is not None,
        "tuning.wise_ft": recipe.tuning.wise_ft is not None,
        "run.max_hours": recipe.run.max_hours is not None,
    }
    return keys + [key for key, given in others.items() if given]


def probe(job: Job, roles: Sequence[str]) -> tuple[Solved, Probe]:
    """Solve a head on the training rows (never augmented) and measure it on these splits; the model stays as it is."""
    features = {
        role: _features(job, job.inputs[role]) for role in dict.fromkeys(("train", *roles)) if role in job.inputs
    }
    targets = job.inputs["train"].targets
    assert targets is not None
    found: list[Any] = [None]
    if PartialState().is_main_process:  # solved once: all processes go on from the same weights
        found = [
            solve(
                features["train"],
                targets,
                job.labels.problem,
                seed=job.recipe.seed,
                num_outputs=job.built.model.config.num_labels,
                intercept=has_bias(job.built.model),
                groups=_groups(job),
            )
        ]
    solved: Solved = broadcast_object_list(found)[0]
    return solved, Probe(words=str(solved), metrics=_measure(job, solved, features))


def _groups(job: Job) -> NDArray | None:
    """What dataset.group_column says of each training row."""
    column = job.recipe.dataset.group_column
    return None if column is None else np.asarray(job.data.splits["train"].split.rows[column][:], dtype=str)


def _features(job: Job, inputs: Inputs) -> NDArray:
    rows, evaluator = inputs.rows, job.evaluator
    replayed = isinstance(rows, ReplayedRows)
    plain = rows if replayed else Rows(rows.rows, rows.transform, rows.targets, row_ids=rows.row_ids)
    with autocast(job.environment.precision, PartialState().device):  # as activations are recorded
        return extract_features(
            job.built.model,
            plain,
            inputs.lengths,
            evaluator.collate,
            batch_size=evaluator.batch_size,
            workers=evaluator.workers,
            channels_last=evaluator.channels_last,
        )


def _measure(job: Job, solved: Solved, features: Mapping[str, NDArray]) -> dict[str, Values]:
    """`loss` and the metrics of every split whose targets are known, thresholds chosen on validation."""
    labels, rows = job.labels, {}
    for role, part in features.items():
        targets = job.inputs[role].targets
        if targets is not None:
            logits = torch.from_numpy(solved.logits(part)).float()
            rows[role] = job.problem.decode({"logits": logits}, {"labels": torch.from_numpy(targets)}, labels)
    if job.problem.calibrate is not None and "validation" in rows:
        chosen = job.inputs["validation"].targets
        assert chosen is not None
        labels = job.problem.calibrate(rows["validation"]["scores"], chosen, labels)
    return {role: job.evaluator.measure(part, _targets(job, role), labels) for role, part in rows.items()}


def _targets(job: Job, role: str) -> NDArray:
    targets = job.inputs[role].targets
    assert targets is not None
    return targets


def before_training(job: Job, folder: Path, *, going_on: bool, asked: bool) -> Probe | None:
    """The linear probe of the model before its first step, where one is asked for; with a warm start its head is kept.

    folder: of the checkpoints; a run that goes on finds there what was measured when it began.
    """
    file, warm = folder / "probe.json", warms(job.recipe) and not going_on
    if going_on and (kept := _read(file)) is not None:
        return kept
    if not warm and not asked:
        return None
    solved, found = probe(job, ("validation", "test"))
    if warm:
        write_head(job.built.model, solved)
    say(f"{'warm start' if warm else 'linear probe'}: {found.words}{_score(job, found)}")
    below = [] if warm else new_below_output(job.built.model, job.built.new)  # a warm start has said so
    if below:
        found = replace(found, below=_in_words(below))
        say(found.below)
    if PartialState().is_main_process:
        write_text(file, json.dumps({"words": found.words, "metrics": found.metrics, "below": found.below}))
    return found


def _read(file: Path) -> Probe | None:
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    return Probe(words=content["words"], metrics=content["metrics"], below=content["below"])


def _score(job: Job, found: Probe) -> str:
    name = job.metrics[0].name
    return f"; validation {name} {number(found.metrics['validation'][name])}" if "validation" in found.metrics else ""


def solve_head(job: Job) -> tuple[Probe, list[dict[str, Any]], float]:
    """In place of training: the model's head is solved -> what was found, a log of one entry, seconds."""
    started = time.perf_counter()
    job.built.model.to(PartialState().device)
    solved, found = probe(job, ("validation",))
    write_head(job.built.model, solved)
    say(f"{found.words}{_score(job, found)}")
    train = {f"train_{name}": value for name, value in found.metrics["train"].items() if name != "loss"}
    when = {"step": 1, "epoch": 1.0}
    log = [{**when, "loss": found.metrics["train"]["loss"], "items": float(len(job.inputs["train"].row_ids)), **train}]
    if "validation" in found.metrics:
        log.append({**when, **{f"eval_{name}": value for name, value in found.metrics["validation"].items()}, **train})
    return found, log, time.perf_counter() - started
