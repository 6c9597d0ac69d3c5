"""Pictures of images with boxes: what is true, what a model says, and what it sees of a row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pil
from PIL import ImageDraw, ImageFont
from transformers.image_utils import load_image

from hf_sft.data.columns import columns_of
from hf_sft.data.labels import Labels
from hf_sft.errors import DataError, Finding
from hf_sft.recipe import Recipe
from hf_sft.tasks.task import Batch, Rows

COLOURS = (  # of labels, in turn: told apart by most eyes, on dark and light
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#00a5a5", "#f032e6", "#808000", "#9a6324", "#000075",
)  # fmt: skip
SHOWN = 0.3  # the score from which on a predicted box is drawn
LEAST_SIDE = 240  # pixels to which smaller images are enlarged, so that labels can be read
GAP = 6  # pixels between the two


def seen_boxes(feature: Batch, processor: Any) -> tuple[Any, NDArray]:
    """(RGB image, boxes [n, 5]) as the model is given them."""
    pixels = feature["pixel_values"].float().numpy().transpose(1, 2, 0)
    if processor.do_normalize:
        pixels = pixels * np.asarray(processor.image_std) + np.asarray(processor.image_mean)
    image = pil.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
    labels = feature["labels"]
    shares, sides = labels["boxes"].double().numpy(), np.array(image.size, dtype=float)
    low, high = (shares[:, :2] - shares[:, 2:] / 2) * sides, (shares[:, :2] + shares[:, 2:] / 2) * sides
    return image, np.column_stack([low, high, labels["class_labels"].numpy()])


def draw_boxes(image: Any, truth: NDArray | None, answer: Any, labels: Labels, config: Any = None) -> Any:
    """The image with its true boxes, and beside it with those of a model. answer: {"predictions": [n, 5], "scores"}."""
    parts = []
    if truth is not None or answer is None:
        parts.append(put_boxes(image, np.zeros((0, 5)) if truth is None else truth, None, labels))
    if answer is not None:
        above = answer["scores"] >= SHOWN
        parts.append(put_boxes(image, answer["predictions"][above], answer["scores"][above], labels))
    width = sum(part.width for part in parts) + GAP * (len(parts) - 1)
    whole = pil.new("RGB", (width, parts[0].height), "white")
    for number, part in enumerate(parts):
        whole.paste(part, (number * (part.width + GAP), 0))
    return whole


def write_pictures(
    rows: Rows, labels: Labels, config: Any, recipe: Recipe, source: Any, folder: Path | None, names: Sequence[str]
) -> dict[str, Any]:
    """The column picture: paths of JPEG files in folder/pictures with the boxes of the rows on their images; empty

    without a folder.
    """
    if folder is None:
        return {"picture": [None] * len(names)}
    (column,), written = columns_of(recipe.dataset, "image"), []
    try:
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        for row, name in enumerate(names):
            image, path = load_image(source[[row]][column][0]), folder / "pictures" / f"{name}.jpg"
            put_boxes(image, rows["predictions"][row], rows["scores"][row], labels).save(path, quality=90)
            written.append(str(path))
    except OSError as error:
        found = f"{type(error).__name__}: {error}"
        raise DataError(Finding(place="output", expected=f"to write into {folder}", found=found)) from error
    return {"picture": written}


def put_boxes(image: Any, boxes: NDArray, scores: NDArray | None, labels: Labels) -> Any:
    """The image with boxes (corners in its pixels, label) in the colours of their labels, and names, and scores."""
    scale = max(1.0, LEAST_SIDE / min(image.size))
    shown = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)))
    pen, font = ImageDraw.Draw(shown), ImageFont.load_default(size=max(11.0, min(shown.size) / 32))
    thick = max(2, min(shown.size) // 200)
    for number in range(len(boxes))[::-1]:  # the best one on top
        left, top, right, bottom = np.sort((boxes[number, :4] * scale).reshape(2, 2), axis=0).ravel().tolist()
        label = int(boxes[number, 4])
        colour = COLOURS[label % len(COLOURS)]
        pen.rectangle((left, top, right, bottom), outline=colour, width=thick)
        text = labels.names[label] + ("" if scores is None else f" {scores[number]:.2f}")
        around = pen.textbbox((left + 2, top), text, font=font)
        high = around[3] - top + 1
        narrow = right - left < around[2] - around[0] or bottom - top < high  # the name would cover the box
        lift = -high if narrow and top >= high else min(0.0, shown.height - around[3] - 1.0)
        around = (around[0] - 2, around[1] + lift, around[2] + 2, around[3] + lift + 1)
        pen.rectangle(around, fill=colour)
        pen.text((left + 2, top + lift), text, fill="white", font=font)
    return shown
