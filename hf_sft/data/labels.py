"""The label contract: what the label column says, decided once on all of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hf_sft.data.label_checks import check_settings, check_values
from hf_sft.errors import DataError, Finding, first_few, nearest
from hf_sft.recipe import DataSet, ProblemName

if TYPE_CHECKING:
    from hf_sft.data.bad_rows import Fault

OUTSIDE = "O"  # the tag of a word that belongs to no entity
UNCOUNTED = (-100, "-100")  # the tag of a word that is read and counts nowhere, as PyTorch's losses have it


class PartlyTagged(list[str]):
    """The tags of those words of a row that count. places: of these words, from 0; size: all words of the row."""

    def __init__(self, tags: Sequence[str], places: Sequence[int], size: int):
        super().__init__(tags)
        self.places = list(places)
        self.size = size


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The one label map of a run: built once over all splits, saved with the model, used by everything.

    names: index -> name; regression has one name, that of the label column.
    thresholds: multi_label only, one probability per label, chosen on validation; None means 0.5.
    constrained: tags only, whether predictions keep to IOB2.
    """

    problem: ProblemName
    names: tuple[str, ...]
    thresholds: tuple[float, ...] | None = None
    constrained: bool = False

    @property
    def index_of(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def reordered(self, names: Sequence[str]) -> Labels:
        """The same labels with the ids of another model that has the same set of names."""
        if set(names) != set(self.names) or len(names) != len(self.names):
            raise ValueError(f"not the same label names: {names} and {self.names}")
        return replace(self, names=tuple(names))


@dataclass(frozen=True, kw_only=True)
class LabelColumn:
    """The label values of one split, and the names its ClassLabel feature gives to integers (or none).

    faults: why rows have no value whose label is there and cannot be used.
    """

    values: Sequence[Any]
    class_names: tuple[str, ...] | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def unlabelled(self) -> bool:
        """Whether no row has a label: nulls, or -1 throughout (how the Hub hides the labels of a test split)."""
        return not self.faults and all(self.is_missing(value) or value in (-1, "-1", [-1]) for value in self.values)

    def is_missing(self, value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return any(self.is_missing(item) for item in value)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return True
        return self.class_names is not None and value == -1


def name_of(value: Any, names: Sequence[str] | None) -> str:
    """The name of one label value: its class name where integers have names, else the value as written."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and names is not None:
        if not 0 <= value < len(names):
            raise DataError(
                Finding(
                    place="dataset.labels",
                    expected=f"label ids from 0 to {len(names) - 1} ({len(names)} names are known)",
                    found=str(value),
                    fix="name every id in dataset.labels",
                )
            )
        return names[value]
    return str(value)


def decide_problem(column: LabelColumn, settings: DataSet) -> tuple[ProblemName, str]:
    """What kind of problem the whole training column poses, and why, in words."""
    values = [value for value in column.values if not column.is_missing(value)]
    if settings.problem:
        return settings.problem, f"problem {settings.problem}: dataset.problem says so"
    if any(isinstance(value, (list, tuple)) for value in values):
        return "multi_label", "problem multi_label: labels are lists"
    numbers = [value for value in values if isinstance(value, float)]
    if numbers and column.class_names is None:
        if all(value.is_integer() for value in numbers):
            why = "problem single_label: labels are whole floats; dataset.problem: regression says otherwise"
            return "single_label", why
        return "regression", "problem regression: labels are numbers with a fraction"
    return "single_label", "problem single_label: one label per row"


def label_names(value: Any, column: LabelColumn, settings: DataSet) -> list[str]:
    """The names one cell stands for, after dataset.label_map; dropped labels are left out."""
    known, mapping = _known_names(column, settings), _mapping(settings)
    names = []
    for item in value if isinstance(value, (list, tuple)) else [value]:
        mapped = _map(name_of(item, known), name_of(item, None), mapping, known)
        if mapped is not None:
            names.append(mapped)
    return list(dict.fromkeys(names))


def tag_names(values: Sequence[Any], column: LabelColumn, settings: DataSet) -> list[str]:
    """The names of the tags of one row, after dataset.label_map; a dropped tag is that of no entity.

    Words tagged -100 have none, unless dataset.label_map says what they are.
    """
    mapping = _mapping(settings)
    if not any(value in UNCOUNTED for value in values):
        return [name or OUTSIDE for name in names_of_each(values, column, settings)]
    places = [place for place, value in enumerate(values) if value not in UNCOUNTED]
    tags = tag_names([values[place] for place in places], column, settings)
    if str(UNCOUNTED[0]) not in mapping:
        return PartlyTagged(tags, places, len(values))
    named = dict(zip(places, tags, strict=True))
    return [named.get(place, mapping[str(UNCOUNTED[0])] or OUTSIDE) for place in range(len(values))]


def names_of_each(values: Sequence[Any], column: LabelColumn, settings: DataSet) -> list[str | None]:
    """The name of every label of one row, in order, after dataset.label_map; None for one that it drops."""
    known, mapping = _known_names(column, settings), _mapping(settings)
    names = {item: _map(name_of(item, known), name_of(item, None), mapping, known) for item in set(values)}
    return [names[item] for item in values]


def mapped_names(ids: Sequence[int], settings: DataSet) -> dict[int, str | None]:
    """Id -> name by dataset.labels (else the id itself) and label_map, whose ids need no name; None: dropped."""
    known, mapping = settings.labels or None, _mapping(settings)
    own = [known if str(number) not in mapping or number < len(known or ()) else None for number in ids]
    return {
        number: _map(name_of(number, names), str(number), mapping, known)
        for number, names in zip(ids, own, strict=True)
    }


def _known_names(column: LabelColumn, settings: DataSet) -> Sequence[str] | None:
    return column.class_names or settings.labels or None


def _mapping(settings: DataSet) -> dict[str, str | None]:
    """dataset.label_map with keys as labels are named: 1, 1.0 and "1" are one key."""
    return {name_of(key, None): None if name is None else str(name) for key, name in (settings.label_map or {}).items()}


def _map(name: str, identifier: str, mapping: Mapping[str, str | None], known: Sequence[str] | None) -> str | None:
    """What the map makes of a label. A key is a name; where no label has that name, an id."""
    if name not in mapping and identifier in mapping and identifier not in (known or ()):
        return mapping[identifier]
    return mapping.get(name, name)


def targets_as_names(column: LabelColumn, problem: ProblemName, settings: DataSet) -> list[Any]:
    """One entry per row: a name, a list of names or tags, a number; None where there is no label or it is dropped."""
    if problem == "regression":
        return [None if column.is_missing(value) else _number(value) for value in column.values]
    if problem == "tags":
        rows = column.values
        return [None if column.is_missing(row) else tag_names(row, column, settings) for row in rows]
    entries: list[Any] = []
    for value in column.values:
        names = [] if column.is_missing(value) else label_names(value, column, settings)
        if problem in ("multi_label", "boxes"):
            dropped = bool(value) and not names  # an empty list is a row without any label, which is an answer
            entries.append(None if column.is_missing(value) or dropped else names)
        else:
            entries.append(names[0] if names else None)
    return entries


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isfinite(number):
        return number
    raise DataError(
        Finding(
            place="dataset.columns.label",
            expected="numbers (dataset.problem is regression)",
            found=repr(value)[:60],
            fix="set dataset.problem: single_label, or name another column",
        )
    )


def decide_labels(
    columns: Mapping[str, LabelColumn], settings: DataSet, *, problem: ProblemName | None = None
) -> tuple[Labels, list[str]]:
    """The label map over the union of all labelled splits, and what a reader should know about it.

    problem: the one of a task that has no other.
    Raises DataError for labels that do not fit the problem or the recipe, and when train has fewer than two classes.
    """
    train = columns["train"]
    if problem is None:
        problem, why = decide_problem(train, settings)
    else:
        why = f"problem {problem}: that of the task"
    check_settings(problem, train.class_names, settings)
    for split, column in columns.items():
        check_values(split, column.values, problem)
    if problem == "regression":
        return Labels(problem=problem, names=(str(settings.columns.get("label", "label")),)), [why]
    check_map(settings, columns)
    counts: dict[str, Counter[str]] = {}
    for split, column in columns.items():
        entries = targets_as_names(column, problem, settings)
        flat = (
            name for entry in entries if entry is not None for name in ([entry] if isinstance(entry, str) else entry)
        )
        counts[split] = Counter(flat)
    found = set().union(*counts.values())
    names = _ordered(found, train, settings)
    learned = [name for name in names if counts["train"][name]]
    if len(learned) < (2 if problem == "single_label" else 1):
        raise DataError(
            Finding(
                place="dataset.columns.label",
                expected="at least two classes in train" if problem == "single_label" else "a label in train",
                found=", ".join(map(repr, learned)) or "no label",
                fix="check the label column, label_map and the splits",
            )
        )
    return Labels(problem=problem, names=tuple(names)), [why, *_warnings(names, counts)]


def _ordered(found: set[str], train: LabelColumn, settings: DataSet) -> list[str]:
    """Declared order where there is one; integers by value, others by the alphabet; mapped names by their sources."""
    declared, mapping = _known_names(train, settings), _mapping(settings)
    if declared:
        mapped = (_map(name, str(index), mapping, declared) for index, name in enumerate(declared))
        ordered = list(dict.fromkeys(name for name in mapped if name is not None))
        others = _natural(found - set(ordered))
        if settings.labels and others:
            expected = "labels that dataset.labels names: " + first_few(settings.labels, 8)
            fix = _map_padded(others, settings.labels) or "name every label in dataset.labels, or none"
            raise DataError(Finding(place="dataset.labels", expected=expected, found=first_few(others, 8), fix=fix))
        return ordered + others
    if mapping and not _are_integers(found):
        sources = _natural(set(mapping) | (found - {name for name in mapping.values() if name is not None}))
        targets = dict.fromkeys(mapping.get(source, source) for source in sources)
        return [name for name in targets if name in found]
    return _natural(found)


def _map_padded(found: Sequence[str], names: Sequence[str]) -> str:
    """The fix where all labels are numbers padded with zeros, which are names and no ids; empty where they are not."""
    numbers = [int(name) for name in found if name.isdecimal()]
    padded = any(len(name) > 1 and name.startswith("0") for name in found)
    if not padded or not len(set(numbers)) == len(numbers) == len(found) <= len(names):
        return ""
    places = range(len(names)) if len(found) == len(names) else numbers  # in order, where there is a name for each
    if max(places) >= len(names):
        return ""
    quoted = [json.dumps(names[place], ensure_ascii=False) for place in places]
    pairs = [f"{json.dumps(label)}: {name}" for label, name in zip(found, quoted, strict=True)]
    return f"instead of dataset.labels set dataset.label_map: {{{first_few(pairs, 20)}}}"


def _natural(names: set[str]) -> list[str]:
    return sorted(names, key=lambda name: (int(name), name)) if _are_integers(names) else sorted(names)


def _are_integers(names: set[str]) -> bool:
    return all(name.removeprefix("-").isdecimal() for name in names)


def check_map(settings: DataSet, columns: Mapping[str, LabelColumn]) -> None:
    """A key of label_map that stands nowhere in the data is a mistake, not a wish."""
    if not settings.label_map:
        return
    seen: set[str] = set()
    for column in columns.values():
        known = _known_names(column, settings)
        seen.update(known or ())
        for value in column.values:
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if not column.is_missing(item):
                    seen |= {name_of(item, None), name_of(item, None if item in UNCOUNTED else known)}
    wrong = [key for key in _mapping(settings) if key not in seen]
    if wrong:
        raise DataError(
            [
                Finding(
                    place="dataset.label_map",
                    expected="labels that stand in the data",
                    found=key or "an empty name",
                    fix=nearest(key, sorted(seen)),
                )
                for key in wrong
            ]
        )


def _warnings(names: list[str], counts: Mapping[str, Counter[str]]) -> list[str]:
    train = counts["train"]
    absent, single = ([name for name in names if train[name] == number] for number in (0, 1))
    warnings = []
    if absent:
        warnings.append(f"warning: labels without a row in train, which cannot be learned: {first_few(absent, 8)}")
    if single:
        warnings.append(f"warning: labels with one row in train: {first_few(single, 8)}")
    return warnings
