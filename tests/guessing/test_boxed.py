"""Laws of guessing boxes: their columns are found in every usual form, their format by what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as pil

from hf_sft.errors import DataError
from hf_sft.guessing.columns import Guess, guess_columns
from hf_sft.recipe import BOX_FORMATS

SIZE = (80, 60)  # width, height


def written(kind: str, number: int, *, seed: int = 0, most: float = 1.0) -> list[list[float]]:
    """Random boxes anywhere in an image, up to a share of its sides."""
    generator, (width, height) = np.random.default_rng(seed), SIZE
    boxes = []
    for _ in range(number):
        (left, right), (top, bottom) = (np.sort(generator.uniform(0, most, 2)) for _ in range(2))
        sides, scale = (right - left, bottom - top), np.array([width, height])
        corners = [*(scale * (left, top)), *(scale * (right, bottom))]
        if kind == "xyxy":
            boxes.append(corners)
        elif kind == "xywh":
            boxes.append([*corners[:2], *(scale * sides)])
        else:
            boxes.append([(left + right) / 2, (top + bottom) / 2, *sides])
    return [[float(number) for number in box] for box in boxes]


def rows_of(cells: list[Any], objects: str = "objects", image: str = "image") -> Dataset:
    columns = {"id": list(range(len(cells))), image: [pil.new("RGB", SIZE)] * len(cells), objects: cells}
    return Dataset.from_dict(columns).cast_column(image, Image())


def guess(rows: Dataset, folder: Path = Path(), **options: Any) -> Guess:
    return guess_columns(rows, folder, data="mine", **options)


@pytest.mark.parametrize("kind", BOX_FORMATS)
def test_the_format_is_what_the_values_fit(kind: str) -> None:
    cells = [{"bbox": written(kind, 4, seed=row), "category": ["a", "b", "a", "b"]} for row in range(12)]
    found = guess(rows_of(cells))
    assert found.task == "object-detection" and found.columns == {"image": "image", "objects": "objects"}
    assert found.settings == {"bbox_format": kind} and not found.doubts
    assert "12 of 12 images fit it" in found.why["bbox_format"]


def test_where_two_formats_fit_the_usual_one_is_taken_and_said() -> None:
    cells = [{"bbox": [[3.0, 4.0, 20.0, 21.0]], "category": ["a"]}, {"bbox": [], "category": []}]
    found = guess(rows_of(cells))
    assert found.settings == {"bbox_format": "xywh"}
    (doubt,) = found.doubts
    assert "xywh is taken, xyxy fits as well; hf-sft check draws rows" in doubt


def test_a_few_bad_boxes_hide_no_format() -> None:
    cells: list[Any] = [{"bbox": written("xyxy", 3, seed=row), "category": ["a"] * 3} for row in range(20)]
    cells[3]["bbox"][0] = [70.0, 3.0, 5.0, 20.0]
    assert guess(rows_of(cells)).settings == {"bbox_format": "xyxy"}


def test_boxes_of_no_known_format_are_an_error_with_an_example() -> None:
    shares = [[0.7, 0.6, 0.9, 0.8], [0.1, 0.2, 0.4, 0.4], [0.6, 0.6, 1.0, 1.0]]  # corners
    with pytest.raises(DataError, match=r"(?s)xywh: left, top, width, height.*none of 2 rows fits one, as \["):
        guess(rows_of([{"bbox": shares, "category": ["a"] * 3}] * 2))


@pytest.mark.parametrize(
    "name, cell",
    [
        ("objects", {"bbox": [[1, 2, 30, 40]], "label": ["x"]}),
        ("annotations", [{"bbox": [1, 2, 30, 40], "category_id": 3}]),
        ("found", {"boxes": [[1.5, 2, 30, 40]], "classes": [1], "area": [3]}),
    ],
)
def test_every_form_that_is_read_is_found(name: str, cell: Any) -> None:
    found = guess(rows_of([cell, cell], objects=name, image="photo"))
    assert found.columns == {"image": "photo", "objects": name}


def test_images_may_be_paths(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for row in range(3):
        pil.new("RGB", SIZE).save(tmp_path / "photos" / f"{row}.png")
    cells = [{"bbox": written("xyxy", 4, seed=row), "label": ["a"] * 4} for row in range(3)]
    rows = Dataset.from_dict({"file": [f"photos/{row}.png" for row in range(3)], "objects": cells})
    found = guess(rows, tmp_path)
    assert found.columns["image"] == "file" and found.settings == {"bbox_format": "xyxy"}


def test_an_image_without_boxes_is_another_task() -> None:
    rows = rows_of([1, 2, 1, 2], objects="label")
    assert guess(rows).task == "image-classification"
    with pytest.raises(DataError, match="COCO's json files"):
        guess(rows, task="object-detection")


def test_boxes_apart_from_their_labels_are_a_doubt() -> None:
    rows = rows_of([[[1.0, 2, 3, 4]]] * 8, objects="bboxes").add_column("label", ["a", "b"] * 4)
    found = guess(rows)
    assert found.task == "image-classification" and "'bboxes' seems to hold boxes" in found.doubts[0]


def test_rows_without_boxes_or_images_leave_the_usual_format_in_doubt() -> None:
    features = Features(
        {"image": Image(), "objects": {"bbox": List(List(Value("float64"))), "label": List(Value("int64"))}}
    )
    rows = Dataset.from_dict(
        {"image": [pil.new("RGB", SIZE)], "objects": [{"bbox": [], "label": []}]}, features=features
    )
    found = guess(rows)
    assert found.settings == {"bbox_format": "xywh"} and "no row has both" in found.doubts[0]


def shares(number: int, *, seed: int) -> np.ndarray:
    """Corners of small boxes, in pixels."""
    generator = np.random.default_rng(seed)
    low = generator.uniform(0, 0.85, (number, 2))
    return np.concatenate([low, low + generator.uniform(0.05, 0.15, (number, 2))], 1)


@pytest.mark.parametrize(
    "form", ["left, top, width, height as", "left, top, right, bottom as", "centre, width, height in", "top, left"]
)
def test_a_form_that_no_format_reads_is_named_with_the_way_out(form: str) -> None:
    cells = []
    for row in range(60):
        low, high = np.hsplit(shares(2, seed=row), 2)
        scale = np.array(SIZE)
        boxes = {
            "left, top, w": [low, high - low],
            "left, top, r": [low, high],
            "centre, widt": [(low + high) / 2 * scale, (high - low) * scale],
            "top, left": [(low * scale)[:, ::-1], (high * scale)[:, ::-1]],
        }[form[:12]]
        cells.append({"bbox": np.concatenate(boxes, 1).tolist(), "category": ["a", "b"]})
    try:
        said = " ".join(guess(rows_of(cells)).doubts)
    except DataError as error:
        said = str(error)
    assert f"all boxes fit as {form}" in said, said


def test_a_format_that_some_images_do_not_fit_is_in_doubt_and_one_that_most_do_not_is_refused() -> None:
    def cells(bad: int) -> list[Any]:
        boxes = [[[-9.0, 3, 200, 20]] if row < bad else written("xyxy", 4, seed=row) for row in range(20)]
        return [{"bbox": row, "category": ["a"] * len(row)} for row in boxes]

    (doubt,) = guess(rows_of(cells(2))).doubts
    assert "only 18 of 20 images fit xyxy" in doubt
    with pytest.raises(DataError, match="8 of 20 rows fit xyxy, fewer any other"):
        guess(rows_of(cells(12)))
