"""Laws of bad rows: each kind is named with its row, or left out, counted and listed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from loading import UNCUT, assert_says_all, entries_of, ids_of, load
from PIL import Image as pil

from hf_sft.data import bad_rows
from hf_sft.data.bad_rows import as_csv, looked_at
from hf_sft.data.rows import Rows
from hf_sft.errors import DataError

SKIP = UNCUT | {"on_bad_row": "skip"}
IMAGES = "image-classification"


def rows_with(label: list[Any], text: list[Any] | None = None, feature: Any = None) -> Dataset:
    content = {"text": text or [f"text {index}" for index in range(len(label))], "label": label}
    features = Features({"text": Value("string"), "label": feature}) if feature is not None else None
    return Dataset.from_dict(content, features=features)


@pytest.mark.parametrize(
    "rows",
    [
        rows_with(["a", None, "b", "a", None]),
        rows_with([0, None, 1, 0, None]),
        rows_with([0, -1, 1, 0, None], feature=ClassLabel(names=["a", "b"])),
        rows_with([["a"], None, ["b"], [], None], feature=List(Value("string"))),
        rows_with([0.5, float("nan"), 1.5, 2.5, None]),
    ],
)
def test_rows_without_a_label_are_named_or_left_out(rows: Dataset) -> None:
    with pytest.raises(DataError, match="in 2 rows of train: 1, 4") as caught:
        load(UNCUT, {"train": rows})
    assert_says_all(caught.value, "dataset.columns.label")
    found = load(SKIP, {"train": rows})
    assert ids_of(found.splits["train"]) == [0, 2, 3] and len(entries_of(found.splits["train"])) == 3
    assert [row.row_id for row in found.bad_rows] == [1, 4]
    assert any("train: 2 bad rows skipped: column 'label'" in note for note in found.notes)


def test_rows_without_a_text_are_named_in_every_split_at_once_or_left_out() -> None:
    data = {
        "train": rows_with(["a", "b", "a", "b"], ["one", None, "three", "four"]),
        "test": rows_with(["a", "b"], ["five", None]),
    }
    with pytest.raises(DataError) as caught:
        load(UNCUT, data)
    assert [finding.found.rpartition("in ")[2] for finding in caught.value.findings] == [
        "1 row of test: 1",
        "1 row of train: 1",
    ]
    found = load(SKIP, data)
    assert (ids_of(found.splits["train"]), ids_of(found.splits["test"])) == ([0, 2, 3], [0])


def test_a_split_of_bad_rows_alone_is_refused_also_where_they_are_to_be_skipped() -> None:
    data = {"train": rows_with(["a", "b"]), "test": rows_with(["a", "b"], [None, None], Value("string"))}
    with pytest.raises(DataError, match="2 rows of test"):
        load(SKIP, data)


def picture(tmp_path: Path, spoil: Callable[[bytes], bytes], size: tuple[int, int] = (40, 40)) -> list[str]:
    """Four images of which the third is spoilt."""
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    paths = [tmp_path / f"{index}.jpg" for index in range(4)]
    for path in paths:
        pil.fromarray(noise).save(path)
    paths[2].write_bytes(spoil(paths[2].read_bytes()))
    return [str(path) for path in paths]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda content: b"", "holds no byte"),
        (lambda content: b"GIF89a not really", "does not decode"),
        (lambda content: content[: len(content) // 2], "does not decode"),
        (lambda content: b"<html>404</html>", "does not decode"),
    ],
)
@pytest.mark.parametrize("embedded", [False, True])
def test_images_that_do_not_decode_are_named_or_left_out(
    spoil: Callable[[bytes], bytes], words: str, embedded: bool, tmp_path: Path
) -> None:
    paths = picture(tmp_path, spoil)
    images: list[Any] = [Path(path).read_bytes() for path in paths] if embedded else paths
    rows = Dataset.from_dict({"image": images, "label": ["a", "b", "a", "b"]})
    with pytest.raises(DataError, match=rf"{words}.* in 1 row of train: 2") as caught:
        load(UNCUT, {"train": rows}, task=IMAGES)
    assert_says_all(caught.value, "dataset.columns.image")
    found = load(SKIP, {"train": rows}, task=IMAGES)
    assert ids_of(found.splits["train"]) == [0, 1, 3]
    assert found.splits["train"].split.rows[2]["image"].size == (40, 40)


def test_an_image_of_a_few_pixels_is_a_bad_row(tmp_path: Path) -> None:
    paths = picture(tmp_path, lambda content: content, size=(2, 40))
    rows = Dataset.from_dict({"image": paths, "label": ["a", "b", "a", "b"]})
    with pytest.raises(DataError, match="smaller than 4 x 4 pixels in 4 rows of train"):
        load(UNCUT, {"train": rows}, task=IMAGES)


def test_of_many_rows_some_are_looked_at_evenly_and_all_where_bad_ones_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert looked_at(5, None).tolist() == looked_at(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert looked_at(1001, 3).tolist() == [0, 500, 1000]
    monkeypatch.setattr("hf_sft.tasks.image_classification.MOST_LOOKED_AT", 2)
    rows = Dataset.from_dict({"image": picture(tmp_path, lambda content: b"no"), "label": ["a", "b", "a", "b"]})
    assert not load(UNCUT, {"train": rows}, task=IMAGES).bad_rows
    assert len(load(SKIP, {"train": rows}, task=IMAGES).bad_rows) == 1


def test_a_missing_file_is_found_whatever_number_of_rows_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_sft.tasks.image_classification.MOST_LOOKED_AT", 1)
    paths = picture(tmp_path, lambda content: content)
    Path(paths[2]).unlink()
    rows = Dataset.from_dict({"image": paths, "label": ["a", "b", "a", "b"]})
    with pytest.raises(DataError, match="names a file that does not exist in 1 row of train: 2"):
        load(UNCUT, {"train": rows}, task=IMAGES)


def test_an_image_that_breaks_while_training_is_an_error_of_the_data(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"image": picture(tmp_path, lambda content: content), "label": ["a", "b", "a", "b"]})
    part = load(UNCUT, {"train": rows}, task=IMAGES).splits["train"]
    Path(picture(tmp_path, lambda content: b"gone")[2])
    read = Rows(part.split.rows, None, None)
    assert read[1]["image"].size == (40, 40)
    with pytest.raises(DataError, match="one of rows 2"):
        read[2]


def test_the_list_of_bad_rows_is_a_table_of_split_row_column_and_reason() -> None:
    found = load(SKIP, {"train": rows_with(["a", None, "b", "b"], ["x", "y", None, "z"])})
    table = list(csv.DictReader(io.StringIO(as_csv(found.bad_rows))))
    assert [(row["split"], row["row_id"], row["column"], row["reason"]) for row in table] == [
        ("train", "1", "label", "is empty (null)"),
        ("train", "2", "text", "is empty (null)"),
    ]
    assert as_csv([]).splitlines() == ["split,source,row_id,column,reason"]
    assert bad_rows.MOST_LOOKED_AT >= 1000


def test_train_needs_two_classes_after_all_was_cut_and_sampled() -> None:
    rows = rows_with(["a", "b", "c"] * 4)
    with pytest.raises(DataError, match="alone in 1 rows"):
        load(UNCUT | {"max_samples": {"train": 1}}, {"train": rows})
    few = load(UNCUT | {"max_samples": {"train": 2}}, {"train": rows})
    assert any("cut, sampled or skipped" in note for note in few.notes)
    assert not any("cut, sampled or skipped" in note for note in load(UNCUT, {"train": rows}).notes)
