"""Laws of columns: each role finds its column, and a column that cannot play its role is a finding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from loading import UNCUT, assert_says_all, labelled, load, make_rows
from PIL.Image import fromarray

from hf_sft.data.columns import columns_of, joined, label_column
from hf_sft.data.labels import LabelColumn
from hf_sft.errors import DataError
from hf_sft.recipe import DataSet

ROWS = Dataset.from_list(make_rows(12))


def findings_of(dataset: dict[str, Any], data: Any, **recipe: Any) -> dict[str, str]:
    """Place -> whole finding."""
    with pytest.raises(DataError) as caught:
        load(dataset, data, **recipe)
    assert_says_all(caught.value, "dataset.columns")
    return {finding.place: str(finding) for finding in caught.value.findings}


def test_a_role_is_played_by_the_column_of_its_name_unless_the_recipe_says_otherwise() -> None:
    settings = DataSet(path="memory", columns={"text": ["title", "body"], "label": "score"})
    assert columns_of(settings, "text") == ["title", "body"]
    assert columns_of(settings, "label") == ["score"]
    assert columns_of(settings, "image") == ["image"]


def test_all_missing_columns_are_named_at_once() -> None:
    columns = {"text": ["txt", "text"], "text_pair": "second", "label": "labl"}
    found = findings_of({"columns": columns}, {"train": ROWS})
    assert set(found) == {"dataset.columns.text", "dataset.columns.text_pair", "dataset.columns.label"}
    assert "did you mean 'text'" in found["dataset.columns.text"]
    assert "did you mean 'label'" in found["dataset.columns.label"]
    assert all("'text', 'label', 'group'" in finding for finding in found.values())


def test_a_column_that_only_one_split_lacks_is_named_with_the_split() -> None:
    other = ROWS.rename_column("text", "sentence")
    for role in ("validation", "test"):
        (finding,) = findings_of({}, {"train": ROWS, role: other}).values()
        assert f"the {role} split" in finding and "'sentence'" in finding


def test_only_test_may_lack_labels() -> None:
    unlabelled = ROWS.remove_columns("label")
    assert "train" in findings_of({}, {"train": unlabelled})["dataset.columns.label"]
    found = findings_of({}, {"train": ROWS, "validation": unlabelled})
    assert "validation" in found["dataset.columns.label"]
    assert load(UNCUT, {"train": ROWS, "test": unlabelled}).splits["test"].entries is None


def test_a_column_like_the_role_is_proposed() -> None:
    rows = ROWS.rename_column("label", "labels").rename_column("text", "full_text")
    found = findings_of({}, {"train": rows})
    assert "label: labels" in found["dataset.columns.label"]
    assert "text: full_text" in found["dataset.columns.text"]


@pytest.mark.parametrize(("separator", "written"), [(";", '";"'), ("\t", r'"\t"'), ("|", '"|"')])
def test_a_separator_that_was_not_named_is_proposed(separator: str, written: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"text{separator}label\na{separator}x\nb{separator}y\n")
    found = findings_of({"path": "rows.csv"}, None, folder=tmp_path)
    assert all(f"options: {{sep: {written}}}" in finding for finding in found.values())


@pytest.mark.parametrize(("task", "role"), [("text-classification", "label"), ("image-classification", "image")])
def test_several_columns_for_a_role_of_one_are_a_finding(task: str, role: str) -> None:
    columns = {"image": "text"} | {role: ["text", "group"]} if task.startswith("image") else {role: ["text", "group"]}
    assert "one column" in findings_of({"columns": columns}, {"train": ROWS}, task=task)[f"dataset.columns.{role}"]


# text


@pytest.mark.parametrize(
    "values",
    [[1, 2], [0.5, 1.5], [True, False], [["a"], ["b"]], [{"a": "b"}, {"a": "c"}], [b"a", b"b"], [None, None]],
)
@pytest.mark.parametrize("role", ["text", "text_pair"])
def test_what_is_no_text_is_a_finding(values: list[Any], role: str) -> None:
    rows = labelled(["x", "y"]).add_column("other", values)
    found = findings_of(UNCUT | {"columns": {role: "other"}}, {"train": rows})
    assert "expected text" in found[f"dataset.columns.{role}"]


@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_text_of_either_width_is_text(kind: str) -> None:
    rows = labelled(["x", "y"]).cast_column("text", Value(kind))
    assert list(load(UNCUT, {"train": rows}).splits["train"].split.rows["text"]) == ["text 0", "text 1"]


def test_every_one_of_several_text_columns_is_checked() -> None:
    found = findings_of(UNCUT | {"columns": {"text": ["text", "group"]}}, {"train": ROWS})
    assert "'group' of type int64" in found["dataset.columns.text"]


@pytest.mark.parametrize("role", ["train", "validation", "test"])
def test_rows_without_text_are_a_finding_with_their_ids(role: str) -> None:
    texts = [None if index in (3, 7, 9) else f"text {index}" for index in range(12)]
    data = {"train": ROWS, "validation": ROWS, "test": ROWS}
    data[role] = ROWS.remove_columns("text").add_column("text", texts)
    (finding,) = findings_of({}, data).values()
    assert f"3 rows of {role}: 3, 7, 9" in finding


def test_ids_of_rows_without_text_are_those_of_the_source() -> None:
    texts = [None if index == 9 else f"text {index}" for index in range(12)]
    rows = ROWS.remove_columns("text").add_column("text", texts)
    (finding,) = findings_of({"splits": {"train": "train[5:]", "validation": None}}, {"train": rows}).values()
    assert finding.rstrip().splitlines()[2].endswith(": 9")


def test_empty_text_is_text() -> None:
    rows = labelled(["x", "y"]).remove_columns("text").add_column("text", ["", " "])
    assert len(load(UNCUT, {"train": rows}).splits["train"].split) == 2


def test_several_text_columns_are_joined_by_lines() -> None:
    batch = {"title": ["a", "b"], "body": ["c", ""], "other": ["x", "y"]}
    assert joined(batch, ["title", "body"]) == ["a\nc", "b\n"]
    assert joined(batch, ["body", "title"]) == ["c\na", "\nb"]
    assert joined(batch, ["title"]) == ["a", "b"]


# labels


def test_a_label_column_keeps_values_and_names_of_its_type() -> None:
    mood = ClassLabel(names=["sad", "glad"])
    settings = DataSet(path="memory")
    for values, feature, names in (
        ([1, 0], mood, ("sad", "glad")),
        ([[1], [0, 1]], List(mood), ("sad", "glad")),
        ([1, 0], Value("int64"), None),
        ([["a"], []], List(Value("string")), None),
    ):
        assert label_column(labelled(values, feature), settings) == LabelColumn(values=values, class_names=names)
    assert label_column(labelled([1]).remove_columns("label"), settings) is None


def test_labels_are_read_without_decoding_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The whole of loading: labels, the cut, samples, dropped labels; an image is opened when a row is read."""
    features = Features({"image": Image(), "label": ClassLabel(names=["up", "down", "left"])})
    pictures = [fromarray(np.full((4, 4, 3), index, np.uint8)) for index in range(30)]
    rows = Dataset.from_dict({"image": pictures, "label": [index % 3 for index in range(30)]}, features=features)
    rows.save_to_disk(tmp_path / "saved")
    files = []
    for index, picture in enumerate(pictures):
        files.append(f"{index}.png")
        picture.save(tmp_path / files[-1])
    listed = Dataset.from_dict({"image": [str(tmp_path / file) for file in files], "label": rows["label"][:]})

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(Image, "decode_example", refuse)
    settings = {"label_map": {2: None}, "max_samples": {"train": 5}}
    for dataset, data in (
        (settings, {"train": rows}),
        (settings | {"path": "saved"}, None),
        (settings, {"train": listed}),
    ):
        found = load(dataset, data, task="image-classification", folder=tmp_path)
        assert {role: len(part.split) for role, part in found.splits.items()} == {"train": 5, "validation": 2}
        with pytest.raises(AssertionError, match="decoded"):
            found.splits["train"].split.rows[0]
