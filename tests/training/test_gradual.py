"""Gradual unfreezing: what waits stays as it is to the last bit, in any number of processes, and joins in its turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import in_two_processes
from tiny_runs import NO_DROPOUT, StopAfter, largest_difference, logged, make_data, make_recipe, prepare, train, weights
from torch import nn
from transformers import TrainerCallback

from hf_sft.commands.check import check
from hf_sft.errors import RecipeError
from hf_sft.job import Job
from hf_sft.modeling.anatomy import find_blocks
from hf_sft.recipe import Recipe
from hf_sft.training.history import epoch_entries, step_entries

FAMILIES = ["bert", "vit", "resnet", "convnext", "swin", "timm_resnet", "timm_vit"]
DROPOUT = {"bert": {"hidden_dropout_prob": 0.5}}
EACH_TWO_STEPS = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
STEPS = 6  # an epoch of 44 rows


def gradual(**settings: Any) -> dict[str, Any]:
    return {"strategy": "gradual", "gradual": settings}


class Watch(TrainerCallback):
    """At each step: which blocks changed in it, what had gradients, the optimizer's state, modules in training mode."""

    def __init__(self) -> None:
        self.before: dict[str, torch.Tensor] = {}
        self.changed: list[set[str]] = []
        self.training: list[dict[str, bool]] = []
        self.with_gradient: list[set[str]] = []
        self.with_state: list[int] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.before = {name: value.clone() for name, value in model.state_dict().items()}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.training.append({name: module.training for name, module in model.named_modules()})
        self.with_gradient.append({name for name, value in model.named_parameters() if value.grad is not None})

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        now = model.state_dict()
        self.changed.append({name for name, value in now.items() if not torch.equal(value, self.before[name])})
        self.with_state.append(len(kwargs["optimizer"].state))


def blocks_of(model: nn.Module) -> dict[str, str]:
    """Entry of the state -> its block, the deciding one of the module around it for buffers."""
    of_parameter = {name: block.name for block in find_blocks(model) for name in block.parameters}
    around = {name.rpartition(".")[0]: block for name, block in of_parameter.items()}
    return {name: of_parameter.get(name) or around.get(name.rpartition(".")[0], "") for name in model.state_dict()}


def run(
    family: str, models: Path, folder: Path, *callbacks: Any, double: bool = False, **changes: Any
) -> tuple[Any, Job]:
    training = {"num_train_epochs": 4, "weight_decay": 0.1, "logging_steps": 1, **changes.pop("training", {})}
    recipe = make_recipe(family, models, folder, training=training, **{"tuning": gradual(), **changes})
    work = prepare(recipe, make_data(family, train=44, validation=16), double=double)
    return train(work, callbacks), work


