"""On a CPU the model's own steps tell which precision a run trains in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import make_data, make_recipe, prepare

from hf_sft import fine_tune
from hf_sft.job import Job
from hf_sft.record import RunDirectory
from hf_sft.training import precision
from hf_sft.training.fit import train


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a model of a few thousand parameters were worth a measurement."""
    monkeypatch.setattr(precision, "FEWEST_PARAMETERS", 1)


def measured(monkeypatch: pytest.MonkeyPatch, ratio: float) -> list[int]:
    """Every measurement says that ratio; counts them."""
    calls: list[int] = []

    def say(step: Any) -> float:
        step(False)
        step(True)
        calls.append(1)
        return ratio

    monkeypatch.setattr(precision, "times_as_fast", say)
    return calls


def job(tmp_path: Path, family: str = "resnet", **changes: Any) -> Job:
    recipe = make_recipe(family, tmp_path, tmp_path / "run", **changes)
    return prepare(recipe, make_data(family, train=20, validation=8))


@pytest.mark.parametrize("ratio, expected", [(2.5, "bf16"), (1.2, "fp32"), (0.3, "fp32")])
def test_bfloat16_is_taken_where_it_is_clearly_faster(ratio, expected, tmp_path, monkeypatch, small_counts):
    measured(monkeypatch, ratio)
    work = job(tmp_path)
    assert work.environment.precision == expected
    assert all(parameter.dtype == torch.float32 for parameter in work.built.model.parameters())


@pytest.mark.parametrize("family", ["bert", "bert_tags", "vit", "timm_resnet"])
def test_a_step_of_every_task_can_be_measured(family, tmp_path, monkeypatch, small_counts):
    calls = measured(monkeypatch, 2.5)
    assert job(tmp_path, family).environment.precision == "bf16" and calls


@pytest.mark.parametrize("asked", ["auto", "bf16"])
def test_a_head_that_is_solved_is_solved_in_float32(asked, tmp_path, monkeypatch, small_counts):
    calls = measured(monkeypatch, 2.5)
    work = job(tmp_path, run={"precision": asked}, tuning={"strategy": "head", "solver": "logistic"})
    assert work.environment.precision == "fp32" and not calls


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_what_was_asked_for_is_not_measured(asked, tmp_path, monkeypatch, small_counts):
    calls = measured(monkeypatch, 2.5)
    assert job(tmp_path, run={"precision": asked}).environment.precision == asked
    assert not calls


def test_a_model_whose_steps_cost_nothing_is_not_measured(tmp_path, monkeypatch):
    calls = measured(monkeypatch, 2.5)
    assert job(tmp_path).environment.precision == "fp32"
    assert not calls


def test_measuring_leaves_weights_statistics_modes_and_random_numbers_alone(tmp_path, monkeypatch, small_counts):
    states = []
    for _ in range(2):
        work = job(tmp_path)
        state = {name: value.clone() for name, value in work.built.model.state_dict().items()}
        modes = [module.training for module in work.built.model.modules()]
        states.append((state, modes, torch.random.get_rng_state(), [p.grad for p in work.built.model.parameters()]))
        monkeypatch.setattr(precision, "FEWEST_PARAMETERS", 10**9)
    (measured_state, *measured_rest), (state, *rest) = states
    assert all(torch.equal(value, state[name]) for name, value in measured_state.items())
    assert measured_rest[0] == rest[0] and torch.equal(measured_rest[1], rest[1])
    assert measured_rest[2] == rest[2] == [None] * len(rest[2])


def test_a_run_that_goes_on_keeps_the_precision_it_began_in(tmp_path, monkeypatch, small_counts):
    measured(monkeypatch, 2.5)
    work = job(tmp_path)
    train(work, RunDirectory(Path(work.recipe.output_dir)))
    calls = measured(monkeypatch, 0.5)
    monkeypatch.setattr(precision, "measured_before", lambda: tmp_path / "a new cache")
    assert job(tmp_path).environment.precision == "bf16"
    assert not calls


def test_a_measurement_is_kept_for_the_same_model_and_for_no_other(tmp_path, monkeypatch, small_counts):
    measured(monkeypatch, 2.5)
    assert job(tmp_path / "one").environment.precision == "bf16"
    calls = measured(monkeypatch, 0.5)
    assert job(tmp_path / "two").environment.precision == "bf16" and not calls
    assert job(tmp_path / "three", tuning={"strategy": "head"}).environment.precision == "fp32" and calls


@pytest.mark.parametrize("content", [None, "", "half"])
def test_a_cache_that_cannot_be_used_costs_a_measurement(content, tmp_path, monkeypatch, small_counts):
    cache = tmp_path / "cache"
    if content is None:
        cache.write_text("a file where the folder should be")
    monkeypatch.setattr(precision, "measured_before", lambda: cache)
    monkeypatch.setattr(precision, "_name_case", lambda *rest: "case")
    if content is not None:
        cache.mkdir()
        (cache / "case").write_text(content)
    calls = measured(monkeypatch, 2.5)
    assert job(tmp_path).environment.precision == "bf16" and calls


def test_the_record_says_what_was_trained_in(tmp_path, monkeypatch, small_counts):
    measured(monkeypatch, 2.5)
    recipe = make_recipe("bert", tmp_path, tmp_path / "run")
    record = fine_tune(recipe, data=make_data("bert", "single_label", train=20, validation=8))
    assert record.environment["precision"] == "bf16"


def test_the_ratio_is_that_of_processor_time_after_a_warm_up(monkeypatch):
    clock = [0.0]
    costs = iter([9.0, 9.0, 3.0, 1.0, 2.0, 1.5, 4.0, 1.0])  # float32 and bfloat16 in turn; the first pair warms up
    monkeypatch.setattr(precision.time, "process_time", lambda: clock[0])

    def step(half: bool) -> None:
        clock[0] += next(costs)

    assert precision.times_as_fast(step) == 2.0


def test_a_slower_bfloat16_is_not_measured_to_the_end(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(precision.time, "process_time", lambda: clock[0])
    steps = []

    def step(half: bool) -> None:
        steps.append(half)
        clock[0] += 5.0 if half else 1.0

    assert precision.times_as_fast(step) == 0.2
    assert len(steps) == 4
