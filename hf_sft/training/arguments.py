"""From a recipe's `training:` to transformers.TrainingArguments: defaults where it is silent, ours where we own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from hf_sft.environment import on_cpu
from hf_sft.errors import Finding, RecipeError
from hf_sft.metrics.metric import Metric
from hf_sft.recipe import Recipe
from hf_sft.tasks import TASKS
from hf_sft.training.global_batch import share_batch
from hf_sft.training.tracking import left_to_trainer
from hf_sft.training_keys import OPTIMIZERS
from hf_sft.yaml12 import parse

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "weight_decay": 0.01,
    "warmup_steps": 0.1,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "gradient_accumulation_steps": 1,
}

DROPS_OPTIM_ARGS = ("adamw_torch", "adamw_torch_fused", "adafactor")  # transformers reads none of them for these


def largest_batch(recipe: Recipe) -> int:
    """Training rows that a device takes at once, at most."""
    return int({**DEFAULTS, **TASKS[recipe.task].training_defaults, **recipe.training}["per_device_train_batch_size"])


def fill_training(
    recipe: Recipe, *, learning_rate: float, rows: int | None, processes: int, validates: bool, task_defaults: Mapping
) -> dict[str, Any]:
    """The `training:` section with every default written out; what a resolved recipe holds."""
    given = recipe.training
    filled: dict[str, Any] = {**DEFAULTS, **task_defaults, "learning_rate": learning_rate}
    if given.get("optim") in OPTIMIZERS:  # what PyTorch means: no decay, no warm-up unless asked for
        filled |= {"weight_decay": 0.0, "warmup_steps": 0, "lr_scheduler_type": "constant"}
    interval = "epoch" if rows is not None else "steps"
    filled |= {"eval_strategy": interval if validates else "no", "save_strategy": interval, "save_total_limit": 2}
    filled |= given
    filled |= share_batch(recipe, filled["per_device_train_batch_size"], processes)
    if rows is not None:
        batch = filled["per_device_train_batch_size"] * filled["gradient_accumulation_steps"] * processes
        filled.setdefault("logging_steps", max(1, min(50, -(-rows // batch) // 4)))
    else:
        filled.setdefault("logging_steps", max(1, min(50, given["max_steps"] // 4)))
        filled.setdefault("save_steps", max(1, given["max_steps"] // 4))
        if validates:
            filled.setdefault("eval_steps", filled["save_steps"])
    if not validates:
        filled["eval_strategy"] = "no"
    return filled


def make_arguments(recipe: Recipe, folder: Path, *, precision: str, metric: Metric | None) -> TrainingArguments:
    """TrainingArguments of a resolved recipe. Raises RecipeError when transformers refuses the combination.

    metric: the one that chooses the best checkpoint; None without validation.
    """
    training = dict(recipe.training)
    optim = training.pop("optim", None)
    optim_args = training.pop("optim_args", None)
    if optim is not None:
        training["optim"] = "adamw_torch" if optim in OPTIMIZERS else optim
    if isinstance(optim_args, dict) and optim not in OPTIMIZERS:
        training["optim_args"] = ",".join(f"{key}={value}" for key, value in optim_args.items())
    elif isinstance(optim_args, str):
        training["optim_args"] = optim_args
    keeps_best = metric is not None and training["save_strategy"] in (training["eval_strategy"], "best")
    owned = {
        "output_dir": str(folder),
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "load_best_model_at_end": keeps_best,
        "metric_for_best_model": metric.name if metric else None,
        "greater_is_better": metric.greater_is_better if metric else None,
        "remove_unused_columns": False,
        "restore_callback_states_from_checkpoint": True,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": on_cpu(),
        "dataloader_num_workers": 0 if recipe.dataset.streaming else workers(recipe),
        "dataloader_pin_memory": training.get("dataloader_pin_memory", torch.cuda.is_available() and not on_cpu()),
        "ddp_find_unused_parameters": training.get("ddp_find_unused_parameters", False),
        "log_level": training.get("log_level", "error"),
        "report_to": left_to_trainer(training.get("report_to")),
    }
    if recipe.dataset.streaming:  # each process reads the stream and takes its share: ragged batches are not dispatched
        owned["accelerator_config"] = {**(training.get("accelerator_config") or {}), "dispatch_batches": False}
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        training.pop("ddp_backend", None)  # accelerate would look for processes that are not there
    try:
        arguments = TrainingArguments(**(training | owned))
    except (ValueError, TypeError, ImportError) as error:
        found = " ".join(str(error).split())
        raise RecipeError(Finding(place="training", expected="a combination that works", found=found)) from error
    arguments.mixed_precision = "no" if precision == "fp32" else precision  # else the launcher's own settings decide
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # nn.DataParallel would multiply the batch and average losses of unequal parts
    return arguments


def workers(recipe: Recipe) -> int:
    """Data-loading processes. auto: none on a CPU, where they would take the model's own cores."""
    if recipe.run.workers != "auto":
        return recipe.run.workers
    if not torch.cuda.is_available() or TASKS[recipe.task].ahead:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1))


def make_optimizer(name: str, optim_args: Any, groups: list[dict[str, Any]], arguments: TrainingArguments) -> Any:
    """torch.optim.Adam or SGD with PyTorch's own meaning of their settings. Raises RecipeError for unknown ones."""
    settings = read_optim_args(optim_args)
    if name == "adam":
        settings = {"betas": (arguments.adam_beta1, arguments.adam_beta2), "eps": arguments.adam_epsilon} | settings
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[name]
    try:
        return kind(groups, lr=arguments.learning_rate, **settings)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            Finding(place="training.optim_args", expected=f"settings of torch.optim.{kind.__name__}", found=str(error))
        ) from error


def read_optim_args(optim_args: Any) -> dict[str, Any]:
    """training.optim_args as a dict, also where it is written as transformers has it: `momentum=0.9,nesterov=true`."""
    if not isinstance(optim_args, str):
        return dict(optim_args or {})
    pairs = (part.partition("=") for part in optim_args.split(",") if part.strip())
    return {key.strip(): parse(value, lambda line, column: "training.optim_args")[0] for key, _, value in pairs}
