"""The record of a run as tables, and the records of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_sft import summary, tables
from hf_sft.recipe import SPLIT_ROLES, Recipe
from hf_sft.record import RunRecord
from hf_sft.summary import class_metrics, counted, finite, number
from hf_sft.tables import Table

READABLE = 12  # characters of a column below which longer cells are not wrapped
MOST_ENTRIES = 8  # of a list that is written out
# Metrics of which less is better, ours and those of the evaluate library; of a function of the user's own nobody knows.
LOWER_IS_BETTER = {
    "loss", "log_loss", "expected_calibration_error", "mse", "mae", "brier_score", "mape", "mase", "smape",
    "invalid_sequences",
}  # fmt: skip
SOURCE = ("fingerprint", "source")
SPACE = "\u00a0"  # keeps what stands around it in one line
TO = f"{SPACE}to{SPACE}"


def tables_of_one(record: RunRecord) -> list[Table]:
    """All of a record that its summary leaves out."""
    data = [(split, part) for split, part in record.data.items() if isinstance(part, Mapping)]
    sources = [(split, _count(part.get("rows")), *(_value(part.get(key)) for key in SOURCE)) for split, part in data]
    trained = [(name, cells[0]) for name, cells in _training([record])]
    trained += [(f"{name} time", _duration(record.timings.get(name))) for name in ("load", "evaluate")]
    trained += [("head", _value(record.parameters.get("head"))), ("seed", str(record.seed))]
    found = [
        Table(title="data", heads=("split", "rows", *SOURCE), rows=sources, left=4),
        Table(rows=[(f"  {note}",) for note in record.data.get("notes") or []]),
        _epochs(record),
        *(
            _labels(f"labels in {split}", record.per_class.get(split) or {}, record.labels.get("problem"))
            for split in summary.splits(record)
        ),
        *(table for evaluation in record.evaluations for table in _evaluation(evaluation)),
        Table(title="training", rows=trained, left=2),
        _pairs("settings", _settings(record)),
        _pairs("machine", record.environment),
        _pairs("versions", record.versions),
    ]
    return [table for table in found if table.rows]


def _pairs(title: str, content: Mapping[str, Any]) -> Table:
    return Table(title=title, rows=[(key, _value(value)) for key, value in content.items()], left=2)


def _labels(title: str, labels: Mapping[str, Mapping[str, Any]], problem: Any) -> Table:
    heads = class_metrics(labels)
    rows = [
        (label, *(number(finite(values.get(name))) for name in heads), _count(values.get("support")))
        for label, values in labels.items()
    ]
    return Table(title=title, heads=("label", *heads, counted(str(problem))), rows=rows)


def _evaluation(found: Mapping[str, Any]) -> list[Table]:
    """What `hf-sft evaluate` has added to the record."""
    where = f"{found.get('data')}, {found.get('split')}: {_count(found.get('rows'))} rows"
    metrics, by = found.get("metrics") or {}, str(found.get("by"))
    rows = [
        (name, number(finite(value)), _interval(found, name), number(finite((found.get("baseline") or {}).get(name))))
        for name, value in metrics.items()
    ]
    slices = [
        (value, _count(part.get("rows")), *(number(finite(part["metrics"].get(name))) for name in metrics))
        for value, part in (found.get("slices") or {}).items()
    ]
    heads = ("metric", "value", "95 % interval", "baseline")
    return [
        Table(title=f"evaluated on {where} ({found.get('date')})", heads=heads, rows=rows),
        _labels(f"labels in {where}", found.get("per_class") or {}, found.get("problem")),
        Table(title=f"{where}, by {by}", heads=(by, "rows", *metrics), rows=slices),
    ]


def _epochs(record: RunRecord) -> Table:
    entries = record.history.get("epochs") or []
    columns = {"epoch": [f"{entry.get('epoch', 0):g}" for entry in entries]}
    columns["step"] = [_count(entry.get("step")) for entry in entries]
    for name in dict.fromkeys(name for entry in entries for name in entry if name not in columns):
        values = [finite(entry.get(name)) for entry in entries]
        metric = "loss" if name == "validation_loss" else name
        judged = len(entries) > 1 and name != "train_loss" and not _of_user(metric, [record])
        columns[name] = _marked(values, lower=metric in LOWER_IS_BETTER) if judged else [*map(number, values)]
    title = "epochs (* the best)" if len(entries) > 1 else "epochs"
    return Table(title=title, heads=[*columns], rows=[*zip(*columns.values(), strict=True)], left=0)


def _settings(record: RunRecord) -> dict[str, Any]:
    """Dotted keys of the recipe that are not the defaults of this version."""
    defaults = _defaults() | {"task": None}
    return {key: value for key, value in flatten(record.recipe).items() if value not in (defaults.get(key), None, [])}


def _defaults() -> dict[str, Any]:
    least = Recipe.from_dict({"task": "text-classification", "model": {"name": "-"}, "dataset": {"path": "-"}})
    return flatten(least.to_dict())


def _recipes(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Dotted keys of each recipe; one that an earlier version did not have is at its default."""
    defaults = _defaults()
    return [defaults | flatten(record.recipe) for record in records]


