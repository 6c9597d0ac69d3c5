"""Masks as pictures: palettes, overlays on the image, and the files that predict writes."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray
from PIL import Image as pil
from transformers.image_utils import load_image

from hf_sft.data.augment import IGNORED
from hf_sft.data.columns import columns_of
from hf_sft.data.labels import Labels
from hf_sft.errors import DataError, Finding
from hf_sft.recipe import DataSet, Recipe
from hf_sft.tasks.task import Rows

STRENGTH = 0.5  # of the colours over the image
UNKNOWN = (255, 255, 255)  # colour of pixels that do not count
FILE_COLUMNS = {"mask": pyarrow.string(), "overlay": pyarrow.string()}


def palette(number: int) -> list[list[int]]:
    """So many colours, [red, green, blue] each: hues a golden section apart, so that near ids look different."""
    turns = [(0.6 + index * (5**0.5 - 1) / 2) % 1 for index in range(number)]
    strong = [(1.0, 0.9) if index % 2 else (0.6, 1.0) for index in range(number)]
    colours = [hsv_to_rgb(hue, *pair) for hue, pair in zip(turns, strong, strict=True)]
    return [[round(255 * part) for part in colour] for colour in colours]


def colours_of(labels: Labels, settings: DataSet) -> list[list[int]]:
    """The colour of each class: as dataset.label_colors says, else of the palette."""
    usual = palette(len(labels.names))
    return [settings.label_colors.get(name, usual[index]) for index, name in enumerate(labels.names)]


def config_colours(config: Any, number: int) -> NDArray:
    """uint8 [L, 3]: the colours that a model's config carries."""
    kept = getattr(config, "id2color", None)
    return np.array(kept if kept and len(kept) == number else palette(number), dtype=np.uint8)


def as_image(mask: NDArray, colours: NDArray) -> pil.Image:
    """A PNG-able image of ids with a palette (mode P); of more than 256 classes the ids alone (I;16)."""
    if len(colours) > 256:
        return pil.fromarray(mask.astype(np.uint16))
    image = pil.fromarray(mask.astype(np.uint8))
    image.putpalette(colours.ravel().tolist())
    return image


def overlay(image: pil.Image, mask: NDArray, colours: NDArray) -> pil.Image:
    """The image with the classes' colours over it; the mask may be of another size."""
    table = np.vstack([colours, np.array([UNKNOWN], dtype=np.uint8)])
    painted = pil.fromarray(table[np.where(mask == IGNORED, len(colours), mask)])
    if painted.size != image.size:
        painted = painted.resize(image.size, pil.Resampling.NEAREST)
    return pil.blend(image, painted, STRENGTH)


def draw_masks(image: pil.Image, truth: Any, answer: Any, labels: Labels, config: Any) -> pil.Image:
    """The image, truth and answer over it, side by side; what is None is left out."""
    colours = config_colours(config, len(labels.names))
    shown = [image, *(overlay(image, np.asarray(mask), colours) for mask in (truth, answer) if mask is not None)]
    strip = pil.new("RGB", (sum(part.width for part in shown) + 2 * (len(shown) - 1), image.height), UNKNOWN)
    left = 0
    for part in shown:
        strip.paste(part, (left, 0))
        left += part.width + 2
    return strip


def write_masks(
    rows: Rows, labels: Labels, config: Any, recipe: Recipe, source: Any, folder: Path | None, names: Sequence[str]
) -> dict[str, Any]:
    """The columns mask and overlay, in each image's own size: paths of PNG files in folder/masks and folder/overlays,

    or without a folder the mask as an image, and no overlay.
    """
    colours = config_colours(config, len(labels.names))
    masks = [as_image(mask, colours) for mask in rows["answers"]]
    if folder is None:
        return {"mask": masks, "overlay": [None] * len(masks)}
    (column,) = columns_of(recipe.dataset, "image")
    written: dict[str, list[str]] = {"mask": [], "overlay": []}
    try:
        for kind in ("masks", "overlays"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for row, (name, mask) in enumerate(zip(names, masks, strict=True)):
            paths = {"mask": folder / "masks" / f"{name}.png", "overlay": folder / "overlays" / f"{name}.png"}
            mask.save(paths["mask"])
            image = load_image(source[[row]][column][0])
            overlay(image, rows["answers"][row], colours).save(paths["overlay"])
            for kind, path in paths.items():
                written[kind].append(str(path))
    except OSError as error:
        found = f"{type(error).__name__}: {error}"
        raise DataError(Finding(place="output", expected=f"to write into {folder}", found=found)) from error
    return written
