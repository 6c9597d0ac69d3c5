"""Drawn shapes on photo-like noise: images with masks and boxes, generated at run time and the same for one seed."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from numpy.typing import NDArray
from PIL import Image as pil
from PIL import ImageDraw

SHAPES = ("circle", "square", "triangle")
BACKGROUND = "background"
FEWEST_SEEN = 60  # pixels of a shape that others leave uncovered; what has fewer is not drawn
DRAWN = 2  # another one after a change of the drawings: `datasets` keeps them by their settings, not by this code
SPLITS = {"train": 200, "validation": 40, "test": 40}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """image: uint8 [S, S, 3]. mask: uint8 [S, S], 0 for the background, 1 + category where a shape lies on top.

    boxes: float [n, 4], x, y, width, height in pixels, of what the mask shows of each shape; categories: int64 [n].
    """

    image: NDArray
    mask: NDArray
    boxes: NDArray
    categories: NDArray


def draw_shapes(seed: int, number: int, *, size: int = 96, most: int = 3, fewest: int = 1) -> Drawing:
    """The drawing of that number under a seed: one to `most` shapes that may overlap, on smooth noise."""
    generator = np.random.default_rng([seed, number])
    image, owners = _noise(generator, size, 40.0), np.full((size, size), -1)
    kinds: list[int] = []
    for _ in range(int(generator.integers(fewest, most + 1))):
        kind = int(generator.integers(len(SHAPES)))
        inside = _outline(generator, kind, size)
        covered = np.where(inside, len(kinds), owners)
        if all(np.count_nonzero(covered == shape) >= FEWEST_SEEN for shape in range(len(kinds) + 1)):
            owners = covered
            kinds.append(kind)
            colour = generator.integers(0, 256, 3) * 0.5 + 0.5 * _COLOURS[kind]
            image = np.where(inside[..., None], colour + _noise(generator, size, 20.0) - 128, image)
    image = np.clip(image + generator.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    categories = np.array(kinds, dtype=np.int64)
    mask = np.append(categories + 1, 0)[owners].astype(np.uint8)
    boxes = np.array([_box(owners == shape) for shape in range(len(kinds))], dtype=float).reshape(-1, 4)
    return Drawing(image=image, mask=mask, boxes=boxes, categories=categories)


_COLOURS = np.array([[220.0, 60, 60], [60, 200, 80], [70, 90, 230]])  # towards which a kind of shape tends


def _noise(generator: np.random.Generator, size: int, strength: float) -> NDArray:
    """float [S, S, 3] around 128: noise of several scales, as the textures of photographs have."""
    total = np.full((size, size, 3), 128.0)
    for cells in (3, 6, 12, 24):
        coarse = generator.normal(0, strength / math.sqrt(cells), (cells, cells, 3))
        layers = [pil.fromarray(layer.astype(np.float32)) for layer in np.moveaxis(coarse, -1, 0)]
        smooth = [np.asarray(layer.resize((size, size), pil.Resampling.BICUBIC)) for layer in layers]
        total += np.stack(smooth, axis=-1)
    return total


def _outline(generator: np.random.Generator, kind: int, size: int) -> NDArray:
    """bool [S, S]: the pixels of a shape, turned by chance, that lies within the image."""
    radius = float(generator.uniform(0.12, 0.26)) * size
    x, y = generator.uniform(radius, size - radius, 2)
    canvas = pil.new("1", (size, size))
    pen = ImageDraw.Draw(canvas)
    if SHAPES[kind] == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    else:
        corners = {"square": 4, "triangle": 3}[SHAPES[kind]]
        turn = generator.uniform(0, 2 * math.pi)
        angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
        pen.polygon([(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles], fill=1)
    return np.asarray(canvas)


def _box(inside: NDArray) -> list[int]:
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


def shapes_masks() -> DatasetDict:
    """280 drawings of circles, squares and triangles, 96 x 96 pixels: image, mask (ids 0 to 3); 200/40/40 rows."""
    features = Features({"image": Image(), "mask": Image()})
    return _splits(features, _with_mask)


def _with_mask(drawing: Drawing) -> dict[str, object]:
    return {"image": _png(drawing.image), "mask": _png(drawing.mask)}


def shapes_boxes() -> DatasetDict:
    """280 drawings of circles, squares and triangles, 96 x 96 pixels: image, objects {bbox: x, y, width, height in

    pixels, category}; 200/40/40 rows.
    """
    objects = {"bbox": List(List(Value("float64"))), "category": List(ClassLabel(names=list(SHAPES)))}
    return _splits(Features({"image": Image(), "objects": objects}), with_boxes)


def with_boxes(drawing: Drawing) -> dict[str, object]:
    """The drawing as a row of image and objects."""
    objects = {"bbox": drawing.boxes.tolist(), "category": drawing.categories.tolist()}
    return {"image": _png(drawing.image), "objects": objects}


def _splits(features: Features, row: object) -> DatasetDict:
    """Made once: `datasets` keeps what it generated in its cache."""
    found = {
        split: Dataset.from_generator(
            _generate, features=features, gen_kwargs={"seed": seed, "size": size, "row": row, "drawn": DRAWN}
        )
        for seed, (split, size) in enumerate(SPLITS.items())
    }
    return DatasetDict(found)


def _generate(seed: int, size: int, row: object, drawn: int) -> Iterator[dict[str, object]]:
    for number in range(size):
        yield row(draw_shapes(seed, number))  # type: ignore[operator]


def _png(pixels: NDArray) -> dict[str, object]:
    content = io.BytesIO()
    pil.fromarray(pixels).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}
