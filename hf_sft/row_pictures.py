"""Pictures of rows: as the model sees them before training, and with truth and answer after it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import PartialState
from PIL import Image as pil
from PIL import ImageDraw

from hf_sft.data.columns import columns_of
from hf_sft.tasks.load import take_inputs

if TYPE_CHECKING:
    from hf_sft.job import Job
    from hf_sft.record import RunDirectory
    from hf_sft.tasks.task import Rows

SHOWN, WORST, SEEN = 8, 2, 3  # rows of a run's picture, of which so many worst ones; rows of a check's
WIDTH = 1600  # pixels of a picture at most
NARROWEST = 600  # to which small pictures are enlarged, by whole factors
TITLE = 18  # pixels of the line above each strip


def save_examples(job: Job, directory: RunDirectory, rows: Rows, role: str) -> str | None:
    """report/examples.png: image, truth and answer of eight rows of the split, the worst first -> its name; None where

    the task draws nothing. rows: what was predicted of the split. Every process has to call it.
    """
    if job.task.draw is None or job.inputs[role].targets is None:
        return None
    losses = rows["losses"]
    worst = np.argsort(-losses, kind="stable")[:WORST]
    others = np.setdiff1d(np.arange(len(losses)), worst)
    spread = np.linspace(0, len(others) - 1, min(SHOWN - len(worst), len(others))).astype(np.int64)
    chosen = np.concatenate([worst, others[spread]])
    few = take_inputs(job.inputs[role], chosen)
    found = job.evaluator.predict(job.built.model, few.rows, few.lengths, job.labels, whole=True)
    if not PartialState().is_main_process:
        return None
    (column,) = columns_of(job.recipe.dataset, "image")
    strips = []
    for place, position in enumerate(chosen.tolist()):
        feature = few.rows[place]
        assert few.source is not None
        image = job.task.opened(few.source[[place]][column][0])
        strip = job.task.draw(image, feature["truth"], found["answers"][place], job.labels, job.built.model.config)
        worst_of = "worst: " if place < len(worst) else ""
        title = f"{worst_of}row {few.row_ids[place]}, loss {losses[position]:.3g}; image, truth, prediction"
        strips.append((title, strip))
    path = directory.report / "examples.png"
    save_grid(strips, path, across=2)
    return path.name


def save_seen(job: Job, path: Path) -> str:
    """Three training rows as the model sees them in the first epoch, after augmentation -> where, in words; empty where

    the task draws nothing.
    """
    if job.task.draw is None or job.task.seen is None or job.inputs["train"].size is None:
        return ""
    inputs, strips = job.inputs["train"], []
    size = len(inputs.row_ids)
    for position in np.unique(np.linspace(0, size - 1, SEEN).astype(np.int64)).tolist():
        image, truth = job.task.seen(inputs.rows[position], job.built.processor)
        strip = job.task.draw(image, truth, None, job.labels, job.built.model.config)
        strips.append((f"row {inputs.row_ids[position]}; as the model sees it, with its targets", strip))
    save_grid(strips, path, across=1)
    return f"three training rows as the model sees them, with their targets: {path}"


def save_grid(strips: list[tuple[str, Any]], path: Path, *, across: int) -> None:
    """Titled pictures in columns, one PNG."""
    width = max(strip.width for _, strip in strips)
    scale = min(WIDTH / across / width, max(1.0, NARROWEST // width))
    how = pil.Resampling.NEAREST if scale > 1 else pil.Resampling.BICUBIC
    shown = [
        (title, strip.resize((max(1, round(strip.width * scale)), max(1, round(strip.height * scale))), how))
        for title, strip in strips
    ]
    wide = max(max(strip.width for _, strip in shown), 380) + 8
    lines = [shown[start : start + across] for start in range(0, len(shown), across)]
    heights = [max(strip.height for _, strip in line) + TITLE + 8 for line in lines]
    sheet = pil.new("RGB", (wide * across, sum(heights)), (255, 255, 255))
    pen, top = ImageDraw.Draw(sheet), 0
    for line, height in zip(lines, heights, strict=True):
        for column, (title, strip) in enumerate(line):
            pen.text((wide * column + 2, top + 2), title, fill=(0, 0, 0))
            sheet.paste(strip, (wide * column, top + TITLE))
        top += height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
