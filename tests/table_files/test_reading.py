"""Laws of what is read to be predicted: every value as it was written, every row once and in order, faults by place."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, Features, Image, Value
from PIL.Image import new

from hf_sft.errors import DataError
from hf_sft.table_files.reading import open_rows
from hf_sft.table_files.source import RowSource, chunked, infer_schema

TRICKY = [
    "",
    " a ",
    "NaN",
    "null",
    "007",
    "1e5",
    "true",
    'say "hi"',
    "two\nlines",
    "a\r\nb",
    "c\rd",
    "x,y;z",
    "é\u2028ß",
    "'",
]


def write(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def table(rows: list[list[str]], **options: Any) -> str:
    out = io.StringIO()
    csv.writer(out, **options).writerows(rows)
    return out.getvalue()


def read(source: RowSource) -> list[dict[str, Any]]:
    return list(source.read())


# csv


@pytest.mark.parametrize(
    "options", [{}, {"delimiter": ";"}, {"quoting": csv.QUOTE_ALL}, {"quoting": csv.QUOTE_ALL, "lineterminator": "\n"}]
)
def test_every_csv_cell_is_the_text_that_was_written(options: dict[str, Any], tmp_path: Path) -> None:
    rows = [[first, second] for first, second in itertools.product(TRICKY, TRICKY)]
    file = write(tmp_path / "a.csv", table([["id", "text"], *rows], **options))
    source = open_rows(file, {"sep": ";"} if "delimiter" in options else {})
    assert source.columns == ("id", "text")
    assert [list(row.values()) for row in source.read()] == rows
    assert read(source) == read(source)
    assert (source.total, source.schema().types) == (len(rows), [pyarrow.string()] * 2)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_csv_files_are_read_in_their_encoding(encoding: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "text\nété\n", encoding)
    options = {} if encoding.startswith("utf-8") else {"encoding": encoding}
    assert read(open_rows(file, options)) == [{"text": "été"}]


def test_tabs_separate_a_tsv_whose_quotes_may_be_letters(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", 'id\ttext\n1\t"a" b, c\n')
    with pytest.raises(DataError, match=r"(?s)line 2 of a.tsv.*quoting=3"):
        open_rows(file)
    for options in ({"quoting": 3}, {"quoting": "3", "sep": r"\t"}):  # from Python, as a shell passes them
        assert read(open_rows(file, options)) == [{"id": "1", "text": '"a" b, c'}]


def test_a_header_alone_is_no_rows(tmp_path: Path) -> None:
    source = open_rows(write(tmp_path / "a.csv", "id,text\n"))
    assert (read(source), source.columns, source.total) == ([], ("id", "text"), 0)


def test_the_line_of_a_row_is_where_an_editor_shows_its_end(tmp_path: Path) -> None:
    source = open_rows(write(tmp_path / "a.csv", 'text\n"a\nb"\n\nc\n'))
    assert [source.place(row) for row in range(2)] == ["row 0 of a.csv (line 3)", "row 1 of a.csv (line 5)"]


# json


ROWS = [{"text": "a", "n": 1}, {"more": [1, {"x": None}], "text": "b"}, {"text": "c", "n": 2.5}]


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(map(json.dumps, ROWS)),
        "\n\n" + "\r\n".join(map(json.dumps, ROWS)) + "\n\n",
        "\ufeff" + "\n".join(map(json.dumps, ROWS)),
        json.dumps(ROWS),
        " \n" + json.dumps(ROWS, indent=2),
    ],
)
def test_json_rows_keep_their_keys_and_columns_are_those_of_all_rows(content: str, tmp_path: Path) -> None:
    source = open_rows(write(tmp_path / "a.jsonl", content))
    assert [json.dumps(row) for row in source.read()] == [json.dumps(row) for row in ROWS]
    assert (source.columns, source.total) == (("text", "n", "more"), 3)


def test_types_of_a_column_are_those_of_all_its_rows() -> None:
    rows: list[dict[str, Any]] = [{"n": 0.5, "deep": {"a": 1}}] + [{"n": None}] * 5000 + [{"n": 1, "deep": {"b": "x"}}]
    schema = infer_schema(rows, ["n", "deep", "none"], "a")
    assert schema.field("n").type == pyarrow.float64()
    assert {field.name for field in schema.field("deep").type} == {"a", "b"}
    pyarrow.Table.from_pylist(rows, schema=schema)


@pytest.mark.parametrize("values", [[1, "a"], [1] * 5000 + ["a"], [[1], 2], [2**70, 1]])
def test_columns_without_a_type_are_found_with_their_name(values: list[Any]) -> None:
    with pytest.raises(DataError, match=r"(?s)column 'x' of f\.jsonl.*write OUT as \.jsonl"):
        infer_schema([{"ok": 1, "x": value} for value in values], ["ok", "x"], "f.jsonl")


# parquet and values of Python


def test_parquet_values_keep_their_types(tmp_path: Path) -> None:
    columns = {
        "text": ["a", None, "c"],
        "when": pyarrow.array([1, 2, 3], pyarrow.timestamp("ns", "UTC")),
        "kind": pyarrow.array(["x", "y", "x"]).dictionary_encode(),
        "list": [[1], [], None],
    }
    expected = pyarrow.table(columns)
    pyarrow.parquet.write_table(expected, tmp_path / "a.parquet", row_group_size=2)
    source = open_rows(tmp_path / "a.parquet")
    found = pyarrow.Table.from_pylist(read(source), schema=source.schema())
    assert found.equals(expected)
    assert source.total == 3


def rows_of_images(folder: Path) -> Dataset:
    new("RGB", (5, 4), "red").save(folder / "a.png")
    features = Features({"image": Image(), "id": Value("int32")})
    return Dataset.from_dict({"image": [str(folder / "a.png")] * 3, "id": [0, 1, 2]}, features=features)


MEMORY: dict[str, Callable[[], Any]] = {
    "list": lambda: ["a", "b", "c"],
    "tuple": lambda: ("a", "b", "c"),
    "generator": lambda: (letter for letter in "abc"),
    "dicts": lambda: [{"text": "a"}, {"text": "b"}, {"text": "c"}],
    "dataset": lambda: Dataset.from_dict({"text": ["a", "b", "c"]}),
    "selected": lambda: Dataset.from_dict({"text": list("xcxbxa")}).select([5, 3, 1]),
    "formatted": lambda: Dataset.from_dict({"text": ["a", "b", "c"]}).with_format("numpy"),
    "column": lambda: Dataset.from_dict({"text": ["a", "b", "c"]})["text"],
    "frame": lambda: pandas.DataFrame({"text": ["a", "b", "c"]}, index=[7, 8, 9]),
    "array": lambda: np.array(["a", "b", "c"]),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_rows_in_memory_are_read_in_their_order(kind: str) -> None:
    assert read(open_rows(MEMORY[kind]())) == [{"text": "a"}, {"text": "b"}, {"text": "c"}]


def test_an_iterator_is_read_no_further_than_its_rows_are() -> None:
    numbers: list[int] = []
    source = open_rows(str(numbers.append(number) or number) for number in range(100))  # type: ignore[func-returns-value]
    assert (len(numbers), source.total) == (1, None)
    list(itertools.islice(source.read(), 10))
    assert len(numbers) == 10


def test_images_of_a_data_set_stay_encoded_until_their_turn(tmp_path: Path) -> None:
    rows = read(open_rows(rows_of_images(tmp_path)))
    assert [row["image"] for row in rows] == [{"bytes": None, "path": str(tmp_path / "a.png")}] * 3


def test_chunks_are_all_items_in_order() -> None:
    assert [list(chunk) for chunk in chunked(iter(range(7)), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunked([], 3)) == []


# folders and lines


def test_images_of_a_folder_come_in_natural_order_and_nothing_else_comes(tmp_path: Path) -> None:
    names = ["2.png", "10.jpg", "a/1.PNG", "a/b9.bmp", "a/b10.webp", "B.tiff", "c1.gif"]
    others = [".hidden.png", "._2.png", ".git/x.png", "notes.txt", "metadata.csv", "a/Thumbs.db", "png"]
    for name in [*names, *others]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, b"")
    (tmp_path / "folder.png").mkdir()
    source = open_rows(tmp_path)
    assert [row["file_name"] for row in source.read()] == names
    assert (source.columns, source.total, source.folder) == (("file_name",), 7, tmp_path.resolve())


def test_a_single_image_is_one_row(tmp_path: Path) -> None:
    new("L", (3, 3)).save(tmp_path / "a.png")
    assert read(open_rows(tmp_path / "a.png")) == [{"file_name": "a.png"}]


def test_every_line_is_a_text_empty_ones_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "first\n\n  third \nfourth, without an end"
    expected = [{"text": line} for line in ("first", "", "  third ", "fourth, without an end")]
    assert read(open_rows(write(tmp_path / "a.txt", content))) == expected
    monkeypatch.setattr("sys.stdin", io.StringIO(content))
    assert read(open_rows("-")) == expected


@pytest.mark.parametrize("content", ["\ufefffirst\r\né\rthird\n", "first\né\nthird"])
def test_standard_input_is_read_as_a_text_file_is(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(content.encode())
    buffer = io.BytesIO(content.encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(buffer, encoding="ascii"))  # whatever the terminal speaks
    assert read(open_rows("-")) == read(open_rows(tmp_path / "a.txt")) == [{"text": t} for t in ("first", "é", "third")]
    assert not buffer.closed


def test_standard_input_in_another_encoding_takes_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xe9\n")))
    with pytest.raises(DataError, match=r"(?s)standard input.*option encoding"):
        read(open_rows("-"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xe9\n")))
    assert read(open_rows("-", {"encoding": "latin-1"})) == [{"text": "é"}]


def test_a_closed_standard_input_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(DataError, match=r"(?s)standard input.*it is closed"):
        open_rows("-")


# what cannot be read

BAD: dict[str, tuple[str, str | bytes, dict[str, Any], str]] = {  # -> file, content, options, what is said
    "an empty csv": ("a.csv", "", {}, r"a header and rows.*an empty file"),
    "a blank csv": ("a.csv", "\n\n", {}, r"an empty file"),
    "a row too long": ("a.csv", "a,b\n1,2\n1,2,3\n", {}, r"line 3 of a\.csv.*2 cells.*3: '1,2,3'"),
    "a row too short": ("a.csv", "a,b\n1\n", {}, r"line 2 of a\.csv.*2 cells.*1: '1'"),
    "an open quote": ("a.csv", 'a,b\n1,"2\n3,4\n', {}, r"line 3 of a\.csv.*unexpected end of data"),
    "a column twice": ("a.csv", "a,b,a\n1,2,3\n", {}, r"header of a\.csv.*each column once.*twice: 'a'"),
    "another separator": ("a.csv", "id;text\n1;a\n", {}, r"header of a\.csv.*one: 'id;text'.*option sep to ';'"),
    "a long separator": ("a.csv", "a,b\n", {"sep": "::"}, r"options.*one character"),
    "another encoding": ("a.csv", b"text\n\xe9t\xe9\n", {}, r"text in utf-8.*encoding, such as latin-1"),
    "no such encoding": ("a.csv", "text\na\n", {"encoding": "utf8x"}, r"options\.encoding.*utf8x"),
    "an unknown option": ("a.csv", "text\na\n", {"encodng": "utf-8"}, r"options\.encodng.*did you mean 'encoding'"),
    "an option of csv": ("a.jsonl", '{"a": 1}', {"sep": ";"}, r"options\.sep.*a\.jsonl"),
    "an empty jsonl": ("a.jsonl", " \n", {}, r"a JSON object a line.*without rows"),
    "a broken line": ("a.jsonl", '{"a": 1}\n{"a": \n', {}, r"line 2 of a\.jsonl.*a JSON object.*\{\"a\":"),
    "an object of many lines": ("a.json", '{\n"a": 1\n}\n', {}, r"line 1 of a\.json.*one object a line"),
    "a line of another kind": ("a.jsonl", '{"a": 1}\n3\n', {}, r"line 2 of a\.jsonl.*\{\.\.\.\}.*3 \(a whole number\)"),
    "an entry of another kind": ("a.json", '[{"a": 1}, "x"]', {}, r"entry 2 of a\.json.*'x' \(text\)"),
    "a broken list": ("a.json", '[{"a": 1},', {}, r"a list of JSON objects"),
    "no parquet": ("a.parquet", "text\n", {}, r"a parquet file"),
    "half a parquet": ("a.parquet", b"PAR1", {}, r"a parquet file"),
    "an unknown ending": ("a.xlsx", "x", {}, r"\.csv, \.tsv.*\.xlsx"),
    "no ending": ("rows", "x", {}, r"no ending"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_said_with_its_place(name: str, tmp_path: Path) -> None:
    file, content, options, expected = BAD[name]
    with pytest.raises(DataError, match=f"(?s){expected}"):
        open_rows(write(tmp_path / file, content), options)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("nowhere.csv", r"a file or folder that exists.*nowhere\.csv.*a list of texts"),
        ("what a lovely film", r"a file or folder that exists.*a list of texts"),
        ("", r"a file or folder that exists"),
        (3, r"texts, images.*int"),
        (b"abc", r"texts, images.*bytes"),
        ({"text": ["a"]}, r"texts, images.*dict"),
        (({"text": text} for text in "ab"), r"an iterator of rows.*a list of rows"),
        ([{"text": "a"}, "b"], r"row 1 of the inputs.*str"),
        (pandas.DataFrame({"a": [1, "x"]}), r"columns of one type each"),
    ],
)
def test_inputs_of_another_kind_are_refused_in_words(inputs: Any, expected: str) -> None:
    with pytest.raises(DataError, match=f"(?s){expected}"):
        open_rows(inputs)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "text\na\n")
    with pytest.raises(DataError, match=r"(?s)jpg, jpeg, png.*none.*name a file"):
        open_rows(tmp_path)
