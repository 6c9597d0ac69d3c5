"""Adapters in training: the laws of every run hold, the backbone stays, and what is saved is what was evaluated."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import in_two_processes
from tiny import TEXT_FAMILIES
from tiny_runs import (
    NO_DROPOUT,
    Spy,
    StopAfter,
    gradients,
    largest_difference,
    logged,
    make_data,
    make_recipe,
    prepare,
    train,
    weights,
)
from torch import nn
from transformers import TrainerCallback, pipeline

from hf_sft import fine_tune
from hf_sft.commands.check import check
from hf_sft.commands.evaluate import evaluate
from hf_sft.errors import MissingExtraError, ModelError
from hf_sft.modeling.lora import adapter_parameters, merge_adapters
from hf_sft.saved_model import load_saved
from hf_sft.tasks import TASKS
from hf_sft.training.history import epoch_entries, step_entries
from hf_sft.usage import AUTO_CLASSES, loading_lines

pytest.importorskip("peft")

FAMILIES = ["bert", "distilbert", "roberta", "modernbert", "gpt2", "vit", "swin", "convnext", "resnet", "timm_resnet"]
EACH_TWO_STEPS = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}


def tuning(**settings: Any) -> dict[str, Any]:
    return {"strategy": "lora", "lora": settings}


class Keep(TrainerCallback):
    """The weights of the model with its adapters at every evaluation, and at the end of training."""

    def __init__(self) -> None:
        self.at_step: dict[int, dict[str, np.ndarray]] = {}
        self.training: dict[str, bool] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.at_step[state.global_step] = {name: value.numpy().copy() for name, value in model.state_dict().items()}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.training = {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_backbone_stays_bit_identical_and_the_run_ends_with_the_adapted_weights(
    family: str, models: Path, tmp_path: Path
) -> None:
    keep, training = Keep(), {"num_train_epochs": 1, "learning_rate": 1e-2}
    work = prepare(
        make_recipe(family, models, tmp_path / "run", tuning=tuning(dropout=0.1), training=training),
        make_data(family, train=16, validation=8),
    )
    model = work.built.model
    before = weights(work)
    train(work, [keep])
    (last,) = keep.at_step.values()
    learned = {name for name, rule in work.rules.items() if rule.lr_scale > 0}
    changed = {name for name in before if not np.array_equal(before[name], last[name])}
    assert changed <= learned
    assert {name for name in learned if ".lora_B." in name} <= changed, "every adapter learned"
    after = weights(work)
    assert not any("lora_" in name or "base_layer" in name for name in after)
    scaling = 2.0  # alpha 16 over rank 8
    for name, value in after.items():
        path, _, kind = name.rpartition(".")
        if f"{path}.base_layer.{kind}" not in last:
            assert np.array_equal(value, last[name])
        elif kind == "weight" and value.ndim == 2:
            one, two = (last[f"{path}.lora_{which}.default.weight"] for which in "AB")
            delta = scaling * two @ one
            delta = delta.T if family == "gpt2" else delta
            np.testing.assert_allclose(value, last[f"{path}.base_layer.{kind}"] + delta, atol=1e-6)
    norms = [name for name, part in model.named_modules() if "norm" in type(part).__name__.lower() and name]
    head = {name.partition(".")[0] for name in work.rules if work.rules[name].pattern == "head"}
    assert norms and not any(keep.training[name] for name in norms if name.partition(".")[0] not in head)


def test_dropout_is_on_beside_adapters_and_off_where_nothing_trains(models: Path, tmp_path: Path) -> None:
    keep = Keep()
    work = prepare(
        make_recipe("bert", models, tmp_path / "run", tuning={**tuning(dropout=0.5), "layers": 1}),
        make_data("bert", train=16, validation=8),
    )
    train(work, [keep])
    dropping = {name for name, on in keep.training.items() if on and name.endswith("dropout")}
    assert not any(name.startswith(("bert.embeddings", "bert.encoder.layer.0")) for name in dropping)
    layer = "bert.encoder.layer.1"
    expected = {f"{layer}.attention.self.dropout", f"{layer}.attention.output.dropout", f"{layer}.output.dropout"}
    assert expected | {"dropout"} <= dropping
    adapters = [name for name in keep.training if name.endswith("lora_dropout.default")]
    assert adapters and all(keep.training[name] for name in adapters)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("family", ["bert", "vit", "swin", "resnet"])
def test_the_weights_kept_are_those_of_the_best_evaluation(
    family: str, merge: bool, models: Path, tmp_path: Path
) -> None:
    """The learning rate is far too high, so that the last evaluation is not the best."""
    keep = Keep()
    training = {**EACH_TWO_STEPS, "learning_rate": 0.3, "lr_scheduler_type": "constant"}
    recipe = make_recipe(
        family, models, tmp_path / "run", tuning=tuning(merge=merge), training=training, metrics=["log_loss"]
    )
    work = prepare(recipe, make_data(family, train=44, validation=16))
    found = train(work, [keep])
    losses = {entry["step"]: entry["validation_loss"] for entry in epoch_entries(found.log, evaluated=True)}
    best = min(losses, key=losses.__getitem__)
    assert found.best_step == best and (family == "bert" or best != max(losses))
    others = set(keep.at_step) - {best}
    kept = weights(work)
    if not merge:
        assert largest_difference(kept, keep.at_step[best]) == 0.0
        assert all(largest_difference(kept, keep.at_step[step]) > 0 for step in others)
        return
    again = prepare(recipe, make_data(family, train=44, validation=16)).built.model
    again.load_state_dict({name: torch.from_numpy(value) for name, value in keep.at_step[best].items()})
    merge_adapters(again)
    assert largest_difference(kept, {name: value.numpy() for name, value in again.state_dict().items()}) == 0.0


@pytest.mark.parametrize("family", ["bert", "vit", "resnet"])
@pytest.mark.parametrize("event", ["on_step_end", "on_save"])
def test_resumed_run_equals_uninterrupted_run(family: str, event: str, models: Path, tmp_path: Path) -> None:
    """To the last bit, dropout of adapters and of BERT on."""
    kept, courses = {}, {}
    for name, callbacks in (("whole", []), ("parts", [StopAfter(5, event)]), ("parts", [])):
        recipe = make_recipe(family, models, tmp_path / name, tuning=tuning(dropout=0.2), training=EACH_TWO_STEPS)
        work = prepare(recipe, make_data(family, train=44, validation=16))
        if callbacks:
            with pytest.raises(KeyboardInterrupt):
                train(work, callbacks)
        else:
            found = train(work)
            kept[name] = weights(work)
            courses[name] = (step_entries(found.log), epoch_entries(found.log, evaluated=True), found.best_step)
    assert largest_difference(kept["whole"], kept["parts"]) == 0.0
    assert courses["whole"] == courses["parts"]


def test_adapters_start_from_the_seed(models: Path, tmp_path: Path) -> None:
    def first(seed: int) -> np.ndarray:
        work = prepare(
            make_recipe("bert", models, tmp_path, tuning=tuning(), seed=seed), make_data("bert", train=8, validation=8)
        )
        return work.built.model.get_parameter(min(adapter_parameters(work.built.model))).detach().numpy()

    assert np.array_equal(first(1), first(1)) and not np.array_equal(first(1), first(2))


def run(family: str, models: Path, folder: Path, training: dict[str, Any]) -> dict[str, Any]:
    """61 rows in batches of 16 over all processes, in float64, nothing drawn at random."""
    recipe = make_recipe(
        family,
        models,
        folder,
        model={"config": NO_DROPOUT if family == "bert" else {}},
        tuning=tuning(),
        training={"logging_steps": 1, **training},
    )
    work = prepare(recipe, make_data(family, train=61, validation=8), double=True)
    found = train(work)
    return {"weights": weights(work), "steps": logged(found, "loss", "grad_norm")}


@pytest.mark.parametrize("family", ["bert", "resnet"])
def test_two_processes_and_micro_batches_give_the_losses_and_weights_of_one(
    family: str, models: Path, tmp_path: Path
) -> None:
    one = run(family, models, tmp_path / "one", {"per_device_train_batch_size": 16})
    micro = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    for other in in_two_processes(run, family, models, tmp_path / "two", micro):
        np.testing.assert_allclose(other["steps"], one["steps"], rtol=1e-6)
        assert largest_difference(one["weights"], other["weights"]) < 1e-10


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_activation_checkpointing_gives_the_same_gradients(family: str, models: Path, tmp_path: Path) -> None:
    found: list[dict[str, np.ndarray]] = []
    for number, settings in enumerate(({}, {"activation_checkpointing": True})):
        config = NO_DROPOUT if family == "bert" else {}
        config = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if family == "gpt2" else config
        recipe = make_recipe(
            family,
            models,
            tmp_path / str(number),
            model={"config": config},
            tuning=tuning(),
            training={"num_train_epochs": 1, **settings},
        )
        work = prepare(recipe, make_data(family, train=8, validation=8))
        train(work, [Spy(lambda state, model, optimizer: found.append(gradients(model)))])
    plain, checkpointed = found
    assert plain.keys() == checkpointed.keys() and any("lora_" in name for name in plain)
    assert largest_difference(plain, checkpointed) < 1e-6
    assert any(
        np.abs(value).max() > 0 for name, value in checkpointed.items() if ".layer.0." in name or "lora_B" in name
    )


# the whole job


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit", "timm_resnet"])
def test_a_merged_run_leaves_a_plain_model(family: str, models: Path, tmp_path: Path) -> None:
    text = family in TEXT_FAMILIES
    recipe = make_recipe(family, models, tmp_path / "run", tuning=tuning())
    data = make_data(family, train=24, validation=8, test=8)
    record = fine_tune(recipe, data=data)
    folder = tmp_path / "run" / "model"
    assert not list(folder.glob("adapter*")) and (folder / "model.safetensors").is_file()
    saved = load_saved(tmp_path / "run")
    assert not any("lora" in name or "base_layer" in name for name in saved.model.state_dict())
    assert "peft" not in (folder / "config.json").read_text().lower()
    classify = pipeline(recipe.task, str(folder))
    column = "text" if text else "image"
    said = [classify(row)[0]["label"] for row in data["test"][column]]
    names = record.labels["names"]
    expected = [
        row if isinstance(row, str) else data["test"].features["label"].names[row] for row in data["test"]["label"]
    ]
    assert set(said) <= set(names)
    right = np.mean([one == other for one, other in zip(said, expected, strict=True)])
    assert right == pytest.approx(record.metrics["test"]["accuracy"])


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit", "swin", "timm_resnet"])
def test_a_run_that_is_not_merged_leaves_adapters_that_everything_reads(
    family: str, models: Path, tmp_path: Path
) -> None:
    """The lines of its card, evaluate and predict; its base is named in a note."""
    recipe = make_recipe(family, models, tmp_path / "run", tuning=tuning(merge=False))
    data = make_data(family, train=24, validation=8, test=8)
    record = fine_tune(recipe, data=data)
    folder = tmp_path / "run" / "model"
    assert not (folder / "model.safetensors").exists()
    written = json.loads((folder / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == recipe.model.name and written["r"] == 8
    assert any("it loads only where its base lies" in note for note in record.notes)
    assert "low-rank adapters" in (folder / "README.md").read_text()
    names: dict[str, Any] = {}
    exec("\n".join(loading_lines(record, repr(str(folder)))), names)
    column = "text" if family in TEXT_FAMILIES else "image"
    rows = list(data["test"][column])
    saved = load_saved(folder)
    assert saved.labels.names == tuple(record.labels["names"])
    for row in rows[:3]:
        scores = {entry["label"]: entry["score"] for entry in names["classify"](row, top_k=None)}
        assert set(scores) == set(saved.labels.names)
    report = evaluate(tmp_path / "run", data=data["test"])
    assert report.metrics["accuracy"] == pytest.approx(record.metrics["test"]["accuracy"])


def test_adapters_whose_base_is_gone_say_where_it_lay(models: Path, tmp_path: Path) -> None:
    base = shutil.copytree(models / "bert" if (models / "bert").exists() else _made(models), tmp_path / "base")
    recipe = make_recipe("bert", models, tmp_path / "run", model={"name": str(base)}, tuning=tuning(merge=False))
    fine_tune(recipe, data=make_data("bert", train=16, validation=8))
    shutil.rmtree(base)
    with pytest.raises(ModelError, match="base_model_name_or_path") as caught:
        load_saved(tmp_path / "run")
    assert str(base) in str(caught.value)


def _made(models: Path) -> Path:
    make_recipe("bert", models, models)
    return models / "bert"


# check


def test_check_shows_adapters_block_by_block_and_rehearses_them(models: Path, tmp_path: Path) -> None:
    recipe = make_recipe("bert", models, tmp_path / "run", tuning={**tuning(), "layers": 1})
    report = check(recipe, data=make_data("bert", train=16, validation=8))
    assert report.ok, report.errors
    assert report.blocks is not None and report.rehearsal is not None
    rows = {row[0]: row[2] for row in report.blocks.rows}
    assert rows["block.0"] == rows["embeddings"] == "no"
    assert rows["block.1"] == "12 of 28 tensors" and rows["head"] == "yes"
    assert "adapters, classifier" in report.model["trains"]


def test_without_peft_the_command_that_installs_it_is_named_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, models: Path, tmp_path: Path
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else find(name, *rest))
    recipe = make_recipe("bert", models, tmp_path / "run", tuning=tuning())
    absent = recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": "/not/there"})})
    with pytest.raises(MissingExtraError) as caught:
        fine_tune(absent, data=make_data("bert", train=16, validation=8))
    assert "pip install 'hf-sft[lora]'" in str(caught.value)
    report = check(recipe, data=make_data("bert", train=16, validation=8))
    assert not report.ok and "hf-sft[lora]" in str(report.errors[0])
    plain = make_recipe("bert", models, tmp_path / "plain")
    assert fine_tune(plain, data=make_data("bert", train=16, validation=8)).metrics


def test_every_module_of_the_model_is_where_it_was(models: Path, tmp_path: Path) -> None:
    """After merging the modules are the very ones of the base, in the places they had."""
    work = prepare(make_recipe("bert", models, tmp_path, tuning=tuning()), make_data("bert", train=8, validation=8))
    model: nn.Module = work.built.model
    layers = {name: getattr(part, "base_layer", None) for name, part in model.named_modules()}
    merge_adapters(model)
    for name, layer in layers.items():
        if layer is not None:
            assert model.get_submodule(name) is layer


def test_every_task_says_how_a_model_of_adapters_alone_is_loaded():
    assert {name: task.auto_model for name, task in TASKS.items()} == AUTO_CLASSES
