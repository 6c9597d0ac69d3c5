"""Laws of boxes: every usual form is read alike, and what cannot be a box is named with its row."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as pil
from PIL import ImageOps

from hf_sft.data.boxes import Objects, find_wrong, name_objects, read_objects, to_corners
from hf_sft.data.coco import find_coco, is_coco
from hf_sft.data.image_sizes import read_sizes
from hf_sft.errors import DataError
from hf_sft.recipe import BOX_FORMATS, Recipe
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import load_data

SIZE = (40, 20)  # width, height
CORNERS = np.array([[2.0, 4, 12, 10], [20, 0, 40, 20]])
WRITTEN = {
    "xywh": [[2.0, 4, 10, 6], [20, 0, 20, 20]],
    "xyxy": [[2.0, 4, 12, 10], [20, 0, 40, 20]],
    "cxcywh_normalised": [[7 / 40, 7 / 20, 10 / 40, 6 / 20], [0.75, 0.5, 0.5, 1.0]],
}
NAMES = ["cat", "dog"]


def recipe_of(**dataset: Any) -> Recipe:
    content = {"task": "object-detection", "model": {"name": "none"}, "dataset": {"path": "memory", **dataset}}
    return Recipe.from_dict(content)


def rows_of(*boxes: Any, size: tuple[int, int] = SIZE) -> Dataset:
    """One black image per list of boxes, whose labels take turns."""
    objects = {"bbox": List(List(Value("float64"))), "category": List(ClassLabel(names=NAMES))}
    cells = [{"bbox": list(row), "category": [place % 2 for place in range(len(row))]} for row in boxes]
    features = Features({"image": Image(), "objects": objects})
    return Dataset.from_dict({"image": [pil.new("RGB", size) for _ in boxes], "objects": cells}, features=features)


def loaded(rows: Dataset, **dataset: Any) -> Any:
    recipe = recipe_of(splits={"validation": None}, **dataset)
    return load_data(recipe, TASKS["object-detection"], {"train": rows})


@pytest.mark.parametrize("kind", BOX_FORMATS)
def test_every_format_gives_the_same_corners(kind: Any) -> None:
    np.testing.assert_allclose(to_corners(np.array(WRITTEN[kind]), kind, SIZE), CORNERS)
    found = loaded(rows_of(WRITTEN[kind]), bbox_format=kind)
    (entry,) = found.splits["train"].entries
    np.testing.assert_allclose(entry.boxes, CORNERS)
    assert list(entry) == NAMES and found.labels.names == tuple(NAMES)


@pytest.mark.parametrize(
    "objects",
    [
        {"bbox": WRITTEN["xywh"], "category": NAMES},
        [{"bbox": box, "category": name} for box, name in zip(WRITTEN["xywh"], NAMES, strict=True)],
        {"boxes": WRITTEN["xywh"], "labels": NAMES},
        [{"id": 7, "bbox": box, "category_id": name} for box, name in zip(WRITTEN["xywh"], NAMES, strict=True)],
    ],
    ids=["struct of lists", "list of structs", "other names", "with more keys"],
)
def test_every_form_of_a_row_gives_the_same_objects(objects: Any) -> None:
    rows = Dataset.from_dict({"image": [pil.new("RGB", SIZE)], "objects": [objects]}, features=None)
    column = read_objects(rows.cast_column("image", Image()), recipe_of().dataset)
    assert column is not None and column.values[0] == NAMES
    np.testing.assert_allclose(column.values[0].boxes, CORNERS)


@pytest.mark.parametrize(
    "box, kind, words",
    [
        ([30, 10, 20, 5], "xywh", "outside the image"),
        ([-9, 2, 12, 5], "xywh", "outside the image"),
        ([2, 2, 0, 5], "xywh", "of no area"),
        ([2, 2, -4, 5], "xywh", "of no area"),
        ([12, 10, 2, 4], "xyxy", "swapped corners"),
        ([5, 5, 5, 9], "xyxy", "of no area"),
        ([0.5, 0.5, 0.2, 0.2], "xywh", "less than a pixel"),
        ([0.9, 0.5, 0.4, 0.2], "cxcywh_normalised", "outside the image"),
        ([float("nan"), 2, 3, 3], "xywh", "not finite"),
    ],
)
def test_what_cannot_be_a_box_is_named_with_its_row(box: Any, kind: Any, words: str) -> None:
    good = WRITTEN[kind][0]
    with pytest.raises(DataError) as error:
        loaded(rows_of([good], [good], [box], [good]), bbox_format=kind)
    assert words in str(error.value) and "1 row of" in str(error.value) and ": 2 " in str(error.value)
    kept = loaded(rows_of([good], [good], [box], [good]), bbox_format=kind, on_bad_row="skip")
    assert kept.splits["train"].split.row_ids.tolist() == [0, 1, 3]
    assert [row.row_id for row in kept.bad_rows] == [2]


def test_a_box_may_stand_out_by_rounding_and_is_cut() -> None:
    (entry,) = loaded(rows_of([[30, 10, 11, 11], [3, 3, 4, 4]])).splits["train"].entries
    assert entry.boxes[0].tolist() == [30, 10, 40, 20]
    assert find_wrong(np.array([[30.0, 10, 13, 5]]), "xywh", SIZE) is not None


@pytest.mark.parametrize(
    "meant, said", [("xyxy", "xywh"), ("cxcywh_normalised", "xywh"), ("xywh", "cxcywh_normalised")]
)
def test_a_wrong_format_is_recognised_by_its_values(meant: Any, said: Any) -> None:
    generator, rows = np.random.default_rng(0), []
    for _ in range(20):
        low = generator.uniform([10, 5], [20, 10])
        high = generator.uniform([25, 12], [40, 20])
        corners = {"xyxy": [*low, *high], "xywh": [*low, *(high - low)]}
        shares = [*((low + high) / 2 / SIZE), *((high - low) / SIZE)]
        rows.append([corners.get(meant, shares)])
    with pytest.raises(DataError) as error:
        loaded(rows_of(*rows), bbox_format=said)
    assert f"set dataset.bbox_format: {meant} (20 of 20 rows fit it" in str(error.value)


def test_a_wrong_format_is_an_error_even_where_bad_rows_are_skipped() -> None:
    rows = rows_of(*[[[20, 10, 38, 18]]] * 3, *[[[1, 1, 8, 8]]] * 3)
    with pytest.raises(
        DataError, match=r"(?s)bbox_format.*3 of 6 rows are not, as xywh.*set dataset.bbox_format: xyxy"
    ):
        loaded(rows, on_bad_row="skip")


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_boxes_of_a_form_that_no_format_reads_are_turned_not_skipped(policy: str) -> None:
    """Left, top, width, height as shares: most boxes far from the borders would pass as centres."""
    rows = rows_of(*[[[0.4, 0.4, 0.3, 0.2]]] * 12, *[[[0.01, 0.02, 0.3, 0.3]]] * 3)
    with pytest.raises(DataError, match="12 of 15 rows fit cxcywh_normalised") as error:
        loaded(rows, bbox_format="cxcywh_normalised", on_bad_row=policy)
    said = str(error.value)
    assert "add half of width and height to left and top" in said and "on_bad_row" not in said


def test_labels_and_boxes_of_one_row_must_be_as_many() -> None:
    rows = Dataset.from_list(
        [{"image": pil.new("RGB", SIZE), "objects": {"bbox": WRITTEN["xywh"], "category": ["cat"]}}] * 2,
    ).cast_column("image", Image())
    with pytest.raises(DataError, match=r"has not one label for each box in 2 rows.*1 labels for 2 boxes"):
        loaded(rows)


def test_a_box_without_a_label_is_named_by_its_row() -> None:
    objects = {"bbox": WRITTEN["xywh"], "category": ["cat", None]}
    rows = Dataset.from_list([{"image": pil.new("RGB", SIZE), "objects": objects}]).cast_column("image", Image())
    with pytest.raises(DataError, match=r"holds a box without a label \(null\) in 1 row of train: 0"):
        loaded(rows)


def test_an_image_without_a_box_is_a_row_and_null_is_none() -> None:
    found = loaded(rows_of(WRITTEN["xywh"], [], [[1, 1, 5, 5]]))
    assert [len(entry) for entry in found.splits["train"].entries] == [2, 0, 1]
    objects = {"bbox": WRITTEN["xywh"], "category": NAMES}
    rows = Dataset.from_dict({"image": [pil.new("RGB", SIZE)] * 2, "objects": [objects, None]})
    with pytest.raises(DataError, match=r"(?s)a list of boxes with labels in every row.*is empty \(null.*: 1"):
        loaded(rows.cast_column("image", Image()))


def test_a_column_without_boxes_is_refused_and_shown() -> None:
    rows = Dataset.from_dict({"image": [pil.new("RGB", SIZE)], "objects": ["a cat"]}).cast_column("image", Image())
    with pytest.raises(DataError, match=r"column 'objects' of type Value .string."):
        loaded(rows)


def test_label_map_renames_merges_and_drops_boxes() -> None:
    rows = rows_of(WRITTEN["xywh"], WRITTEN["xywh"][1:])
    found = loaded(rows, label_map={"cat": None})
    first, second = found.splits["train"].entries
    assert list(first) == ["dog"] and first.boxes.tolist() == [CORNERS[1].tolist()]
    assert list(second) == [] and found.labels.names == ("dog",)
    merged = loaded(rows, label_map={"dog": "animal", "cat": "animal"})
    assert [list(entry) for entry in merged.splits["train"].entries] == [["animal", "animal"], ["animal"]]


def test_objects_survive_pickling_and_selection() -> None:
    objects = Objects(NAMES, CORNERS)
    again = pickle.loads(pickle.dumps(objects))
    assert again == NAMES and np.array_equal(again.boxes, CORNERS)
    column = read_objects(rows_of(WRITTEN["xywh"], []), recipe_of().dataset)
    assert column is not None
    assert [list(entry) for entry in name_objects(column, "boxes", recipe_of().dataset)] == [NAMES, []]


def test_sizes_are_those_of_images_as_they_are_shown(tmp_path: Path) -> None:
    """A camera held upright writes a wide image and a note; boxes are drawn on the tall one."""
    exif = pil.Exif()
    exif[0x0112] = 6
    pil.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    pil.new("RGB", (40, 20)).save(tmp_path / "plain.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    names = ["turned.jpg", "plain.png", "broken.png"]
    rows = Dataset.from_dict({"image": [str(tmp_path / name) for name in names]}).cast_column("image", Image())
    assert read_sizes(rows, "image") == [(20, 40), (40, 20), None]
    assert ImageOps.exif_transpose(pil.open(tmp_path / "turned.jpg")).size == (20, 40)


# COCO's files


def save_coco(folder: Path, *, pictures: str = "images", file: str = "train.json", **changes: Any) -> Path:
    """Two images, three boxes (one of a crowd) of categories with gaps between their ids."""
    (folder / pictures).mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        pil.new("RGB", SIZE).save(folder / pictures / name)
    content = {
        "images": [{"id": 5, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 70, "bbox": WRITTEN["xywh"][0], "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 3, "bbox": WRITTEN["xywh"][1]},
            {"id": 3, "image_id": 5, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
        "categories": [{"id": 70, "name": "dog"}, {"id": 3, "name": "cat"}],
        **changes,
    }
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("layout", ["named", "file", "annotations", "beside"])
def test_coco_files_are_read_as_rows(layout: str, tmp_path: Path) -> None:
    dataset: dict[str, Any] = {"path": str(tmp_path)}
    if layout == "named":
        save_coco(tmp_path, pictures="pictures")
        dataset = {"path": "coco", "data_files": {"train": str(tmp_path / "train.json")}}
        dataset["options"] = {"images": str(tmp_path / "pictures")}
    elif layout == "file":
        dataset["path"] = str(save_coco(tmp_path))
    elif layout == "annotations":
        save_coco(tmp_path, pictures="train2017", file="annotations/instances_train2017.json")
        save_coco(tmp_path, pictures="val2017", file="annotations/instances_val2017.json")
    else:
        save_coco(tmp_path, pictures="train", file="train/_annotations.coco.json")
        save_coco(tmp_path, pictures="valid", file="valid/_annotations.coco.json")
    content = {"task": "object-detection", "model": {"name": "none"}, "dataset": dataset}
    if layout in ("named", "file"):
        dataset["splits"] = {"validation": None}
    found = load_data(Recipe.from_dict(content), TASKS["object-detection"])
    assert set(found.splits) == ({"train"} if layout in ("named", "file") else {"train", "validation"})
    assert found.labels.names == ("cat", "dog")  # in the order of their ids
    empty, full = found.splits["train"].entries
    assert list(empty) == [] and list(full) == ["dog", "cat"]
    np.testing.assert_allclose(full.boxes, CORNERS)
    assert found.splits["train"].split.rows[1]["image"].size == SIZE


def test_of_files_beside_each_other_the_instances_are_read(tmp_path: Path) -> None:
    save_coco(tmp_path, pictures="train2017", file="annotations/instances_train2017.json")
    for name in ("captions", "person_keypoints"):
        save_coco(tmp_path, pictures="train2017", file=f"annotations/{name}_train2017.json")
    assert find_coco(tmp_path) == {"train": [tmp_path / "annotations" / "instances_train2017.json"]}


def test_a_split_without_instances_files_is_read_from_the_others(tmp_path: Path) -> None:
    train = save_coco(tmp_path, file="instances_train.json")
    validation = save_coco(tmp_path, file="val.json")
    assert find_coco(tmp_path) == {"train": [train], "validation": [validation]}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"categories": [{"id": 3, "name": "cat"}]}, "category_id 70, which no category has"),
        ({"images": [{"id": 5}]}, r"images\[0\] without 'file_name'"),
        ({"images": [{"id": 5, "file_name": "c.png"}], "annotations": []}, "no c.png beside"),
        ({"images": [{"id": 5, "file_name": "a.png"}]}, "2 annotations whose image_id no image has, as 9"),
        ({"images": [{"id": 9, "file_name": "a.png"}] * 2}, "several images with id 9"),
        ({"categories": [{"id": "cat", "name": "cat"}]}, r"categories\[0\] with id 'cat', which is no whole number"),
    ],
)
def test_what_a_coco_file_lacks_is_said(changes: Any, words: str, tmp_path: Path) -> None:
    path = save_coco(tmp_path, **changes)
    content = {"task": "object-detection", "model": {"name": "none"}, "dataset": {"path": str(path)}}
    with pytest.raises(DataError, match=words):
        load_data(Recipe.from_dict(content), TASKS["object-detection"])


def test_a_category_id_means_one_thing_in_all_files(tmp_path: Path) -> None:
    save_coco(tmp_path, pictures="train", file="train/_annotations.coco.json")
    swapped = [{"id": 3, "name": "dog"}, {"id": 70, "name": "cat"}]
    save_coco(tmp_path, pictures="valid", file="valid/_annotations.coco.json", categories=swapped)
    content = {"task": "object-detection", "model": {"name": "none"}, "dataset": {"path": str(tmp_path)}}
    with pytest.raises(DataError, match=r"category 3 is 'cat' in .*/train/.* and 'dog' in .*/valid/"):
        load_data(Recipe.from_dict(content), TASKS["object-detection"])


def test_categories_of_one_name_are_one_label(tmp_path: Path) -> None:
    path = save_coco(tmp_path, categories=[{"id": 70, "name": "cat"}, {"id": 3, "name": "cat"}])
    dataset = {"path": str(path), "splits": {"validation": None}}
    content = {"task": "object-detection", "model": {"name": "none"}, "dataset": dataset}
    found = load_data(Recipe.from_dict(content), TASKS["object-detection"])
    assert found.labels.names == ("cat",)
    assert list(found.splits["train"].entries[1]) == ["cat", "cat"]


def test_other_json_is_not_taken_for_coco(tmp_path: Path) -> None:
    for content in ('{"images": 3}', '[{"images": []}]', '{"a": "images"}'):
        (tmp_path / "file.json").write_text(content)
        assert not is_coco(tmp_path / "file.json")
