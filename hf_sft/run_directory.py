"""Whether a run starts, goes on or is finished already: what its folder says about the recipe."""

from __future__ import annotations

import os
import reprlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_sft.console import is_main_process
from hf_sft.data.load import load_source
from hf_sft.errors import EnvironmentProblem, Finding, RecipeError
from hf_sft.ownership import refuse_if_owned
from hf_sft.recipe import Recipe
from hf_sft.record import RunDirectory, RunRecord, write_text
from hf_sft.training.checkpoints import COMPLETE
from hf_sft.yaml12 import dump, parse

# what may differ when the same run goes on, and what else when it is extended
HARMLESS = (
    "resume", "run.workers", "run.max_hours", "run.keep_checkpoints", "output_dir", "tuning.cache", "tuning.cache_dir",
    "hub", "hub.repo_id", "hub.private", "hub.every", "hub.license", "hub.examples",
)  # fmt: skip
LENGTH = ("training.num_train_epochs", "training.max_steps", "early_stopping", "early_stopping.patience")
RESULTS = (
    "recipe.yaml",
    "record.json",
    "model",
    "model.partial",
    "predictions",
    "checkpoints",
    "report",
    "tensorboard",
)
OURS = (*RESULTS, "traceback.txt", "asked.yaml")  # asked.yaml last: while it lies there, the rest is known to be ours


def describe_asked(recipe: Recipe, data: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was asked for, as plain data: the recipe before anything is filled in, and which data came from memory."""
    asked, _, _ = parse(recipe.to_yaml(absolute_paths=True), lambda line, column: "recipe")
    if data is not None:
        source, _ = load_source(recipe, data)
        asked["data_in_memory"] = {name: rows._fingerprint for name, rows in source.items()}
    return asked


def finished_run(recipe: Recipe, asked: dict[str, Any], *, overwrite: bool) -> RunRecord | None:
    """The record when this very run is finished; None when it has to start or go on.

    Raises RecipeError when the folder holds the run of another recipe, or of this one and resume is `never`, or files
    that a run would replace and that no run has left there; EnvironmentProblem when the folder cannot be written.
    """
    directory = RunDirectory(Path(recipe.output_dir))
    _refuse_unwritable(directory.path.absolute())
    if not directory.asked.is_file():
        _refuse_to_replace(directory)
        return None
    if overwrite or _holds_nothing(directory):
        return None
    if is_main_process():  # to the other ranks it is their own launch that owns the folder
        refuse_if_owned(directory.path)
    differences = _differences(_asked_before(directory), asked)
    if recipe.run.global_batch_size is not None:  # a device may take fewer rows at once, as after it ran out of memory
        differences.pop("training.per_device_train_batch_size", None)
    longer = {path: words for path, words in differences.items() if path in LENGTH}
    fix = "choose another output_dir, or pass --overwrite to delete that run"
    if recipe.resume == "extend":
        differences = {path: words for path, words in differences.items() if path not in LENGTH}
    elif longer and len(longer) == len(differences):
        fix = f"resume=extend trains on; or {fix}"
    if differences:
        found = "another one; it differs in " + "; ".join(list(differences.values())[:6])
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
    if not directory.record.is_file():
        return None
    if recipe.resume == "extend" and longer and recipe.tuning.solver != "logistic":  # a solved head has no length
        _refuse_shorter(_asked_before(directory), recipe)
        _refuse_without_checkpoint(directory)
        return None
    return RunRecord.load(directory.path)


def _refuse_shorter(before: Any, recipe: Recipe) -> None:
    for key in ("num_train_epochs", "max_steps"):
        was, now = (before.get("training") or {}).get(key) or 0, recipe.training.get(key) or 0
        if now < was:
            place, expected = f"training.{key}", f"more than the {was:g} of the finished run (resume: extend)"
            fix = "--overwrite trains anew"
            raise RecipeError(Finding(place=place, expected=expected, found=f"{now:g}", fix=fix))


def _refuse_without_checkpoint(directory: RunDirectory) -> None:
    if not any(directory.checkpoints.glob(f"checkpoint-*/{COMPLETE}")):
        fix = f"model.name={directory.model} starts from its weights in a new output_dir; "
        fix += "run.keep_checkpoints: true keeps what extending needs"
        place, expected = f"output_dir {directory.path}", "checkpoints of the finished run (resume: extend)"
        raise RecipeError(Finding(place=place, expected=expected, found="none", fix=fix))


def _refuse_unwritable(path: Path) -> None:
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise _unwritable(path, f"{there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise _unwritable(path, f"no permission to write in {there}")


def _unwritable(path: Path, found: str) -> EnvironmentProblem:
    expected = f"a folder that can be written at {path}"
    return EnvironmentProblem(Finding(place="output_dir", expected=expected, found=found, fix="choose another"))


def _refuse_to_replace(directory: RunDirectory) -> None:
    foreign = [name for name in RESULTS if (directory.path / name).exists()]
    if foreign:
        raise RecipeError(
            Finding(
                place=f"output_dir {directory.path}",
                expected="an empty folder or one that a run has made",
                found=", ".join(foreign),
                fix="choose another output_dir; a run would replace these",
            )
        )


def _holds_nothing(directory: RunDirectory) -> bool:
    """A run that ended before its first checkpoint, by a mistake in its recipe perhaps, left nothing to lose."""
    left = [directory.path / name for name in RESULTS if name != "recipe.yaml"]
    return not any(path.is_file() or (path.is_dir() and any(path.iterdir())) for path in left)


def _asked_before(directory: RunDirectory) -> Any:
    try:
        return parse(directory.asked.read_text(encoding="utf-8"), lambda line, column: "asked.yaml")[0]
    except (OSError, UnicodeDecodeError, RecipeError):
        return "unreadable"


def _differences(before: Any, now: Any, path: str = "") -> dict[str, str]:
    """Dotted key -> what it was and is, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        found: dict[str, str] = {}
        for key in {**before, **now}:
            found |= _differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
        return found
    if not path:
        return {"": "asked.yaml, which cannot be read"}
    same = before == now or path in HARMLESS
    return {} if same else {path: f"{path} (was {reprlib.repr(before)}, now {reprlib.repr(now)})"}


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
            raise _unwritable(directory.path, error.strerror or str(error)) from error
    state.wait_for_everyone()
    return directory


def _make(directory: RunDirectory, asked: dict[str, Any], *, overwrite: bool) -> None:
    for name in OURS if overwrite else ():
        path = directory.path / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    directory.path.mkdir(parents=True, exist_ok=True)
    directory.record.unlink(missing_ok=True)  # of a run that is extended: it is not finished any more
    write_text(directory.asked, dump(asked))
    directory.traceback.unlink(missing_ok=True)
