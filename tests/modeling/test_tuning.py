"""Strategies write rules; the first match wins, and nothing is left to chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import transformers
from families import ALL, HEADS, STRATEGY_SETTINGS, UNUSUAL, build_any, load, settings_for

from hf_sft.errors import RecipeError
from hf_sft.modeling.anatomy import find_blocks, head_parameters
from hf_sft.modeling.rules import Rule, apply_rules
from hf_sft.modeling.tuning import STRATEGIES, decide
from hf_sft.recipe import Recipe
from hf_sft.recipe_tuning import OPTIONAL_STRATEGY_KEYS, STRATEGY_KEYS, StrategyName, Tuning
from hf_sft.training.learning_rates import (
    HEAD,
    LAYER_DECAY_FACTOR,
    RANDOM,
    SGD_FACTOR,
    SMALL_ENCODER,
    default_learning_rate,
)

NONE: frozenset[str] = frozenset()
LEAST = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "d"}}
NAMES = ["body.weight", "body.bias", "head.weight", "head.bias"]


def test_the_table_of_strategies_is_what_a_recipe_allows() -> None:
    assert tuple(STRATEGIES) == get_args(StrategyName) == tuple(STRATEGY_SETTINGS)
    assert set(STRATEGY_KEYS) < set(STRATEGIES)
    assert set(STRATEGY_KEYS.values()) <= set(Tuning.model_fields)


def test_the_first_rule_that_matches_wins() -> None:
    first, second, last = Rule("head.*", 2.0), Rule("*bias", 0.0), Rule("*", 0.5)
    chosen = apply_rules([first, second, last], NAMES)
    assert chosen == dict(zip(NAMES, [last, second, first, first], strict=True))


def test_a_rule_holds_for_whole_names() -> None:
    with pytest.raises(RecipeError):
        apply_rules([Rule("head"), Rule("*")], NAMES)


def test_a_rule_that_matches_nothing_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError) as caught:
        apply_rules([Rule("hed.weight"), Rule("tail.*"), Rule("*")], NAMES)
    assert [finding.found for finding in caught.value.findings] == ["hed.weight", "tail.*"]
    assert "head.weight" in caught.value.findings[0].fix


def test_a_parameter_without_a_rule_is_an_error() -> None:
    with pytest.raises(RecipeError) as caught:
        apply_rules([Rule("head.*")], NAMES)
    (finding,) = caught.value.findings
    assert finding.found == "none for body.weight, body.bias"
    assert "add a last rule" in finding.fix


def test_nothing_that_trains_is_an_error() -> None:
    with pytest.raises(RecipeError, match="every parameter frozen"):
        apply_rules([Rule("*", 0.0)], NAMES)


# strategies


def scales(model: Any, strategy: str, new: frozenset[str] = NONE, **settings: Any) -> dict[str, set[float]]:
    """Block -> the scales of its parameters' learning rates."""
    rules = decide(model, new, settings_for(strategy, **settings))
    return {block.name: {rules[name].lr_scale for name in block.parameters} for block in find_blocks(model)}


@pytest.mark.parametrize("family", HEADS)
def test_full_trains_everything_and_head_the_head_alone(family: str, tmp_path: Path) -> None:
    model = load(family, tmp_path)
    names = [name for name, _ in model.named_parameters()]
    trained = {}
    for strategy in ("full", "head"):
        rules = decide(model, NONE, settings_for(strategy))
        trained[strategy] = [name for name in names if rules[name].lr_scale]
    assert trained == {"full": names, "head": head_parameters(model)}


