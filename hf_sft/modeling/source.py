"""What `model.name` and `model.weights` point at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hf_sft.errors import Finding, ModelError
from hf_sft.packages import PREFIX, locate_in_package
from hf_sft.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """name: what from_pretrained is given (folder or Hub id), or a timm architecture when `architecture` is set.

    weights: a checkpoint file for that architecture, or None. random: weights are drawn, not loaded.
    """

    name: str
    architecture: str | None = None
    weights: Path | None = None
    random: bool = False


def find_model(recipe: Recipe) -> ModelSource:
    """Raises ModelError, RecipeError or MissingExtraError where a path or package is not there."""
    model = recipe.model
    random = model.weights == "random"
    if model.name.startswith(PREFIX):
        return ModelSource(name=str(locate_in_package(model.name, "model.name")), random=random)
    name = recipe.locate(model.name)
    if name.startswith("timm/") and model.weights:
        weights = None if random else _weights_file(recipe, model.weights)
        return ModelSource(name=name, architecture=name.removeprefix("timm/"), weights=weights, random=random)
    if model.weights and not random:
        found = f"model.weights beside model.name: {model.name}"
        fix = "leave model.weights out; a folder or Hub model brings its own"
        raise ModelError(Finding(place="model.weights", expected="a timm/<architecture>", found=found, fix=fix))
    if Path(name).is_absolute() and not (Path(name) / "config.json").is_file():
        fix = "name a folder that save_pretrained wrote, or a Hub id"
        raise ModelError(Finding(place="model.name", expected="a folder with config.json", found=name, fix=fix))
    return ModelSource(name=name, random=random)


def _weights_file(recipe: Recipe, weights: str) -> Path:
    package = weights.startswith(PREFIX)
    path = locate_in_package(weights, "model.weights") if package else Path(recipe.locate_file(weights))
    if not path.is_file():
        raise ModelError(
            Finding(place="model.weights", expected="a checkpoint file", found=str(path), fix="check the path")
        )
    return path
