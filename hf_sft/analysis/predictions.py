"""The predictions files of a run as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_sft.analysis.section import Absent
from hf_sft.errors import DataError, Finding
from hf_sft.record import RunRecord

CLASSES = ("single_label", "multi_label")
PICTURED = ("pixels", "boxes")  # problems whose answers are seen on the image, and are no entry of a table
WORDS = {
    "single_label": "rows with one label",
    "multi_label": "rows with several labels",
    "regression": "numbers",
    "tags": "words with tags",
    "pixels": "masks",
    "boxes": "boxes",
}


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """N labelled rows of a split, in the order of the data.

    references, predictions: int64 [N] (single_label), bool [N, L] (multi_label), float64 [N] (regression), or for tags
    int64 [W], one per word of all rows. scores: float64 [N, L]; empty [N, 0] where a row has no score for each label.
    losses: float64 [N]. words: of tags, the row that each word stands in.
    """

    split: str
    problem: str
    names: tuple[str, ...]
    row_ids: NDArray
    references: NDArray
    predictions: NDArray
    scores: NDArray
    losses: NDArray
    words: NDArray | None = None

    def __len__(self) -> int:
        return len(self.row_ids)

    @cached_property
    def right(self) -> NDArray:
        """bool [N]: rows without a mistake; of tags, rows with no wrong word. Undefined for numbers."""
        equal = self.references == self.predictions
        if self.words is not None:
            wrong = np.zeros(len(self.row_ids), dtype=bool)
            wrong[self.words[~equal]] = True
            return ~wrong
        return equal.all(axis=1) if equal.ndim == 2 else equal

    def describe(self, values: NDArray, row: int) -> str:
        """A reference or prediction of one row in words."""
        if self.words is not None:
            return " ".join(self.names[tag] for tag in values[self.words == row])
        if self.problem == "single_label":
            return self.names[int(values[row])]
        if self.problem == "multi_label":
            return ", ".join(name for name, there in zip(self.names, values[row], strict=True) if there) or "(none)"
        return f"{values[row]:.4g}"


def read_predictions(record: RunRecord) -> dict[str, Predictions]:
    """Split -> its predictions, of the splits that were labelled; validation before test.

    Raises DataError for a file that cannot be read.
    """
    found = {}
    for split in ("validation", "test"):
        table = read_table(record, split)
        if table is None or not {"reference", "prediction"} <= set(table.column_names):
            continue
        try:
            part = _read(record, split, table)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise _damaged(record, split, f"columns of another kind: {type(error).__name__}: {error}") from error
        if part is not None:
            found[split] = part
    return found


def read_table(record: RunRecord, split: str) -> Any:
    """The predictions file of a split, a pyarrow.Table; None where there is none. Raises DataError for one damaged."""
    import pyarrow
    import pyarrow.parquet

    path = record.directory.predictions(split)
    if not path.is_file():
        return None
    try:
        return pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(record, split, str(error).splitlines()[0][:160]) from error


def gone(record: RunRecord) -> list[str]:
    """A sentence for each split that was labelled, and whose predictions file is not there."""
    paths = {split: record.directory.predictions(split) for split in ("validation", "test") if split in record.metrics}
    return [
        f"{path} is not there any more: {_way_back(record, split)}"
        for split, path in paths.items()
        if not path.is_file()
    ]


def _damaged(record: RunRecord, split: str, found: str) -> DataError:
    path, fix = record.directory.predictions(split), _way_back(record, split)
    return DataError(Finding(place=str(path), expected="the predictions of a run (parquet)", found=found, fix=fix))


def _way_back(record: RunRecord, split: str) -> str:
    path: Path = record.directory.predictions(split)
    first = "" if path.parent.is_dir() else f"mkdir {path.parent} && "
    again = " --overwrite" if path.is_file() else ""
    return f"{first}hf-sft evaluate {record.directory.path} --split {split} -o {path}{again}, or run it again"


def judged(predictions: Mapping[str, Predictions], record: RunRecord) -> Predictions:
    """The split that speaks for new data: test, else validation. Raises Absent where nothing was labelled.

    record: whose problem and files tell why there is nothing.
    """
    for split in ("test", "validation"):
        if split in predictions:
            return predictions[split]
    if lost := gone(record):
        raise Absent("; ".join(lost))
    if not {"test", "validation"} & set(record.metrics):
        raise Absent("the run has no labelled rows but those that it was trained on")
    raise Absent("the run has predicted no labelled rows whose answer is a label, a number or a tag for each word")


def single_label(predictions: Mapping[str, Predictions], what: str, record: RunRecord) -> Predictions:
    """The judged split of a model that gives each row one of L labels. Raises Absent for other problems."""
    problem = str(record.labels.get("problem"))
    if problem != "single_label":
        raise Absent(f"{what} is told of rows that have one label each; these are {WORDS.get(problem, problem)}")
    return judged(predictions, record)


def _read(record: RunRecord, split: str, table: Any) -> Predictions | None:
    problem, names = str(record.labels.get("problem")), tuple(record.labels.get("names") or ())
    row_ids = table["row_id"].to_numpy()
    losses = (
        np.asarray(table["loss"].to_pylist(), dtype=float)
        if "loss" in table.column_names
        else np.full(len(table), np.nan)
    )
    reference, prediction = table["reference"].to_pylist(), table["prediction"].to_pylist()
    index = {name: number for number, name in enumerate(names)}
    scores = np.zeros((len(table), 0))
    words = None
    if problem in CLASSES:
        scores = np.stack([table[f"score_{name}"].to_numpy() for name in names], axis=1).astype(float)
    if problem == "single_label":
        references, predicted = (
            np.array([index[name] for name in one], dtype=np.int64) for one in (reference, prediction)
        )
    elif problem == "multi_label":
        references, predicted = (
            np.array([[name in set(row) for name in names] for row in one], dtype=bool)
            for one in (reference, prediction)
        )
    elif problem == "regression":
        references, predicted = np.asarray(reference, dtype=float), np.asarray(prediction, dtype=float)
    elif problem == "tags":
        words = np.repeat(np.arange(len(reference)), [len(row) for row in reference])
        references, predicted = (
            np.array([index[tag] for row in one for tag in row], dtype=np.int64) for one in (reference, prediction)
        )
    else:
        return None
    return Predictions(
        split=split,
        problem=problem,
        names=names,
        row_ids=row_ids,
        references=references,
        predictions=predicted,
        scores=scores,
        losses=losses,
        words=words,
    )
