"""Layers drawn anew: as an untrained model's, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import HEADS, load, settings_for
from tiny_runs import largest_difference, make_data, make_recipe, prepare, weights

from hf_sft.errors import RecipeError
from hf_sft.modeling.anatomy import find_blocks
from hf_sft.modeling.reinit import reinit_layers
from hf_sft.modeling.tuning import decide

STAND_IN = 5.0  # no model starts with it


def rules_of(model: Any, strategy: str = "full", **settings: Any) -> Any:
    return decide(model, frozenset(), settings_for(strategy, **settings))


@pytest.mark.parametrize("family", HEADS)
def test_the_last_layers_and_no_others_are_drawn_anew(family: str, tmp_path: Path) -> None:
    model = load(family, tmp_path)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.fill_(STAND_IN)
    reinit_layers(model, 1, rules_of(model))
    last = [block for block in find_blocks(model) if block.is_layer][-1]
    modules = {name.rpartition(".")[0] for name in last.parameters}
    for name, value in model.state_dict().items():
        kept = bool((value == STAND_IN).any())
        assert kept == (name.rpartition(".")[0] not in modules), name
        assert bool(torch.isfinite(value.float()).all())


def test_a_run_with_the_same_seed_draws_the_same_layers(tmp_path: Path) -> None:
    data, found = make_data("bert", train=8, validation=8), {}
    for name, seed, number in (("plain", 1, None), ("one", 1, 1), ("again", 1, 1), ("other", 2, 1)):
        tuning = {"reinit_layers": number}
        work = prepare(make_recipe("bert", tmp_path, tmp_path / name, tuning=tuning, seed=seed), data)
        found[name] = weights(work)
        assert ("drawn anew: block.1" in work.parameters["head"]) == (number is not None)
    assert largest_difference(found["one"], found["again"]) == 0.0
    changed = {name for name in found["one"] if (found["one"][name] != found["plain"][name]).any()}
    assert changed and all(".layer.1." in name for name in changed)
    assert any((found["one"][name] != found["other"][name]).any() for name in changed)


@pytest.mark.parametrize(
    ("strategy", "settings", "number", "named"),
    [
        ("full", {}, 3, "at most 2"),
        ("first_layers", {}, 1, "block.1 frozen"),
        ("top_layers", {}, 2, "block.0 frozen"),
        ("rules", {"rules": [{"pattern": "block.1", "lr_scale": 0}, {"pattern": "*"}]}, 1, "block.1 frozen"),
    ],
)
def test_layers_that_are_not_there_or_do_not_train_are_refused(
    strategy: str, settings: dict[str, Any], number: int, named: str, tmp_path: Path
) -> None:
    model = load("bert", tmp_path)
    with pytest.raises(RecipeError, match=named):
        reinit_layers(model, number, rules_of(model, strategy, **settings))
