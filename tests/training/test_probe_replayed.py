"""A linear probe reads recorded activations as it reads rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import make_data, make_recipe, prepare

from hf_sft.errors import RecipeError
from hf_sft.record import RunDirectory
from hf_sft.training import activation_cache
from hf_sft.training.fit import Trained, train


def run(family: str, tmp_path: Path, name: str, cache: str, **tuning: Any) -> tuple[dict[str, torch.Tensor], Trained]:
    settings = {"cache": cache, "cache_dir": str(tmp_path / "cache"), **tuning}
    settings = settings if cache != "off" else {key: value for key, value in settings.items() if key != "cache_dir"}
    recipe = make_recipe(family, tmp_path, tmp_path / name, tuning=settings)
    work = prepare(recipe, make_data(family, train=24, validation=8, test=8))
    trained = train(work, RunDirectory(tmp_path / name))
    return {key: value.clone() for key, value in work.built.model.state_dict().items()}, trained


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(value, other[name], atol=1e-4) for name, value in one.items())


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "vit", "timm_resnet"])
def test_a_head_solved_on_recorded_features_is_the_same_and_the_next_run_records_nothing(family, tmp_path, monkeypatch):
    solved = {"strategy": "head", "solver": "logistic"}
    plain, _ = run(family, tmp_path, "plain", "off", **solved)
    recorded, first = run(family, tmp_path, "recorded", "auto", **solved)
    assert any("rows cached" in note for note in first.notes)
    monkeypatch.setattr(activation_cache, "record", None)  # nothing is left to record
    again, second = run(family, tmp_path, "again", "auto", **solved)
    assert any("all there already" in note for note in second.notes)
    assert close(plain, recorded) and close(recorded, again)


def test_a_warm_start_over_recorded_features_trains_as_without_them(tmp_path):
    warm = {"strategy": "top_layers", "layers": 1, "warm_start": "linear_probe"}
    plain, live = run("bert", tmp_path, "plain", "off", **warm)
    recorded, cached = run("bert", tmp_path, "recorded", "on", **warm)
    assert any("rows cached" in note for note in cached.notes)
    assert close(plain, recorded)
    assert live.probe is not None and cached.probe is not None
    assert cached.probe.metrics["test"]["loss"] == pytest.approx(live.probe.metrics["test"]["loss"], abs=1e-4)


def test_augmented_views_are_not_what_a_probe_reads(tmp_path):
    tuning = {"strategy": "head", "warm_start": "linear_probe", "cache": "on", "cache_views": 2}
    recipe = make_recipe("vit", tmp_path, tmp_path / "run", tuning=tuning, augment=["horizontal_flip"])
    work = prepare(recipe, make_data("vit", train=16, validation=8))
    with pytest.raises(RecipeError, match="a linear probe reads rows as they are"):
        train(work, RunDirectory(tmp_path / "run"))


@pytest.mark.parametrize("family, told", [("roberta", True), ("vit", False)])
def test_a_probe_that_was_asked_for_names_what_is_new_below_the_output_layer(family, told, tmp_path):
    recipe = make_recipe(family, tmp_path, tmp_path / "run")
    work = prepare(recipe, make_data(family, train=24, validation=8, test=8))
    trained = train(work, RunDirectory(tmp_path / "run"), with_probe=True)
    assert any("new below the output layer" in note for note in trained.notes) == told