@pytest.mark.parametrize("family", ALL)
def test_top_layers_trains_the_last_layers_and_all_that_follows(family: str, tmp_path: Path) -> None:
    model = build_any(family, tmp_path)
    blocks = [block.name for block in find_blocks(model)]
    total = sum(name.startswith("block.") for name in blocks)
    for number in {1, (total + 1) // 2, total}:
        first = blocks.index(f"block.{total - number}")
        expected = {name: {float(place >= first)} for place, name in enumerate(blocks)}
        assert scales(model, "top_layers", layers=number) == expected


@pytest.mark.parametrize("family", ALL)
def test_first_layers_trains_embeddings_the_first_layers_and_the_head(family: str, tmp_path: Path) -> None:
    model = build_any(family, tmp_path)
    blocks = [block.name for block in find_blocks(model)]
    total = sum(name.startswith("block.") for name in blocks)
    for number in {1, (total + 1) // 2, total}:
        last = blocks.index(f"block.{number - 1}")
        expected = {name: {float(place <= last or name == "head")} for place, name in enumerate(blocks)}
        assert scales(model, "first_layers", layers=number) == expected


@pytest.mark.parametrize("family", ALL)
def test_layer_decay_multiplies_once_per_layer_below_the_head(family: str, tmp_path: Path) -> None:
    model = build_any(family, tmp_path)
    found = scales(model, "layer_decay", layer_decay=0.8)
    total = sum(name.startswith("block.") for name in found)
    depths = {f"block.{number}": total - number for number in range(total)} | {"embeddings": total + 1}
    assert found == {name: {0.8 ** depths.get(name, 0)} for name in found}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_head_s_rate_is_scaled_in_every_strategy(strategy: str, tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    plain, scaled = scales(model, strategy), scales(model, strategy, head_lr_scale=10.0)
    assert plain.pop("head") == {1.0} and scaled.pop("head") == {10.0}
    assert plain == scaled


@pytest.mark.parametrize("strategy", ["head", "top_layers", "first_layers", "layer_decay"])
def test_what_starts_untrained_below_the_head_trains_with_it(strategy: str, tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    pooler = frozenset(name for name, _ in model.named_parameters() if "pooler" in name)
    rules = decide(model, pooler, settings_for(strategy))
    assert {rules[name].lr_scale for name in pooler | set(head_parameters(model))} == {1.0}
    assert not all(rule.lr_scale == 1.0 for rule in rules.values())


@pytest.mark.parametrize("strategy", ["top_layers", "first_layers"])
def test_more_layers_than_the_model_has_is_an_error_with_their_number(strategy: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        decide(load("bert", tmp_path), NONE, settings_for(strategy, layers=3))
    (finding,) = caught.value.findings
    assert (finding.place, finding.found) == ("tuning.layers", "3")
    assert "at most 2" in finding.expected


# the user's own rules


def test_rules_match_names_of_parameters_and_of_blocks_and_the_first_wins(tmp_path: Path) -> None:
    model = load("bert", tmp_path)
    written = [
        {"pattern": "classifier.bias", "lr_scale": 5, "weight_decay": 0.5},
        {"pattern": "head", "lr_scale": 10},
        {"pattern": "bert.embeddings.*", "lr_scale": 0},
        {"pattern": "block.[0]", "lr_scale": 0.5},
        {"pattern": "*", "weight_decay": 0.0},
    ]
    rules = decide(model, NONE, settings_for("rules", rules=written))
    assert (rules["classifier.bias"].lr_scale, rules["classifier.bias"].weight_decay) == (5, 0.5)
    assert (rules["classifier.weight"].lr_scale, rules["classifier.weight"].weight_decay) == (10, None)
    for name, rule in rules.items():
        if name.startswith("bert."):
            place = ("embeddings" in name, ".layer.0." in name)
            assert rule.lr_scale == {(True, False): 0.0, (False, True): 0.5, (False, False): 1.0}[place]
            assert rule.weight_decay == (0.0 if place == (False, False) else None)


@pytest.mark.parametrize(
    ("rules", "place", "found", "fix"),
    [
        ([{"pattern": "clasifier.*"}, {"pattern": "*"}], "rules.0.pattern", "clasifier.*", "'classifier.*'"),
        ([{"pattern": "block.7"}, {"pattern": "*"}], "rules.0.pattern", "block.7", "'block.1'"),
        ([{"pattern": "zzz"}, {"pattern": "*"}], "rules.0.pattern", "zzz", "embeddings, block.0, block.1, final, head"),
        ([{"pattern": "*"}, {"pattern": "head"}], "rules.1.pattern", "head", "above the rule that matches the same"),
        ([{"pattern": "head"}], "rules", "none for bert.embeddings.word_embeddings.weight, ", "add a last rule"),
        ([{"pattern": "*", "lr_scale": 0}], "tuning", "every parameter frozen", "lr_scale above 0"),
    ],
)
def test_a_rule_that_does_nothing_and_a_parameter_without_one_are_errors(
    rules: list[dict[str, Any]], place: str, found: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        decide(load("bert", tmp_path), NONE, settings_for("rules", rules=rules))
    (finding,) = caught.value.findings
    assert finding.place.endswith(place)
    assert found in finding.found
    assert fix in finding.fix


def test_a_scale_for_a_frozen_head_is_an_error(tmp_path: Path) -> None:
    rules = [{"pattern": "head", "lr_scale": 0}, {"pattern": "*"}]
    with pytest.raises(RecipeError, match=r"tuning\.head_lr_scale"):
        decide(load("bert", tmp_path), NONE, settings_for("rules", rules=rules, head_lr_scale=2.0))


# the recipe


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_takes_its_own_key_and_the_head_s_scale_alone(strategy: str) -> None:
    assert settings_for(strategy, head_lr_scale=3).head_lr_scale == 3
    needed = STRATEGY_KEYS.get(strategy)
    samples = {
        "layers": 1,
        "layer_decay": 0.5,
        "gradual": {"every": 2},
        "rules": [{"pattern": "*"}],
        "lora": {"rank": 4},
    }
    for key in OPTIONAL_STRATEGY_KEYS.get(strategy, ()):
        Recipe.from_dict({**LEAST, "tuning": {"strategy": strategy, key: samples[key]}})
    if needed:
        with pytest.raises(RecipeError, match=rf"tuning\.{needed}\n.*this key, which strategy {strategy} needs"):
            Recipe.from_dict({**LEAST, "tuning": {"strategy": strategy}})
    for key in set(samples) - {needed, *OPTIONAL_STRATEGY_KEYS.get(strategy, ())}:
        with pytest.raises(RecipeError, match=rf"(?s)tuning\.{key}\n.*a key that strategy {strategy} uses"):
            Recipe.from_dict({**LEAST, "tuning": {**STRATEGY_SETTINGS[strategy], key: samples[key]}})


def test_a_recipe_with_every_key_written_out_loads_again() -> None:
    for strategy in STRATEGIES:
        recipe = Recipe.from_dict({**LEAST, "tuning": STRATEGY_SETTINGS[strategy]})
        assert Recipe.from_dict(recipe.to_dict()).tuning == recipe.tuning


@pytest.mark.parametrize(
    "tuning",
    [
        {"strategy": "top_layers", "layers": 0},
        {"strategy": "top_layers", "layers": 1.5},
        {"strategy": "layer_decay", "layer_decay": 1.0},
        {"strategy": "layer_decay", "layer_decay": 0},
        {"strategy": "full", "head_lr_scale": 0},
        {"strategy": "gradual", "gradual": {"every": 0}},
        {"strategy": "gradual", "gradual": {"every": 0.5}},
        {"strategy": "gradual", "gradual": {"unit": "rows"}},
        {"strategy": "gradual", "gradual": {"layers": "some"}},
        {"ema": 1.0},
        {"ema": 0},
        {"ema": "yes"},
        {"wise_ft": {"alpha": 1.1}},
        {"wise_ft": {"alpha": "best"}},
        {"wise_ft": 0.5},
        {"strategy": "rules", "rules": [{"lr_scale": 1}]},
        {"strategy": "rules", "rules": [{"pattern": "*", "lr_scale": -1}]},
        {"strategy": "rules", "rules": [{"pattern": "*", "lr": 1}]},
        {"strategy": "rules", "rules": [{"pattern": "head"}, {"pattern": "*", "lr_scale": 0, "weight_decay": 0.1}]},
    ],
)
def test_settings_that_cannot_be_meant_are_errors(tuning: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"tuning\."):
        Recipe.from_dict({**LEAST, "tuning": tuning})


# learning rates, where the recipe is silent


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "modernbert", "resnet", "convnext", "swin", "deit"])
def test_every_family_has_a_learning_rate_by_strategy(family: str) -> None:
    config: Any = transformers.AutoConfig.for_model(family)
    rate, why = default_learning_rate(config, "full", random=False, optimizer="")
    assert family in why
    assert 1e-5 <= rate <= 1e-3
    assert default_learning_rate(config, "head", random=False, optimizer="")[0] == HEAD
    assert default_learning_rate(config, "top_layers", random=False, optimizer="")[0] == rate
    assert default_learning_rate(config, "first_layers", random=False, optimizer="")[0] == rate
    assert default_learning_rate(config, "layer_decay", random=False, optimizer="")[0] == LAYER_DECAY_FACTOR * rate
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
