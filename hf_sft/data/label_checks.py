"""What a label column and the recipe's words about it cannot be, found before anything is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hf_sft.errors import DataError, Finding
from hf_sft.recipe import DataSet, ProblemName

PLACE = "dataset.columns.label"


def check_settings(problem: ProblemName, class_names: Sequence[str] | None, settings: DataSet) -> None:
    """Raises DataError for keys that would have no effect on these labels, and for names given twice."""
    findings = []
    names = settings.labels or []
    if problem == "regression":
        for key in ("labels", "label_map"):
            if getattr(settings, key):
                expected, found = "nothing, as the labels are numbers (regression)", str(getattr(settings, key))
                fix = "remove this key, or set dataset.problem: single_label"
                findings.append(Finding(place=f"dataset.{key}", expected=expected, found=found, fix=fix))
    elif names and class_names:
        expected, found = "nothing, as the data name their labels: " + ", ".join(class_names[:8]), ", ".join(names[:8])
        fix = "remove this key, or rename labels in dataset.label_map"
        findings.append(Finding(place="dataset.labels", expected=expected, found=found, fix=fix))
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        fix = "merge labels in dataset.label_map"
        found = ", ".join(map(repr, twice)) + " twice"
        findings.append(Finding(place="dataset.labels", expected="each name once", found=found, fix=fix))
    if findings:
        raise DataError(findings)


def check_values(split: str, values: Sequence[Any], problem: ProblemName) -> None:
    """Raises DataError for cells that are no label of that problem; numbers of a regression are read elsewhere."""
    if problem == "regression":
        return
    if problem == "tags":
        return _check_tags(split, values)
    for position, value in enumerate(values):
        items = value if isinstance(value, (list, tuple)) else [value]
        if problem == "single_label" and len(items) != 1:
            fix = "set dataset.problem: multi_label"
            raise _cell(split, position, "one label per row (dataset.problem is single_label)", value, fix)
        if not all(item is None or isinstance(item, (str, int, float)) for item in items):
            kind = "names or ids, or lists of them"
            raise _cell(split, position, kind, value, "cast the column to text, integers, floats or bools")
    if problem == "multi_label" and _are_indicators(values):
        fix = "give each row the list of its labels: those whose place holds a 1"
        raise _cell(split, 0, "lists of label names or ids", values[0], fix)


def _check_tags(split: str, values: Sequence[Any]) -> None:
    """Tags are names or whole numbers, in lists."""
    for position, value in enumerate(values):
        if not isinstance(value, (list, tuple)) or any(type(item) not in (str, int) for item in value):
            raise _cell(split, position, "a list of tags, by name or id", value, "cast the column to lists of text")


def _cell(split: str, position: int, expected: str, value: Any, fix: str) -> DataError:
    found = f"{repr(value)[:60]} in row {position:,} of {split}"
    return DataError(Finding(place=PLACE, expected=expected, found=found, fix=fix))


def _are_indicators(values: Sequence[Any]) -> bool:
    """Whether the lists are vectors with a 0 or 1 per label: of one length, and no list of ids repeats one."""
    lists = [value for value in values if isinstance(value, (list, tuple))]
    if not lists or len({len(value) for value in lists}) > 1:
        return False

    def items() -> Iterator[Any]:
        return (item for value in lists for item in value)

    if not all(item in (0, 1) for item in items()):
        return False
    repeats = any(len(set(value)) < len(value) for value in lists)
    return repeats or any(isinstance(item, (bool, float)) for item in items())