def turns(work: Job, at_a_time: int = 1) -> dict[str, int]:
    """Block -> after how many times `every` it joins."""
    blocks = [block.name for block in find_blocks(work.built.model)]
    layers = [name for name in reversed(blocks) if name.startswith("block.")]
    joins = {name: 1 + number // at_a_time for number, name in enumerate(layers)}
    joins |= {"head": 0, "final": 1, "embeddings": max(joins.values()) + 1}
    for block in find_blocks(work.built.model):
        if set(block.parameters) <= work.built.new:
            joins[block.name] = 0
    return joins


@pytest.mark.parametrize("family", FAMILIES)
def test_what_waits_stays_bit_identical_in_eval_mode_and_without_a_gradient_until_its_turn(family, models, tmp_path):
    """Weight decay on, momentum too; dropout in BERT, BatchNorm in the ResNets."""
    watch = Watch()
    _, work = run(family, models, tmp_path, watch, model={"config": DROPOUT.get(family, {})})
    model, joins, places = work.built.model, turns(work), blocks_of(work.built.model)
    assert len(watch.changed) == 4 * STEPS
    moved: set[str] = set()
    for step, changed in enumerate(watch.changed):
        trains = {name for name in places if places[name] and joins[places[name]] <= step // STEPS}
        assert changed <= trains
        assert watch.with_gradient[step] == {name for name, _ in model.named_parameters()} & trains
        assert watch.with_state[step] == len(watch.with_gradient[step])
        for name in places:
            path = name.rpartition(".")[0]
            if places[name] and path and isinstance(model.get_submodule(path), (nn.BatchNorm2d, nn.LayerNorm)):
                assert watch.training[step][path] == (name in trains)
        moved |= {places[name] for name in changed}
    assert moved >= {name for name, turn in joins.items() if turn <= 3} & set(places.values())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_dropout_is_off_in_what_waits(models, tmp_path):
    watch = Watch()
    _, work = run("bert", models, tmp_path, watch, model={"config": DROPOUT["bert"]})
    dropping = [name for name, part in work.built.model.named_modules() if isinstance(part, nn.Dropout) and part.p]
    layer = [name for name in dropping if ".layer.0." in name]
    assert layer and "dropout" in dropping
    for step, training in enumerate(watch.training):
        assert {training[name] for name in layer} == {step >= 2 * STEPS}
        assert training["bert.embeddings.dropout"] == (step >= 3 * STEPS)
        assert training["dropout"]


@pytest.mark.parametrize(
    "settings, joined",
    [
        ({"every": 2}, {"block.1": 12}),
        ({"every": 4, "unit": "steps"}, {"block.1": 4, "block.0": 8, "embeddings": 12}),
        ({"every": 5, "unit": "steps", "layers": 2}, {"block.1": 5, "block.0": 5, "embeddings": 10}),
        ({"every": 1, "layers": "all"}, {"block.1": 6, "block.0": 6, "embeddings": 6}),
    ],
)
def test_blocks_join_after_so_many_epochs_or_steps(settings, joined, models, tmp_path):
    watch, training = Watch(), {"num_train_epochs": 3, "warmup_steps": 0}
    _, work = run("vit", models, tmp_path, watch, tuning=gradual(**settings), training=training)
    places = blocks_of(work.built.model)
    first: dict[str, int] = {}
    for step, changed in enumerate(watch.changed):
        for name in changed:
            first.setdefault(places[name], step)
    assert first == {"head": 0, "final": min(joined.values()), **joined}


def test_accumulation_counts_steps_of_the_optimizer(models, tmp_path):
    kept = {}
    for size, times in ((8, 1), (2, 4)):
        watch = Watch()
        training = {"per_device_train_batch_size": size, "gradient_accumulation_steps": times}
        _, work = run(
            "vit",
            models,
            tmp_path / str(size),
            watch,
            tuning=gradual(every=4, unit="steps"),
            training=training,
            double=True,
        )
        kept[size] = (weights(work), watch.changed)
    assert kept[8][1] == kept[2][1]
    assert largest_difference(kept[8][0], kept[2][0]) < 1e-10


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param([("on_step_end", 5)], id="before the first switch"),
        pytest.param([("on_save", 6)], id="at a switch"),
        pytest.param([("on_step_end", 9)], id="after a switch, inside an epoch"),
        pytest.param([("on_step_end", 5), ("on_step_end", 15)], id="twice"),
        pytest.param([("on_train_end", 24)], id="at the end"),
    ],
)
@pytest.mark.parametrize(
    "family, tuning",
    [
        ("bert", gradual()),
        ("bert", gradual(every=7, unit="steps") | {"ema": 0.8}),
        ("resnet", gradual(every=5, unit="steps", layers="all")),
    ],
    ids=["bert", "bert ema", "resnet"],
)
def test_resumed_run_equals_uninterrupted_run(family, tuning, stops, models, tmp_path):
    settings: dict[str, Any] = {"tuning": tuning, "training": EACH_TWO_STEPS}
    whole, work = run(family, models, tmp_path / "whole", **settings)
    for event, step in stops:
        with pytest.raises(KeyboardInterrupt):
            run(family, models, tmp_path / "parts", StopAfter(step, event), **settings)
    resumed, again = run(family, models, tmp_path / "parts", **settings)
    assert largest_difference(weights(work), weights(again)) == 0.0
    assert (step_entries(whole.log), whole.best_step) == (step_entries(resumed.log), resumed.best_step)
    assert epoch_entries(whole.log, evaluated=True) == epoch_entries(resumed.log, evaluated=True)


