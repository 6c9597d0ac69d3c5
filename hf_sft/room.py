"""Running out of disk space or memory, told as what it is."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from hf_sft.errors import EnvironmentProblem, Finding
from hf_sft.recipe import Recipe
from hf_sft.training.checkpoints import size_of_largest

LEAST_ROOM = 1_000_000  # bytes; below that a disk is full


@contextmanager
def told_apart(recipe: Recipe, *, parameters: int = 0) -> Iterator[None]:
    """A full disk or memory that ends what happens inside is raised as EnvironmentProblem, with what to do.

    parameters: of the model; a checkpoint holds them in float32 with the two moments of AdamW.
    """
    folder = Path(recipe.output_dir)
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise out_of_memory(recipe) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        if "can't allocate memory" in str(error):  # what torch says on a CPU
            raise out_of_memory(recipe) from error
        if is_full(folder, error):
            raise no_room(folder, size_of_largest(folder / "checkpoints") or 12 * parameters) from error
        raise


def existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def is_full(folder: Path, error: BaseException) -> bool:
    """Whether writing failed for want of room; torch and safetensors say so in words of their own, or in none."""
    no_room = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return no_room or "os error 28" in str(error) or shutil.disk_usage(existing(folder)).free < LEAST_ROOM


def no_room(folder: Path, needed: int) -> EnvironmentProblem:
    """needed: bytes."""
    words = f"about {needed / 1e9:.2g} GB free"
    found = f"{shutil.disk_usage(existing(folder)).free / 1e9:.2g} GB free"
    fix = "free some, choose another output_dir, or set training.save_total_limit: 1; a run that was stopped goes on"
    return EnvironmentProblem(
        Finding(place="output_dir", expected=f"{words} in {folder}", found=found, fix=fix + " from its last checkpoint")
    )


def out_of_memory(recipe: Recipe) -> EnvironmentProblem:
    """Names the pair of settings that needs half the memory and optimises the same."""
    training = recipe.training
    size = int(training.get("per_device_train_batch_size", 32))
    steps = int(training.get("gradient_accumulation_steps", 1))
    place, expected = "training.per_device_train_batch_size", "a batch that fits into the memory of the device"
    if size > 1:
        smaller = f"training.per_device_train_batch_size={size // 2}"
        if recipe.run.global_batch_size is None:
            smaller += f" training.gradient_accumulation_steps={2 * steps}"
        fix = f"{smaller} optimises the same; or activation_checkpointing, or a lower processor.max_length or size"
    else:
        fix = "set training.activation_checkpointing: true, or lower processor.max_length or size"
    return EnvironmentProblem(Finding(place=place, expected=expected, found=f"{size} rows do not", fix=fix))
