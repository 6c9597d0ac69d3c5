"""Words that other readers take for missing values, or for numbers, are words here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loading import UNCUT, entries_of, load, texts_of

from hf_sft.data.padded import keep_padded
from hf_sft.errors import DataError

ROWS = "text,label\nnull,NA\nNA,None\nn/a,NA\ngood,None\n"


@pytest.mark.parametrize("form", ["file", "folder", "reader"])
def test_a_label_or_a_text_may_be_na_none_or_null(form: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text(ROWS)
    path = {"file": "set/train.csv", "folder": "set", "reader": "csv"}[form]
    files = {"data_files": {"train": "set/train.csv"}} if form == "reader" else {}
    found = load(UNCUT | {"path": path} | files, folder=tmp_path).splits["train"]
    assert texts_of(found) == ["null", "NA", "n/a", "good"] and entries_of(found) == ["NA", "None", "NA", "None"]


def test_an_empty_cell_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\ngood,a\n,b\nbad,b\n")
    with pytest.raises(DataError, match="1 row of train: 1"):
        load(UNCUT | {"path": "a.csv"}, folder=tmp_path)


@pytest.mark.parametrize("form", ["file", "folder", "reader", "semicolons"])
def test_numbers_padded_with_zeros_are_names_in_all_files(form: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    mark = ";" if form == "semicolons" else ","
    for split, rows in (("train", "good,00\nbad,01\nfair,10\n"), ("test", "good,10\nbad,\nbad,11\n")):
        (tmp_path / "set" / f"{split}.csv").write_text(f"text,label\n{rows}".replace(",", mark))
    path = {"file": "set/train.csv", "folder": "set", "reader": "csv", "semicolons": "set"}[form]
    files = {f"{split}": f"set/{split}.csv" for split in ("train", "test")}
    dataset: dict[str, Any] = {"path": path, "splits": {"validation": None}, "on_bad_row": "skip"}
    dataset |= {"data_files": files} if form == "reader" else {}
    dataset |= {"options": {"sep": mark}} if form == "semicolons" else {}
    found = load(dataset, folder=tmp_path)
    assert entries_of(found.splits["train"]) == ["00", "01", "10"]
    assert found.labels.names[:3] == ("00", "01", "10")
    if form != "file":
        assert entries_of(found.splits["test"]) == ["10", "11"]


def test_whole_numbers_without_zeros_before_them_stay_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,n\ngood,0,05\nbad,1,6\ngood,10,0\n")
    rows = load(UNCUT | {"path": "a.csv"}, folder=tmp_path).splits["train"].split.rows
    assert rows["label"][:] == [0, 1, 10] and rows["n"][:] == ["05", "6", "0"]


def test_options_of_the_user_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\ngood,00\nbad,01\n")
    assert keep_padded([tmp_path / "a.csv"], {"skiprows": 0}) == {}
    assert list(keep_padded([tmp_path / "a.csv"], {})["converters"]) == ["label"]


LONG = "x" * 140_000


@pytest.mark.parametrize(
    "rows, options",
    [
        ("text,label\ngood, 00\nbad, 01\n", {}),
        ("\n  \ntext,label\ngood,00\nbad,01\n", {}),
        (f"text,label\n{LONG},00\nbad,01\n", {}),
        ('text,label\n"good,00\nbad,01\n', {"quoting": 3}),
        ("text,label\n'a,b',00\nbad,01\n", {"quotechar": "'"}),
        ("text,label\n" + "good,10\n" * 90_000 + "good,00\nbad,01\n", {}),
    ],
    ids=["space", "blank line", "long cell", "no quotes", "other quotes", "late"],
)
def test_padded_numbers_are_found_in_files_of_every_kind(rows: str, options: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(rows)
    found = load(UNCUT | {"path": "a.csv", "options": options}, folder=tmp_path)
    assert {"00", "01"} <= set(found.labels.names)


def test_padded_numbers_are_found_in_files_named_by_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("a", "b"):
        (tmp_path / "d" / f"{name}.csv").write_text("text,label\ngood,00\nbad,01\n")
    found = load(UNCUT | {"path": "csv", "data_files": {"train": "d/*.csv"}}, folder=tmp_path)
    assert found.labels.names == ("00", "01")