def course(models: Path, folder: Path, family: str, tuning: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    """In float64, nothing drawn at random and statistics of BatchNorm left out."""
    watch = Watch()
    changes: dict[str, Any] = {"model": {"config": NO_DROPOUT if family == "bert" else {}}}
    found, work = run(family, models, folder, watch, double=True, tuning=tuning, training=training, **changes)
    return {
        "weights": weights(work),
        "changed": watch.changed,
        "gradients": watch.with_gradient,
        "steps": logged(found, "loss", "grad_norm"),
    }


@pytest.mark.parametrize("family", ["bert", "convnext"])
@pytest.mark.parametrize("tuning", [gradual(), gradual(every=4, unit="steps") | {"ema": 0.6}], ids=["", "ema"])
def test_two_processes_give_the_weights_of_one(family, tuning, models, tmp_path):
    """Gradients are clipped: what waits must not count in their norm."""
    training = {"max_grad_norm": 0.05, "per_device_train_batch_size": 8}
    one = course(models, tmp_path / "one", family, tuning, training)
    shared = {**training, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    both = in_two_processes(course, models, tmp_path / "two", family, tuning, shared)
    for other in both:
        assert other["changed"] == one["changed"] and other["gradients"] == one["gradients"]
        assert largest_difference(one["weights"], other["weights"]) < 1e-10
        np.testing.assert_allclose(other["steps"][:, 1], one["steps"][:, 1], rtol=1e-8)
    assert largest_difference(both[0]["weights"], both[1]["weights"]) == 0.0


def interrupted(models: Path, folder: Path) -> float:
    """Between a whole run and one that stopped after a switch and went on, in each of two processes, dropout on."""
    settings: dict[str, Any] = {
        "tuning": gradual(every=5, unit="steps"),
        "training": {**EACH_TWO_STEPS, "per_device_train_batch_size": 4},
    }
    _, work = run("bert", models, folder / "whole", **settings)
    try:
        run("bert", models, folder / "parts", StopAfter(9), **settings)
    except KeyboardInterrupt:
        _, again = run("bert", models, folder / "parts", **settings)
    return largest_difference(weights(work), weights(again))


def test_two_processes_resume_as_if_never_interrupted(models, tmp_path):
    make_recipe("bert", models, tmp_path)
    assert in_two_processes(interrupted, models, tmp_path) == [0.0, 0.0]


def test_frozen_work_costs_no_backward_pass_in_one_process(models, tmp_path):
    """While only the head trains, nothing below it is part of the graph."""
    seen: list[bool] = []

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            seen.append(any(value.requires_grad for name, value in model.named_parameters() if ".layer." in name))

    run("bert", models, tmp_path, Look())
    assert seen == [False] * STEPS + [True] * 3 * STEPS


# before training


def test_check_shows_when_each_block_joins(models, tmp_path):
    recipe = make_recipe("vit", models, tmp_path, tuning=gradual(), training={"num_train_epochs": 3})
    report = check(recipe, data=make_data("vit", train=44, validation=16))
    assert report.ok and report.blocks is not None
    shown = {row[0]: (row[2], row[5]) for row in report.blocks.rows}
    assert shown == {
        "head": ("yes", "train"),
        "final": ("from epoch 2", "eval, then train"),
        "block.1": ("from epoch 2", "eval, then train"),
        "block.0": ("from epoch 3", "eval, then train"),
        "embeddings": ("from epoch 4", "eval, then train"),
    }
    (note,) = [note for note in report.notes if "ends before" in note]
    assert note.startswith("the run of 3 epochs ends before embeddings would join")
    assert "the head trains first; from epoch 2 final, block.1; from epoch 3 block.0; from epoch 4 embeddings" in (
        report.notes
    )


def test_check_rehearses_everything_that_will_train(models, tmp_path):
    """Its memory is that of the last turn; interpolation and averaging are looked at too."""
    tuning = gradual() | {"ema": "auto", "wise_ft": {}}
    report = check(
        make_recipe("bert", models, tmp_path, tuning=tuning), data=make_data("bert", train=44, validation=16)
    )
    assert report.ok and report.rehearsal is not None
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    "settings, training, found, expected",
    [
        ({"every": 2}, {"num_train_epochs": 2}, "2", "the 2 epochs of the run"),
        ({"every": 3}, {"max_steps": 12}, "3", "the 2 epochs of the run"),
        ({"every": 12, "unit": "steps"}, {"num_train_epochs": 2}, "12", "the 12 steps of the run"),
        ({"every": 9, "unit": "steps"}, {"max_steps": 9}, "9", "the 9 steps of the run"),
    ],
)
def test_a_schedule_that_ends_with_the_head_alone_is_an_error(settings, training, found, expected, models, tmp_path):
    recipe = make_recipe("bert", models, tmp_path, tuning=gradual(**settings), training=training)
    with pytest.raises(RecipeError) as caught:
        prepare(recipe, make_data("bert", train=44, validation=16))
    (finding,) = caught.value.findings
    assert (finding.place, finding.found) == ("tuning.gradual.every", found)
    assert expected in finding.expected and "unit: steps" in finding.fix


@pytest.mark.parametrize("settings", [None, {"every": 2}, {"unit": "epochs"}])
def test_a_stream_has_no_epochs_to_count_in(settings):
    content = {
        "task": "text-classification",
        "model": {"name": "m"},
        "dataset": {"path": "csv", "streaming": True, "splits": {"train": "train"}, "labels": ["a", "b"]},
        "training": {"max_steps": 10},
    }
    with pytest.raises(RecipeError, match=r"tuning\.gradual\.unit\n.*steps, with dataset\.streaming"):
        Recipe.from_dict({**content, "tuning": {"strategy": "gradual", "gradual": settings}})
    Recipe.from_dict({**content, "tuning": gradual(unit="steps")})
