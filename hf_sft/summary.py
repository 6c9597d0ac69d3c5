"""What a run found, in short: as text for the terminal, as HTML for a notebook."""

from __future__ import annotations

import html
import itertools
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from hf_sft.recipe import SPLIT_ROLES
from hf_sft.record import RunDirectory, RunRecord
from hf_sft.tables import escaped, printable
from hf_sft.usage import loading_lines

# When a widening gap is worth a sentence. One epoch up is noise; so are a few percent.
RISING_EPOCHS = 2
VALIDATION_RISE = 0.10  # of the validation loss at its minimum
TRAINING_FALL = 0.05  # of the training loss at that epoch


class Result(NamedTuple):
    """One metric of one split; None where a number is not defined. probe: of a head solved on pretrained features."""

    metric: str
    value: float | None
    interval: tuple[float, float] | None
    baseline: float | None
    probe: float | None = None


def splits(record: RunRecord) -> list[str]:
    """The evaluated splits: train, validation, test, then any other."""
    known = [split for split in SPLIT_ROLES if record.metrics.get(split)]
    return known + [split for split in record.metrics if split not in SPLIT_ROLES and record.metrics[split]]


def results(record: RunRecord, split: str) -> list[Result]:
    """Every metric of a split: the recipe's first and in its order, the loss last."""
    values = record.metrics[split]
    asked = [name for name in asked_metrics(record) if name in values]
    names = asked + [name for name in values if name not in (*asked, "loss")] + ["loss"] * ("loss" in values)
    majority, probe = (record.baselines.get(split, {}).get(name, {}) for name in ("majority", "linear_probe"))
    found = []
    for name in names:
        low, high = map(finite, record.intervals.get(split, {}).get(name) or (None, None))
        interval = None if low is None or high is None else (low, high)
        found.append(Result(name, finite(values[name]), interval, finite(majority.get(name)), finite(probe.get(name))))
    return found


def asked_metrics(record: RunRecord) -> list[str]:
    """The recipe's metrics, in its order, under the names they have in the record."""
    found = []
    for entry in record.recipe.get("metrics") or []:
        prefix, _, rest = entry.partition(":")  # evaluate:folder/mine.py and function:mine are recorded as `mine`
        found.append(PureWindowsPath(rest).name.removesuffix(".py") if prefix == "evaluate" else rest or entry)
    return found


def finite(value: Any) -> float | None:
    """The value as a float, or None where it is missing or not finite."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def number(value: float | None) -> str:
    """Four decimals; four significant digits where those would hide or drown the number; `-` for None."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1000 else f"{value:.4g}"


def cells(result: Result) -> tuple[str, str, str, str]:
    """A result as it is printed: metric, value, interval, majority baseline."""
    interval = f"{number(result.interval[0])} to {number(result.interval[1])}" if result.interval else "-"
    return result.metric, number(result.value), interval, number(result.baseline)


def shows_probe(record: RunRecord) -> bool:
    """Whether a linear probe was measured that is not the model itself."""
    solved = (record.recipe.get("tuning") or {}).get("solver") == "logistic"
    return not solved and any("linear_probe" in found for found in record.baselines.values())


def compared(record: RunRecord, result: Result) -> tuple[str, ...]:
    """A result as it is printed: metric, value, interval, baselines as `baseline_heads` names them."""
    return (*cells(result), *([number(result.probe)] if shows_probe(record) else []))


def baseline_heads(record: RunRecord) -> tuple[str, ...]:
    """Names of the baselines that metrics are compared with."""
    return (baseline_name(record), *(["linear probe"] if shows_probe(record) else []))


def baseline_name(record: RunRecord) -> str:
    """What is always answered by what the metrics are compared with."""
    return baseline_of(str(record.labels.get("problem")))


def baseline_of(problem: str) -> str:
    """What is always answered in problems of that kind."""
    return {"regression": "mean", "boxes": "mean boxes"}.get(problem, "majority")


def counted(problem: str) -> str:
    """What the support of a class counts."""
    return {"tags": "entities", "pixels": "pixels", "boxes": "boxes"}.get(problem, "rows")


