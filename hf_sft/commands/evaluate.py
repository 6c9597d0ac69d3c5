"""Evaluate a saved model on a split or a data set: the table of a run, per class, and by the values of a column."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hf_sft.commands.evaluated_rows import rows_to_evaluate
from hf_sft.console import say
from hf_sft.data.splits import Split
from hf_sft.errors import DataError, Finding, RecipeError, describe_value, nearest
from hf_sft.metrics.intervals import bootstrap_intervals
from hf_sft.metrics.metric import Metric
from hf_sft.metrics.resolve import resolve_metrics
from hf_sft.recipe import Recipe
from hf_sft.record import RunRecord
from hf_sft.saved_model import SavedModel, load_saved
from hf_sft.summary import Result, baseline_of, cells, class_metrics, counted, finite, number
from hf_sft.table_files.writing import check_output, written_whole
from hf_sft.tables import Table, as_html, as_text, escaped, printable
from hf_sft.tasks.load import make_inputs

MOST_SLICES = 50  # values of a column that make a table; more are a column of another kind


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model does on some rows. metrics: name -> value, with `loss`; intervals: name -> [low, high], 95 %.

    per_class: label -> {"precision", "recall", "f1", "support"}; empty for regression.
    slices: value of the column `by` -> {"rows": N, "metrics": {...}, "intervals": {...}}.
    baseline: name -> value of always answering the most frequent label (the mean) of these very rows.
    predictions: columns row_id, reference, prediction, score_<label>, loss.
    """

    model: str
    data: str
    split: str
    rows: int
    problem: str
    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    baseline: dict[str, float]
    per_class: dict[str, dict[str, float]]
    by: str | None
    slices: dict[str, dict[str, Any]]
    notes: list[str]
    date: str
    seconds: float
    predictions: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the predictions, as plain data."""
        return {name: value for name, value in vars(self).items() if name != "predictions"}

    def write_predictions(self, path: str | Path, *, overwrite: bool = False) -> None:
        """A parquet file with row_id, reference, prediction, score_<label> and loss of each row.

        Raises EnvironmentProblem for another ending, a file that exists (unless overwrite), what cannot be written.
        """
        import pyarrow
        import pyarrow.parquet

        check_predictions_file(path, overwrite=overwrite)
        with written_whole(Path(path).expanduser()) as beside:
            pyarrow.parquet.write_table(pyarrow.table(dict(self.predictions)), beside)

    def tables(self) -> list[Table]:
        """Metrics with intervals and baseline; per class; by the values of the column."""
        names = [*(name for name in self.metrics if name != "loss"), *(["loss"] if "loss" in self.metrics else [])]
        heads = ("metric", "value", "95 % interval", baseline_of(self.problem))
        rows: list[Sequence[str]] = [cells(self._result(name)) for name in names]
        found = [Table(heads=heads, rows=rows)]
        if self.per_class:
            parts = class_metrics(self.per_class)
            rows = [
                (name, *(number(finite(values[part])) for part in parts), f"{int(values['support']):,}")
                for name, values in self.per_class.items()
            ]
            found.append(Table(title="per class", heads=("label", *parts, counted(self.problem)), rows=rows))
        if self.slices:
            slices = [
                (value, f"{part['rows']:,}", *(_with_interval(part, name) for name in names))
                for value, part in self.slices.items()
            ]
            found.append(Table(title=f"by {self.by}", heads=(str(self.by), "rows", *names), rows=slices))
        return found

    def _result(self, name: str) -> Result:
        low, high = (finite(bound) for bound in self.intervals.get(name) or (None, None))
        interval = None if low is None or high is None else (low, high)
        return Result(name, finite(self.metrics[name]), interval, finite(self.baseline.get(name)))

    def _title(self) -> str:
        return f"{self.model} on {self.data}, {self.split}: {self.rows:,} rows in {self.seconds:.1f} s"

    def __str__(self) -> str:
        width = min(120, shutil.get_terminal_size((100, 24)).columns)
        return "\n\n".join([printable(self._title()), *(as_text(table, width) for table in self.tables())])

    def _repr_html_(self) -> str:
        return f"<p>{escaped(self._title())}</p>" + "".join(as_html(table) for table in self.tables())


def check_predictions_file(path: str | Path, *, overwrite: bool) -> None:
    """Raises EnvironmentProblem where `write_predictions` would refuse; asked before a model is loaded."""
    check_output(path, overwrite=overwrite, endings=(".parquet",))


def evaluate(
    model: str | Path | SavedModel,
    *,
    data: Any = None,
    split: str | None = None,
    by: str | None = None,
    columns: Mapping[str, str | list[str]] | None = None,
    metrics: Sequence[str] | Mapping[str, Callable[..., Any]] = (),
    label_map: Mapping[Any, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    batch_size: int = 64,
    trust_remote_code: bool = False,
) -> Evaluation:
    """Metrics with 95 % intervals of a run directory, a model folder or a Hub model on labelled rows.

    data: what dataset.path may be, or rows in memory (datasets.Dataset, pandas.DataFrame); absent: the run's own data.
    split: a split of the data (slices allowed), or of the run: train, validation, test; absent: test, if there is one.
    by: a column whose values are evaluated apart. columns: role -> column, where the model's recipe does not say.
    metrics: names, or functions by name; absent: the run's, else those of the problem.
    label_map: {label of the data: label of the model}; options: for the reader, {"sep": ";"}.
    on_bad_row: "skip" leaves out rows that cannot be used.
    The labels are matched by name. Results are added to `evaluations` in the record of the run, in the place of earlier
    ones of the same data, split, column and metrics.

    Raises HfSftError for what cannot be read, labels that the model does not know, rows without labels.
    """
    _check_arguments(by, on_bad_row, batch_size)
    started = time.perf_counter()
    saved = model if isinstance(model, SavedModel) else load_saved(model, trust_remote_code=trust_remote_code)
    part, recipe, origin, notes = rows_to_evaluate(
        saved, data, split, columns or {}, label_map, options or {}, on_bad_row=on_bad_row
    )
    for line in notes:
        say(line)
    found = _find_metrics(saved, recipe, metrics, trust_remote_code)
    groups = _groups(part.split, by) if by else {}
    inputs = make_inputs(part, recipe, saved.task, saved.labels, saved.processor)
    assert inputs.targets is not None
    evaluator = saved.evaluator(found, batch_size=batch_size)
    rows = evaluator.predict(saved.model, inputs.rows, inputs.lengths, saved.labels)
    outcome = saved.problem.outcome(rows, inputs.targets, saved.labels)
    rows["references"] = inputs.targets
    if saved.problem.calibrate is not None:
        rows["predictions"] = outcome.predictions
    majority = saved.problem.baseline(inputs.targets, inputs.targets, saved.labels)
    slices = {}
    for name, positions in groups.items():
        some = {column: values[positions] for column, values in rows.items()}
        slices[name] = {
            "rows": len(positions),
            "metrics": evaluator.measure(some, inputs.targets[positions], saved.labels),
            "intervals": bootstrap_intervals(found, outcome.take(positions), seed=recipe.seed),
        }
    evaluation = Evaluation(
        model=str(model) if not isinstance(model, SavedModel) else saved.source,
        data=origin,
        split=part.split.source,
        rows=len(part.split),
        problem=saved.labels.problem,
        metrics=evaluator.measure(rows, inputs.targets, saved.labels),
        intervals=bootstrap_intervals(found, outcome, seed=recipe.seed),
        baseline=evaluator.measure(majority, inputs.targets, saved.labels),
        per_class=saved.problem.per_class(outcome, saved.labels) if saved.problem.per_class else {},
        by=by,
        slices=slices,
        notes=notes,
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        seconds=time.perf_counter() - started,
        predictions={"row_id": inputs.row_ids, **saved.task.write(rows, saved.labels, recipe, inputs.source)},
    )
    if saved.run is not None and saved.run.record.is_file():
        _add_to_record(saved.run.path, evaluation.as_dict())
    return evaluation


def _find_metrics(
    saved: SavedModel, recipe: Recipe, asked: Sequence[str] | Mapping[str, Callable[..., Any]], trusted: bool
) -> list[Metric]:
    """Those asked for by name or given as functions, else the run's own."""
    functions = asked if isinstance(asked, Mapping) else {}
    names = [] if isinstance(asked, Mapping) else list(asked)
    return resolve_metrics(
        names or (_own_metrics(saved) if not functions else []),
        saved.labels.problem,
        folder=recipe.folder if not names else Path.cwd(),
        functions=functions,
        trust_remote_code=trusted,
        num_labels=len(saved.labels.names),
    )