def columns_of_runs(records: Sequence[RunRecord], names: Sequence[str]) -> list[Table]:
    """A column per run: settings that differ, metrics with intervals, training, machine."""
    machines = [{**record.environment, "versions": record.versions} for record in records]
    sections = {
        "settings that differ": [(key, [*map(_value, cells)]) for key, cells in differences(_recipes(records)).items()]
    }
    for split in evaluated_splits(records):
        sections[split] = []
        for metric in _metrics(records, split):
            intervals = _intervals(records, split, metric)
            sections[split].append((metric, _compared(records, split, metric)))
            sections[split] += [("  95 % interval", intervals)] if set(intervals) != {"-"} else []
    sections["training"] = _training(records)
    sections["machines differ"] = [(key, [*map(_value, cells)]) for key, cells in differences(machines).items()]
    rows: list[Sequence[str]] = []
    for title, entries in sections.items():
        rows += [(title, *[""] * len(records))] if entries else []
        rows += [(f"  {name}", *cells) for name, cells in entries]
    return [Table(heads=("", *names), rows=rows)]


def rows_of_runs(records: Sequence[RunRecord], names: Sequence[str], width: int) -> list[Table]:
    """A row per run: the metrics that choose, training, settings that differ; what finds no room goes on below."""
    together: list[list[tuple[str, Sequence[str]]]] = []  # columns that stay in one table
    for split in evaluated_splits(records):
        first = [summary.results(record, split)[0].metric for record in records if record.metrics.get(split)]
        for metric in dict.fromkeys(first):
            values, intervals = _compared(records, split, metric), _intervals(records, split, metric)
            together.append([(f"{split} {metric}", values), ("95 % interval", intervals)])
    together += [[entry] for entry in _training(records) if entry[0] in ("train rows", "train time")]
    for key, settings in differences(_recipes(records)).items():
        together.append([(key.removeprefix("training."), [*map(_value, settings)])])
    parts: list[list[tuple[str, Sequence[str]]]] = []
    room = 0
    for columns in together:
        size = sum(len(tables.GAP) + _least_width(head, cells) for head, cells in columns)
        if not parts or size > room:
            parts.append([("run", names)])
            room = width - max(map(len, names))
        parts[-1] += columns
        room -= size
    return [
        Table(heads=[head for head, _ in part], rows=[*zip(*(cells for _, cells in part), strict=True)], firm=1)
        for part in parts
    ]


def _least_width(head: str, cells: Sequence[str]) -> int:
    """What a column needs to be readable: short cells whole, long ones wrapped."""
    return max(tables.narrowest((head, *cells)), min(READABLE, max(map(len, (head, *cells)))))


