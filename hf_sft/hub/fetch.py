"""Recipes that lie on the Hub: `hub:me/model`. They are read as data of strangers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.file_download import get_hf_file_metadata, hf_hub_url

from hf_sft.errors import Finding, RecipeError
from hf_sft.hub.connection import HubError, ask, hub_client
from hf_sft.hub_access import hub_obstacle
from hf_sft.recipe_hub import NAME
from hf_sft.secrets import NAMED, WORDS_OF_THE_DATA

PREFIX = "hub:"
FILE = "recipe.yaml"
# What names files: their values may not leave the folder that the command is given in.
WRITTEN = (("output_dir",), ("tuning", "cache_dir"))
LABEL = re.compile(r"^(?:evaluate|package|bundled|function):")
READ = (("model", "name"), ("model", "weights"), ("dataset", "path"), ("dataset", "data_files"), ("dataset", "options"),
        ("metrics",), ("training",))  # fmt: skip


def fetch_recipe(name: str, max_size: int) -> Path:
    """The recipe of `hub:me/model` or `hub:me/model@revision`, as a file in the cache.

    Raises HubError or RecipeError where there is none.
    """
    repo_id, _, revision = name.removeprefix(PREFIX).partition("@")
    if not NAME.fullmatch(repo_id):
        expected, fix = "hub:me/model, or hub:me/model@revision", "name a model that hf_sft has pushed"
        raise RecipeError(Finding(place=name, expected=expected, found=repo_id or "nothing", fix=fix))
    reason = hub_obstacle()
    if reason is not None:
        fix = "connect, or name a recipe file or bundled:<name>"
        raise HubError(Finding(place=name, expected="the Hub, where the recipe lies", found=reason, fix=fix))

    def download() -> Path:
        size = get_hf_file_metadata(hf_hub_url(repo_id, FILE, revision=revision or None)).size or 0
        if size > max_size:
            found = f"{FILE} of {size:,} bytes"
            raise RecipeError(Finding(place=name, expected="a recipe in YAML", found=found))
        return Path(hf_hub_download(repo_id, FILE, revision=revision or None))

    with hub_client():
        try:
            return ask(download, name, "a model with its recipe", again=2)
        except HubError as error:
            if isinstance(error.__cause__, EntryNotFoundError):
                expected, found = f"a model with {FILE}", f"{repo_id} without it"
                fix = "name a model that hf_sft has pushed; another model starts a run as model.name"
                raise RecipeError(Finding(place=name, expected=expected, found=found, fix=fix)) from error
            raise


def own_part(content: dict[str, Any]) -> dict[str, Any]:
    """The recipe but for what was its author's own: the repository it was pushed to."""
    return {**content, "hub": None}


def outside(content: Any) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:
    """What a recipe of a stranger may not say: files outside the working directory, variables of the environment."""
    for path, value in _texts(content):
        if any(path[: len(key)] == key for key in WORDS_OF_THE_DATA):
            continue
        if NAMED.search(value):
            fix = f"read the recipe first (hf download REPO {FILE}), then run the file"
            yield path, {"expected": "no variable in a recipe of the Hub", "found": value, "fix": fix}
        elif any(path[: len(key)] == key for key in WRITTEN) and _leaves(value):
            fix = f"set {'.'.join(path)}= on the command line"
            expected = "a folder inside the working directory, in a recipe of the Hub"
            yield path, {"expected": expected, "found": value, "fix": fix}
        elif any(path[: len(key)] == key for key in READ) and _leaves(LABEL.sub("", value)):
            fix = f"set {'.'.join(path)}= on the command line"
            expected = "a file inside the working directory, in a recipe of the Hub"
            yield path, {"expected": expected, "found": value, "fix": fix}


def _texts(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item, path)
    elif isinstance(value, str):
        yield path, value


def _leaves(value: str) -> bool:
    """Whether a path is absolute, of a home, or goes up; addresses (https://...) do not count."""
    if re.match(r"[a-z]+://", value) or value.startswith("//"):
        return value.startswith("file:") or value.startswith("//")
    drive = PureWindowsPath(value)
    absolute = PurePosixPath(value).is_absolute() or bool(drive.drive)
    return (absolute and len(value) > 1) or value.startswith("~") or ".." in re.split(r"[/\\]", value)
