"""Whether a run starts, goes on or is finished already: what its folder says about the recipe."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState

from hf_sft.errors import EnvironmentProblem, Finding, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.record import RunDirectory, RunRecord, write_text

HARMLESS = ("resume", "run", "output_dir")  # what may differ when the same run goes on
OURS = ("asked.yaml", "recipe.yaml", "record.json", "traceback.txt", "model", "predictions", "checkpoints", "report")


def describe_asked(recipe: Recipe, data: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was asked for, as plain data: the recipe before anything is filled in, and which data came from memory."""
    asked = yaml.safe_load(recipe.to_yaml(absolute_paths=True))
    if data is not None:
        asked["data_in_memory"] = {name: getattr(rows, "_fingerprint", len(rows)) for name, rows in data.items()}
    return asked


def finished_run(recipe: Recipe, asked: dict[str, Any], *, overwrite: bool) -> RunRecord | None:
    """The record when this very run is finished; None when it has to start or go on.

    Raises RecipeError when the folder holds the run of another recipe, or of this one and resume is `never`.
    """
    directory = RunDirectory(Path(recipe.output_dir))
    if overwrite or not directory.asked.is_file():
        return None
    try:
        before = yaml.safe_load(directory.asked.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        before = {}
    differences = _differences(before, asked)
    fix = "choose another output_dir, or pass --overwrite to delete that run"
    if differences:
        found = "another one; it differs in " + "; ".join(differences[:6])
        place = f"output_dir {recipe.output_dir}"
        raise RecipeError(
            Finding(place=place, expected="an empty folder or the run of this recipe", found=found, fix=fix)
        )
    if recipe.resume == "never":
        raise RecipeError(
            Finding(
                place=f"output_dir {recipe.output_dir}",
                expected="an empty folder (resume: never)",
                found="a run",
                fix=fix,
            )
        )
    return RunRecord.load(directory.path) if directory.record.is_file() else None


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if path or key not in HARMLESS]
        return [
            line
            for key in keys
            for line in _differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if before == now else [f"{path} (was {before!r}, now {now!r})"]


def open_run(recipe: Recipe, asked: dict[str, Any], *, overwrite: bool) -> RunDirectory:
    """Make the folder and note what was asked; with overwrite, what an earlier run left there is deleted first.

    Raises EnvironmentProblem when the folder cannot be written.
    """
    state, directory = PartialState(), RunDirectory(Path(recipe.output_dir))
    state.wait_for_everyone()  # until every process has looked at what was there
    if state.is_main_process:
        try:
            _make(directory, asked, overwrite=overwrite)
        except OSError as error:
            expected = f"a folder that can be written at {directory.path}"
            raise EnvironmentProblem(
                Finding(place="output_dir", expected=expected, found=error.strerror or str(error))
            ) from error
    state.wait_for_everyone()
    return directory


def _make(directory: RunDirectory, asked: dict[str, Any], *, overwrite: bool) -> None:
    for name in OURS if overwrite else ():
        path = directory.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    directory.path.mkdir(parents=True, exist_ok=True)
    write_text(directory.asked, yaml.safe_dump(asked, sort_keys=False, allow_unicode=True))
    directory.traceback.unlink(missing_ok=True)