def class_metrics(classes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the numbers that each class has, its support left out."""
    usual = ("precision", "recall", "f1")
    return [name for name in next(iter(classes.values()), dict.fromkeys(usual)) if name != "support"]


def run_name(record: RunRecord) -> str:
    """What the run is called: the last part of its output_dir."""
    return PureWindowsPath(str(record.recipe.get("output_dir", ""))).name or str(record.recipe["task"])


def as_text(record: RunRecord) -> str:
    """The table printed at the end of a run, where the model lies and how to load it, and the notes."""
    lines = [f"{printable(run_name(record))}: {record.recipe['task']}", ""]
    table: list[Sequence[str]] = [("split", "metric", "value", "95 % interval", *baseline_heads(record))]
    for split in splits(record):
        rows = [compared(record, result) for result in results(record, split)]
        table += [
            (split if first else "", *row) for first, row in zip([True] + [False] * len(rows), rows, strict=False)
        ]
    widths = [max(len(printable(row[column])) for row in table) for column in range(len(table[0]))]
    for row in table if len(table) > 1 else []:
        name = "  ".join(printable(text).ljust(width) for text, width in zip(row[:2], widths[:2], strict=True))
        values = "  ".join(printable(text).rjust(width) for text, width in zip(row[2:], widths[2:], strict=True))
        lines.append(f"  {name}  {values}")
    if len(table) == 1:
        lines.append("  no split was evaluated")
    lines += ["", f"model: {printable(str(_model_folder(record)))}", *(f"  {line}" for line in _snippet(record))]
    for note in record.notes:
        lines += textwrap.wrap(printable(note), 110, initial_indent="note: ", subsequent_indent="      ")
    return "\n".join(lines)


def as_html(record: RunRecord) -> str:
    """The same as one piece of HTML with the curves inside it. Takes the notebook's own colours, light or dark."""
    import base64

    from hf_sft import curves

    line = "border-bottom:1px solid rgba(128,128,128,.35);padding:3px 10px;"
    baselines = [f"{baseline_name(record)} baseline", *baseline_heads(record)[1:]]
    heads = ("split", "metric", "value", "95 % interval", *baselines)
    rows = ["".join(f'<th style="{line}text-align:{_align(place)}">{head}</th>' for place, head in enumerate(heads))]
    for split in splits(record):
        for place, result in enumerate(results(record, split)):
            shown = ("" if place else split, *compared(record, result))
            rows.append(
                "".join(
                    f'<td style="{line}text-align:{_align(column)}">{escaped(text)}</td>'
                    for column, text in enumerate(shown)
                )
            )
    table = "".join(f'<tr style="background:transparent">{row}</tr>' for row in rows)
    parts = [
        f"<p><b>{escaped(run_name(record))}</b> &middot; {escaped(str(record.recipe['task']))}</p>",
        f'<table style="border-collapse:collapse">{table}</table>',
    ]
    if any(record.history.get(kind) for kind in ("steps", "epochs")):
        picture = base64.b64encode(curves.as_png(record)).decode("ascii")
        parts.append(
            f'<img alt="loss, metrics and learning rate during training" style="max-width:100%;margin:8px 0" '
            f'src="data:image/png;base64,{picture}">'
        )
    snippet = html.escape("\n".join(_snippet(record)))
    parts.append(f'<pre style="background:transparent;color:inherit">{snippet}</pre>')
    if record.notes:
        parts.append("<ul>" + "".join(f"<li>{escaped(note)}</li>" for note in record.notes) + "</ul>")
    return '<div style="color:inherit">' + "".join(parts) + "</div>"


def gap_note(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """One sentence where training and validation drift apart, with the recipe keys that help; else None.

    The gap widens when validation loss rose at each of the last two evaluations, ends at least 10 % above its minimum,
    and training loss fell by at least 5 % from that epoch on.
    """
    epochs = [
        (entry["epoch"], train, validation)
        for entry in history.get("epochs", ())
        if (train := finite(entry.get("train_loss"))) is not None
        and (validation := finite(entry.get("validation_loss"))) is not None
    ]
    if len(epochs) <= RISING_EPOCHS:
        return None
    tail = [validation for _, _, validation in epochs[-RISING_EPOCHS - 1 :]]
    best, train_then, low = min(epochs, key=lambda entry: entry[2])
    last, train_now, high = epochs[-1]
    rising = all(before < after for before, after in itertools.pairwise(tail))
    # A loss at or below zero (an objective of the user's own) has no ratio to judge by.
    if low <= 0 or not rising or high < (1 + VALIDATION_RISE) * low or train_now > (1 - TRAINING_FALL) * train_then:
        return None
    return (
        f"validation loss rose from {number(low)} (epoch {best:g}) to {number(high)} (epoch {last:g}, "
        f"+{high / low - 1:.0%}) while training loss fell from {number(train_then)} to {number(train_now)}: the model "
        "memorises its training rows; what helps: early_stopping, training.weight_decay, objective.label_smoothing, "
        "fewer training.num_train_epochs, tuning.strategy: head, or more data"
    )


def _snippet(record: RunRecord) -> list[str]:
    """The lines that load the model."""
    folder = json.dumps(str(_model_folder(record)), ensure_ascii=False)
    folder = "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in folder)
    return list(filter(None, loading_lines(record, folder)))


def _model_folder(record: RunRecord) -> Path:
    return RunDirectory(Path(record.output_dir or record.recipe.get("output_dir", ""))).model


def _align(column: int) -> str:
    return "left" if column < 2 else "right"
