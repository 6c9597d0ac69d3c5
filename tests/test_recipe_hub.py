"""Laws of the section `hub:`: names are those that the Hub takes, and what adapters cannot do is said."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sft.errors import RecipeError
from hf_sft.recipe import Recipe
from hf_sft.recipe_hub import Hub

CONTENT: dict[str, Any] = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "p"}}


def is_taken(name: str) -> bool:
    try:
        Hub(repo_id=name)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", ["me/bert-sentiment", "bert", "our-team/Bert_2.1", "me/a"])
def test_usual_names_are_taken(name: str) -> None:
    assert is_taken(name)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab1-_./ ä", min_size=1, max_size=12))
def test_names_are_taken_that_the_hub_takes(name: str) -> None:
    try:
        validate_repo_id(name)
        expected = True
    except HFValidationError:
        expected = False
    assert is_taken(name) <= expected, "what the recipe takes the Hub takes"
    if name.isascii() and "_" not in name:  # the library takes less underscores at ends than the Hub
        assert is_taken(name) == expected


@pytest.mark.parametrize(
    "name", ["a b", "me/you/they", "me/x--y", "me/x..y", "me/.x", "x.git", "m" * 97, "https://x/y"]
)
def test_other_names_end_with_what_a_name_is(name: str) -> None:
    with pytest.raises(RecipeError, match="name of a repository on the Hub") as caught:
        Recipe.from_dict(CONTENT | {"hub": {"repo_id": name}})
    assert caught.value.findings[0].place == "hub.repo_id" and caught.value.findings[0].fix


def test_checkpoints_of_adapters_are_not_pushed() -> None:
    with pytest.raises(RecipeError, match="adapters are merged at the end"):
        Recipe.from_dict(CONTENT | {"tuning": {"strategy": "lora"}, "hub": {"repo_id": "x", "every": "checkpoint"}})


def test_a_section_without_a_name_is_a_mistake() -> None:
    with pytest.raises(RecipeError, match="repo_id"):
        Recipe.from_dict(CONTENT | {"hub": {"private": True}})
