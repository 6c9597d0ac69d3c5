"""Whatever stands in a label column: one map comes out, the same for the same labels, or our error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from generated import bounded, examples
from hypothesis import event, given
from hypothesis import strategies as st

from hf_sft.data.labels import LabelColumn, Labels, decide_labels, targets_as_names
from hf_sft.errors import HfSftError
from hf_sft.recipe import DataSet, Recipe

NAMES = st.sampled_from(
    ["a", "b", "c", "A", "a ", "", "1", "2", "10", "-1", "1.0", "True", "nan", "None", "²", "٣", "00"]
)
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")  # what a recipe can hold
WORDS = st.one_of(NAMES, st.text(LETTERS, max_size=4))
INTEGERS = st.one_of(st.integers(0, 4), st.integers(-2, 12), st.integers(-(2**63), 2**63 - 1))
FLOATS = st.one_of(st.sampled_from([0.0, 1.0, 2.0, -0.0, 0.5, math.nan, math.inf, -1.0, 1e300]), st.floats())
MISSING = st.sampled_from([None, None, -1, math.nan])
KINDS = (INTEGERS, WORDS, FLOATS, st.booleans(), st.one_of(INTEGERS, st.none()), st.one_of(WORDS, st.none()))
ODD = st.one_of(st.none(), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2), st.binary(max_size=2))
KEYS = st.one_of(WORDS, st.integers(-1, 5), FLOATS.filter(math.isfinite), st.booleans())
PROBLEMS = st.sampled_from([None] * 6 + ["single_label", "multi_label", "regression"])


@st.composite
def values(draw: st.DrawFn) -> list[Any]:
    """A label column: of one kind, of lists of it, or of anything."""
    kind = draw(st.sampled_from([*KINDS, *(st.lists(kind, max_size=3) for kind in KINDS)]))
    if draw(st.integers(0, 14)) == 14:
        kind = st.one_of(kind, WORDS, INTEGERS, FLOATS, MISSING, ODD, st.lists(ODD, max_size=2))
    return draw(st.lists(kind, min_size=draw(st.sampled_from([0, 4, 4, 4])), max_size=12))


@st.composite
def columns(draw: st.DrawFn) -> dict[str, LabelColumn]:
    splits = {"train": draw(values())}
    if draw(st.booleans()):
        some = draw(st.lists(st.sampled_from(splits["train"]), max_size=6)) if splits["train"] else []
        splits["test"] = some if draw(st.booleans()) else draw(values())
    named = draw(st.integers(0, 4)) == 4
    names = draw(st.lists(WORDS, min_size=1, max_size=5, unique=True).map(tuple)) if named else None
    return {role: LabelColumn(values=found, class_names=names) for role, found in splits.items()}


@st.composite
def settings_for(draw: st.DrawFn, found: Mapping[str, LabelColumn]) -> DataSet:
    """dataset.labels, label_map and problem, their words taken from the data more often than not."""
    flat = [part for value in found["train"].values for part in (value if isinstance(value, list) else [value])]
    scalars = [part for part in flat if isinstance(part, (str, int, float)) and part == part and abs_finite(part)]
    keys = st.sampled_from(scalars) if scalars and draw(st.integers(0, 4)) else KEYS
    targets = st.one_of(st.none(), WORDS, st.integers(-1, 5))
    content: dict[str, Any] = {"path": "p", "problem": draw(PROBLEMS)}
    if draw(st.integers(0, 2)) == 2:
        content["label_map"] = draw(st.dictionaries(keys, targets, max_size=4))
    if draw(st.integers(0, 9)) == 9:
        content["labels"] = draw(st.lists(WORDS, max_size=6))
    recipe = {"task": "text-classification", "model": {"name": "m"}, "dataset": content}
    return Recipe.from_dict(recipe).dataset


def abs_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def decide(found: Mapping[str, LabelColumn], settings: DataSet) -> Labels | None:
    """The labels; None where they are refused. Nothing but our error comes out."""
    with bounded():
        try:
            labels, words = decide_labels(found, settings)
        except HfSftError as error:
            assert error.findings and len(str(error)) < 5000
            return None
    assert words
    return labels


@examples(0.25)
@given(st.data(), columns())
def test_labels_are_decided_or_refused(data: st.DataObject, found: dict[str, LabelColumn]) -> None:
    settings = data.draw(settings_for(found))
    labels = decide(found, settings)
    event(f"labels: {labels.problem if labels else 'refused'}")
    if labels is None:
        return
    assert list(labels.index_of.values()) == list(range(len(labels.names)))  # each name once
    entries = {role: entries_of(column, labels, settings) for role, column in found.items()}
    for column, given_entries in zip(found.values(), entries.values(), strict=True):
        assert len(given_entries) == len(column.values)
    if labels.problem == "regression":
        assert all(entry is None or math.isfinite(entry) for part in entries.values() for entry in part)
        return
    said = {name for part in entries.values() for entry in part if entry is not None for name in as_list(entry)}
    assert said <= set(labels.names)
    assert all(isinstance(name, str) for name in labels.names)
    if not settings.label_map and not settings.labels and found["train"].class_names is None:
        assert said == set(labels.names)
        flat = [value for column in found.values() for value in column.values]
        if all(isinstance(value, int) and not isinstance(value, bool) for value in flat):
            assert sorted(labels.names, key=int) == list(labels.names)


def entries_of(column: LabelColumn, labels: Labels, settings: DataSet) -> list[Any]:
    """What each row says; a number that cannot be one is found here."""
    try:
        return targets_as_names(column, labels.problem, settings)
    except HfSftError:
        assert labels.problem == "regression"
        return [None] * len(column.values)


def as_list(entry: Any) -> list[str]:
    return entry if isinstance(entry, list) else [entry]


@examples(0.15)
@given(st.data(), columns())
def test_the_order_of_rows_changes_no_label(data: st.DataObject, found: dict[str, LabelColumn]) -> None:
    settings = data.draw(settings_for(found))
    shuffled = {
        role: LabelColumn(values=data.draw(st.permutations(column.values)), class_names=column.class_names)
        for role, column in found.items()
    }
    one, other = decide(found, settings), decide(shuffled, settings)
    assert (one and one.names) == (other and other.names)


@examples(0.15)
@given(st.data(), columns())
def test_renamed_labels_are_not_renamed_again(data: st.DataObject, found: dict[str, LabelColumn]) -> None:
    """A data set written down with its new names, read without the map, has the same labels in the same rows."""
    settings = data.draw(settings_for(found))
    labels = decide(found, settings)
    event(f"labels: {labels.problem if labels else 'refused'}")
    if labels is None or labels.problem == "regression":
        return
    named = {role: LabelColumn(values=entries_of(column, labels, settings)) for role, column in found.items()}
    plain = DataSet(path="p", problem=labels.problem)
    again = decide(named, plain)
    assert again is not None
    said = {
        name for column in named.values() for entry in column.values if entry is not None for name in as_list(entry)
    }
    assert set(again.names) == said
    for column in named.values():
        assert targets_as_names(column, labels.problem, plain) == column.values


@examples(0.05)
@given(st.lists(st.integers(-(10**6), 10**6), min_size=2, unique=True, max_size=30))
def test_integers_are_in_the_order_of_numbers(numbers: list[int]) -> None:
    for found in (numbers, [str(number) for number in numbers], [float(number) for number in numbers]):
        labels = decide({"train": LabelColumn(values=found)}, DataSet(path="p"))
        assert labels is not None and labels.names == tuple(map(str, sorted(numbers)))
