"""Laws of what is written: values come back as they were, a file has its name only when it is whole."""

from __future__ import annotations

import csv
import datetime
import errno
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL.Image import new

from hf_sft.errors import DataError, EnvironmentProblem, Finding
from hf_sft.table_files.reading import open_rows
from hf_sft.table_files.source import Row, infer_schema
from hf_sft.table_files.writing import Columns, check_output, open_output, written_whole

TRICKY = ["", " a ", "NaN", "null", "007", 'say "hi"', "two\nlines", "a\r\nb", "c\rd", "x,y;z", "é\u2028ß", "'"]
ENDINGS = ("csv", "jsonl", "parquet")


def columns_of(rows: Sequence[Row]) -> Columns:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Columns(names=names, schema=lambda: infer_schema(rows, names, "rows"))


def write(path: Path, *chunks: Sequence[Row]) -> Path:
    with open_output(path, columns_of([row for chunk in chunks for row in chunk])) as take:
        for chunk in chunks:
            take(chunk)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_texts_come_back_as_they_were_in_their_order(ending: str, tmp_path: Path) -> None:
    rows = [{"id": str(number), "text": text, "again": text} for number, text in enumerate(TRICKY)]
    found = list(open_rows(write(tmp_path / f"o.{ending}", rows[:5], [], rows[5:])).read())
    assert found == rows


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_numbers_lists_and_nulls_come_back_as_they_were(ending: str, tmp_path: Path) -> None:
    rows = [{"a": 0.1 + 0.2, "b": ["x|y", "z"], "c": None, "d": True}, {"a": 1e-300, "b": [], "c": 3, "d": False}]
    assert list(open_rows(write(tmp_path / f"o.{ending}", rows)).read()) == rows


def test_csv_cells_are_plain(tmp_path: Path) -> None:
    image = new("L", (2, 2))
    image.filename = "p.png"  # type: ignore[attr-defined]
    values = [["a", "b"], [], None, True, 0.1, 3, {"k": [1, None]}, [1], datetime.date(2026, 1, 2), image]
    with open(write(tmp_path / "o.csv", [{"v": value} for value in values]), newline="") as file:
        cells = [row["v"] for row in csv.DictReader(file)]
    assert cells == ["a|b", "", "", "true", "0.1", "3", '{"k": [1, null]}', "[1]", "2026-01-02", "p.png"]


def test_json_has_no_word_for_numbers_that_are_none(tmp_path: Path) -> None:
    rows = [{"a": math.nan, "b": [1.0, math.inf], "c": {"d": -math.inf}}, {"a": 1.0}]
    lines = write(tmp_path / "o.jsonl", rows).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"a": None, "b": [1.0, None], "c": {"d": None}}, {"a": 1.0}]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_row_without_a_column_has_nothing_there(ending: str, tmp_path: Path) -> None:
    file = write(tmp_path / f"o.{ending}", [{"a": "1"}], [{"b": "2", "a": "3"}])
    nothing = "" if ending == "csv" else None
    assert list(open_rows(file).read()) == [{"a": "1", "b": nothing}, {"a": "3", "b": "2"}]


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_rows_are_a_file_without_rows(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"o.{ending}"
    with open_output(path, Columns(names=["a"], schema=lambda: pyarrow.schema([("a", pyarrow.string())]))):
        pass
    if ending == "jsonl":
        assert path.read_text() == ""
    else:
        assert (open_rows(path).columns, list(open_rows(path).read())) == (("a",), [])


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_has_its_name_only_when_it_is_whole(ending: str, tmp_path: Path) -> None:
    path, rows = tmp_path / f"o.{ending}", [{"a": "1"}]
    path.write_text("earlier")
    with open_output(path, columns_of(rows)) as take:
        take(rows)
        assert path.read_text() == "earlier"
    assert list(open_rows(path).read()) == rows
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("fault", [DataError(Finding(place="row 4")), KeyboardInterrupt(), ZeroDivisionError()])
def test_rows_before_an_error_are_kept_beside_and_the_error_says_so(
    ending: str, fault: BaseException, tmp_path: Path
) -> None:
    path, rows = tmp_path / f"o.{ending}", [{"a": str(number)} for number in range(4)]
    with pytest.raises(type(fault)) as caught, open_output(path, columns_of(rows)) as take:
        take(rows[:3])
        take(rows[3:])
        raise fault
    kept = path.with_name(f"o.{ending}.partial")
    said = str(caught.value) if isinstance(fault, DataError) else " ".join(caught.value.__notes__)
    assert str(kept) in said and "first 4 rows (0 to 3)" in said
    assert not isinstance(fault, DataError) or "row 4" in said
    assert [file.name for file in tmp_path.iterdir()] == [kept.name]
    assert list(open_rows(kept.rename(path)).read()) == rows


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_error_before_any_row_leaves_what_was_there(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"o.{ending}"
    path.write_text("earlier")
    with pytest.raises(DataError, match=r"mine$"), open_output(path, columns_of([{"a": "1"}])):
        raise DataError(Finding(place="mine"))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "earlier"


def test_a_full_disk_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(EnvironmentProblem, match=r"(?s)o\.csv.*No space left.*o\.csv\.partial.*first 1 rows"):
        write(tmp_path / "o.csv", [{"a": "1"}])


def test_rows_go_to_standard_output_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with open_output("-", columns_of([{"a": "é"}])) as take:
        take([{"a": "é\n"}])
        take([{"a": None}])
    assert capsys.readouterr().out == '{"a": "é\\n"}\n{"a": null}\n'


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("o.xlsx", r"\.csv, \.jsonl, \.parquet.*\.xlsx"),
        ("o", "no ending"),
        ("nowhere/o.csv", r"a folder that exists.*nowhere.*make it first"),
        ("old.csv", r"one that exists.*--overwrite.*overwrite=True"),
        ("folder.csv", r"a file.*a folder"),
    ],
)
def test_an_output_that_cannot_be_is_found_beforehand(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "old.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(EnvironmentProblem, match=f"(?s){expected}"):
        check_output(tmp_path / name, overwrite=False)
    if name == "old.csv":
        check_output(tmp_path / name, overwrite=True)


def test_a_folder_without_permission_is_found_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == tmp_path and mode == os.W_OK))
    with pytest.raises(EnvironmentProblem, match=r"(?s)can be written.*no permission in"):
        check_output(tmp_path / "o.csv", overwrite=True)


def test_a_file_that_another_writes_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "o.parquet"
    path.write_text("old")
    with pytest.raises(EnvironmentProblem, match=r"(?s)o\.parquet.*No space left"), written_whole(path) as beside:
        beside.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["o.parquet"]
    with written_whole(path) as beside:
        beside.write_text("new")
    assert path.read_text() == "new" and [file.name for file in tmp_path.iterdir()] == ["o.parquet"]


def test_an_output_of_one_kind_alone_is_no_stream_and_has_that_ending(tmp_path: Path) -> None:
    for name in ("-", tmp_path / "o.csv", tmp_path / "o"):
        with pytest.raises(EnvironmentProblem, match=r"a file \.parquet"):
            check_output(name, overwrite=True, endings=(".parquet",))
    check_output(tmp_path / "o.PARQUET", overwrite=False, endings=(".parquet",))
