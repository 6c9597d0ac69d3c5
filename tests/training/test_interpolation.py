"""WiSE-FT goes exactly from the weights before training to those after, and stays where validation is best."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import in_two_processes
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from tiny_runs import NO_DROPOUT, StopAfter, largest_difference, make_data, make_recipe, prepare, train, weights

from hf_sft import fine_tune
from hf_sft.errors import EnvironmentProblem, RecipeError
from hf_sft.metrics import METRICS
from hf_sft.record import RunRecord
from hf_sft.training.fit import Trained
from hf_sft.training.interpolation import ALPHAS, FILE, best_of, interpolate, keep_start

Weights = dict[str, np.ndarray]
EACH_TWO_STEPS = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}


def run(
    family: str, models: Path, folder: Path, alpha: Any, *callbacks: Any, **changes: Any
) -> tuple[Trained, Weights, Weights]:
    """(how it went, weights before, weights after); alpha None: without interpolation."""
    changes["tuning"] = {**changes.get("tuning", {}), "wise_ft": None if alpha is None else {"alpha": alpha}}
    work = prepare(make_recipe(family, models, folder, **changes), make_data(family, train=44, validation=16))
    before = weights(work)
    return train(work, callbacks), before, weights(work)


def floats(state: Weights) -> Weights:
    return {name: value for name, value in state.items() if np.issubdtype(value.dtype, np.floating)}


@pytest.mark.parametrize("family", ["bert", "resnet", "timm_vit"])
@pytest.mark.parametrize("tuning", [{}, {"ema": 0.5}], ids=["", "ema"])
def test_alpha_0_is_the_start_1_the_end_and_between_them_a_line(family, tuning, models, tmp_path):
    """Start and end to the last bit; the end is what is kept without it, the moving average where there is one."""
    _, before, end = run(family, models, tmp_path / "end", None, tuning=tuning)
    found = {alpha: run(family, models, tmp_path / str(alpha), alpha, tuning=tuning)[2] for alpha in (0, 0.3, 1)}
    assert largest_difference(floats(before), floats(found[0])) == 0.0
    assert largest_difference(end, found[1]) == 0.0
    middle = {name: 0.7 * before[name] + 0.3 * value for name, value in floats(end).items()}
    assert largest_difference(middle, floats(found[0.3])) < 1e-6
    assert largest_difference(before, end) > 1e-3


@pytest.mark.parametrize(
    "problem, metrics", [("single_label", ["log_loss", "accuracy"]), ("multi_label", ["micro_f1"])]
)
def test_auto_keeps_the_best_of_the_curve_and_the_record_tells_it(problem, metrics, models, tmp_path):
    """Trained too far, so that the best does not lie at the end; thresholds are those of validation, at each alpha."""
    recipe = make_recipe(
        "bert",
        models,
        tmp_path / "auto",
        metrics=metrics,
        tuning={"wise_ft": {"alpha": "auto"}},
        training={"learning_rate": 0.1, "lr_scheduler_type": "constant", "eval_strategy": "no"},
    )
    data = make_data("bert", problem, train=44, validation=16, test=12)
    record = fine_tune(recipe, data=data)
    curve = RunRecord.load(tmp_path / "auto").history["wise_ft"]
    assert [entry["alpha"] for entry in curve] == list(ALPHAS)
    sign = -1 if metrics[0] == "log_loss" else 1
    best = max(curve, key=lambda entry: (sign * entry[metrics[0]], -entry["loss"]))
    assert best["alpha"] < 1
    values = record.metrics["validation"]
    assert {name: values[name] for name in best if name != "alpha"} == pytest.approx(
        {name: value for name, value in best.items() if name != "alpha"}, rel=1e-6
    )
    assert any(
        note.startswith(f"wise_ft: alpha {best['alpha']:g} kept (validation {metrics[0]} ") for note in record.notes
    )
    for entry in curve[::5]:
        changes: dict[str, Any] = {"tuning": {"wise_ft": {"alpha": entry["alpha"]}}}
        fixed = fine_tune(
            make_recipe(
                "bert", models, tmp_path / str(entry["alpha"]), metrics=metrics, training=recipe.training, **changes
            ),
            data=data,
        )
        assert {name: fixed.metrics["validation"][name] for name in entry if name != "alpha"} == pytest.approx(
            {name: value for name, value in entry.items() if name != "alpha"}, rel=1e-6
        )
    if problem == "multi_label":
        given = prepare(make_recipe("bert", models, tmp_path / "again", metrics=metrics), data)
        rows = given.evaluator.predict(
            load(given, tmp_path / "auto"),
            given.inputs["validation"].rows,
            given.inputs["validation"].lengths,
            given.labels,
        )
        assert given.problem.calibrate is not None and given.inputs["validation"].targets is not None
        chosen = given.problem.calibrate(rows["scores"], given.inputs["validation"].targets, given.labels).thresholds
        assert record.labels["thresholds"] == pytest.approx(list(chosen or ()))


def load(work: Any, folder: Path) -> Any:
    """The job's model with the weights that a run saved."""
    work.built.model.load_state_dict(load_tensors(folder / "model" / "model.safetensors"))
    return work.built.model