def _add_to_record(run: Path, entry: dict[str, Any]) -> None:
    """In the place of an earlier evaluation of the same."""
    record = RunRecord.load(run)
    others = [earlier for earlier in record.evaluations if _what(earlier) != _what(entry)]
    replace(record, evaluations=[*others, entry]).save()


def _what(entry: Mapping[str, Any]) -> list[Any]:
    """What was asked in an evaluation of the record."""
    return [entry.get("data"), entry.get("split"), entry.get("by"), sorted(entry.get("metrics") or ())]


def _check_arguments(by: Any, on_bad_row: Any, batch_size: Any) -> None:
    """Raises RecipeError for what the command line would not take either."""
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
    wrong = [
        Finding(place=place, expected=expected, found=describe_value(value))
        for place, expected, value, fits in (
            ("batch_size", "a whole number, at least 1", batch_size, whole and batch_size >= 1),
            ("by", "the name of a column", by, by is None or (isinstance(by, str) and by)),
            ("on_bad_row", "error or skip", on_bad_row, on_bad_row in ("error", "skip")),
        )
        if not fits
    ]
    if wrong:
        raise RecipeError(wrong)


def _with_interval(part: dict[str, Any], name: str) -> str:
    low, high = part["intervals"].get(name) or (None, None)
    value = number(finite(part["metrics"].get(name)))
    return value if finite(low) is None else f"{value} ({number(finite(low))} to {number(finite(high))})"


def _own_metrics(saved: SavedModel) -> list[str]:
    return [name for name in saved.recipe.metrics if not name.startswith("function:")]


def _shown(value: Any) -> str:
    """A value of the column `by`: single precision reads 0.3 as 0.30000001192092896."""
    if value is None:
        return "(null)"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _groups(split: Split, by: str) -> dict[str, NDArray]:
    """Value of the column -> positions of its rows, the largest group first."""
    if by not in split.rows.column_names:
        fix = nearest(by, split.rows.column_names)
        raise DataError(Finding(place="by", expected="a column of the data", found=by, fix=fix))
    names = np.asarray([_shown(value) for value in split.rows.select_columns([by])[:][by]], dtype=object)
    values, counts = np.unique(names.astype(str), return_counts=True)
    if len(values) > MOST_SLICES:
        expected, fix = f"at most {MOST_SLICES} values", "name a column that groups rows"
        raise DataError(Finding(place="by", expected=expected, found=f"{len(values):,} in {by!r}", fix=fix))
    return {str(values[group]): np.flatnonzero(names == values[group]) for group in np.argsort(-counts, kind="stable")}
