"""How candidates are spelled: a model's name, name@random, or the `model` section of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_sft import yaml12
from hf_sft.errors import Finding, RecipeError
from hf_sft.recipe import Model, Recipe

RANDOM = "@random"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """name: as it was written. model: the section of a recipe; given: its keys that differ from the defaults."""

    name: str
    model: Model
    given: dict[str, Any]


def read_candidates(candidates: Sequence[str | Mapping[str, Any]], recipe: Recipe) -> list[Candidate]:
    """Each candidate once, in the order given. Raises RecipeError for those that are not written as one."""
    words = [candidates] if isinstance(candidates, (str, Mapping)) else candidates
    found: dict[str, Candidate] = {}
    findings: list[Finding] = []
    for word in words:
        try:
            candidate = _read(word, recipe)
        except RecipeError as error:
            findings += error.findings
        else:
            found.setdefault(candidate.name, candidate)
    if not found and not findings:
        findings.append(Finding(place="--candidates", expected="at least one model", found="none"))
    if findings:
        raise RecipeError(findings)
    return list(found.values())


def _read(word: str | Mapping[str, Any], recipe: Recipe) -> Candidate:
    """Local folders stand beside the recipe, or else in the working directory."""
    if isinstance(word, Mapping):
        name, content = _spelled(word), dict(word)
    elif word.lstrip().startswith("{"):
        name, content = word.strip(), _section(word)
    elif word.endswith(RANDOM):
        name, content = word, {"name": word.removesuffix(RANDOM), "weights": "random"}
    else:
        name, content = word, {"name": word}
    path = content.get("name")
    if isinstance(path, str) and path and _is_model(Path(path)):
        beside = Path(recipe.locate(path))
        content["name"] = str(beside if beside.is_absolute() and _is_model(beside) else Path(path).resolve())
    whole = {"task": recipe.task, "model": content, "dataset": {"path": recipe.dataset.path}}
    model = Recipe.from_dict(whole, recipe.folder).model
    return Candidate(name=name, model=model.model_copy(update={"head": "new"}), given=content)


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _spelled(section: Mapping[str, Any]) -> str:
    name = str(section.get("name", ""))
    others = {key: value for key, value in section.items() if key != "name"}
    if others == {"weights": "random"}:
        return name + RANDOM
    inside = ", ".join(f"{key}: {_flow(value)}" for key, value in section.items())
    return f"{{{inside}}}" if others else name


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    return str(value)


def _section(text: str) -> dict[str, Any]:
    content, _, findings = yaml12.parse(text, lambda line, column: f"--candidates {text.strip()}")
    if findings or not isinstance(content, dict):
        expected = "a model's name, name@random, or '{name: ..., weights: random, config: {...}}'"
        raise RecipeError(findings or Finding(place="--candidates", expected=expected, found=text))
    return content