def entry(alpha: float, value: float, loss: float = 1.0) -> dict[str, float]:
    return {"alpha": alpha, "accuracy": value, "log_loss": value, "loss": loss}


@pytest.mark.parametrize(
    "name, curve, best",
    [
        ("accuracy", [entry(0.1, 0.5), entry(0.2, 0.7), entry(1.0, 0.6)], 0.2),
        ("log_loss", [entry(0.1, 0.5), entry(0.2, 0.7), entry(1.0, 0.6)], 0.1),
        ("accuracy", [entry(0.1, 0.7, 0.9), entry(0.2, 0.7, 0.8), entry(1.0, 0.7, 0.9)], 0.2),
        ("accuracy", [entry(0.1, 0.7), entry(0.9, 0.7), entry(1.0, 0.6)], 0.9),
        ("accuracy", [entry(0.0, math.nan), entry(0.5, 0.1), entry(1.0, math.nan)], 0.5),
        ("log_loss", [entry(0.0, math.nan), entry(0.5, 0.9), entry(1.0, math.nan)], 0.5),
    ],
)
def test_of_equals_the_lower_loss_is_kept_then_the_nearer_to_the_end(name, curve, best):
    assert best_of(curve, METRICS[name])["alpha"] == best


def test_the_words_tell_what_was_gained(tmp_path):
    layer = torch.nn.Linear(1, 1)
    state = {"weight": layer.weight, "bias": layer.bias}
    keep_start(state, tmp_path, going_on=False, writes=True)
    torch.nn.init.constant_(layer.weight, 10.0)
    start = float(load_file(tmp_path / FILE)["weight"].item())

    def measure() -> dict[str, float]:
        share = (layer.weight.item() - start) / (10 - start)
        return {"loss": 1.0, "accuracy": 0.912 - abs(share - 0.7)}

    curve, words = interpolate(state, tmp_path, alpha="auto", metric=METRICS["accuracy"], measure=measure)
    assert words == f"wise_ft: alpha 0.7 kept (validation accuracy 0.912; 1: {curve[-1]['accuracy']:.4g})"
    assert layer.weight.item() == pytest.approx(start + 0.7 * (10 - start))
    curve, words = interpolate(state, tmp_path, alpha=0.5, metric=METRICS["accuracy"], measure=None)
    assert (curve, words) == ([], "wise_ft: alpha 0.5 kept")


