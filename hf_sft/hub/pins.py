"""Model and data pinned to commits where they come from the Hub, and what their pages say of licence and language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CardData, HfApi, constants, try_to_load_from_cache
from huggingface_hub.utils import get_session, hf_raise_for_status, httpx

from hf_sft.card_metadata import is_hub_id
from hf_sft.data.load import READERS
from hf_sft.errors import HfSftError
from hf_sft.hub.connection import FAILURES, hub_client
from hf_sft.hub_access import Kind, hub_obstacle
from hf_sft.modeling.source import ModelSource, find_model
from hf_sft.recipe import Recipe
from hf_sft.record import RunDirectory
from hf_sft.yaml12 import parse

COMMIT = re.compile(r"[0-9a-f]{40}")
ENTRY = re.compile(r"^@\w+\s*\{[^`]*?^\}\s*$|^@\w+\s*\{[^`\n]*\}\s*$", re.MULTILINE)  # of a bibliography
LONGEST = 3000  # characters of a citation
HEADER = re.compile(r"^---\s*\n(.*?\n)---\s*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is known of a model or data set: its commit on the Hub, and what its own card says."""

    commit: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"commit": self.commit, **self.facts}


def pin(recipe: Recipe, *, overwrite: bool = False, in_memory: bool = False) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with model.revision and dataset.revision as commits, and the origins of both for the record.

    in_memory: the rows are given, and dataset.path is a mere name. A run that goes on keeps the commits it began with.
    What cannot be asked stays as it is: the loaders say why.
    """
    began = {} if overwrite else _began_with(recipe)
    model = _model(recipe, began)
    data = Origin() if in_memory else _data_set(recipe, began)
    if model.commit:
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"revision": model.commit})})
    if data.commit:
        recipe = recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"revision": data.commit})})
    return recipe, {"model": model.as_dict(), "dataset": data.as_dict()}


def _began_with(recipe: Recipe) -> dict[str, str | None]:
    """The commits that stand in the recipe of the unfinished run in output_dir."""
    directory = RunDirectory(Path(recipe.output_dir))
    if not directory.recipe.is_file() or directory.record.is_file():
        return {}
    try:
        before, _, _ = parse(directory.recipe.read_text(encoding="utf-8"), lambda line, column: "recipe.yaml")
        same = before["model"]["name"] == recipe.model.name, before["dataset"]["path"] == recipe.dataset.path
        names = ("model", "dataset")
        return {name: before[name].get("revision") for name, unchanged in zip(names, same, strict=True) if unchanged}
    except (OSError, UnicodeDecodeError, HfSftError, KeyError, TypeError, AttributeError):
        return {}


def _model(recipe: Recipe, began: Mapping[str, str | None]) -> Origin:
    try:
        source: ModelSource = find_model(recipe)
    except HfSftError:
        return Origin()
    if source.architecture is not None:
        return Origin()
    if Path(source.name).is_dir():
        return Origin(facts=_facts_of_text(_read(Path(source.name) / "README.md")))
    revision = recipe.model.revision or began.get("model")
    return _on_hub(source.name, "model", revision) if is_hub_id(source.name) else Origin()


def _data_set(recipe: Recipe, began: Mapping[str, str | None]) -> Origin:
    path = recipe.locate(recipe.dataset.path)
    if path in READERS or not is_hub_id(path) or Path(path).exists():
        return Origin()
    return _on_hub(path, "dataset", recipe.dataset.revision or began.get("dataset"))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _on_hub(name: str, kind: Kind, revision: str | None) -> Origin:
    if hub_obstacle() is not None:
        return Origin(commit=_cached(name, revision) if kind == "model" else None)
    with hub_client() as api:
        try:
            info = (api.model_info if kind == "model" else api.dataset_info)(name, revision=revision)
            facts = _facts(info.card_data.to_dict() if isinstance(info.card_data, CardData) else {})
            citation = _citation(_card(api, name, info.sha)) if kind == "model" else None
        except FAILURES:  # the loader, which asks next, says what is wrong
            return Origin()
    return Origin(commit=info.sha, facts=facts | ({"citation": citation} if citation else {}))


def _cached(name: str, revision: str | None) -> str | None:
    """The commit of the copy in the cache."""
    found = try_to_load_from_cache(name, constants.CONFIG_NAME, revision=revision)
    commit = Path(found).parent.name if isinstance(found, str) else ""
    return commit if COMMIT.fullmatch(commit) else None


def _card(api: HfApi, name: str, commit: str | None) -> str:
    """README.md; empty where there is none."""
    answer = get_session().get(
        f"{api.endpoint}/{name}/resolve/{commit}/README.md", headers=api._build_hf_headers(), timeout=10
    )
    if answer.status_code == httpx.codes.NOT_FOUND:
        return ""
    hf_raise_for_status(answer)
    return answer.text


def _facts_of_text(card: str) -> dict[str, Any]:
    header = HEADER.match(card)
    try:
        content = yaml.safe_load(header[1]) if header else {}
    except yaml.YAMLError:
        content = {}
    citation = _citation(card)
    return _facts(content if isinstance(content, dict) else {}) | ({"citation": citation} if citation else {})


def _facts(card: Mapping[str, Any]) -> dict[str, Any]:
    """Licence and languages, as the Hub writes them."""
    languages = card.get("language")
    languages = [languages] if isinstance(languages, str) else languages if isinstance(languages, list) else []
    found = {
        "license": card.get("license") if isinstance(card.get("license"), str) else None,
        "license_name": card.get("license_name") if isinstance(card.get("license_name"), str) else None,
        "license_link": card.get("license_link") if isinstance(card.get("license_link"), str) else None,
        "language": [str(language) for language in languages],
    }
    return {key: value for key, value in found.items() if value}


def _citation(card: str) -> str | None:
    """The first entry of a bibliography in a card."""
    found = ENTRY.search(card)
    return found[0].strip() if found and len(found[0]) <= LONGEST else None
