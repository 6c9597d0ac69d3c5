"""The keys of a recipe's `training:` section: the installed TrainingArguments' fields, read without importing them.

Importing TrainingArguments imports torch (seconds); its source read with `ast` gives names and types in 0.05 s.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_sft.errors import EnvironmentProblem, nearest

# Fields of TrainingArguments that the recipe says elsewhere, or that would take its promises away.
OWNED = {
    "output_dir": "the recipe's output_dir",
    "seed": "the recipe's seed",
    "data_seed": "the recipe's seed",
    "metric_for_best_model": "the first entry of the recipe's metrics",
    "greater_is_better": "the metric itself knows its direction",
    "load_best_model_at_end": "the best checkpoint is always restored; early_stopping and metrics say how it is chosen",
    "label_smoothing_factor": "objective.label_smoothing",
    "remove_unused_columns": "dataset.columns",
    "label_names": "dataset.columns",
    "push_to_hub": "publish the finished folder model/ instead",
    "hub_model_id": "publish the finished folder model/ instead",
    "hub_strategy": "publish the finished folder model/ instead",
    "hub_token": "secrets do not belong in a recipe",
    "hub_private_repo": "publish the finished folder model/ instead",
    "hub_always_push": "publish the finished folder model/ instead",
    "hub_revision": "publish the finished folder model/ instead",
    "fp16": "run.precision: fp16",
    "bf16": "run.precision: bf16",
    "fp16_full_eval": "run.precision",
    "bf16_full_eval": "run.precision",
    "dataloader_num_workers": "run.workers",
    "train_sampling_strategy": "rows of similar length are always batched together",
    "length_column_name": "lengths are always computed",
    "resume_from_checkpoint": "resume: auto (the same command again goes on where it stopped)",
    "ignore_data_skip": "resume: auto",
    "restore_callback_states_from_checkpoint": "resume: auto",
    "average_tokens_across_devices": "losses are always averaged over all devices",
    "include_for_metrics": "metrics",
    "batch_eval_metrics": "metrics",
    "prediction_loss_only": "metrics",
    "eval_do_concat_batches": "metrics",
    "eval_use_gather_object": "metrics",
    "eval_accumulation_steps": "predictions are moved to the CPU batch by batch",
    "do_train": "the command says what is done",
    "do_eval": "the command says what is done",
    "do_predict": "the command says what is done",
    "disable_tqdm": "the progress bar hides itself where there is no terminal",
    "local_rank": "the launcher sets it",
    "logging_nan_inf_filter": "a loss that is not finite is never hidden",
    "auto_find_batch_size": "set per_device_train_batch_size",
    "use_cpu": "ACCELERATE_USE_CPU=true in the environment",
    "dataloader_drop_last": "no row is dropped",
}

# Names that earlier versions of transformers had: the new name and how the value carries over.
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps",  # a number below 1 is a share of all steps
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
}
GONE = {
    "group_by_length": "rows of similar length are always batched together; leave it out",
    "no_cuda": "ACCELERATE_USE_CPU=true in the environment",
    "save_safetensors": "weights are always safetensors; leave it out",
    "overwrite_output_dir": "pass --overwrite on the command line",
    "logging_dir": "set TENSORBOARD_LOGGING_DIR in the environment",
    "half_precision_backend": "run.precision",
    "fp16_backend": "run.precision",
    "include_inputs_for_metrics": "metrics",
}

OPTIMIZERS = {"adam": "adam", "sgd": "sgd"}  # names of ours: what torch.optim.Adam and torch.optim.SGD mean


@functools.cache
def training_fields() -> Mapping[str, str]:
    """Field name -> annotation (as text) of the installed transformers.TrainingArguments.

    Raises EnvironmentProblem where transformers is not installed.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise EnvironmentProblem("transformers is not installed; run: pip install 'transformers>=5.23,<6'")
    tree = ast.parse(Path(spec.origin).with_name("training_args.py").read_text(encoding="utf-8"))
    (class_,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"]
    return {
        node.target.id: ast.unparse(node.annotation)
        for node in class_.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def translate(training: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Names of earlier versions replaced by today's -> (training section, one notice for each)."""
    translated, notices = {}, []
    for key, value in training.items():
        new = RENAMED.get(key, key)
        if new != key:
            notices.append(f"training.{key} is called training.{new} in the installed transformers; read as that")
        translated[new] = value
    return translated, notices


def problem_with(key: str, value: Any) -> dict[str, str] | None:
    """What is wrong with one key of `training:` (keys of errors.Finding), or None."""
    if key in OWNED:
        return {"expected": "a key the recipe does not own elsewhere", "found": key, "fix": f"use {OWNED[key]}"}
    if key in GONE:
        return {"expected": "a field of TrainingArguments", "found": key, "fix": GONE[key]}
    if key == "optim_args":
        good = isinstance(value, (str, dict)) or value is None
        return None if good else _type_problem("settings of the optimizer, as {momentum: 0.9}", value)
    fields = training_fields()
    if key not in fields:
        return {
            "expected": "a field of TrainingArguments",
            "found": key,
            "fix": nearest(key, [*(name for name in fields if name not in OWNED), *RENAMED]),
        }
    if not _fits(fields[key], value):
        return _type_problem(fields[key].replace("Any", "any"), value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"expected": "a finite number", "found": str(value)}
    return None


def _type_problem(expected: str, value: Any) -> dict[str, str]:
    return {"expected": expected, "found": f"{value!r} ({type(value).__name__})"}


def _fits(annotation: str, value: Any) -> bool:
    if value is None:
        return "None" in annotation
    if isinstance(value, bool):
        return "bool" in annotation or "Literal[False]" in annotation
    if isinstance(value, int):
        return "int" in annotation.replace("Any", "") or "float" in annotation
    if isinstance(value, float):
        return "float" in annotation
    if isinstance(value, str):
        return "str" in annotation.replace("dict[str", "").replace("list[str", "")
    if isinstance(value, list):
        return "list" in annotation
    return isinstance(value, dict) and "dict" in annotation
