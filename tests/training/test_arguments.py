"""What a recipe's `training:` says reaches the optimizer, the schedule and the Trainer."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import in_two_processes
from tiny_runs import (
    NO_DROPOUT,
    Spy,
    gradients,
    largest_difference,
    logged,
    make_data,
    make_recipe,
    prepare,
    train,
    weights,
)
from torch.nn import functional
from transformers import TrainingArguments, get_scheduler

from hf_sft import environment
from hf_sft.errors import EnvironmentProblem, HfSftError, RecipeError
from hf_sft.job import Job
from hf_sft.metrics import METRICS
from hf_sft.recipe import Recipe
from hf_sft.training.arguments import DEFAULTS, fill_training, make_arguments, read_optim_args
from hf_sft.training.history import epoch_entries
from hf_sft.training.order import epoch_order
from hf_sft.training_keys import OWNED, training_fields


def resolve(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe as a run over 100 rows would write it."""
    settings = {"learning_rate": 1e-3, "rows": 100, "processes": 1, "validates": True, "task_defaults": {}} | changes
    return recipe.model_copy(update={"training": fill_training(recipe, **settings)})


def arguments_for(
    recipe: Recipe, precision: str = "fp32", metric: str = "accuracy", **changes: Any
) -> TrainingArguments:
    return make_arguments(
        resolve(recipe, **changes), Path(recipe.output_dir), precision=precision, metric=METRICS[metric]
    )


# the optimizer


def plain_loop(work: Job, optimizer: torch.optim.Optimizer, max_grad_norm: float, epochs: int) -> list[dict[str, Any]]:
    """Gradients of each step of a loop in PyTorch alone, over the same batches in the same order."""
    model, rows, seen = work.built.model, work.inputs["train"], []
    model.train()
    for epoch in range(epochs):
        order = epoch_order(rows.lengths, global_batch_size=8, seed=work.recipe.seed, epoch=epoch)
        for start in range(0, len(order), 8):
            batch = work.collate(rows.rows.__getitems__(order[start : start + 8].tolist()))
            targets = batch.pop("labels")
            batch.pop("weight")
            functional.cross_entropy(model(**batch).logits, targets).backward()
            if max_grad_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            seen.append(gradients(model))
            optimizer.step()
            optimizer.zero_grad()
    return seen


ADAM, SGD, ADAMW = torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW
NO_DECAY = {"weight_decay": 0.0, "warmup_steps": 0, "lr_scheduler_type": "constant"}


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.3])
@pytest.mark.parametrize(
    "training, kind, settings",
    [
        ({"optim": "adam"}, ADAM, {}),
        ({"optim": "adam", "adam_beta1": 0.7, "adam_epsilon": 1e-3}, ADAM, {"betas": (0.7, 0.999), "eps": 1e-3}),
        ({"optim": "adam", "optim_args": {"amsgrad": True}}, ADAM, {"amsgrad": True}),
        ({"optim": "sgd"}, SGD, {}),
        (
            {"optim": "sgd", "optim_args": {"momentum": 0.9, "nesterov": True}},
            SGD,
            {"momentum": 0.9, "nesterov": True},
        ),
        ({"optim": "sgd", "optim_args": "momentum=0.5, dampening=0.1"}, SGD, {"momentum": 0.5, "dampening": 0.1}),
        (NO_DECAY, ADAMW, {"weight_decay": 0.0}),
        (
            {**NO_DECAY, "optim": "adamw_torch", "optim_args": {"amsgrad": True}},
            ADAMW,
            {"weight_decay": 0.0, "amsgrad": True},
        ),
    ],
)
def test_optimizers_step_as_in_a_plain_loop_of_pytorch(training, kind, settings, max_grad_norm, models, tmp_path):
    """Over two epochs with a ragged last batch; adam and sgd mean no decay, no warm-up and a constant rate."""
    data, steps = make_data("bert", train=44, validation=8), []
    training = {**training, "max_grad_norm": max_grad_norm, "save_strategy": "no"}
    recipe = make_recipe("bert", models, tmp_path, model={"config": NO_DROPOUT}, training=training)
    work = prepare(recipe, data, double=True)
    train(work, [Spy(lambda state, model, optimizer: steps.append(gradients(model)))])
    plain = prepare(recipe, data, double=True)
    optimizer = kind(plain.built.model.parameters(), lr=1e-2, **settings)
    expected = plain_loop(plain, optimizer, max_grad_norm, epochs=2)
    assert len(steps) == len(expected) == 12
    assert max(map(largest_difference, steps, expected)) < 1e-9
    assert largest_difference(weights(work), weights(plain)) < 1e-9


