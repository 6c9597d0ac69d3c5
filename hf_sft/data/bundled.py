"""The data sets that come with the package: `bundled:<name>`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset
from PIL.Image import fromarray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hf_sft.data.shapes import shapes_boxes, shapes_masks
from hf_sft.errors import Finding, RecipeError, nearest

PREFIX = "bundled:"


def reviews() -> DatasetDict:
    """3,120 short reviews of six domains (CC0): text, label (negative, positive), domain; 2,124/312/684 rows.

    Written for this project with negation, contrast, irony and understatement. The eighth of them that a bag of words
    told apart most surely was left out (Le Bras et al. 2020), so that counting words does badly.
    """
    return _read("reviews")


def entities() -> DatasetDict:
    """810 English sentences with people, places, organisations, dates (CC0): tokens, ner_tags (IOB2 names).

    Written for this project: 130 sentences with gaps, six times each with other (invented) names, and 30 without any.
    No sentence of one split is that of another with other names; 548/100/162 rows.
    """
    return _read("entities")


def _read(name: str) -> DatasetDict:
    folder = Path(__file__).parent / name
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    return load_dataset("json", data_files=files)


def digits() -> DatasetDict:
    """The 1,797 handwritten digits of UCI (Alpaydin, Kaynak 1998) that scikit-learn carries, as grey images.

    8 x 8 pixels of 17 levels, stored at 32 x 32 (each pixel four times four); 1,200/197/400 rows, stratified, seed 0.
    """
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    rest, test = train_test_split(np.arange(len(labels)), test_size=400, stratify=labels, random_state=0)
    train, validation = train_test_split(rest, test_size=197, stratify=labels[rest], random_state=0)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})

    def split(rows: np.ndarray) -> Dataset:
        pictures = [fromarray(np.kron(images[row], np.ones((4, 4), np.uint8))) for row in np.sort(rows)]
        return Dataset.from_dict({"image": pictures, "label": labels[np.sort(rows)].tolist()}, features=features)

    return DatasetDict(train=split(train), validation=split(validation), test=split(test))


BUNDLED: dict[str, Callable[[], DatasetDict]] = {
    "reviews": reviews,
    "digits": digits,
    "entities": entities,
    "shapes_masks": shapes_masks,
    "shapes_boxes": shapes_boxes,
}


def load_bundled(name: str) -> DatasetDict:
    """The bundled data set of that name. Raises RecipeError naming those that exist."""
    name = name.removeprefix(PREFIX)
    if name not in BUNDLED:
        raise RecipeError(
            Finding(place="dataset.path", expected="a bundled data set", found=name, fix=nearest(name, BUNDLED))
        )
    return BUNDLED[name]()