@pytest.mark.parametrize("event, step", [("on_step_end", 1), ("on_step_end", 5), ("on_train_end", 12)])
@pytest.mark.parametrize("tuning", [{}, {"ema": "auto"}], ids=["", "ema"])
def test_a_resumed_run_goes_back_to_the_weights_of_the_first_start(tuning, event, step, models, tmp_path):
    settings: dict[str, Any] = {"training": EACH_TWO_STEPS, "tuning": tuning}
    whole, before, kept = run("bert", models, tmp_path / "whole", "auto", **settings)
    with pytest.raises(KeyboardInterrupt):
        run("bert", models, tmp_path / "parts", "auto", StopAfter(step, event), **settings)
    resumed, _, kept_too = run("bert", models, tmp_path / "parts", "auto", **settings)
    assert largest_difference(kept, kept_too) == 0.0
    assert (resumed.curve, resumed.notes) == (whole.curve, whole.notes)
    start = load_file(tmp_path / "parts" / "checkpoints" / FILE)
    assert largest_difference(start, {name: before[name] for name in start}) == 0.0


def test_a_run_whose_first_weights_are_gone_does_not_go_on(models, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run("bert", models, tmp_path, 0.5, StopAfter(5), training=EACH_TWO_STEPS)
    (tmp_path / "checkpoints" / FILE).unlink()
    with pytest.raises(EnvironmentProblem, match=r"start\.safetensors\n.*which tuning\.wise_ft goes back to"):
        run("bert", models, tmp_path, 0.5, training=EACH_TWO_STEPS)


def test_the_first_weights_go_with_the_checkpoints(models, tmp_path):
    recipe = make_recipe("bert", models, tmp_path, tuning={"wise_ft": {"alpha": 0.5}})
    fine_tune(recipe, data=make_data("bert", train=16, validation=8))
    assert not list(tmp_path.rglob(FILE))
    assert len(json.loads((tmp_path / "record.json").read_text())["history"]["wise_ft"]) == 3


def whole_job(models: Path, folder: Path, batch_size: int) -> tuple[RunRecord, Weights]:
    recipe = make_recipe(
        "bert",
        models,
        folder,
        model={"config": NO_DROPOUT},
        tuning={"wise_ft": {"alpha": "auto"}, "ema": 0.5},
        training={"per_device_train_batch_size": batch_size},
    )
    record = fine_tune(recipe, data=make_data("bert", train=40, validation=13))
    return record, load_file(folder / "model" / "model.safetensors")


def test_two_processes_choose_as_one(models, tmp_path):
    one, kept = whole_job(models, tmp_path / "one", 8)
    for other, kept_too in in_two_processes(whole_job, models, tmp_path / "two", 4):
        assert largest_difference(kept, kept_too) < 1e-5
        for mine, theirs in zip(one.history["wise_ft"], other.history["wise_ft"], strict=True):
            assert theirs == pytest.approx(mine, rel=1e-4)


def test_auto_needs_a_validation_split_and_a_number_does_not(models, tmp_path):
    data, dataset = make_data("bert", train=16), {"splits": {"train": "train", "validation": None}}
    recipe = make_recipe("bert", models, tmp_path / "auto", dataset=dataset, tuning={"wise_ft": {}})
    with pytest.raises(RecipeError, match=r"tuning\.wise_ft\.alpha\n.*a labelled validation split"):
        prepare(recipe, data)
    recipe = make_recipe("bert", models, tmp_path / "half", dataset=dataset, tuning={"wise_ft": {"alpha": 0.5}})
    record = fine_tune(recipe, data=data)
    assert "wise_ft" not in record.history and "wise_ft: alpha 0.5 kept" in record.notes


def test_going_back_to_a_random_head_is_pointed_out(models, tmp_path):
    data = make_data("bert", train=16, validation=8)
    recipe = make_recipe("bert", models, tmp_path / "new", tuning={"wise_ft": {}})
    assert any("warm_start: linear_probe" in note for note in prepare(recipe, data).notes)
    plain = make_recipe("bert", models, tmp_path / "none")
    assert not any("random" in note for note in prepare(plain, data).notes)
    fine_tune(make_recipe("bert", models, tmp_path / "first"), data=data)
    again = make_recipe(
        "bert", models, tmp_path / "again", model={"name": str(tmp_path / "first" / "model")}, tuning={"wise_ft": {}}
    )
    assert not any("random" in note for note in prepare(again, data).notes)
