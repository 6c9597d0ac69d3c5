"""Words that other readers take for missing values are words here."""

from __future__ import annotations

from pathlib import Path

import pytest
from loading import UNCUT, entries_of, load, texts_of

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
