"""Whatever a csv or json file holds: rows come out, or our error, soon and in little memory."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset
from generated import ODD_SCALARS, bounded, examples
from hypothesis import event, given
from hypothesis import strategies as st

from hf_sft.data.load import load_source
from hf_sft.errors import HfSftError
from hf_sft.recipe import Recipe

MEMORY = 300_000_000  # bytes that the process may grow by, whatever a file of some kilobytes holds


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is left in the cache of the person who runs the tests, and the reader says nothing of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
    datasets.logging.set_verbosity_warning()


def reads(name: str, content: bytes, folder: Path, options: dict[str, Any] | None = None) -> dict[str, Dataset] | None:
    """The splits; None where they are refused. Nothing but our error comes out, in bounded time and memory."""
    file = folder / name
    file.write_bytes(content)
    before = peak_memory()
    source = None
    with bounded(5):
        try:
            recipe = Recipe.from_dict(
                {
                    "task": "text-classification",
                    "model": {"name": "m"},
                    "dataset": {"path": str(file), "options": options or {}},
                }
            )
            source, _ = load_source(recipe)
        except HfSftError as error:
            assert error.findings and len(str(error)) < 5000
            str(error).encode()
    assert peak_memory() - before < MEMORY
    if source is None:
        return None
    for rows in source.values():
        assert len(rows[:]) == len(rows.column_names)  # every cell can be read
    return dict(source)


def peak_memory() -> int:
    """Bytes; of the process's life."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


CELLS = st.one_of(
    st.sampled_from(
        [
            "",
            '"',
            '""',
            '"a',
            'a"b',
            '"a,b"',
            '"a\nb"',
            "'",
            "1",
            "1.5",
            "nan",
            "NULL",
            "-1",
            "1e400",
            "9" * 400,
            "true",
        ]
    ),
    st.sampled_from(
        ["a\0b", "\x1a", "é", "漢", "\ufeff", "\ud800", "\\", "\r", "x" * 140_000, "2001-01-01", "[1]", "{}"]
    ),
    st.text(max_size=5),
)


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    """A table with slips: ragged rows, quotes that do not close, bytes of another encoding."""
    mark = draw(st.sampled_from([",", ",", ",", ";", "\t", "|"]))
    width = draw(st.integers(1, 4))
    header = draw(st.one_of(st.just(["text", "label", "id", "text"][:width]), st.lists(CELLS, max_size=4)))
    ragged = draw(st.integers(0, 2)) == 2
    size = st.lists(CELLS, max_size=6) if ragged else st.lists(CELLS, min_size=width, max_size=width)
    rows = [header, *draw(st.lists(size, max_size=6))]
    ending = draw(st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-32"]))
    content = ending.join(mark.join(row) for row in rows).encode(encoding, "replace")
    tail = draw(st.sampled_from([b"\n", b"\n", b"", b"\0", b"\xff\xfe", b"\x1f\x8b", b'"', b"PK\x03\x04"]))
    return content[draw(st.sampled_from([0, 0, 0, 1])) :] + tail


JSON_VALUES = st.recursive(
    st.one_of(ODD_SCALARS, st.sampled_from([10**30, -(2**63), "\ud800", {}, []])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "text", "", "é", "a.b"]), inner, max_size=3)
    ),
    max_leaves=6,
)
JSON_ROWS = st.one_of(
    st.fixed_dictionaries({"text": st.text(max_size=5), "label": st.integers(0, 2)}),
    st.dictionaries(st.sampled_from(["text", "label", "x", ""]), JSON_VALUES, max_size=3),
)


@st.composite
def json_files(draw: st.DrawFn) -> bytes:
    """Lines of objects, one list, one object with rows inside, or not json at all."""
    rows = draw(st.lists(st.one_of(JSON_ROWS, JSON_VALUES) if draw(st.integers(0, 3)) == 3 else JSON_ROWS, max_size=5))
    form = draw(st.sampled_from(["lines", "lines", "list", "object", "columns", "indented", "broken"]))
    if form == "lines":
        text = "\n".join(map(json.dumps, rows))
    elif form == "list":
        text = json.dumps(rows)
    elif form == "indented":
        text = "\n".join(json.dumps(row, indent=1, ensure_ascii=False) for row in rows)
    elif form == "object":
        text = json.dumps({"version": 1, "data": rows})
    elif form == "columns":
        text = json.dumps({"text": rows, "label": list(range(len(rows)))})
    else:
        text = json.dumps(rows)[: draw(st.integers(0, 60))] + draw(
            st.sampled_from(["", "}", "]", "NaN", "\0", "[" * 3000])
        )
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    return text.encode(encoding, "replace")


@examples(0.15)
@given(csv_files())
def test_any_csv_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    found = reads("rows.csv", content, tmp_path)
    event("refused" if found is None else "read")


@pytest.mark.filterwarnings("ignore:Falling back to the 'python' engine")
@examples(0.05)
@given(
    csv_files(),
    st.dictionaries(
        st.sampled_from(
            ["sep", "encoding", "quotechar", "header", "names", "dtype", "nrows", "no_such_option", "skiprows"]
        ),
        ODD_SCALARS,
        max_size=2,
    ),
)
def test_any_option_is_taken_or_refused(tmp_path: Path, content: bytes, options: dict[str, Any]) -> None:
    found = reads("rows.csv", content, tmp_path, options)
    event("refused" if found is None else "read")


@examples(0.15)
@given(json_files(), st.sampled_from([None, None, "data", "text"]))
def test_any_json_is_read_or_refused(tmp_path: Path, content: bytes, field: str | None) -> None:
    name, options = ("rows.jsonl", {}) if field is None else ("rows.json", {"field": field})
    found = reads(name, content, tmp_path, options)
    event("refused" if found is None else "read")


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.json", "rows.jsonl", "rows.parquet", "rows.csv.gz"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\0" * 5000,
        b"\xff\xfe\xfa",
        b"PAR1",
        b"\x1f\x8b\x08",
        b"PK\x03\x04",
        b"PK\x05\x06",
        b"\xfd7zXZ\0",
        b"BZh9",
        b"\x28\xb5\x2f\xfd",
        b"\x04\x22M\x18",
        b"Rar!\x1a\x07",
        b"[" * 100_000,
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    found = reads(name, content, tmp_path)
    assert found is None or all(len(rows) <= 1 for rows in found.values())  # a csv of one strange cell


@pytest.mark.parametrize(
    "content", ["null", "null\n{}", " \nnull\nnull", "[null]", '[ null, {"a": 1}]', '{"data": [null, {}]}']
)
def test_a_first_row_of_null_is_refused(tmp_path: Path, content: str) -> None:
    """pyarrow ends the whole process there."""
    options = {"field": "data"} if "data" in content else {}
    assert reads("rows.json", content.encode(), tmp_path, options) is None
    with pytest.raises(HfSftError, match="null instead of the first row"):
        dataset = {"path": "json", "data_files": {"train": [str(tmp_path / "rows.json")]}, "options": options}
        recipe = {"task": "text-classification", "model": {"name": "m"}, "dataset": dataset}
        load_source(Recipe.from_dict(recipe))


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_one_huge_cell_is_one_cell(tmp_path: Path, name: str) -> None:
    huge = "x" * 20_000_000
    content = f"text,label\n{huge},a\nshort,b\n" if name.endswith("csv") else json.dumps({"text": huge, "label": "a"})
    found = reads(name, content.encode(), tmp_path)
    assert found is None or len(found["train"][0]["text"]) == len(huge)
