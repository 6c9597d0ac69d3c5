"""A record is written whole or not at all, and read back as it was."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from hf_sft.errors import DataError
from hf_sft.record import RunRecord, write_text
from tests.record_fixture import make_record


def test_a_saved_record_loads_back_equal(tmp_path: Path) -> None:
    record = make_record(output_dir=str(tmp_path), notes=["é 🙂 \u2028 </script>"])
    record.save()
    assert RunRecord.load(tmp_path) == record
    assert RunRecord.load(str(tmp_path)).directory.path == tmp_path


def test_a_record_says_nothing_of_where_it_lies(tmp_path: Path) -> None:
    make_record(output_dir=str(tmp_path / "a")).save()
    (tmp_path / "a").rename(tmp_path / "b")
    assert RunRecord.load(tmp_path / "b").output_dir == str(tmp_path / "b")
    assert "output_dir" not in json.loads((tmp_path / "b" / "record.json").read_text())


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_no_word_for_are_null(tmp_path: Path, number: float) -> None:
    record = make_record(output_dir=str(tmp_path), metrics={"test": {"accuracy": number, "loss": 0.5}})
    record.save()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    text = (tmp_path / "record.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse)["metrics"]["test"] == {"accuracy": None, "loss": 0.5}


@pytest.mark.parametrize("failing", ["replace", "fdopen", "chmod"])
def test_a_save_that_fails_leaves_the_old_record_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    make_record(output_dir=str(tmp_path), seed=1).save()

    def fail(*arguments: Any, **settings: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(OSError, match="No space"):
            make_record(output_dir=str(tmp_path), seed=2).save()
    assert RunRecord.load(tmp_path).seed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_record_that_is_no_plain_data_leaves_the_old_one(tmp_path: Path) -> None:
    make_record(output_dir=str(tmp_path), seed=1).save()
    with pytest.raises(TypeError):
        make_record(output_dir=str(tmp_path), timings={"load": object()}).save()
    assert RunRecord.load(tmp_path).seed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_text_cut_off_while_it_is_written_is_never_seen(tmp_path: Path) -> None:
    path = tmp_path / "new" / "notes.txt"
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "begins well, ends in half a character: \ud800")
    assert list(path.parent.iterdir()) == []
    write_text(path, "é")
    assert path.read_bytes() == "é".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644, "others may read what a run leaves"


def content(**changes: Any) -> str:
    plain = dataclasses.asdict(make_record())
    del plain["output_dir"]
    return json.dumps({key: value for key, value in {**plain, **changes}.items() if value is not ...})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        content()[:-20],
        content(metrics=...),
        content(surprise=1),
        content(output_dir="elsewhere"),
        b"\xff\xfe",
    ],
)
def test_what_is_no_record_is_refused_by_name(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "record.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        RunRecord.load(tmp_path)
    (finding,) = caught.value.findings
    assert finding.place == str(tmp_path / "record.json") and finding.found and finding.fix


@pytest.mark.parametrize("path", ["nothing", "file", "file/deeper"])
def test_a_folder_without_a_record_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="finished run"):
        RunRecord.load(tmp_path / path)
