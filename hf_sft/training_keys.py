"""The keys of a recipe's `training:` section: the installed TrainingArguments' fields, read without importing them.

Importing TrainingArguments imports torch (seconds); its source read with `ast` gives names and types in 0.05 s.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_sft.errors import EnvironmentProblem, bare_form, describe_value, nearest

# Fields of TrainingArguments that the recipe says elsewhere, or that would take its promises away.
OWNED = {
    "output_dir": "set output_dir, a key of the recipe itself",
    "seed": "set seed, a key of the recipe itself",
    "data_seed": "set seed, a key of the recipe itself",
    "metric_for_best_model": "put that metric first in metrics, a key of the recipe itself",
    "greater_is_better": "leave it out: each metric knows its direction",
    "load_best_model_at_end": "leave it out: the best checkpoint by the first of metrics is always restored",
    "label_smoothing_factor": "set objective.label_smoothing",
    "remove_unused_columns": "leave it out: dataset.columns says what is read",
    "label_names": "set dataset.columns: {label: ...}",
    "push_to_hub": "leave it out, and publish the finished folder model/",
    "hub_model_id": "leave it out, and publish the finished folder model/",
    "hub_strategy": "leave it out, and publish the finished folder model/",
    "hub_token": "leave it out: secrets do not belong in a recipe; set HF_TOKEN in the environment",
    "hub_private_repo": "leave it out, and publish the finished folder model/",
    "hub_always_push": "leave it out, and publish the finished folder model/",
    "hub_revision": "leave it out, and publish the finished folder model/",
    "fp16": "set run.precision: fp16",
    "bf16": "set run.precision: bf16",
    "fp16_full_eval": "set run.precision",
    "bf16_full_eval": "set run.precision",
    "dataloader_num_workers": "set run.workers",
    "train_sampling_strategy": "leave it out: rows of similar length are always batched together",
    "length_column_name": "leave it out: lengths are always computed",
    "resume_from_checkpoint": "set resume: auto; the same command again goes on where it stopped",
    "ignore_data_skip": "leave it out: resuming goes on with the rows not yet seen",
    "restore_callback_states_from_checkpoint": "leave it out: resuming restores them",
    "average_tokens_across_devices": "leave it out: losses are always averaged over all devices",
    "include_for_metrics": "set metrics",
    "batch_eval_metrics": "leave it out: metrics are always those of the whole split",
    "prediction_loss_only": "set metrics",
    "eval_do_concat_batches": "leave it out: metrics are always those of the whole split",
    "eval_use_gather_object": "leave it out: predictions are always gathered",
    "eval_accumulation_steps": "leave it out: predictions are moved to the CPU batch by batch",
    "do_train": "leave it out: the command says what is done",
    "do_eval": "leave it out: the command says what is done",
    "do_predict": "leave it out: the command says what is done",
    "disable_tqdm": "leave it out: the progress bar hides itself where there is no terminal",
    "local_rank": "leave it out: the launcher sets it",
    "logging_nan_inf_filter": "leave it out: a loss that is not finite is never hidden",
    "auto_find_batch_size": "set per_device_train_batch_size",
    "use_cpu": "set ACCELERATE_USE_CPU=true in the environment",
    "dataloader_drop_last": "leave it out: no row is dropped",
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
    "group_by_length": "leave it out: rows of similar length are always batched together",
    "no_cuda": "set ACCELERATE_USE_CPU=true in the environment",
    "save_safetensors": "leave it out: weights are always safetensors",
    "overwrite_output_dir": "pass --overwrite on the command line",
    "logging_dir": "set TENSORBOARD_LOGGING_DIR in the environment",
    "half_precision_backend": "set run.precision",
    "fp16_backend": "set run.precision",
    "include_inputs_for_metrics": "set metrics",
    "adafactor": "set training.optim: adafactor",
    "use_mps_device": "leave it out: an Apple GPU is used where there is one",
    "push_to_hub_model_id": "leave it out, and publish the finished folder model/",
    "push_to_hub_organization": "leave it out, and publish the finished folder model/",
    "push_to_hub_token": "leave it out: secrets do not belong in a recipe; set HF_TOKEN in the environment",
}

# What people write who know the idea and not the name.
COMMON = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "optimizer": "optim",
    "scheduler": "lr_scheduler_type",
    "warmup": "warmup_steps",
    "accumulation_steps": "gradient_accumulation_steps",
    "grad_accumulation": "gradient_accumulation_steps",
}

# The least value that works, where the annotation alone allows less.
LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "num_train_epochs": 0,
    "weight_decay": 0,
    "warmup_steps": 0,
    "max_grad_norm": 0,
}

OPTIMIZERS = {"adam": "adam", "sgd": "sgd"}  # names of ours: what torch.optim.Adam and torch.optim.SGD mean


@functools.cache
def training_fields() -> Mapping[str, str]:
    """Field name -> annotation (as text) of the installed transformers.TrainingArguments.

    Raises EnvironmentProblem where transformers is not installed.
    """
    (class_,) = [class_ for class_ in _classes("training_args.py") if class_.name == "TrainingArguments"]
    return {
        node.target.id: ast.unparse(node.annotation)
        for node in class_.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


@functools.cache
def enumerations() -> Mapping[str, tuple[str, ...]]:
    """Name of an enumeration that annotations of TrainingArguments use (SchedulerType) -> its values."""
    return {
        class_.name: tuple(
            node.value.value
            for node in class_.body
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )
        for file in ("training_args.py", "trainer_utils.py")
        for class_ in _classes(file)
        if any(isinstance(base, ast.Name) and base.id == "ExplicitEnum" for base in class_.bases)
    }


def _classes(file: str) -> list[ast.ClassDef]:
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise EnvironmentProblem("transformers is not installed; run: pip install 'transformers>=5.23,<6'")
    tree = ast.parse(Path(spec.origin).with_name(file).read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.ClassDef)]


def translate(training: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Names of earlier versions replaced by today's -> (training section, one notice for each).

    What cannot be carried over keeps its name, and `problem_with` says why.
    """
    translated, notices = {}, []
    for key, value in training.items():
        new = RENAMED.get(key, key)
        if new in training or (key == "warmup_ratio" and not _is_share(value)):
            new = key
        if new != key:
            notices.append(f"training.{key} is called training.{new} in the installed transformers; read as that")
        translated[new] = value
    return translated, notices


