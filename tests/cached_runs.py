"""Runs of tiny models that replay what frozen layers give, for the laws of the activation cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import largest_difference, logged, make_data, make_recipe, prepare, train, weights
from torch import nn

from hf_sft.job import Job
from hf_sft.training.cache_plan import Plan, decide

HEAD = {"strategy": "head"}
TOP = {"strategy": "top_layers", "layers": 1}
RULES = {"strategy": "rules", "rules": [{"pattern": "embeddings", "lr_scale": 0}, {"pattern": "*"}]}
DROPOUT: dict[str, dict[str, Any]] = {
    "bert": {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2},
    "modernbert": {"mlp_dropout": 0.3, "classifier_dropout": 0.3},
    "vit": {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2},
    "swin": {"drop_path_rate": 0.3, "hidden_dropout_prob": 0.2},
    "convnext": {"drop_path_rate": 0.3},
    "timm_vit": {"model_args": {"img_size": 32, "drop_path_rate": 0.3, "proj_drop_rate": 0.2}},
}
TOLERANCE = 2e-4  # of weights and losses; rows are recorded in other batches than they are trained in


def job_of(
    family: str, models: Path, folder: Path, tuning: dict[str, Any], *, problem: str = "single_label", **changes: Any
) -> Job:
    """A job over 28 rows in batches of 8, the last ragged; its cache lies beside the run."""
    training = {"logging_steps": 1, "num_train_epochs": 3, "save_strategy": "no", **changes.pop("training", {})}
    changes["model"] = {"config": DROPOUT.get(family, {}), **changes.pop("model", {})}
    tuning = {"cache": "on", "cache_dir": str(folder.parent / "cache"), **tuning}
    if tuning["cache"] == "off":
        tuning.pop("cache_dir")
    data = changes.pop("data", None) or make_data(family, problem, train=28, validation=10)
    return prepare(make_recipe(family, models, folder, tuning=tuning, training=training, **changes), data)


def outcome(work: Job) -> tuple[dict[str, np.ndarray], np.ndarray, list[dict[str, float]]]:
    """Final weights, the loss curve, and every evaluation."""
    found = train(work)
    assert any("rows cached" in note for note in found.notes) == (work.recipe.tuning.cache != "off")
    keys = ("epoch", "step", "eval_loss", "eval_accuracy", "eval_mse")
    entries = [{key: entry[key] for key in keys if key in entry} for entry in found.log if "eval_loss" in entry]
    return weights(work), logged(found, "loss", "grad_norm"), entries


def assert_same(one: Any, other: Any) -> None:
    assert largest_difference(one[0], other[0]) < TOLERANCE
    np.testing.assert_allclose(one[1], other[1], rtol=1e-3, atol=TOLERANCE)
    assert len(one[2]) == len(other[2])
    for left, right in zip(one[2], other[2], strict=True):
        assert left == pytest.approx(right, abs=1e-4)


def planned(work: Job) -> Plan:
    plan = decide(work)
    assert plan is not None
    return plan


def is_whole(model: nn.Module) -> bool:
    return not any(
        "forward" in vars(module) or module._forward_pre_hooks or module._forward_hooks for module in model.modules()
    )
