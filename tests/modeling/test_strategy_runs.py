"""Strategies in training: what is frozen stays as it is to the last bit, the rest learns at its own rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import STRATEGY_SETTINGS
from forked import in_two_processes
from tiny_runs import NO_DROPOUT, StopAfter, largest_difference, make_data, make_recipe, prepare, train, weights
from torch import nn
from transformers import TrainerCallback

from hf_sft.modeling.anatomy import find_blocks
from hf_sft.training.history import step_entries

FAMILIES = ["bert", "vit", "resnet", "convnext", "swin", "timm_resnet", "timm_vit"]
DROPOUT: dict[str, dict[str, Any]] = {
    "bert": {"hidden_dropout_prob": 0.5},
    "timm_vit": {"model_args": {"img_size": 32, "pos_drop_rate": 0.5, "proj_drop_rate": 0.5}},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny models are kept once made."""
    return tmp_path_factory.mktemp("models")


class Watch(TrainerCallback):
    """Which modules are in training mode while gradients are computed, and the rates of the optimizer's groups."""

    def __init__(self) -> None:
        self.training: dict[str, bool] = {}
        self.rates: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training = {name: module.training for name, module in kwargs["model"].named_modules()}
        self.rates = [group["lr"] for group in kwargs["optimizer"].param_groups]


def blocks_of_modules(model: nn.Module) -> dict[str, set[str]]:
    """Module with parameters -> the blocks that they belong to."""
    of_parameter = {name: block.name for block in find_blocks(model) for name in block.parameters}
    names = {path: [f"{path}.{name}" for name, _ in part.named_parameters()] for path, part in model.named_modules()}
    return {path: {of_parameter[name] for name in inside} for path, inside in names.items() if path and inside}


@pytest.mark.parametrize("strategy", ["top_layers", "first_layers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_blocks_stay_bit_identical_and_in_eval_mode(
    family: str, strategy: str, models: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"tuning": STRATEGY_SETTINGS[strategy], "model": {"config": DROPOUT.get(family, {})}}
    recipe = make_recipe(family, models, tmp_path / "run", **changes)
    work = prepare(recipe, make_data(family, train=16, validation=8))
    model, watch = work.built.model, Watch()
    blocks = [block.name for block in find_blocks(model)]
    last = max(int(name.removeprefix("block.")) for name in blocks if name.startswith("block."))
    top = {f"block.{last}", "final", "head"}
    trained = (top if strategy == "top_layers" else {"embeddings", "block.0", "head"}) & set(blocks)
    trained |= {block.name for block in find_blocks(model) if set(block.parameters) <= work.built.new}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(work, [watch])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    places = blocks_of_modules(model)
    for path, inside in places.items():
        state = {name for name in before if name.startswith(f"{path}.")}
        if not inside & trained:
            assert not watch.training[path] and not state & changed
        elif inside <= trained:
            assert watch.training[path]
    for block in find_blocks(model):
        assert bool(set(block.parameters) & changed) == (block.name in trained)
    assert all(
        p.grad is None
        for b in find_blocks(model)
        if b.name not in trained
        for p in map(model.get_parameter, b.parameters)
    )
    dropping = [path for path, part in model.named_modules() if isinstance(part, nn.Dropout) and part.p]
    for path in dropping:  # dropout belongs to the module around it
        around = places.get(path.rpartition(".")[0], set())
        if len(around) == 1:
            assert watch.training[path] == (around <= trained)
    assert bool(dropping) == (family in DROPOUT)


def test_every_group_learns_at_its_own_rate_and_the_head_s_is_logged(models: Path, tmp_path: Path) -> None:
    tuning = {"strategy": "layer_decay", "layer_decay": 0.8, "head_lr_scale": 5.0}
    training = {"lr_scheduler_type": "constant", "warmup_steps": 0, "logging_steps": 1, "learning_rate": 1e-3}
    work = prepare(
        make_recipe("vit", models, tmp_path / "run", tuning=tuning, training=training),
        make_data("vit", train=16, validation=8),
    )
    watch = Watch()
    found = train(work, [watch])
    assert set(watch.rates) == {1e-3 * 5.0, *(1e-3 * 0.8**depth for depth in range(4))}
    assert {entry["learning_rate"] for entry in step_entries(found.log)} == {5e-3}


@pytest.mark.parametrize("strategy", ["top_layers", "layer_decay"])
def test_resumed_run_equals_uninterrupted_run(strategy: str, models: Path, tmp_path: Path) -> None:
    tuning = {**STRATEGY_SETTINGS[strategy], "head_lr_scale": 3.0}
    training = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    kept = {}
    for name, callbacks in (("whole", []), ("parts", [StopAfter(5)]), ("parts", [])):
        recipe = make_recipe("bert", models, tmp_path / name, tuning=tuning, training=training)
        work = prepare(recipe, make_data("bert", train=44, validation=16))
        if callbacks:
            with pytest.raises(KeyboardInterrupt):
                train(work, callbacks)
        else:
            train(work)
            kept[name] = weights(work)
    assert largest_difference(kept["whole"], kept["parts"]) == 0.0


def final_weights(strategy: str, models: Path, folder: Path, training: dict[str, Any]) -> dict[str, Any]:
    """Of 61 rows in batches of 16 over all processes, in float64, nothing drawn at random."""
    changes: dict[str, Any] = {"model": {"config": NO_DROPOUT}, "tuning": STRATEGY_SETTINGS[strategy]}
    recipe = make_recipe("bert", models, folder, training=training, **changes)
    work = prepare(recipe, make_data("bert", train=61, validation=8), double=True)
    train(work)
    return weights(work)


@pytest.mark.parametrize("strategy", ["top_layers", "first_layers", "layer_decay"])
def test_two_processes_give_the_weights_of_one(strategy: str, models: Path, tmp_path: Path) -> None:
    one = final_weights(strategy, models, tmp_path / "one", {"per_device_train_batch_size": 16})
    shared = {"per_device_train_batch_size": 8}
    for other in in_two_processes(final_weights, strategy, models, tmp_path / "two", shared):
        assert largest_difference(one, other) < 1e-10


@pytest.mark.parametrize("strategy", STRATEGY_SETTINGS)
def test_what_a_strategy_asks_of_a_model_is_decided_before_training(
    strategy: str, models: Path, tmp_path: Path
) -> None:
    work = prepare(
        make_recipe("bert", models, tmp_path / "run", tuning=STRATEGY_SETTINGS[strategy]),
        make_data("bert", train=8, validation=8),
    )
    trained = {name for name, parameter in work.built.model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, rule in work.rules.items() if rule.lr_scale > 0}
    assert work.parameters["trainable"] == sum(work.built.model.get_parameter(name).numel() for name in trained)
