"""Laws of the advice on a strategy: which line of the table applies, and what a recipe that follows it looks like."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hf_sft.advice import (
    FULL_FROM,
    HEAD_BELOW,
    MANY_CLASSES,
    NEARLY_PERFECT,
    NOTHING_LEARNT,
    SEPARATED,
    UNFAMILIAR_FROM,
    Advice,
    Evidence,
    advise,
    agrees,
    gained,
    rows_per_class,
)
from hf_sft.recipe import Recipe, Tuning

FEW, SOME, MANY = HEAD_BELOW - 1, (HEAD_BELOW + FULL_FROM) / 2, FULL_FROM
SOLVED = {"strategy": "head", "solver": "logistic"}
WARM = {"strategy": "full", "warm_start": "linear_probe"}
TOP = {"strategy": "top_layers", "layers": 2, "warm_start": "linear_probe"}
FIRST = {**TOP, "strategy": "first_layers"}
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"rows_per_class": FEW}, SOLVED),
    ({"rows_per_class": FEW, "classes": MANY_CLASSES}, SOLVED),
    ({"rows_per_class": FEW, "classes": 4}, WARM),
    ({"rows_per_class": HEAD_BELOW, "layers": 6}, TOP),
    ({"rows_per_class": SOME, "layers": 6}, TOP),
    ({"rows_per_class": SOME}, WARM),
    ({"rows_per_class": SOME, "layers": 1}, WARM),
    ({"rows_per_class": MANY}, WARM),
    ({"rows_per_class": MANY, "kept_head": True}, {"strategy": "full"}),
    ({"rows_per_class": FEW, "kept_head": True}, {"strategy": "head"}),
    ({"rows_per_class": FEW, "random": True}, {"strategy": "full"}),
    ({"rows_per_class": FEW, "gained": NOTHING_LEARNT - 0.01}, {"strategy": "full"}),
    ({"rows_per_class": FEW, "gained": -0.2}, {"strategy": "full"}),
    ({"rows_per_class": MANY, "gained": NOTHING_LEARNT - 0.01}, {"strategy": "full"}),
    ({"rows_per_class": MANY, "gained": NEARLY_PERFECT}, SOLVED),
    ({"rows_per_class": SOME, "layers": 6, "gained": SEPARATED, "entropy": UNFAMILIAR_FROM}, FIRST),
    ({"rows_per_class": SOME, "layers": 6, "gained": SEPARATED, "entropy": UNFAMILIAR_FROM - 0.01}, TOP),
    ({"rows_per_class": SOME, "layers": 6, "gained": SEPARATED - 0.01, "entropy": UNFAMILIAR_FROM}, WARM),
    ({"rows_per_class": SOME, "layers": 6, "gained": SEPARATED - 0.01}, TOP),
    ({"rows_per_class": 0.5}, SOLVED),
]


@pytest.mark.parametrize(("evidence", "tuning"), CASES)
def test_each_line_of_the_table_applies_where_it_should(evidence: dict[str, Any], tuning: dict[str, Any]) -> None:
    found = advise(Evidence(**evidence))
    assert found.tuning == tuning and found.strategy == tuning["strategy"]
    assert found.reason and "{" not in found.reason


@pytest.mark.parametrize(("evidence", "tuning"), CASES)
def test_what_is_advised_is_a_recipe_and_agrees_with_itself(evidence: dict[str, Any], tuning: dict[str, Any]) -> None:
    found = advise(Evidence(**evidence))
    content = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "d"}}
    recipe = Recipe.from_dict({**content, "tuning": dict(found.tuning)})
    assert agrees(recipe.tuning.model_dump(), found)
    assert str(found) == "tuning: {" + ", ".join(f"{key}: {value}" for key, value in tuning.items()) + "}"


def test_the_reason_names_the_numbers_it_rests_on() -> None:
    reason = advise(Evidence(rows_per_class=8, gained=0.61)).reason
    assert "8 rows per class" in reason and f"under {HEAD_BELOW:.0f}" in reason and "61%" in reason


@pytest.mark.parametrize(
    ("tuning", "advised", "same"),
    [
        (Tuning(), WARM, True),
        (Tuning(warm_start="none"), WARM, False),
        (Tuning(warm_start="linear_probe"), WARM, True),
        (Tuning(warm_start="linear_probe"), {"strategy": "full"}, True),
        (Tuning(strategy="lora"), WARM, True),
        (Tuning(strategy="gradual"), WARM, True),
        (Tuning(strategy="lora"), SOLVED, False),
        (Tuning(strategy="head"), SOLVED, True),
        (Tuning(), SOLVED, False),
        (Tuning(strategy="top_layers", layers=3, warm_start="linear_probe"), TOP, True),
        (Tuning(strategy="top_layers", layers=3), FIRST, False),
    ],
)
def test_a_recipe_agrees_with_the_strategy_not_with_every_number(
    tuning: Tuning, advised: dict[str, Any], same: bool
) -> None:
    advice = Advice(strategy=advised["strategy"], tuning=advised, reason="")
    assert agrees(tuning.model_dump(), advice) is same


def test_rows_per_class_are_those_of_the_class_in_the_middle() -> None:
    assert rows_per_class({"a": 100, "b": 4, "c": 10}, 114, "single_label") == 10
    assert rows_per_class({"a": 100, "b": 4, "c": 0}, 104, "single_label") == 52
    assert rows_per_class({"a": 3, "b": 5}, 100, "multi_label") == 4
    assert rows_per_class({}, 800, "regression") == 100


def test_the_share_gained_lies_between_baseline_and_perfect() -> None:
    assert gained(0.75, 0.5, 1.0) == 0.5
    assert gained(0.2, 0.4, 0.0) == 0.5  # a loss
    assert gained(0.3, math.nan, 1.0) == 0.3  # a correlation with a constant
    assert gained(0.4, 0.5, 1.0) == pytest.approx(-0.2)
    assert gained(math.nan, 0.5, 1.0) is None and gained(0.3, 0.1, None) is None and gained(1.0, 1.0, 1.0) is None
