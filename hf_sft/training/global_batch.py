"""Rows per optimizer step: shared among processes and accumulated, so that a recipe optimises the same anywhere."""

from __future__ import annotations

import json
from pathlib import Path

from hf_sft.errors import Finding, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.record import write_text

PLACE = "run.global_batch_size"
FILE = "batch.json"  # beside the checkpoints: what a run that goes on has to take


def share_batch(recipe: Recipe, most: int, processes: int) -> dict[str, int]:
    """run.global_batch_size as fields of TrainingArguments; nothing where it is not set.

    most: rows that a device takes at once, at most; what it takes is the largest number of them that divides its share.
    Raises RecipeError where the processes cannot share alike, or only in batches of under half of what a device takes.
    """
    whole = recipe.run.global_batch_size
    if whole is None:
        return {}
    if whole % processes:
        near = " or ".join(f"{number:,}" for number in _multiples_beside(whole, processes))
        expected, found = f"a multiple of the {processes} processes", f"{whole:,} rows"
        fix = f"set {near}, or start as many processes as divide {whole:,}"
        raise RecipeError(Finding(place=PLACE, expected=expected, found=found, fix=fix))
    share = whole // processes
    largest = min(most, share)
    rows = next(number for number in range(largest, 0, -1) if share % number == 0)
    if 2 * rows < largest:
        near = " or ".join(f"{number:,}" for number in _multiples_beside(whole, largest * processes))
        each = "" if processes == 1 else " of each process"
        raise RecipeError(
            Finding(
                place=PLACE,
                expected=f"rows that split into like batches of at most {largest} (per_device_train_batch_size)",
                found=f"{share:,}{each}, which split into batches of {rows}",
                fix=f"set {near}, or a training.per_device_train_batch_size that divides {share:,}",
            )
        )
    return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": share // rows}


def _multiples_beside(number: int, of: int) -> list[int]:
    """The multiples just below (where it is above 0) and just above."""
    below = number // of * of
    return [*([below] if below else []), below + of]


def describe_batch(recipe: Recipe, processes: int) -> str:
    """How the batch of a resolved recipe is made up, in words; empty where run.global_batch_size is not set."""
    if recipe.run.global_batch_size is None:
        return ""
    rows, steps = (recipe.training[key] for key in ("per_device_train_batch_size", "gradient_accumulation_steps"))
    parts = (
        [f"{processes} processes"] * (processes > 1) + [f"{rows} rows"] + [f"{steps} batches accumulated"] * (steps > 1)
    )
    return f"a step has {recipe.run.global_batch_size:,} rows" + (f": {' x '.join(parts)}" if len(parts) > 1 else "")


def same_batch(folder: Path, rows: int, processes: int, *, going_on: bool, writes: bool) -> None:
    """Raises RecipeError where a run would go on with steps of another size than it began with.

    Its checkpoint counts steps: rows would be left out or seen twice, and the schedule would have another length.
    """
    file = folder / FILE
    if going_on and file.is_file():
        begun = json.loads(file.read_text(encoding="utf-8"))
        if begun["rows_per_step"] != rows:
            found = (
                f"{rows:,} rows: {processes} process{'es' if processes > 1 else ''}, where {begun['processes']} began"
            )
            fix = f"go on with {begun['processes']}; or train anew (--overwrite) with {PLACE}: "
            fix += f"{begun['rows_per_step']}, with which any number of processes can go on"
            expected = f"steps of {begun['rows_per_step']:,} rows, as the run began"
            raise RecipeError(Finding(place=PLACE, expected=expected, found=found, fix=fix))
    elif writes:
        write_text(file, json.dumps({"rows_per_step": rows, "processes": processes}))
