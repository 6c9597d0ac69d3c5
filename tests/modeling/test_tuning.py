"""Strategies write rules; the first match wins, and nothing is left to chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import transformers
from families import HEADS, UNUSUAL, load

from hf_sft.errors import RecipeError
from hf_sft.modeling.anatomy import head_parameters
from hf_sft.modeling.tuning import STRATEGIES, Rule, apply_rules
from hf_sft.recipe import StrategyName, Tuning
from hf_sft.training.learning_rates import HEAD, RANDOM, SGD_FACTOR, SMALL_ENCODER, default_learning_rate

NAMES = ["body.weight", "body.bias", "head.weight", "head.bias"]


def test_the_table_of_strategies_is_what_a_recipe_allows() -> None:
    assert tuple(STRATEGIES) == get_args(StrategyName)


def test_the_first_rule_that_matches_wins() -> None:
    first, second, last = Rule("head.*", 2.0), Rule(".*bias", 0.0), Rule(".*", 0.5)
    chosen = apply_rules([first, second, last], NAMES)
    assert chosen == dict(zip(NAMES, [last, second, first, first], strict=True))


def test_a_rule_holds_for_whole_names() -> None:
    with pytest.raises(RecipeError):
        apply_rules([Rule("head"), Rule(".*")], NAMES)


def test_a_rule_that_matches_nothing_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError) as caught:
        apply_rules([Rule("hed.weight"), Rule("tail.*"), Rule(".*")], NAMES)
    assert [finding.found for finding in caught.value.findings] == ["hed.weight", "tail.*"]
    assert "head.weight" in caught.value.findings[0].fix


def test_a_parameter_without_a_rule_is_an_error() -> None:
    with pytest.raises(RecipeError) as caught:
        apply_rules([Rule("head.*")], NAMES)
    assert [finding.found for finding in caught.value.findings] == ["body.weight", "body.bias"]


def test_nothing_that_trains_is_an_error() -> None:
    with pytest.raises(RecipeError, match="every parameter frozen"):
        apply_rules([Rule(".*", 0.0)], NAMES)


@pytest.mark.parametrize("family", HEADS)
def test_full_trains_everything_and_head_the_head_alone(family: str, tmp_path: Path) -> None:
    model = load(family, tmp_path)
    names = [name for name, _ in model.named_parameters()]
    trained = {}
    for strategy, write in STRATEGIES.items():
        rules = apply_rules(write(model, frozenset(), Tuning()), names)
        trained[strategy] = [name for name in names if rules[name].lr_scale]
    assert trained == {"full": names, "head": head_parameters(model)}


def test_what_starts_untrained_below_the_head_trains_with_it(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    names = [name for name, _ in model.named_parameters()]
    pooler = frozenset(name for name in names if "pooler" in name)
    rules = apply_rules(STRATEGIES["head"](model, pooler, Tuning()), names)
    assert {name for name in names if rules[name].lr_scale} == pooler | set(head_parameters(model))


# learning rates, where the recipe is silent


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "modernbert", "resnet", "convnext", "swin", "deit"])
def test_every_family_has_a_learning_rate_by_strategy(family: str) -> None:
    config: Any = transformers.AutoConfig.for_model(family)
    rate, why = default_learning_rate(config, "full", random=False, optimizer="")
    assert family in why
    assert 1e-5 <= rate <= 1e-3
    assert default_learning_rate(config, "head", random=False, optimizer="")[0] == HEAD
    assert default_learning_rate(config, "full", random=True, optimizer="")[0] == RANDOM
    assert default_learning_rate(config, "full", random=False, optimizer="sgd")[0] == pytest.approx(SGD_FACTOR * rate)


@pytest.mark.parametrize("name", UNUSUAL)
def test_a_family_outside_the_table_has_one_too(name: str) -> None:
    assert default_learning_rate(UNUSUAL[name][0], "full", random=False, optimizer="")[0] > 0


def test_small_text_encoders_learn_faster_and_small_image_models_do_not() -> None:
    small, deit = transformers.BertConfig(hidden_size=384), transformers.DeiTConfig(hidden_size=192)
    assert default_learning_rate(small, "full", random=False, optimizer="")[0] == SMALL_ENCODER
    for size in (192, 768):
        deit = transformers.DeiTConfig(hidden_size=size)
        assert default_learning_rate(deit, "full", random=False, optimizer="") == (5e-5, "deit, all weights")
