"""Whether a run begins with a head that is solved on the pretrained features, where the recipe leaves it open."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from hf_sft.errors import ModelError
from hf_sft.features import extract_features
from hf_sft.modeling.anatomy import output_layers
from hf_sft.modeling.convex import METHODS
from hf_sft.modeling.linear_probe import num_features
from hf_sft.training.held_out_probe import plain_rows

if TYPE_CHECKING:
    from hf_sft.job import Job

LEAST_SPREAD = 0.01  # of the feature that varies most over rows; below, only huge weights tell rows apart
LOOKED_AT = 64  # rows
MOST_WORK = 300_000_000  # rows x features x labels: from here on solving takes minutes on a CPU's core


def settle_warm_start(job: Job) -> tuple[Job, str]:
    """The job with tuning.warm_start decided, and one line that says why; empty where the recipe says it.

    auto: a new head of a pretrained model, all of which then trains on rows that can be read at once. From a random
    head the first steps spoil the features below it (Kumar et al. 2022), and few steps hardly train it. Not above
    BatchNorm that trains: once that normalises by the batch, the features are others than those the head was solved on.
    """
    tuning = job.recipe.tuning
    if tuning.warm_start != "auto":
        return job, ""
    chosen = "linear_probe" if _serves(job) else "none"
    recipe = job.recipe.model_copy(update={"tuning": tuning.model_copy(update={"warm_start": chosen})})
    line = "warm start: the new head is solved on the pretrained features first (tuning.warm_start: none leaves it out)"
    return replace(job, recipe=recipe), line if chosen == "linear_probe" else ""


def _serves(job: Job) -> bool:
    recipe, model = job.recipe, job.built.model
    if recipe.tuning.strategy != "full" or recipe.tuning.reinit_layers is not None:
        return False
    if recipe.model.weights == "random" or job.data.stream is not None or job.labels.problem not in METHODS:
        return False
    if recipe.tuning.batch_norm != "frozen" and any(isinstance(module, BatchNorm) for module in model.modules()):
        return False
    try:
        layers = output_layers(model, model.config.num_labels)
        if not all(
            f"{name}.{part}" in job.built.new for name, layer in layers.items() for part, _ in layer.named_parameters()
        ):
            return False
        work = len(job.inputs["train"].lengths) * num_features(model) * model.config.num_labels
        return work <= MOST_WORK and _spread(job) >= LEAST_SPREAD
    except ModelError:
        return False


def _spread(job: Job) -> float:
    """The largest standard deviation of a feature over the first rows: models that learnt nothing give all the same.

    Raises ModelError where the model's answer is not the output of its last layer.
    """
    first = plain_rows(job.inputs["train"], np.arange(min(LOOKED_AT, len(job.inputs["train"].lengths))))
    features = extract_features(
        job.built.model,
        first.rows,
        first.lengths,
        job.evaluator.collate,
        batch_size=job.evaluator.batch_size,
        channels_last=job.evaluator.channels_last,
    )
    return float(features.std(0).max())