def problem_with(key: str, value: Any) -> dict[str, str] | None:
    """What is wrong with one key of a translated `training:` (keys of errors.Finding), or None."""
    if key in OWNED:
        return {"expected": "a key the recipe does not own elsewhere", "found": key, "fix": OWNED[key]}
    if key in GONE:
        return {"expected": "a field of TrainingArguments", "found": key, "fix": GONE[key]}
    if key == "warmup_ratio" and not _is_share(value):
        found = describe_value(value)
        return {"expected": "a share of all steps, 0 to 1", "found": found, "fix": "set training.warmup_steps"}
    if key in RENAMED:
        found = f"both {key} and {RENAMED[key]}"
        return {"expected": f"{RENAMED[key]} alone", "found": found, "fix": f"leave out {key}, its earlier name"}
    fields = training_fields()
    if key not in fields:
        return {"expected": "a field of TrainingArguments", "found": key, "fix": _other_field(key)}
    if key == "optim_args" and isinstance(value, dict):  # ours: transformers takes text alone
        return None
    if not _fits(fields[key], value):
        found = describe_value(value)
        return {"expected": _in_words(fields[key]), "found": found, "fix": bare_form(value)}
    return _problem_with_value(key, fields[key], value)


def _other_field(key: str) -> str:
    if key in COMMON:
        return f"did you mean {COMMON[key]!r}?"
    near = nearest(key, [*(name for name in training_fields() if name not in OWNED), *RENAMED])
    return near if near.startswith("did") else "the documentation of transformers.TrainingArguments lists them"


def _problem_with_value(key: str, annotation: str, value: Any) -> dict[str, str] | None:
    known = [choice for name in annotation.split(" | ") for choice in enumerations().get(name, ())]
    known += OPTIMIZERS if key == "optim" else ()
    if known and isinstance(value, str) and value not in known:
        near = nearest(value, known)
        return {"expected": f"a value that {key} has", "found": describe_value(value), "fix": near}
    if isinstance(value, float) and not math.isfinite(value):
        return {"expected": "a finite number", "found": str(value)}
    if isinstance(value, (int, float)) and key in LEAST and value < LEAST[key]:
        return {"expected": f"a number of at least {LEAST[key]}", "found": describe_value(value)}
    return None


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def _in_words(annotation: str) -> str:
    """`int | None` as "a whole number or nothing"."""
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "None": "nothing"}
    kinds = re.sub(r"\[[^]]*\]", "", annotation).split(" | ")
    words |= {"list": "a list", "dict": "keys and values", "Literal": "false"}
    return " or ".join(words[kind] for kind in kinds if kind in words)


def _fits(annotation: str, value: Any) -> bool:
    if value is None:
        return "None" in annotation
    if isinstance(value, bool):
        return "bool" in re.sub(r"dict\[[^]]*\]", "", annotation) or ("Literal[False]" in annotation and not value)
    if isinstance(value, int):
        return "int" in annotation.replace("Any", "") or "float" in annotation
    if isinstance(value, float):
        return "float" in annotation
    if isinstance(value, str):
        return "str" in annotation.replace("dict[str", "").replace("list[str", "")
    if isinstance(value, list):
        return "list" in annotation
    return isinstance(value, dict) and "dict" in annotation
