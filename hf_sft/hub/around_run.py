"""What a run does about the Hub before, while and after it trains; processes agree on what the main one found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hf_sft.console import is_main_process, say
from hf_sft.errors import HfSftError
from hf_sft.hub import checkpoints, pins, preflight, push
from hf_sft.modeling.lora import adapter_parameters
from hf_sft.recipe import Recipe
from hf_sft.record import RunDirectory, RunRecord

if TYPE_CHECKING:
    from hf_sft.job import Job

T = TypeVar("T")


def agreed(action: Callable[[], T]) -> T:
    """What the action returns or raises on the main process, on every process."""
    if PartialState().num_processes == 1:
        return action()
    found: list[Any] = [None, None]
    if is_main_process():
        try:
            found[0] = action()
        except HfSftError as error:
            found[1] = (type(error), error.findings)
    found = broadcast_object_list(found)
    if found[1] is not None:
        kind, findings = found[1]
        raise kind(findings)
    return found[0]


def begin(recipe: Recipe, *, overwrite: bool, in_memory: bool) -> tuple[Recipe, dict[str, Any]]:
    """Before anything is read: whether the push can succeed, as far as asking tells; commits instead of branches.

    Raises HubError or RecipeError for what would keep the push from succeeding.
    """

    def look() -> tuple[Recipe, dict[str, Any]]:
        if recipe.hub is not None:
            preflight.look(recipe)
        return pins.pin(recipe, overwrite=overwrite, in_memory=in_memory)

    return agreed(look)


def make_ready(work: Job) -> Job:
    """Before training, once everything else is known to be right: the repository, and a small file in it."""
    if work.recipe.hub is None:
        return work
    settings = agreed(lambda: preflight.get_ready(work.recipe))
    if settings.examples and "validation" in work.inputs:
        say(f"up to {settings.examples} validation rows will stand in the card (hub.examples: 0 leaves them out)")
    return replace(work, recipe=work.recipe.model_copy(update={"hub": settings}))


def callbacks(work: Job, directory: RunDirectory) -> Sequence[Any]:
    """What pushes checkpoints, where the recipe asks for it."""
    settings = work.recipe.hub
    if settings is None or settings.every != "checkpoint":
        return ()

    def save_processor(folder: Path) -> None:
        if work.built.model.config.model_type != "timm_wrapper" and not adapter_parameters(work.built.model):
            work.built.processor.save_pretrained(folder)

    return (checkpoints.CheckpointPush(settings.repo_id, directory, save_processor),)


def finish(record: RunRecord, recipe: Recipe) -> None:
    """The push of a finished run, from the main process. Raises PushError where it fails."""
    if recipe.hub is not None and is_main_process():
        push.push_finished(record, recipe.hub)
