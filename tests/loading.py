"""Loading data in tests: rows of every kind of source, recipes over them, and what came of it in plain values."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, Features, Value

from hf_sft.errors import HfSftError
from hf_sft.recipe import Recipe
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import LabelledSplit, TaskData, load_data

Row = dict[str, Any]
UNCUT = {"splits": {"validation": None}}  # train stays whole


def make_recipe(
    dataset: Mapping[str, Any], *, task: str = "text-classification", folder: Path | None = None, seed: int = 42
) -> Recipe:
    """A recipe of which only the data matter."""
    content = {"task": task, "model": {"name": "none"}, "dataset": {"path": "memory", **dataset}, "seed": seed}
    return Recipe.from_dict(content, folder=folder)


def load(dataset: Mapping[str, Any], data: Any = None, **recipe: Any) -> TaskData:
    """The data of such a recipe, made ready for its task."""
    made = make_recipe(dataset, **recipe)
    return load_data(made, TASKS[made.task], data)


def make_rows(number: int, *, start: int = 0) -> list[Row]:
    """Distinct texts with what breaks naive readers, an integer label of three classes, a group of four rows."""
    odd = ('said "no", twice', "semi;colon and, comma", "naïve café", "two\nlines", "a\ttab", "plain")
    return [
        {"text": f"{index} {odd[index % len(odd)]}", "label": index % 3, "group": index // 4}
        for index in range(start, start + number)
    ]


def write(rows: Sequence[Row], path: Path, **options: Any) -> Path:
    """The rows as a file of the kind that its ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame, kind = pd.DataFrame(list(rows)), path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        frame.to_parquet(path, index=False)
        return path
    if kind in ("csv", "tsv"):
        text = frame.to_csv(index=False, sep=options.get("sep", "\t" if kind == "tsv" else ","), lineterminator="\n")
    elif kind == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = json.dumps(list(rows))
    content = text.encode(options.get("encoding", "utf-8"))
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def labelled(values: Sequence[Any], feature: Any = None) -> Dataset:
    """Rows of text with these labels, of the type that the feature says."""
    features = Features({"text": Value("string"), "label": feature}) if feature is not None else None
    content = {"text": [f"text {index}" for index in range(len(values))], "label": list(values)}
    return Dataset.from_dict(content, features=features)


def plain(rows: Dataset) -> list[Row]:
    """The rows as dicts of Python values."""
    return [dict(row) for row in rows]


def texts_of(part: LabelledSplit) -> list[str]:
    return list(part.split.rows["text"])


def entries_of(part: LabelledSplit) -> list[Any]:
    assert part.entries is not None
    return list(part.entries)


def ids_of(part: LabelledSplit) -> list[int]:
    return part.split.row_ids.tolist()


def assert_says_all(error: HfSftError, place: str = "") -> None:
    """Each finding names place, expected, found and fix, in words of ours rather than a library's traceback."""
    assert error.findings
    for finding in error.findings:
        for part in (finding.place, finding.expected, finding.found, finding.fix):
            assert part.strip(), f"something is missing in\n{finding}"
        assert "Traceback" not in str(finding) and len(str(finding)) < 1500
    assert any(finding.place.startswith(place) for finding in error.findings), str(error)