def test_weight_decay_reaches_matrices_and_nothing_else(models, tmp_path):
    """At a rate that moves nothing else, SGD shrinks every matrix by lr * decay and no bias or norm."""
    training = {"optim": "sgd", "weight_decay": 0.5, "learning_rate": 0.1, "max_steps": 1, "save_strategy": "no"}
    work = prepare(
        make_recipe("bert", models, tmp_path, training=training), make_data("bert", train=16, validation=8), double=True
    )
    before, moved = weights(work), {}
    train(work, [Spy(lambda state, model, optimizer: moved.update(gradients(model)))])
    for name, value in weights(work).items():
        if name in moved:
            shrunk = before[name].ndim > 1 and "position_embeddings" not in name
            expected = before[name] * (0.95 if shrunk else 1.0) - 0.1 * moved[name]
            np.testing.assert_allclose(value, expected, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    "training, said",
    [
        ({"optim": "sgd", "optim_args": {"momentun": 0.9}}, "momentun"),
        ({"optim": "adam", "optim_args": {"eps": -1.0}}, "epsilon"),
        ({"optim": "sgd", "optim_args": {"nesterov": True}}, "Nesterov"),
        ({"optim_args": {"momentum": 0.9}}, "momentum"),
        ({"adam_beta1": 1.5}, "beta"),
        ({"optim": "schedule_free_adamw"}, "schedulefree"),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_the_recipes_fault(training, said, models, tmp_path):
    work = prepare(make_recipe("bert", models, tmp_path, training=training), make_data("bert", train=16, validation=8))
    with pytest.raises(RecipeError, match=said):
        train(work)


# the schedule


@pytest.mark.parametrize(
    "training, name, warmup, settings",
    [
        ({}, "linear", 2, {}),  # a tenth of all steps
        ({"warmup_steps": 3}, "linear", 3, {}),
        ({"warmup_steps": 0.25, "lr_scheduler_type": "cosine"}, "cosine", 3, {}),
        ({"warmup_ratio": 0.5, "lr_scheduler_type": "constant_with_warmup"}, "constant_with_warmup", 6, {}),
        (
            {"warmup_steps": 2, "lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0}},
            "polynomial",
            2,
            {"power": 2.0},
        ),
        ({"warmup_steps": 1, "lr_scheduler_type": "inverse_sqrt"}, "inverse_sqrt", 1, {}),
        (
            {"warmup_steps": 0, "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-4}},
            "cosine_with_min_lr",
            0,
            {"min_lr": 1e-4},
        ),
        ({"optim": "sgd", "lr_scheduler_type": "linear"}, "linear", 0, {}),
    ],
)
def test_schedules_and_warm_up_reach_the_optimizer(training, name, warmup, settings, models, tmp_path):
    """Every group steps at the rate that transformers' own schedule gives, and the log says the same."""
    rates: list[set[float]] = []
    recipe = make_recipe("bert", models, tmp_path, training={**training, "logging_steps": 1, "save_strategy": "no"})
    work = prepare(recipe, make_data("bert", train=44, validation=8))
    found = train(
        work, [Spy(lambda state, model, optimizer: rates.append({group["lr"] for group in optimizer.param_groups}))]
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    schedule = get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=12, scheduler_specific_kwargs=settings
    )
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [sorted(step) for step in rates] == [[rate] for rate in expected]
    assert logged(found, "learning_rate")[:, 0].tolist() == expected


# everything else


def plain(value: Any) -> Any:
    """An enumeration's member as it is written."""
    return getattr(value, "value", value)


@pytest.mark.parametrize("name", sorted(set(training_fields()) - set(OWNED)))
def test_every_field_that_the_recipe_does_not_own_can_be_written_out(name, models, tmp_path):
    """With its default, which then stands in TrainingArguments as transformers itself understands it."""
    field = next(field for field in dataclasses.fields(TrainingArguments) if field.name == name)
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    arguments = arguments_for(make_recipe("bert", models, tmp_path, training={name: plain(default)}))
    untouched = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: default})
    assert plain(getattr(arguments, name)) == plain(getattr(untouched, name))


@pytest.mark.parametrize(
    "training",
    [
        {"neftune_noise_alpha": 5.0},
        {"activation_checkpointing": True},
        {"gradient_checkpointing": True},
        {"eval_delay": 2},
        {"eval_on_start": True},
        {"save_only_model": True},
        {"save_strategy": "best"},
        {"save_total_limit": 1},
        {"save_strategy": "no", "eval_strategy": "steps", "eval_steps": 0.25},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {"lr_scheduler_type": "greedy"},
        {"optim": "adafactor"},
        {"num_train_epochs": 1.5},
        {"max_steps": 3},
        {"per_device_train_batch_size": 64, "warmup_steps": 0},
        {"gradient_accumulation_steps": 16},
        {"per_device_eval_batch_size": 3},
        {"logging_first_step": True, "logging_steps": 5},
        {"include_num_input_tokens_seen": "all"},
        {"torch_empty_cache_steps": 2},
        {"run_name": "tiny", "report_to": "none", "log_level": "warning"},
        {"ddp_backend": "gloo", "ddp_timeout": 60},
        {"accelerator_config": {"split_batches": True, "even_batches": False}},
        {"dataloader_pin_memory": False, "dataloader_persistent_workers": False},
    ],
    ids=lambda training: ", ".join(training),
)
def test_settings_of_every_kind_train(training, models, tmp_path):
    work = prepare(make_recipe("bert", models, tmp_path, training=training), make_data("bert", train=44, validation=10))
    before = weights(work)
    found = train(work)
    assert largest_difference(before, weights(work)) > 0
    assert np.isfinite(logged(found, "loss")).all()
    assert len(epoch_entries(found.log, evaluated=True)) >= 1


@pytest.mark.parametrize(
    "training",
    [
        {"lr_scheduler_type": "linaer"},
        {"optim": "adamw_torhc"},
        {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 3},
        {"dataloader_prefetch_factor": 2},
        {"logging_steps": 0},
    ],
    ids=lambda training: ", ".join(training),
)
def test_what_transformers_refuses_is_the_recipes_fault(training, models, tmp_path):
    with pytest.raises(RecipeError, match=r"^training"):
        arguments_for(make_recipe("bert", models, tmp_path, training=training))


@pytest.mark.parametrize("training", [{"max_steps": 3}, {"max_steps": 7, "num_train_epochs": 1}], ids=str)
def test_max_steps_ends_training(training, models, tmp_path):
    """44 rows in batches of 8 make 6 steps an epoch; max_steps counts whatever num_train_epochs says."""
    work = prepare(make_recipe("bert", models, tmp_path, training=training), make_data("bert", train=44, validation=8))
    assert logged(train(work), "step")[-1, 0] == training["max_steps"]


def test_a_resolved_recipe_says_every_default_and_what_was_given_wins(models, tmp_path):
    recipe = make_recipe("bert", models, tmp_path, training={"weight_decay": 0.2})
    filled = resolve(recipe, task_defaults={"max_grad_norm": 7.0, "weight_decay": 9.0}).training
    expected = {**DEFAULTS, **recipe.training, "max_grad_norm": 7.0, "save_total_limit": 2}
    assert expected.items() <= filled.items()
    assert (filled["eval_strategy"], filled["save_strategy"]) == ("epoch", "epoch")
    assert filled["logging_steps"] >= 1
    again = resolve(recipe.model_copy(update={"training": filled}))
    assert again.training == filled, "resolving twice changes nothing"


@pytest.mark.parametrize("rows", [1, 7, 100, 10**6])
@pytest.mark.parametrize("processes", [1, 8])
def test_an_epoch_is_logged_at_least_four_times_where_it_has_the_steps(rows, processes, models, tmp_path):
    interval = resolve(make_recipe("bert", models, tmp_path), rows=rows, processes=processes).training["logging_steps"]
    steps = -(-rows // (8 * processes))
    assert 1 <= interval <= 50 and (steps // interval >= 4 or interval == 1)


def test_a_stream_is_evaluated_and_saved_by_steps(models, tmp_path):
    filled = resolve(make_recipe("bert", models, tmp_path, training={"max_steps": 400}), rows=None).training
    assert (filled["eval_strategy"], filled["eval_steps"], filled["save_strategy"], filled["save_steps"]) == (
        "steps",
        100,
    ) * 2


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_the_first_metric_chooses_the_best_in_its_own_direction(metric, models, tmp_path):
    arguments = arguments_for(make_recipe("bert", models, tmp_path), metric=metric)
    assert arguments.load_best_model_at_end and arguments.metric_for_best_model == metric
    assert arguments.greater_is_better is METRICS[metric].greater_is_better


# the machine


def test_half_precision_floats_need_a_gpu(models, tmp_path):
    recipe = make_recipe("bert", models, tmp_path, run={"precision": "fp16"})
    with pytest.raises(EnvironmentProblem, match=r"run\.precision"):
        prepare(recipe, make_data("bert", train=16))


def test_bfloat16_trains_float32_weights_on_a_cpu(models, tmp_path):
    dtypes: set[torch.dtype] = set()
    recipe = make_recipe("bert", models, tmp_path, run={"precision": "bf16"})
    work = prepare(recipe, make_data("bert", train=24, validation=8))
    work.built.model.classifier.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    before = weights(work)
    found = train(work)
    assert work.environment.precision == "bf16" and torch.bfloat16 in dtypes
    assert {parameter.dtype for parameter in work.built.model.parameters()} == {torch.float32}
    assert largest_difference(before, weights(work)) > 0 and np.isfinite(logged(found, "loss")).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_recipe_decides_the_precision_whatever_the_launcher_is_set_to(precision, monkeypatch, models, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    arguments = arguments_for(make_recipe("bert", models, tmp_path), precision=precision)
    assert arguments.mixed_precision == {"fp32": "no", "bf16": "bf16"}[precision]


def test_several_devices_in_one_process_are_never_wrapped_in_data_parallel(monkeypatch, models, tmp_path):
    """nn.DataParallel multiplies the batch and averages losses of unequal parts."""
    set_up = TrainingArguments.__dict__["_setup_devices"].func

    def find_two(arguments: TrainingArguments) -> torch.device:
        device = set_up(arguments)
        arguments._n_gpu = 2
        return device

    def refuse(*_: Any, **__: Any) -> typing.NoReturn:
        raise AssertionError("wrapped in DataParallel")

    found = cached_property(find_two)
    found.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", found)
    monkeypatch.setattr(torch.nn.DataParallel, "__init__", refuse)
    assert TrainingArguments(output_dir=str(tmp_path), use_cpu=True).n_gpu == 2
    recipe = make_recipe("bert", models, tmp_path)
    assert arguments_for(recipe).train_batch_size == 8
    trained = train(prepare(recipe, make_data("bert", train=44, validation=8)))
    assert logged(trained, "step")[-1, 0] == 12


@pytest.mark.parametrize(
    "device, capability, expected",
    [("cpu", None, "fp32"), ("mps", None, "fp32"), ("cuda", (8, 0), "bf16"), ("cuda", (7, 5), "fp16")],
)
def test_precision_is_chosen_by_what_the_device_has_in_hardware(device, capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert environment.choose_precision("auto", torch.device(device)) == expected


def timeout_of_the_process_group(models: Path, folder: Path) -> float:
    recipe = make_recipe("bert", models, folder, training={"ddp_timeout": 77})
    environment.prepare_environment(recipe)
    arguments_for(recipe)
    group = torch.distributed.distributed_c10d._get_default_group()
    return group._get_backend(torch.device("cpu")).options._timeout.total_seconds()


def test_the_timeout_of_the_processes_is_the_recipes(models, tmp_path):
    make_recipe("bert", models, tmp_path)
    assert in_two_processes(timeout_of_the_process_group, models, tmp_path) == [77.0, 77.0]


def test_early_stopping_needs_a_best_checkpoint(models, tmp_path):
    with pytest.raises(HfSftError, match="early_stopping"):
        make_recipe("bert", models, tmp_path, early_stopping={}, training={"save_strategy": "no"})


def test_a_loss_that_is_not_finite_stops_the_run(models, tmp_path):
    recipe = make_recipe("bert", models, tmp_path, training={"logging_steps": 1})
    work = prepare(recipe, make_data("bert", train=44, validation=8))
    poisoned = replace(work, collate=_PoisonAt(work.collate, 3))
    with pytest.raises(EnvironmentProblem, match=r"(?s)step 3.*finite.*nan.*learning_rate"):
        train(poisoned)


class _PoisonAt:
    """A collator whose nth batch weighs NaN."""

    def __init__(self, collate: Any, number: int):
        self.collate, self.left = collate, number

    def __call__(self, features: Any) -> dict[str, Any]:
        self.left -= 1
        batch = self.collate(features)
        return {**batch, "weight": batch["weight"] * (float("nan") if self.left == 0 else 1)}


def test_settings_of_an_optimizer_are_numbers_however_they_are_written():
    assert read_optim_args("momentum=9e-1,nesterov=true") == read_optim_args({"momentum": 0.9, "nesterov": True})
    assert read_optim_args(None) == read_optim_args("") == {}
