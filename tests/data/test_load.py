"""Laws of sources: the same rows whatever holds them, and every wrong file a finding."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetNotFoundError
from loading import Row, assert_says_all, load, make_recipe, make_rows, plain, write
from PIL.Image import Image as Picture
from PIL.Image import fromarray

from hf_sft.data.load import load_source
from hf_sft.errors import DataError, RecipeError

ROWS = make_rows(12)
Made = tuple[dict[str, Any], Any]  # the recipe's dataset section; what is in memory, or None


def _file(name: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        write(ROWS, folder / name)
        return {"path": name}, None

    return make


def _folder(ending: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        write(ROWS, folder / "set" / f"train.{ending}")
        write(ROWS[:3], folder / "set" / f"test.{ending}")
        return {"path": "set"}, None

    return make


def _reader(reader: str, name: str, files: Any, **options: Any) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        write(ROWS, folder / name, **options)
        return {"path": reader, "data_files": files, "options": options}, None

    return make


def _options(folder: Path) -> Made:
    write(ROWS, folder / "odd.csv", sep=";", encoding="latin-1")
    return {"path": "odd.csv", "options": {"sep": ";", "encoding": "latin-1"}}, None


def _data_dir(folder: Path) -> Made:
    write(ROWS, folder / "set" / "train.csv")
    return {"path": "csv", "options": {"data_dir": "set"}}, None


def _absolute(folder: Path) -> Made:
    return {"path": str(write(ROWS, folder / "elsewhere" / "rows.csv"))}, None


def _saved(folder: Path) -> Made:
    Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    return {"path": "saved"}, None


def _saved_splits(folder: Path) -> Made:
    DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:3])).save_to_disk(folder / "saved")
    return {"path": "saved"}, None


def _arrow(folder: Path) -> Made:
    Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    shutil.copy(next((folder / "saved").glob("*.arrow")), folder / "rows.arrow")
    return {"path": "rows.arrow"}, None


def _memory(make: Callable[[list[Row]], Any]) -> Callable[[Path], Made]:
    return lambda folder: ({}, {"train": make(ROWS)})


KINDS: dict[str, Callable[[Path], Made]] = {
    **{name: _file(name) for name in ("a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet")},
    **{name: _file(name) for name in ("a.csv.gz", "a.tsv.gz", "a.jsonl.gz", "a.json.gz")},
    **{f"folder of {ending}": _folder(ending) for ending in ("csv", "tsv", "jsonl", "parquet", "csv.gz")},
    "csv, one file": _reader("csv", "a.csv", "a.csv"),
    "csv, files by split": _reader("csv", "a.csv", {"train": "a.csv", "test": ["a.csv", "a.csv"]}),
    "csv, pattern": _reader("csv", "part-1.csv", "part-*.csv"),
    "csv, options": _reader("csv", "a.csv", ["a.csv"], sep="|", encoding="utf-16"),
    "json": _reader("json", "a.jsonl", {"train": "a.jsonl"}),
    "parquet": _reader("parquet", "a.parquet", {"training": "a.parquet"}),
    "reader options": _options,
    "data_dir": _data_dir,
    "absolute path": _absolute,
    "saved by datasets": _saved,
    "splits saved by datasets": _saved_splits,
    "arrow file": _arrow,
    "Dataset": _memory(Dataset.from_list),
    "Dataset of tensors": _memory(lambda rows: Dataset.from_list(rows).with_format("torch")),
    "Dataset with a transform": _memory(lambda rows: Dataset.from_list(rows).with_transform(lambda batch: {})),
    "rows of a Dataset": _memory(lambda rows: Dataset.from_list([*rows, *rows]).select(range(len(rows)))),
    "DataFrame": _memory(pd.DataFrame),
    "DataFrame with an index": _memory(lambda rows: pd.DataFrame([*rows, *rows])[: len(rows)]),
    "DataFrame of strings": _memory(lambda rows: pd.DataFrame(rows).astype({"text": "string"})),
    "DataFrame with categories": _memory(lambda rows: pd.DataFrame(rows).astype({"text": "category"})),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    dataset, data = KINDS[kind](tmp_path)
    found = load({**dataset, "splits": {"validation": None}}, data, folder=tmp_path).splits["train"].split
    assert [{name: row[name] for name in ROWS[0]} for row in plain(found.rows)] == ROWS
    assert found.row_ids.tolist() == list(range(len(ROWS)))


@pytest.mark.parametrize("make", [_folder("csv"), _folder("jsonl"), _folder("parquet"), _saved_splits])
def test_every_split_of_a_folder_is_read(make: Callable[[Path], Made], tmp_path: Path) -> None:
    dataset, _ = make(tmp_path)
    source, origin = load_source(make_recipe(dataset, folder=tmp_path))
    assert {name: plain(rows) for name, rows in source.items()} == {"train": ROWS, "test": ROWS[:3]}
    assert origin == str(tmp_path / dataset["path"])


def _pixels(value: int) -> Picture:
    return fromarray(np.full((6, 5, 3), value, np.uint8))


@pytest.mark.parametrize(
    "dataset", [{"path": "pictures"}, {"path": "imagefolder", "options": {"data_dir": "pictures"}}], ids=["path", "dir"]
)
def test_folders_of_images_are_labelled_by_their_names(dataset: dict[str, Any], tmp_path: Path) -> None:
    for split, shades in (("train", (10, 20)), ("test", (30,))):
        for label, shift in (("wolf", 0), ("ant", 100)):
            folder = tmp_path / "pictures" / split / label
            folder.mkdir(parents=True)
            for shade in shades:
                _pixels(shade + shift).save(folder / f"{shade}.png")
    found = load({**dataset, "splits": {"validation": None}}, task="image-classification", folder=tmp_path)
    assert found.labels.names == ("ant", "wolf")
    seen = {
        role: sorted(
            (name, int(np.asarray(row["image"])[0, 0, 0]))
            for name, row in zip(part.entries, part.split.rows, strict=True)
        )
        for role, part in found.splits.items()
        if part.entries is not None
    }
    assert seen == {
        "train": [("ant", 110), ("ant", 120), ("wolf", 10), ("wolf", 20)],
        "test": [("ant", 130), ("wolf", 30)],
    }


GOOD = "text,label\na,x\nb,y\nc,x\nd,y\n"
FRAME = pd.DataFrame(ROWS)


def _parquet(folder: Path) -> bytes:
    return write(ROWS * 50, folder / "whole.parquet").read_bytes()


def _broken_gzip(folder: Path) -> bytes:
    content = bytearray(gzip.compress(os.urandom(3000).hex().encode()))
    content[len(content) // 2] ^= 255
    return bytes(content)


WRONG_FILES: dict[str, str | bytes | Callable[[Path], bytes]] = {
    "empty.csv": "",
    "blank.csv": "\n\n\n",
    "header.csv": "text,label\n",
    "ragged.csv": GOOD + "e,x,1,2\n",
    "unclosed.csv": GOOD + '"e,x\nf',
    "latin.csv": GOOD.replace("a,", "é,").encode("latin-1"),
    "utf16.csv": GOOD.encode("utf-16"),
    "binary.csv": bytes(range(256)),
    "zeros.csv": bytes(100),
    "empty.tsv": "",
    "empty.jsonl": "",
    "unfinished.jsonl": '{"text": "a", "label": 1}\n{"text": "b", "la',
    "comma.jsonl": '{"text": "a", "label": 1}\n{"text": "b" "label": 2}\n',
    "words.jsonl": '"a"\n"b"\n',
    "nothing.json": "",
    "none.json": "[]",
    "number.json": "5",
    "numbers.json": "[1, 2, 3]",
    "nested.json": '{"data": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]}',
    "words.parquet": "not parquet",
    "empty.parquet": b"",
    "half.parquet": lambda folder: _parquet(folder)[:500],
    "damaged.parquet": lambda folder: (whole := _parquet(folder))[:30] + b"x" * 40 + whole[70:],
    "words.csv.gz": b"not gzip",
    "half.csv.gz": lambda folder: gzip.compress(GOOD.encode() * 100)[:40],
    "damaged.csv.gz": _broken_gzip,
    "words.csv.zip": b"PK not a zip",
    "words.arrow": b"xxxx",
    "rows.xyz": GOOD,
    "rows.txt": GOOD,
    "rows": GOOD,
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_file_that_cannot_be_read_is_a_finding(name: str, tmp_path: Path) -> None:
    content = WRONG_FILES[name]
    content = content(tmp_path) if callable(content) else content
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        load({"path": name}, folder=tmp_path)
    assert_says_all(caught.value, "dataset.")


def _write_all(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


WRONG_FOLDERS: dict[str, tuple[dict[str, str], str]] = {
    "nothing": ({"set/inner/.keep": ""}, "any data files"),
    "only hidden files": ({"set/.train.csv": GOOD}, "any data files"),
    "only a card": ({"set/README.md": "# words"}, "any data files"),
    "a damaged card": ({"set/README.md": "---\nfoo: [1,\n---\n", "set/train.csv": GOOD}, "parsing"),
    "a card of other data": (
        {
            "set/README.md": "---\ndataset_info:\n  splits:\n  - name: train\n    num_examples: 99\n---\n",
            "set/a.csv": GOOD,
        },
        "99",
    ),
    "configurations": (
        {"set/README.md": "---\nconfigs:\n- config_name: a\n- config_name: b\n---\n", "set/a.csv": GOOD},
        "Config name",
    ),
    "a script": ({"set/set.py": "import datasets"}, "scripts"),
    "two kinds of files": ({"set/train.csv": GOOD, "set/test.jsonl": '{"text": "a"}\n'}, "data file format"),
    "other columns in test": ({"set/train.csv": GOOD, "set/test.csv": "text,topic\na,b\n"}, "topic"),
    "saved, damaged": ({"set/dataset_dict.json": "{"}, "line 1"),
    "saved, another form": ({"set/dataset_dict.json": "[]"}, "indices"),
    "saved, without its split": ({"set/dataset_dict.json": '{"splits": ["train"]}'}, "No such files"),
    "saved, without rows": ({"set/state.json": "{}"}, "Dataset"),
}


@pytest.mark.parametrize("name", WRONG_FOLDERS)
def test_a_folder_that_cannot_be_read_is_a_finding(name: str, tmp_path: Path) -> None:
    files, word = WRONG_FOLDERS[name]
    _write_all(tmp_path, files)
    with pytest.raises(DataError) as caught:
        load({"path": "set"}, folder=tmp_path)
    assert_says_all(caught.value, "dataset.path")
    assert word in str(caught.value)


WRONG_PATHS: dict[str, dict[str, Any]] = {
    "no such file": {"path": "nothing.csv"},
    "plainly a path": {"path": "./nothing"},
    "home": {"path": "~/no such folder of anyone"},
    "absolute": {"path": "/no/such/folder"},
    "Hub id, no network": {"path": "someone/something"},
    "Hub name, no network": {"path": "something"},
    "three parts": {"path": "one/two/three"},
    "an address": {"path": "https://127.0.0.1:9/rows.csv"},
    "missing file of a split": {"path": "csv", "data_files": {"train": "good.csv", "test": "nothing.csv"}},
    "a folder as a file": {"path": "csv", "data_files": "."},
    "no file in a folder": {"path": ".", "data_files": {"train": "nothing.csv"}},
    "no pattern": {"path": "csv", "data_files": "nothing-*.csv"},
    "empty files": {"path": "csv", "data_files": {}},
    "odd split": {"path": "csv", "data_files": {"tr ain": "good.csv"}},
    "no files at all": {"path": "csv"},
    "no data_dir": {"path": "imagefolder", "options": {"data_dir": "nothing"}},
    "another reader": {"path": "json", "data_files": "good.csv"},
    "images in a csv": {"path": "imagefolder", "data_files": "good.csv"},
    "unknown option": {"path": "good.csv", "options": {"sepp": ";"}},
    "option of another type": {"path": "good.csv", "options": {"sep": 5}},
    "unknown encoding": {"path": "good.csv", "options": {"encoding": "nothing"}},
    "unknown columns": {"path": "good.csv", "options": {"usecols": ["nothing"]}},
    "features in words": {"path": "good.csv", "options": {"features": "text"}},
    "files in options": {"path": "good.csv", "options": {"data_files": "x.csv"}},
    "another configuration": {"path": "set", "name": "nothing"},
    "a configuration of a file": {"path": "good.csv", "name": "nothing"},
    "files of a file": {"path": "good.csv", "data_files": {"test": "good.csv"}},
    "files of a saved set": {"path": "saved", "data_files": {"test": "good.csv"}},
    "options of a saved set": {"path": "saved", "options": {"sep": ";"}},
}


@pytest.mark.parametrize("name", WRONG_PATHS)
def test_a_source_that_is_not_there_is_a_finding(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write_all(tmp_path, {"good.csv": GOOD, "set/train.csv": GOOD})
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError) as caught:
        load(WRONG_PATHS[name], folder=tmp_path)
    assert_says_all(caught.value, "dataset.")


@pytest.mark.parametrize("error", [ConnectionError("no answer"), DatasetNotFoundError("no such data set")])
def test_a_data_set_that_the_hub_does_not_give_is_a_finding_about_its_id(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("hf_sft.data.load.load_dataset", refuse)
    monkeypatch.setattr("hf_sft.data.load.require_hub", lambda *arguments, **options: None)
    with pytest.raises(DataError, match="check the id and the connection") as caught:
        load({"path": "someone/something"})
    assert_says_all(caught.value, "dataset.path")


def test_unknown_bundled_data_are_a_finding_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="did you mean 'reviews'") as caught:
        load({"path": "bundled:revews"})
    assert_says_all(caught.value, "dataset.path")


@pytest.mark.parametrize("path", ["rows.csv", "set", "imdb"])
def test_data_of_the_working_directory_are_not_taken_for_those_beside_the_recipe(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_all(tmp_path / "work", {"rows.csv": GOOD, "set/train.csv": GOOD, "imdb/train.csv": GOOD})
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(DataError, match="recipe's folder"):
        load({"path": path}, folder=tmp_path / "recipes")
    with pytest.raises(DataError):
        load({"path": "csv"}, folder=tmp_path / "recipes")


def test_files_are_relative_to_the_folder_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(ROWS, tmp_path / "recipes" / "rows.csv")
    write(ROWS[:6], tmp_path / "rows.csv")
    monkeypatch.chdir(tmp_path)
    for dataset in ({"path": "rows.csv"}, {"path": "csv", "data_files": {"train": "rows.csv"}}):
        source, _ = load_source(make_recipe(dataset, folder=tmp_path / "recipes"))
        assert len(source["train"]) == len(ROWS)
        source, _ = load_source(make_recipe(dataset, folder=tmp_path))
        assert len(source["train"]) == 6


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    for number in (12, 9):
        write(ROWS[:number], tmp_path / "rows.csv")
        source, _ = load_source(make_recipe({"path": "rows.csv"}, folder=tmp_path))
        assert plain(source["train"]) == ROWS[:number]


WRONG_MEMORY: dict[str, Any] = {
    "no split": {},
    "a Dataset": Dataset.from_list(ROWS),
    "a DataFrame": FRAME,
    "a list": {"train": ROWS},
    "None": {"train": FRAME, "test": None},
    "a path": {"train": "rows.csv"},
    "a stream": {"train": Dataset.from_list(ROWS).to_iterable_dataset()},
    "splits in a split": {"train": DatasetDict(train=Dataset.from_list(ROWS))},
    "another name": {"rows": FRAME},
    "a number for a name": {1: FRAME},
    "no rows": {"train": FRAME.iloc[:0]},
    "no columns": {"train": Dataset.from_dict({})},
    "words and numbers": {"train": pd.DataFrame({"text": ["a", 1], "label": ["x", "y"]})},
    "a column twice": {"train": pd.DataFrame([["a", "x", "b"]], columns=["text", "label", "text"])},
    "objects": {"train": pd.DataFrame({"text": [object(), object()], "label": ["x", "y"]})},
    "a series": {"train": FRAME["text"]},
    "a number for a column": {"train": FRAME.rename(columns={"text": 1})},
    "the text as index": {"train": FRAME.set_index("text")},
}


@pytest.mark.parametrize("name", WRONG_MEMORY)
def test_what_in_memory_is_no_data_is_a_finding(name: str) -> None:
    with pytest.raises(DataError) as caught:
        load({}, WRONG_MEMORY[name])
    assert_says_all(caught.value, "data")


def test_rows_in_memory_are_left_as_they_are() -> None:
    rows = Dataset.from_list(ROWS).with_format("torch")
    frame = FRAME.copy()
    load({}, {"train": rows, "test": frame})
    assert rows.format["type"] == "torch"
    pd.testing.assert_frame_equal(frame, FRAME)