def _training(records: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """What training took: one entry per row of a table, one cell per run."""
    speeds = [finite(record.timings.get("train_rows_per_second")) for record in records]
    return [
        ("train rows", [_count((record.data.get("train") or {}).get("rows")) for record in records]),
        ("parameters", [_count(record.parameters.get("total")) for record in records]),
        ("trained parameters", [_count(record.parameters.get("trainable")) for record in records]),
        ("train time", [_duration(record.timings.get("train")) for record in records]),
        ("rows per second", [f"{speed:,.1f}" if speed else "-" for speed in speeds]),
        ("total time", [_duration(record.timings.get("total")) for record in records]),
    ]


def flatten(content: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys; empty sections are left out."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flatten(value, f"{place}{key}.") if isinstance(value, Mapping) else {f"{place}{key}": value}
    return found


def differences(contents: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Dotted keys whose values are not all equal -> the value of each; None where there is none."""
    flat = [flatten(content) for content in contents]
    keys = dict.fromkeys(key for content in flat for key in content if key != "output_dir")
    values = {key: [content.get(key) for content in flat] for key in keys}
    return {key: cells for key, cells in values.items() if any(cell != cells[0] for cell in cells)}


def evaluated_splits(records: Sequence[RunRecord]) -> list[str]:
    found = dict.fromkeys(split for record in records for split in summary.splits(record))
    return [split for split in SPLIT_ROLES if split in found] + [split for split in found if split not in SPLIT_ROLES]


def _metrics(records: Sequence[RunRecord], split: str) -> list[str]:
    """Every metric that a run has, the loss last."""
    evaluated = [record for record in records if record.metrics.get(split)]
    found = dict.fromkeys(result.metric for record in evaluated for result in summary.results(record, split))
    return [metric for metric in found if metric != "loss"] + ["loss"] * ("loss" in found)


def _compared(records: Sequence[RunRecord], split: str, metric: str) -> list[str]:
    """The metric of each run, the best marked where they can be compared."""
    values = [finite(record.metrics.get(split, {}).get(metric)) for record in records]
    if not same_rows(records, split) or _of_user(metric, records) or sum(value is not None for value in values) < 2:
        return [*map(number, values)]
    return _marked(values, lower=metric in LOWER_IS_BETTER)


def _marked(values: Sequence[float | None], *, lower: bool) -> list[str]:
    """Numbers as they are shown, a star after the best; equal ones share it, and no star where all are equal."""
    known = [value for value in values if value is not None]
    shown = [*map(number, values)]
    best = number((min if lower else max)(known)) if known else ""
    stars = best if len({*map(number, known)}) > 1 else ""
    return [f"{text}*" if text == stars else f"{text}{SPACE}" for text in shown]


def _of_user(metric: str, records: Sequence[RunRecord]) -> bool:
    """Whether a function of the user's own computed it: nobody knows whether more of it is better."""
    return any(f"function:{metric}" in (record.recipe.get("metrics") or []) for record in records)


def same_rows(records: Sequence[RunRecord], split: str) -> bool:
    """Whether the runs that have this split were evaluated on the same rows."""
    found = {(record.data.get(split) or {}).get("fingerprint") for record in records if record.metrics.get(split)}
    return len(found) < 2


def _intervals(records: Sequence[RunRecord], split: str, metric: str) -> list[str]:
    return [_interval({"intervals": record.intervals.get(split)}, metric) for record in records]


def _interval(found: Mapping[str, Any], metric: str) -> str:
    low, high = (found.get("intervals") or {}).get(metric) or (None, None)
    return "-" if low is None or high is None else f"{number(low)}{TO}{number(high)}"


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "true", False: "false"}[value]
    if isinstance(value, list):
        more = f", … ({len(value)} entries)" if len(value) > MOST_ENTRIES else ""
        return ", ".join(map(_value, value[: MOST_ENTRIES if not more else 3])) + more
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def _count(value: Any) -> str:
    return "-" if (known := finite(value)) is None else f"{known:,.0f}"


def _duration(seconds: Any) -> str:
    known = finite(seconds)
    if known is None:
        return "-"
    if known < 60:
        return f"{known:.1f}{SPACE}s"
    minutes, rest = divmod(round(known), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min{SPACE}{rest}{SPACE}s"
    return f"{minutes // 60}{SPACE}h{SPACE}{minutes % 60}{SPACE}min"
