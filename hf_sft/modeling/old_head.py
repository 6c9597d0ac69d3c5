"""The classifier that a checkpoint brings for other labels: how sure it is of rows it was not made for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from hf_sft.errors import ModelError
from hf_sft.modeling.anatomy import output_layers
from hf_sft.modeling.build import Opened, quiet, read_config
from hf_sft.recipe import Recipe

if TYPE_CHECKING:
    from hf_sft.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class OldHead:
    """weight: [L, D], bias: [L] in float64; of two layers, whose mean is the answer, both divided by two."""

    weight: NDArray
    bias: NDArray

    def entropy(self, features: NDArray) -> float | None:
        """Mean entropy of its answers for features [N, D], over that of an even guess: 0 sure, 1 no idea.

        A measure, not a test: a classifier can be sure and wrong on inputs it never saw. None for other features.
        """
        if features.shape[1] != self.weight.shape[1]:
            return None
        logits = features.astype(np.float64) @ self.weight.T + self.bias
        logits -= logits.max(1, keepdims=True)
        shares = np.exp(logits)
        total = shares.sum(1)
        entropies = np.log(total) - (shares * logits).sum(1) / total
        return float(entropies.mean() / math.log(len(self.bias)))


def read_old_head(recipe: Recipe, task: Task, opened: Opened, *, trust_remote_code: bool = False) -> OldHead | None:
    """The output layer of the recipe's checkpoint as it was trained; None where it has none with named classes."""
    source = opened.source
    if opened.known is None or source.random or source.architecture is not None or len(opened.known) < 2:
        return None
    config = read_config(source.name, revision=recipe.model.revision, trust_remote_code=trust_remote_code)
    if config.problem_type not in (None, "single_label_classification"):
        return None
    for key, value in recipe.model.config.items():  # open_model has found them right
        setattr(config, key, value)
    with quiet():
        model = getattr(transformers, task.auto_model).from_pretrained(
            source.name,
            revision=recipe.model.revision,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    try:
        layers = list(output_layers(model, len(opened.known)).values())
    except ModelError:
        return None
    weights = [layer.weight.detach().flatten(1).double().numpy() / len(layers) for layer in layers]  # type: ignore[operator]
    biases = [layer.bias.detach().double().numpy() / len(layers) for layer in layers if layer.bias is not None]  # type: ignore[operator]
    return OldHead(weight=np.concatenate(weights, axis=1), bias=np.sum([np.zeros(len(weights[0])), *biases], axis=0))
