"""Which pretrained model suits the data of a recipe, and how much of it should train: a frozen pass over each."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray

from hf_sft import environment, job
from hf_sft.advice import advise
from hf_sft.commands.candidates import Candidate, read_candidates
from hf_sft.commands.evidence import count_rows_per_class, evidence_of, shift_of
from hf_sft.commands.ranking import Ranked, Ranking, Unusable
from hf_sft.console import overheard, say
from hf_sft.errors import DataError, Finding, HfSftError, RecipeError
from hf_sft.job import Job
from hf_sft.metrics.metric import Metric
from hf_sft.modeling.build import open_model
from hf_sft.modeling.convex import METHODS
from hf_sft.modeling.folds import choose_rows
from hf_sft.modeling.old_head import read_old_head
from hf_sft.recipe import Objective, Recipe, Run
from hf_sft.recipe_tuning import Tuning
from hf_sft.run import as_recipe
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import TaskData, load_data
from hf_sft.training.activation_cache import replaying
from hf_sft.training.cache_plan import decide
from hf_sft.training.held_out_probe import HeldOut, deal_rows, features_of, forward_speed, probe_held_out

FOLDS, ROWS = 5, 2_000
# What libraries raise for a configuration that they cannot build, or a batch that the memory does not hold.
FAULTS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, OSError)


def rank_models(
    recipe: Recipe | str | Path | Mapping[str, Any],
    candidates: Sequence[str | Mapping[str, Any]],
    overrides: Sequence[str] = (),
    *,
    folds: int = FOLDS,
    rows: int = ROWS,
    data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Callable[..., Any]] | None = None,
    trust_remote_code: bool = False,
) -> Ranking:
    """Probe each candidate on a sample of the recipe's training rows, and suggest one, and a strategy for it.

    candidates: names as in model.name, name@random for drawn weights, or sections `model` of a recipe as mappings.
    folds: of the linear probe. rows: probed at most, with like shares of every label, the same for each candidate.
    data, metrics: as for fine_tune. Nothing is written but recorded activations (tuning.cache). A candidate that
    cannot be used is in the ranking, with the reason. Raises HfSftError for a recipe or data that cannot be used.
    """
    started = time.perf_counter()
    name = str(recipe) if isinstance(recipe, (str, Path)) else "recipe"
    given = Recipe.load(recipe, overrides) if isinstance(recipe, (str, Path)) else as_recipe(recipe)
    asked = read_candidates(candidates, given)
    _check_arguments(given, folds, rows)
    environment.silence_libraries()
    base = _base_recipe(given)
    task = TASKS[base.task]
    with overheard():
        machine = environment.prepare_environment(base)
        found = load_data(base, task, data)
        chosen = job.find_metrics(base, found, metrics or {}, trust_remote_code)
    per_class = count_rows_per_class(found)
    sampled, targets = _sample(found, base, rows)
    dealt = deal_rows(
        targets, found.labels.problem, folds=folds, seed=base.seed, groups=_groups(sampled, base.dataset.group_column)
    )
    ranked: list[tuple[Ranked, HeldOut]] = []
    unusable: list[Unusable] = []
    for number, candidate in enumerate(asked, start=1):
        say(f"{number} of {len(asked)}: {candidate.name}")
        own = base.model_copy(update={"model": candidate.model})
        try:
            with overheard():
                ranked.append(_probe(own, candidate, machine, sampled, chosen, dealt, per_class, trust_remote_code))
        except (HfSftError, *FAULTS) as error:  # the others can still be ranked
            unusable.append(Unusable(name=candidate.name, reason=_in_words(error)))
        gc.collect()  # a model's modules know each other: without this two of them are there at once
    first = chosen[0]
    sign = -1 if first.greater_is_better else 1
    ranked.sort(key=lambda one: (np.isnan(one[0].value), sign * one[0].value, one[0].parameters, one[0].name))
    return Ranking(
        recipe=name,
        metric=first.name,
        greater_is_better=first.greater_is_better,
        rows=len(targets),
        rows_per_class=per_class,
        folds=int(dealt.max()) + 1,
        baseline=ranked[0][1].baseline if ranked else None,
        ranked=tuple(one for one, _ in ranked),
        unusable=tuple(sorted(unusable, key=lambda one: one.name)),
        seconds=time.perf_counter() - started,
    )


def _check_arguments(recipe: Recipe, folds: int, rows: int) -> None:
    if folds < 2 or rows < 2:
        raise RecipeError(Finding(place="folds, rows", expected="2 or more", found=f"{folds}, {rows}"))
    if recipe.dataset.streaming:
        expected = "training rows that can be read at once"
        raise RecipeError(Finding(place="dataset.streaming", expected=expected, found="streaming: true"))
    if not TASKS[recipe.task].problems.keys() & METHODS:
        expected = f"a task with a head that can be solved: {', '.join(_rankable())}"
        fix = (
            "fine-tune each candidate for a few steps (hf-sft run ... training.max_steps=200), then hf-sft show RUN..."
        )
        raise RecipeError(Finding(place="task", expected=expected, found=recipe.task, fix=fix))


def _rankable() -> list[str]:
    """Tasks of which a linear probe says something: one row, one answer."""
    return [name for name, task in TASKS.items() if task.problems.keys() & METHODS]


def _base_recipe(recipe: Recipe) -> Recipe:
    """The recipe without what a frozen pass does not do; its model is still to come."""
    tuning = recipe.tuning
    kept: dict[str, Any] = {key: getattr(tuning, key) for key in ("cache_dir", "cache_dtype")}
    kept["cache"] = "off" if tuning.cache == "off" else "auto"
    batch = {key: recipe.training[key] for key in ("per_device_eval_batch_size",) if key in recipe.training}
    return recipe.model_copy(
        update={
            "augment": [],
            "tuning": Tuning(strategy="head", solver="logistic", **kept),
            "objective": Objective(),
            "training": batch,
            "early_stopping": None,
            "dataset": recipe.dataset.model_copy(update={"sampling": "natural"}),
            "run": Run(precision="fp32", workers=recipe.run.workers),
        }
    )


def _sample(found: TaskData, recipe: Recipe, most: int) -> tuple[TaskData, NDArray]:
    """The data with a sample of the training rows alone, and its targets."""
    train = found.splits["train"]
    assert train.entries is not None
    encode = TASKS[recipe.task].problems[found.labels.problem].encode
    targets = encode(list(train.entries), found.labels)
    positions = choose_rows(targets, most, seed=recipe.seed)
    return replace(found, splits={"train": train.take(positions)}), targets[positions]


def _groups(found: TaskData, column: str | None) -> Any:
    return None if column is None else found.splits["train"].split.rows.select_columns([column])[:][column]


def _probe(
    recipe: Recipe,
    candidate: Candidate,
    machine: environment.Environment,
    found: TaskData,
    metrics: Sequence[Metric],
    folds: NDArray,
    per_class: float,
    trust: bool,
) -> tuple[Ranked, HeldOut]:
    """One candidate: its pass over the rows, its probe, its speed, what its old head makes of the rows."""
    task = TASKS[recipe.task]
    opened = open_model(recipe, task, trust_remote_code=trust)
    old = read_old_head(recipe, task, opened, trust_remote_code=trust)
    work = job.assemble(recipe, machine, found, metrics, opened, trust_remote_code=trust)
    work.built.model.to(PartialState().device)
    inputs = work.inputs["train"]
    assert inputs.targets is not None
    speed = forward_speed(work, inputs)
    features = _features(work)
    held_out = probe_held_out(work, features, inputs.targets, folds)
    entropy = old.entropy(features) if old is not None else None
    shift = shift_of(work)
    evidence = evidence_of(
        recipe, found, per_class, work=work, held_out=held_out, entropy=entropy, shift=shift, known=opened.known
    )
    row = Ranked(
        name=candidate.name,
        model=candidate.given,
        value=held_out.value,
        interval=held_out.interval,
        gained=held_out.gained,
        entropy=entropy,
        shift=shift,
        parameters=work.parameters["total"],
        rows_per_second=speed,
        advice=advise(evidence),
    )
    return row, held_out


def _features(work: Job) -> NDArray:
    """[N, D]: recorded ones where there are any or recording serves, else of a plain pass."""
    with replaying(work, decide(work, probed=("train",))) as replayed:
        features = features_of(replayed, replayed.inputs["train"])
    if not np.isfinite(features).all():
        expected, found = "finite features", "some that are infinite or not a number"
        raise DataError(Finding(place="model", expected=expected, found=found))
    return features


def _in_words(error: Exception) -> str:
    """The first finding in a line, without the fix, which speaks of the recipe's own keys."""
    if not isinstance(error, HfSftError):
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if not error.findings:
        return str(error)
    first = error.findings[0]
    parts = [f"expected {first.expected}" if first.expected else "", f"found {first.found}" if first.found else ""]
    return f"{first.place}: {'; '.join(filter(None, parts))}"
