"""The record of a run and the folder it lives in: what happened, as plain data."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_sft.errors import DataError, Finding


@dataclass(frozen=True)
class RunDirectory:
    """The paths of one run. Sub-commands meet only here."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def asked(self) -> Path:
        """The recipe as it was asked for, before anything was filled in: what resuming compares."""
        return self.path / "asked.yaml"

    @property
    def record(self) -> Path:
        return self.path / "record.json"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def traceback(self) -> Path:
        return self.path / "traceback.txt"

    def recorded(self, what: str) -> Path:
        """What inspect.record kept while training: `gradient_norms`, `rows`; about.json beside them."""
        return self.report / "recorded" / f"{what}.parquet"

    def predictions(self, split: str) -> Path:
        return self.path / "predictions" / f"{split}.parquet"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run did and found. `RunRecord.load("runs/bert_sentiment")` reads one back.

    recipe: the recipe as resolved (paths as they were written).
    labels: {"problem": ..., "names": [...], "thresholds": [...] or None}.
    metrics: split -> name -> value, `loss` among them (mean of the rows' unsmoothed losses).
    intervals: split -> name -> [low, high], 95 % bootstrap over rows.
    baselines: split -> baseline ("majority"; "linear_probe" where one was solved) -> name -> value.
    per_class: split -> label -> {"precision", "recall", "f1", "support"}; empty for regression.
    parameters: {"total", "trainable", "head": what was done with the head, in words}.
    timings: seconds: {"load", "train", "evaluate", "total"} and "train_rows_per_second".
    data: split -> {"rows", "fingerprint", "source"}; "notes": decisions taken, in words.
    versions: package -> version. history: {"steps": [...], "epochs": [...]}, and
    with tuning.wise_ft {"wise_ft": [...]}: loss and metrics on validation at each alpha.
    notes: what a reader of the numbers must know (in-memory data, custom functions, a widening gap).
    confusion: split -> [true label][predicted label] -> rows, where each row has one of at most 100 labels.
    examples: rows of validation for the card, {"text": ...} or {"src": a picture in model/}, where hub asks for them.
    origins: "model", "dataset" -> commit on the Hub, license, language, citation, as far as they are known.
    published: of a record on the Hub: file -> SHA-256 of what was pushed beside it.
    pictures: names of files in report/ (and beside the card) that show rows with truth and prediction.
    evaluations: what `hf-sft evaluate` found since, each with its data, split, date, metrics, intervals and slices.
    inspection: what `hf-sft inspect` found: section -> key figure -> value.
    """

    recipe: dict[str, Any]
    labels: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, list[float]]]
    baselines: dict[str, dict[str, dict[str, float]]]
    per_class: dict[str, dict[str, dict[str, float]]]
    parameters: dict[str, Any]
    timings: dict[str, float]
    data: dict[str, Any]
    versions: dict[str, str]
    environment: dict[str, Any]
    seed: int
    history: dict[str, list[dict[str, Any]]]
    notes: list[str] = field(default_factory=list)
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)
    examples: list[dict[str, str]] = field(default_factory=list)
    origins: dict[str, dict[str, Any]] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    inspection: dict[str, Any] = field(default_factory=dict)
    output_dir: str = ""

    @property
    def directory(self) -> RunDirectory:
        """The folder this record lies in."""
        return RunDirectory(Path(self.output_dir))

    def save(self) -> None:
        """Write record.json in one step: a reader sees the old file or the new one, never half of one."""
        content = dataclasses.asdict(self)
        content.pop("output_dir")
        write_text(self.directory.record, as_json(content) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> RunRecord:
        """The record of a run directory. Raises DataError where there is none or it cannot be read."""
        directory = RunDirectory(Path(path))
        try:
            content = json.loads(directory.record.read_text(encoding="utf-8"))
            return cls(**content, output_dir=str(path))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                Finding(
                    place=str(directory.record),
                    expected="the record of a finished run",
                    found=getattr(error, "strerror", None) or str(error),
                    fix="name the output_dir of a run that finished",
                )
            ) from error

    def _repr_html_(self) -> str:
        from hf_sft import summary

        return summary.as_html(self)

    def __str__(self) -> str:
        from hf_sft import summary

        return summary.as_text(self)


def write_text(path: Path, text: str) -> None:
    """Write beside, then rename, so that no reader sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def as_json(content: Any) -> str:
    """Plain data as JSON that every reader takes: NaN and infinities are null."""
    return json.dumps(finite_json(content), indent=1, ensure_ascii=False, allow_nan=False)


def finite_json(value: Any) -> Any:
    """NaN and infinities as null: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(item) for item in value]
    return value
