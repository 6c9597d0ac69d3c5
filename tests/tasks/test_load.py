"""Laws of a task's data: from a recipe to the rows a model reads, and the fingerprint of what was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from loading import UNCUT, assert_says_all, entries_of, ids_of, labelled, load, make_recipe, make_rows, texts_of, write
from PIL import ExifTags
from PIL import Image as pil
from tiny import WORDS, save_tokenizer
from transformers import AutoTokenizer, ViTImageProcessor
from transformers.image_utils import load_image

from hf_sft.errors import DataError
from hf_sft.recipe import Recipe
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import Inputs, LabelledSplit, TaskData, fingerprint, load_data, make_inputs

IMAGES = "image-classification"


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` caches while these tests run goes with them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


# text as the model reads it


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder, model_max_length=8)


def text_inputs(rows: Dataset, tokenizer: Any, **dataset: Any) -> Inputs:
    recipe = make_recipe(UNCUT | dataset)
    task = TASKS[recipe.task]
    found = load_data(recipe, task, {"train": rows})
    return make_inputs(found.splits["train"], recipe, task, found.labels, tokenizer)


def test_rows_the_model_reads_are_those_of_the_source_with_their_targets(tokenizer: Any) -> None:
    texts = [" ".join(WORDS[: index % 5 + 1]) for index in range(10)]
    rows = Dataset.from_dict({"text": texts, "label": ["b", "a"] * 5, "other": [1] * 10})
    inputs = text_inputs(rows, tokenizer)
    assert inputs.row_ids.tolist() == list(range(10)) and inputs.size == 10
    assert inputs.targets is not None and inputs.targets.tolist() == [1, 0] * 5
    features = inputs.features(10)
    assert [feature["input_ids"] for feature in features] == [tokenizer(text)["input_ids"] for text in texts]
    assert [feature["labels"] for feature in features] == [1, 0] * 5
    assert inputs.lengths.tolist() == [len(feature["input_ids"]) for feature in features]
    assert all(set(feature) <= {"input_ids", "token_type_ids", "labels", "weight"} for feature in features)


def test_texts_are_cut_at_the_length_of_the_tokenizer(tokenizer: Any) -> None:
    rows = Dataset.from_dict({"text": ["good " * 100, "bad"], "label": ["a", "b"]})
    assert text_inputs(rows, tokenizer).lengths.tolist() == [8, 3]


def test_a_pair_is_given_to_the_tokenizer_as_a_pair(tokenizer: Any) -> None:
    rows = Dataset.from_dict({"one": ["good film", "bad"], "two": ["poor", "the room"], "label": ["a", "b"]})
    inputs = text_inputs(rows, tokenizer, columns={"text": "one", "text_pair": "two"})
    for feature, one, two in zip(inputs.features(2), rows["one"], rows["two"], strict=True):
        expected = dict(tokenizer(one, two, return_attention_mask=False))
        assert {name: feature[name] for name in expected} == expected
        assert feature["input_ids"] != tokenizer(f"{one}\n{two}")["input_ids"]


def test_several_columns_are_read_as_one_text(tokenizer: Any) -> None:
    rows = Dataset.from_dict({"one": ["good film", "bad"], "two": ["poor", "the room"], "label": ["a", "b"]})
    inputs = text_inputs(rows, tokenizer, columns={"text": ["two", "one"]})
    expected = [tokenizer(f"{two}\n{one}")["input_ids"] for one, two in zip(rows["one"], rows["two"], strict=True)]
    assert [feature["input_ids"] for feature in inputs.features(2)] == expected


@pytest.mark.parametrize(
    ("values", "targets", "kind"),
    [
        (["b", "a", "b"], [1, 0, 1], np.int64),
        ([10, 2, 10], [1, 0, 1], np.int64),
        ([True, False, True], [1, 0, 1], np.int64),
        ([["b"], [], ["a", "b"]], [[0, 1], [0, 0], [1, 1]], np.float32),
        ([0.5, 1.5, -2.0], [0.5, 1.5, -2.0], np.float32),
    ],
)
def test_targets_are_the_labels_as_numbers(values: list[Any], targets: list[Any], kind: Any, tokenizer: Any) -> None:
    inputs = text_inputs(labelled(values), tokenizer)
    assert inputs.targets is not None and inputs.targets.dtype == kind
    assert inputs.targets.tolist() == targets
    assert [np.asarray(feature["labels"]).tolist() for feature in inputs.features(3)] == targets


def test_rows_without_labels_have_no_targets(tokenizer: Any) -> None:
    recipe, data = make_recipe(UNCUT), {"train": labelled(["a", "b"]), "test": labelled([None, None], Value("string"))}
    task = TASKS[recipe.task]
    found = load_data(recipe, task, data)
    inputs = make_inputs(found.splits["test"], recipe, task, found.labels, tokenizer)
    assert inputs.targets is None and "labels" not in inputs.features(1)[0]


# images as the model reads them


def pixels(*, alpha: bool = False) -> np.ndarray:
    """Colours that differ in each channel, with an alpha channel from 0 to 255 if asked for."""
    rows, columns = np.mgrid[0:12, 0:10]
    channels = [rows * 20, columns * 25, (rows * columns) % 256, (rows + columns) * 12]
    return np.stack(channels[: 4 if alpha else 3], axis=-1).astype(np.uint8)


def sixteen_bits() -> pil.Image:
    return pil.fromarray((np.arange(120).reshape(12, 10) * 500).astype(np.uint16))


def turned() -> pil.Image:
    image = pil.fromarray(pixels())
    image.getexif()[ExifTags.Base.Orientation] = 6
    return image


PICTURES: dict[str, tuple[str, Callable[[], pil.Image]]] = {
    "RGB": ("png", lambda: pil.fromarray(pixels())),
    "RGB, JPEG": ("jpg", lambda: pil.fromarray(pixels())),
    "RGB, turned": ("jpg", turned),
    "grey": ("png", lambda: pil.fromarray(pixels()).convert("L")),
    "grey, JPEG": ("jpg", lambda: pil.fromarray(pixels()).convert("L")),
    "black and white": ("png", lambda: pil.fromarray(pixels()).convert("1")),
    "palette": ("png", lambda: pil.fromarray(pixels()).convert("P")),
    "palette, GIF": ("gif", lambda: pil.fromarray(pixels()).convert("P")),
    "alpha": ("png", lambda: pil.fromarray(pixels(alpha=True))),
    "grey with alpha": ("png", lambda: pil.fromarray(pixels()).convert("LA")),
    "CMYK": ("jpg", lambda: pil.fromarray(pixels()).convert("CMYK")),
    "CMYK, TIFF": ("tiff", lambda: pil.fromarray(pixels()).convert("CMYK")),
    "16 bits": ("png", sixteen_bits),
    "16 bits, TIFF": ("tiff", sixteen_bits),
    "WebP": ("webp", lambda: pil.fromarray(pixels())),
}


def save_pictures(folder: Path) -> dict[str, Path]:
    """Name of the kind -> file."""
    files = {}
    for number, (name, (ending, make)) in enumerate(PICTURES.items()):
        files[name] = folder / f"{number:02}.{ending}"
        image = make()
        image.save(files[name], exif=image.getexif())
    return files


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_pictures(tmp_path_factory.mktemp("pictures"))


def _as_paths(files: list[Path]) -> Dataset:
    return Dataset.from_dict({"image": [str(file) for file in files]})


def _as_images(files: list[Path]) -> Dataset:
    return _as_paths(files).cast_column("image", Image())


def _as_undecoded(files: list[Path]) -> Dataset:
    return _as_paths(files).cast_column("image", Image(decode=False))


def _as_bytes(files: list[Path]) -> Dataset:
    return Dataset.from_dict({"image": [file.read_bytes() for file in files]})


def _as_pairs(files: list[Path]) -> Dataset:
    return Dataset.from_dict({"image": [{"bytes": file.read_bytes(), "path": file.name} for file in files]})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # PIL keeps the file of a GIF open
@pytest.mark.parametrize("form", [_as_paths, _as_images, _as_undecoded, _as_bytes, _as_pairs])
def test_every_kind_of_image_is_read_as_pipeline_reads_it(
    form: Callable[[list[Path]], Dataset], pictures: dict[str, Path]
) -> None:
    """pipeline() gets a path and calls load_image, which turns the image upright and converts it to RGB."""
    files = list(pictures.values())
    rows = form(files).add_column("label", ["a", "b", *["a"] * (len(files) - 2)])
    recipe, task = make_recipe(UNCUT, task=IMAGES), TASKS[IMAGES]
    processor = ViTImageProcessor(size={"height": 12, "width": 12})
    found = load_data(recipe, task, {"train": rows})
    features = make_inputs(found.splits["train"], recipe, task, found.labels, processor).features(len(files))
    assert len({tuple(feature["pixel_values"].flatten().tolist()) for feature in features}) > 8  # they do differ
    for name, file, feature in zip(pictures, files, features, strict=True):
        image = load_image(str(file))
        assert image.mode == "RGB"
        expected = processor(image, return_tensors="pt")["pixel_values"][0]
        assert feature["pixel_values"].shape == (3, 12, 12) and feature["pixel_values"].dtype == torch.float32
        assert torch.equal(feature["pixel_values"], expected), name


def image_names(found: TaskData) -> list[tuple[int, str]]:
    """(first red value, label) of each training row."""
    part = found.splits["train"]
    return [
        (int(np.asarray(row["image"])[0, 0, 0]), entry)
        for row, entry in zip(part.split.rows, entries_of(part), strict=True)
    ]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_paths_of_images_are_relative_to_the_folder_of_the_data(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for shade in (10, 20, 30, 40):
        file = tmp_path / "set" / "pictures" / f"{shade}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pil.new("RGB", (4, 4), (shade, 0, 0)).save(file)
        rows.append({"image": f"pictures/{shade}.png", "label": "ab"[shade // 20 % 2]})
    write(rows, tmp_path / "set" / f"train.{ending}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    expected = [(10, "a"), (20, "b"), (30, "b"), (40, "a")]
    for path in (f"set/train.{ending}", "set", str(tmp_path / "set")):
        assert image_names(load(UNCUT | {"path": path}, task=IMAGES, folder=tmp_path)) == expected
    files = {"path": {"jsonl": "json"}.get(ending, ending), "data_files": {"train": f"train.{ending}"}}
    assert image_names(load(UNCUT | files, task=IMAGES, folder=tmp_path / "set")) == expected


def test_rows_that_name_missing_files_are_a_finding_with_their_ids(tmp_path: Path) -> None:
    pil.new("RGB", (4, 4)).save(tmp_path / "here.png")
    rows = [{"image": "here.png" if index not in (3, 5) else f"{index}.png", "label": index % 2} for index in range(8)]
    write(rows, tmp_path / "rows.csv")
    words = r"names a file that does not exist in 2 rows of train: 3, 5 \(.*3\.png\)"
    with pytest.raises(DataError, match=words) as caught:
        load(UNCUT | {"path": "rows.csv"}, task=IMAGES, folder=tmp_path)
    assert_says_all(caught.value, "dataset.columns.image")


@pytest.mark.parametrize("form", [_as_paths, _as_images, _as_bytes])
def test_rows_without_an_image_are_a_finding_with_their_ids(
    form: Callable[[list[Path]], Dataset], pictures: dict[str, Path]
) -> None:
    rows = form(list(pictures.values())[:4])
    rows = rows.add_column("label", ["a", "b"] * 2)
    empty = Dataset.from_dict({"image": [None], "label": ["a"]}, features=rows.features)
    with pytest.raises(DataError, match="in 1 row of train: 2") as caught:
        joined = datasets.concatenate_datasets([rows.select([0, 1]), empty, rows.select([2, 3])])
        load(UNCUT, {"train": joined}, task=IMAGES)
    assert_says_all(caught.value, "dataset.columns.image")


@pytest.mark.parametrize("values", [[1, 2], [0.5, 1.5], [[[0, 0]], [[1, 1]]], [{"a": 1}, {"a": 2}], [True, False]])
def test_what_is_no_image_is_a_finding(values: list[Any]) -> None:
    rows = Dataset.from_dict({"image": values, "label": ["a", "b"]})
    with pytest.raises(DataError, match="expected images") as caught:
        load(UNCUT, {"train": rows}, task=IMAGES)
    assert_says_all(caught.value, "dataset.columns.image")


# the fingerprint


def print_of(dataset: dict[str, Any], data: Any, role: str = "train", **recipe: Any) -> str:
    made: Recipe = make_recipe(UNCUT | dataset, **recipe)
    task = TASKS[made.task]
    return fingerprint(load_data(made, task, data).splits[role], made, task)


ROWS = make_rows(30)


def test_fingerprints_of_two_loads_are_equal(tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.jsonl", "rows.parquet"):
        write(ROWS, tmp_path / name)
        prints = set()
        for number in range(2):
            datasets.config.HF_DATASETS_CACHE = tmp_path / f"cache-{number}"  # restored by the fixture
            prints.add(print_of({"path": name}, None, folder=tmp_path))
        assert len(prints) == 1
    for make in (Dataset.from_list, pd.DataFrame):
        assert len({print_of({}, {"train": make(ROWS)}) for _ in range(2)}) == 1


def test_a_fingerprint_is_of_the_rows_not_of_how_they_are_stored() -> None:
    """Chosen, sliced, joined or rewritten: the same rows under the same ids."""
    source = Dataset.from_list(ROWS)
    forms = [
        source,
        Dataset.from_list(ROWS[::-1]).select(range(29, -1, -1)),
        Dataset.from_list([*ROWS, *ROWS]).select(range(30, 60)),
        datasets.concatenate_datasets([source.select(range(11)), source.select(range(11, 30))]),
        source.with_format("torch"),
        source.flatten_indices(),
    ]
    assert len({print_of({}, {"train": rows}) for rows in forms}) == 1


CHANGES: dict[str, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]] = {
    "a text": lambda rows: [*rows[:-1], {**rows[-1], "text": rows[-1]["text"] + " "}],
    "a label": lambda rows: [{**rows[0], "label": 2}, *rows[1:]],
    "two labels": lambda rows: [
        {**rows[0], "label": rows[1]["label"]},
        {**rows[1], "label": rows[0]["label"]},
        *rows[2:],
    ],
    "the order": lambda rows: [rows[1], rows[0], *rows[2:]],
    "a row less": lambda rows: rows[:-1],
    "a row twice": lambda rows: [*rows, rows[-1]],
    "where one text ends": lambda rows: [
        {**rows[0], "text": rows[0]["text"] + rows[1]["text"][0]},
        {**rows[1], "text": rows[1]["text"][1:]},
        *rows[2:],
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_changes_with_the_rows(change: str) -> None:
    changed = CHANGES[change](make_rows(30))
    assert print_of({}, {"train": Dataset.from_list(changed)}) != print_of({}, {"train": Dataset.from_list(ROWS)})


def test_a_fingerprint_changes_with_the_ids_of_equal_rows() -> None:
    rows = Dataset.from_list([ROWS[0], ROWS[1]] * 5)
    prints = {
        print_of({"splits": {"train": spec, "validation": None}}, {"train": rows})
        for spec in ("train[:4]", "train[2:6]")
    }
    assert len(prints) == 2


def test_a_fingerprint_is_of_what_is_used() -> None:
    rows = Dataset.from_list(ROWS)
    other = rows.remove_columns("group").add_column("more", [str(index) for index in range(30)])
    assert print_of({}, {"train": other}) == print_of({}, {"train": rows})
    pair = {"columns": {"text_pair": "more"}}
    changed = other.remove_columns("more").add_column("more", ["x"] * 30)
    assert print_of(pair, {"train": other}) != print_of(pair, {"train": changed})


def test_a_fingerprint_of_images_changes_with_a_pixel() -> None:
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    prints = []
    for shade in (5, 5, 6):
        pictures = [pil.new("RGB", (4, 4), (index, 0, 0)) for index in range(3)] + [
            pil.new("RGB", (4, 4), (shade, 0, 0))
        ]
        rows = Dataset.from_dict({"image": pictures, "label": [0, 1, 0, 1]}, features=features)
        prints.append(print_of({}, {"train": rows}, task=IMAGES))
    assert prints[0] == prints[1] != prints[2]


def test_positions_are_taken_in_their_order_with_labels_and_ids() -> None:
    part = load(UNCUT, {"train": Dataset.from_list(ROWS)}).splits["train"]
    taken = part.take(np.array([7, 2, 11])).take(np.array([2, 0]), "chosen")
    assert ids_of(taken) == [11, 7] and taken.split.source == "chosen"
    assert texts_of(taken) == [ROWS[11]["text"], ROWS[7]["text"]]
    assert entries_of(taken) == [str(ROWS[11]["label"]), str(ROWS[7]["label"])]
    bare = LabelledSplit(split=part.split, entries=None).take(np.array([3]))
    assert bare.entries is None and ids_of(bare) == [3]


def test_where_the_data_come_from_is_said(tmp_path: Path) -> None:
    write(ROWS, tmp_path / "rows.csv")
    assert load({"path": "rows.csv"}, folder=tmp_path).origin == str(tmp_path / "rows.csv")
    assert load({}, {"train": Dataset.from_list(ROWS)}).origin == "in memory"
    assert load({"path": "bundled:reviews"}).origin == "bundled:reviews"
    found = load({"max_samples": {"train": 5}}, {"train": Dataset.from_list(ROWS)})
    assert found.splits["train"].split.source == "train, 5 sampled"
    assert found.splits["validation"].split.source == "train, cut for validation"


# real data

TEXT, PAIR = {"text": "text"}, {"text": "sentence1", "text_pair": "sentence2"}
REAL: dict[str, tuple[str, dict[str, Any], dict[str, int], str, int | tuple[str, ...]]] = {
    # folder: task, dataset section, rows by split, problem, labels (or their number)
    "sst2": (
        "text-classification", {"columns": TEXT},
        {"train": 6920, "validation": 872, "test": 1821}, "single_label", ("0", "1"),
    ),
    "uci_sentiment": (
        "text-classification", {"columns": TEXT, "labels": ["negative", "positive"], "group_column": None},
        {"train": 1888, "validation": 210, "test": 902}, "single_label", ("negative", "positive"),
    ),
    "ag_news_small": (
        "text-classification", {"columns": {"text": ["title", "text"]}},
        {"train": 5320, "validation": 760, "test": 1520}, "single_label", 4,
    ),
    "banking77": (
        "text-classification", {"columns": TEXT},
        {"train": 9003, "validation": 1000, "test": 3080}, "single_label", 77,
    ),
    "go_emotions": (
        "text-classification", {"columns": {"text": "text", "label": "labels"}},
        {"train": 43410, "validation": 5426, "test": 5427}, "multi_label", 28,
    ),
    "mrpc": (
        "text-classification", {"columns": PAIR},
        {"train": 3576, "validation": 500, "test": 1725}, "single_label", ("0", "1"),
    ),
    "stsb": (
        "text-classification", {"columns": PAIR | {"label": "score"}},
        {"train": 5749, "validation": 1500, "test": 1379}, "regression", ("score",),
    ),
    "cifar10": (
        IMAGES, {"splits": {"train": "train[:3000]", "test": "test[:1000]"}},
        {"train": 2700, "validation": 300, "test": 1000}, "single_label", 10,
    ),
    "cifar10_corrupted": (
        IMAGES, {"splits": {"train": "test[:50%]", "test": "test[50%:]", "validation": None}},
        {"train": 3000, "test": 3000}, "single_label", 10,
    ),
    "fashion_mnist_small": (
        IMAGES, {}, {"train": 9000, "validation": 1000, "test": 3000}, "single_label", 10,
    ),
    "flowers5": (IMAGES, {}, {"train": 3020, "validation": 432, "test": 865}, "single_label", 5),
    "cats_dogs_folder": (
        IMAGES, {}, {"train": 306, "validation": 34, "test": 140}, "single_label", ("cats", "dogs"),
    ),
}  # fmt: skip


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_data_load_as_documented(name: str, real_data: Path) -> None:
    task, dataset, sizes, problem, labels = REAL[name]
    found = load({"path": name, **dataset}, task=task, folder=real_data)
    assert {role: len(part.split) for role, part in found.splits.items()} == sizes
    assert found.labels.problem == problem
    assert len(found.labels.names) == labels if isinstance(labels, int) else found.labels.names == labels
    assert not any("warning" in note for note in found.notes)
    for part in found.splits.values():
        entries = entries_of(part)
        assert len(entries) == len(part.split) == len(set(ids_of(part)))
        if problem == "regression":
            assert all(0 <= entry <= 5 for entry in entries)
        elif problem == "single_label":
            assert set(Counter(entries)) == set(found.labels.names)
    row = found.splits["train"].split.rows[0]
    if task == IMAGES:
        assert isinstance(row["image"], pil.Image) and min(row["image"].size) >= 28
    else:
        columns = dataset["columns"]["text"]
        assert all(row[column] for column in ([columns] if isinstance(columns, str) else columns))
