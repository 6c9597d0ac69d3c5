"""How well a linear layer on a frozen model does on rows that it was not solved on."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_sft.advice import gained
from hf_sft.data.labels import Labels
from hf_sft.data.rows import Rows
from hf_sft.errors import DataError, Finding
from hf_sft.evaluation import forward
from hf_sft.features import extract_features
from hf_sft.metrics import METRICS
from hf_sft.metrics.intervals import bootstrap_interval
from hf_sft.metrics.metric import Metric, Outcome
from hf_sft.modeling.folds import deal_folds, deal_groups
from hf_sft.modeling.linear_probe import has_bias, predict_held_out, solve
from hf_sft.tasks.load import Inputs, take_inputs
from hf_sft.tasks.task import Problem

if TYPE_CHECKING:
    from hf_sft.job import Job

TIMED_ROWS, TIMED_TIMES = 16, 3


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A metric over held-out rows with its interval (bootstrap over rows; the luck of the draw of rows to learn from

    is not in it). baseline: of an answer that ignores the input. gained: from the baseline (0) to perfect (1).
    """

    value: float
    interval: tuple[float, float]
    baseline: float
    gained: float | None


def deal_rows(targets: NDArray, problem: str, *, folds: int, seed: int, groups: Any = None) -> NDArray:
    """int64 [N]: the fold of each row, with like shares of every target; the rows of a group share one.

    Raises DataError where there are too few rows (or groups) for two folds.
    """
    if groups is None:
        found = deal_folds(targets, problem, seed=seed, most=folds)
    else:
        found = deal_groups(groups, seed=seed, most=folds)
    if found is None:
        expected = "two rows (or groups of rows) of two classes, to learn from one and be judged on the other"
        raise DataError(Finding(place="dataset", expected=expected, found=f"{len(targets):,} rows in train"))
    return found


def plain_rows(inputs: Inputs, positions: NDArray) -> Inputs:
    """The rows at those positions, never augmented."""
    chosen = take_inputs(inputs, positions)
    rows = Rows(chosen.rows.rows, inputs.rows.transform, chosen.targets, row_ids=chosen.row_ids)
    return replace(chosen, rows=rows)


def features_of(job: Job, inputs: Inputs) -> NDArray:
    """[N, D]: what reaches the output layer of the job's model for these rows."""
    evaluator = job.evaluator
    return extract_features(
        job.built.model,
        inputs.rows,
        inputs.lengths,
        evaluator.collate,
        batch_size=evaluator.batch_size,
        workers=evaluator.workers,
        channels_last=evaluator.channels_last,
    )


def probe_held_out(job: Job, features: NDArray, targets: NDArray, folds: NDArray) -> HeldOut:
    """The recipe's first metric of a linear layer solved on all folds but the row's own."""
    labels, problem, metric = job.labels, job.problem, job.metrics[0]
    intercept, outputs, seed = has_bias(job.built.model), job.built.model.config.num_labels, job.recipe.seed
    solved = solve(features, targets, labels.problem, seed=seed, num_outputs=outputs, intercept=intercept)
    logits = predict_held_out(features, targets, labels.problem, folds, solved=solved, intercept=intercept)
    rows = problem.decode({"logits": torch.from_numpy(logits).float()}, {"labels": torch.from_numpy(targets)}, labels)
    outcome = _outcome(problem, rows, targets, folds, labels)
    ignorant = problem.baseline(targets, targets, labels)
    baseline = float(metric.compute(problem.outcome(ignorant, targets, labels)))
    value = float(metric.compute(outcome))
    return HeldOut(
        value=value,
        interval=bootstrap_interval(metric, outcome, seed=seed),
        baseline=baseline,
        gained=gained(value, baseline, perfect_value(metric)),
    )


def _outcome(problem: Problem, rows: dict[str, NDArray], targets: NDArray, folds: NDArray, labels: Labels) -> Outcome:
    """What metrics read. Thresholds, where there are any, are chosen on the other folds' held-out rows."""
    if problem.calibrate is None:
        return problem.outcome(rows, targets, labels)
    parts = []
    for fold in range(int(folds.max()) + 1):
        own = folds == fold
        chosen = problem.calibrate(rows["scores"][~own], targets[~own], labels)
        parts.append(problem.outcome({name: values[own] for name, values in rows.items()}, targets[own], chosen))
    return Outcome(
        references=np.concatenate([part.references for part in parts]),
        predictions=np.concatenate([part.predictions for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        num_labels=parts[0].num_labels,
    )


def perfect_value(metric: Metric) -> float | None:
    """The best value of one of our own metrics; None for others, whose scale is not known."""
    if metric.name not in METRICS or METRICS[metric.name].compute is not metric.compute:
        return None
    return 1.0 if metric.greater_is_better else 0.0


def forward_speed(job: Job, inputs: Inputs) -> float:
    """Rows per second of a forward pass: the best of three, in seconds of the processor (of the clock on a GPU).

    Processor time sums over threads, and work of others hardly adds to it.
    """
    model, device = job.built.model, next(job.built.model.parameters()).device
    batch = job.collate(inputs.features(TIMED_ROWS))
    number, seconds = len(batch["weight"]), []
    model.eval()
    with torch.inference_mode():
        for _ in range(TIMED_TIMES + 1):
            started = _now(device)
            forward(model, batch, job.evaluator.channels_last)
            seconds.append(_now(device) - started)
    return number / max(min(seconds[1:]), 1e-9)


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()
