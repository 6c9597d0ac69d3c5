"""Checkpoints that were written to their end, and those that were not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from hf_sft.console import say
from hf_sft.record import write_text

COMPLETE = "complete"  # the file that is written last, by the main process, when all processes have written theirs


def mark_complete(folder: Path, checkpoint: Path, *, limit: int | None, best: str | None) -> None:
    """Only now do older checkpoints go: a process that is killed earlier leaves them as they were."""
    write_text(checkpoint / COMPLETE, "")
    rotate_checkpoints(str(folder), save_total_limit=limit, best_model_checkpoint=best, use_mtime=True)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write beside, then rename, so that no reader sees half a file."""
    partial = path.with_name(f".{path.name}.partial")
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, partial)
    os.replace(partial, path)


def newest_complete(folder: Path) -> str | None:
    """The last checkpoint that can be gone on from; incomplete ones are removed, and said."""
    if not folder.is_dir():
        return None
    for half in sorted(folder.glob("checkpoint-*")):
        if not (half / COMPLETE).is_file():
            say(f"{half.name} was not written to its end and is left out")
            shutil.rmtree(half)
    return get_last_checkpoint(str(folder))


def size_of_largest(folder: Path) -> int:
    """Bytes of the largest checkpoint; 0 where there is none."""
    sizes = [
        sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
        for checkpoint in folder.glob("checkpoint-*")
    ]
    return max(sizes, default=0)
