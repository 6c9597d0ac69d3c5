"""Laws of the label contract: one map, decided once on the whole column, and nothing left to guess."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from datasets import ClassLabel, Json, List, Value
from loading import UNCUT, assert_says_all, entries_of, ids_of, labelled, load

from hf_sft.data.labels import LabelColumn, Labels, decide_labels
from hf_sft.errors import DataError
from hf_sft.recipe import DataSet
from hf_sft.tasks.load import TaskData

MOOD = ClassLabel(names=["sad", "glad", "calm"])
DIGITS = ClassLabel(names=["1", "2", "3"])  # names that look like the ids of others


def decide(train: Sequence[Any], feature: Any = None, test: Sequence[Any] | None = None, **settings: Any) -> TaskData:
    data = {"train": labelled(train, feature)}
    if test is not None:
        data["test"] = labelled(test, feature)
    return load(UNCUT | settings, data)


def names_of(train: Sequence[Any], feature: Any = None, **settings: Any) -> tuple[str, ...]:
    return decide(train, feature, **settings).labels.names


def refuse(train: Sequence[Any], feature: Any = None, *, place: str = "dataset", **settings: Any) -> str:
    """The message of the finding that these labels meet."""
    with pytest.raises(DataError) as caught:
        decide(train, feature, **settings)
    assert_says_all(caught.value, place)
    return str(caught.value)


# names and their order


@pytest.mark.parametrize(
    ("values", "feature", "names"),
    [
        ([10, 2, 1, 2, 10, 1], None, ("1", "2", "10")),
        ([3, -5, 0, 3, -5, 0], None, ("-5", "0", "3")),
        (["10", "9", "1"] * 2, None, ("1", "9", "10")),
        (["b", "a", "B", "ä"] * 2, None, ("B", "a", "b", "ä")),
        (["10", "9", "x"] * 2, None, ("10", "9", "x")),
        (["1.5", "0.5"] * 2, None, ("0.5", "1.5")),
        ([True, False], None, ("False", "True")),
        ([2.0, 10.0, 1.0], None, ("1", "2", "10")),
        ([2, 0, 1], MOOD, ("sad", "glad", "calm")),
        ([2, 0, 2], MOOD, ("sad", "glad", "calm")),
        ([1, 0, 2], Value("uint8"), ("0", "1", "2")),
        (["b", "a"], Value("large_string"), ("a", "b")),
        ([1, "two"], Json(), ("1", "two")),
    ],
)
def test_labels_stand_in_their_natural_order(values: list[Any], feature: Any, names: tuple[str, ...]) -> None:
    found = decide(values, feature)
    assert found.labels == Labels(problem="single_label", names=names)
    expected = [feature.names[value] for value in values] if isinstance(feature, ClassLabel) else None
    if expected:
        assert entries_of(found.splits["train"]) == expected


def test_the_order_of_rows_does_not_change_the_labels() -> None:
    values = ["c", "a", "b", "a"]
    assert names_of(values) == names_of(values[::-1]) == ("a", "b", "c")


def test_whole_floats_are_classes_and_it_is_said() -> None:
    found = decide([1.0, 2.0, 10.0, 2.0])
    assert entries_of(found.splits["train"]) == ["1", "2", "10", "2"]
    assert any("whole floats" in note and "dataset.problem: regression" in note for note in found.notes)
    assert not any("whole floats" in note for note in decide([1, 2]).notes)


def test_one_number_with_a_fraction_anywhere_makes_a_regression() -> None:
    found = decide([1.0] * 500 + [2.5])
    assert found.labels == Labels(problem="regression", names=("label",))
    assert entries_of(found.splits["train"]) == [1.0] * 500 + [2.5]


def test_the_problem_is_decided_on_train_alone() -> None:
    assert decide([1.0, 2.0], test=[1.0, 2.0]).labels.problem == "single_label"
    assert decide([1.5, 2.0], test=[1.0, 2.0]).labels.problem == "regression"


def test_the_problem_is_said_in_the_notes() -> None:
    for values, settings, word in (
        (["a", "b"], {}, "single_label"),
        ([["a"], ["b"]], {}, "multi_label"),
        ([0.5, 1.5], {}, "regression"),
        ([1, 2], {"problem": "regression"}, "dataset.problem says so"),
    ):
        assert any(word in note for note in decide(values, **settings).notes)


def test_labels_are_the_union_over_splits_with_a_warning_for_those_absent_from_train() -> None:
    found = decide(["a", "b", "a", "b"], test=["c", "a"])
    assert found.labels.names == ("a", "b", "c")
    assert [note for note in found.notes if "warning" in note] == [
        "warning: labels without a row in train, which cannot be learned: c"
    ]


def test_labels_with_one_row_in_train_are_named() -> None:
    assert [note for note in decide(["a", "b", "a", "c"]).notes if "warning" in note] == [
        "warning: labels with one row in train: b, c"
    ]
    many = [f"label {index:02}" for index in range(20)]
    (note,) = (note for note in decide(many).notes if "one row" in note)
    assert "and 12 more" in note
    assert not any("warning" in note for note in decide(["a", "b", "a", "b"]).notes)


def test_splits_may_number_the_same_names_differently() -> None:
    """What a label means is its name; each split's own ClassLabel says which id stands for it."""
    data = {
        "train": labelled([0, 1, 2], MOOD),
        "test": labelled([0, 1, 2, 3], ClassLabel(names=["calm", "sad", "glad", "cross"])),
    }
    found = load(UNCUT, data)
    assert found.labels.names == ("sad", "glad", "calm", "cross")
    assert entries_of(found.splits["train"]) == ["sad", "glad", "calm"]
    assert entries_of(found.splits["test"]) == ["calm", "sad", "glad", "cross"]


def test_labels_know_the_index_of_each_name() -> None:
    labels = Labels(problem="single_label", names=("a", "b", "c"))
    assert labels.index_of == {"a": 0, "b": 1, "c": 2}
    assert labels.reordered(["c", "a", "b"]).index_of == {"c": 0, "a": 1, "b": 2}
    for other in (["a", "b"], ["a", "b", "d"], ["a", "b", "c", "c"]):
        with pytest.raises(ValueError):
            labels.reordered(other)


# splits without labels


@pytest.mark.parametrize(
    ("train", "feature", "hidden"),
    [
        (["a", "b"], None, [None, None]),
        ([0, 1], None, [-1, -1]),
        ([0, 1], MOOD, [-1, -1]),
        ([0, 1], MOOD, [None, -1]),
        ([0.5, 1.5], None, [-1.0, -1.0]),
        ([0.5, 1.5], None, [float("nan"), None]),
        (["a", "b"], None, ["-1", "-1"]),
        ([["a"], ["b"]], None, [None, None]),
        ([[0], [1]], None, [[-1], [-1]]),
        ([[0], [1]], List(MOOD), [[-1], [-1]]),
        ([True, False], None, [None, None]),
    ],
)
def test_a_split_whose_labels_are_all_missing_is_predicted_not_evaluated(
    train: list[Any], feature: Any, hidden: list[Any]
) -> None:
    found = decide(train, feature, test=hidden)
    assert found.splits["test"].entries is None and len(found.splits["test"].split) == 2
    assert any(note.startswith("test: no labels") and "not evaluated" in note for note in found.notes)
    assert found.labels == decide(train, feature).labels


def test_a_test_split_may_lack_the_column_whatever_the_recipe_calls_it() -> None:
    train = labelled(["a", "b"])
    for name in ("label", "mood"):
        data = {"train": train.rename_column("label", name) if name != "label" else train}
        data["test"] = train.remove_columns("label")
        found = load(UNCUT | {"columns": {"label": name}}, data)
        assert found.splits["test"].entries is None


@pytest.mark.parametrize("hidden", [[None, None], [-1, -1]])
def test_a_validation_split_without_labels_is_not_used(hidden: list[Any]) -> None:
    rows = {"train": labelled([0, 1] * 20), "validation": labelled(hidden, Value("int64"))}
    found, without = load({}, rows), load({}, {"train": rows["train"]})
    assert ids_of(found.splits["validation"]) == ids_of(without.splits["validation"])
    assert any(note.startswith("validation: no labels") and "not used" in note for note in found.notes)
    assert set(load(UNCUT, rows).splits) == {"train"}


@pytest.mark.parametrize("values", [[None, None], [-1, -1], [float("nan"), None]])
def test_train_without_labels_is_a_finding(values: list[Any]) -> None:
    refuse(values, Value("float64"), place="dataset.columns.label")


@pytest.mark.parametrize(
    ("train", "feature", "rows"),
    [
        (["a", None, "b", None], None, "1, 3"),
        ([1.0, float("nan"), 2.0], None, "1"),
        ([0, 1, -1], MOOD, "2"),
        ([["a"], None, ["b"]], None, "1"),
        ([["a"], ["b", None]], None, "1"),
        ([[0], [1], [-1, 0]], List(MOOD), "2"),
        ([None] * 9 + ["a", "b"], None, "0, 1, 2, 3, 4 and 4 more"),
    ],
)
def test_some_labels_missing_are_a_finding_with_row_ids(train: list[Any], feature: Any, rows: str) -> None:
    assert f" of train: {rows}" in refuse(train, feature, place="dataset.columns.label")


def test_row_ids_of_missing_labels_are_those_of_the_source() -> None:
    rows = labelled(["a", "b"] * 5 + [None] + ["a"] * 5)
    with pytest.raises(DataError, match=r"1 row of .*: 10"):
        load(UNCUT | {"splits": {"train": "train[5:]", "validation": None}}, {"train": rows})


def test_minus_one_is_a_class_where_integers_have_no_names() -> None:
    found = decide([-1, 1, 1, -1], test=[1, -1])
    assert found.labels.names == ("-1", "1")
    assert entries_of(found.splits["test"]) == ["1", "-1"]
    assert names_of([-1, 0, 1]) == ("-1", "0", "1")
    assert decide([-1.5, -1.0]).splits["train"].entries is not None


@pytest.mark.parametrize(
    ("train", "feature"), [(["a", "a"], None), ([1, 1], None), ([1, 1], MOOD), ([True, True], None), ([2.0], None)]
)
def test_one_class_in_train_is_a_finding(train: list[Any], feature: Any) -> None:
    assert "at least two classes" in refuse(train, feature, place="dataset.columns.label")
    if feature is not None:
        refuse(train, feature, place="dataset.columns.label", test=[0, 1])


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([{"a": 1}, {"a": 2}], "row 0 of train"),
        ([b"a", b"b"], "row 0 of train"),
        ([datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)], "row 0 of train"),
        ([Decimal("1.5"), Decimal("2.5")], "row 0 of train"),
        ([[["a"]], [["b"]]], "row 0 of train"),
    ],
)
def test_what_is_neither_name_nor_number_is_no_label(values: list[Any], word: str) -> None:
    assert word in refuse(values, place="dataset.columns.label")


# dataset.labels


@pytest.mark.parametrize(
    ("values", "problem"),
    [([0, 1, 2], None), ([0.0, 1.0, 2.0], None), ([[0], [1, 2], []], None), ([2, 1, 0], None), (["c", "a", "b"], None)],
)
def test_names_are_given_to_bare_integers(values: list[Any], problem: Any) -> None:
    found = decide(values, labels=["b", "a", "c"])
    assert found.labels.names == ("b", "a", "c")

    def name(value: Any) -> str:
        return value if isinstance(value, str) else ["b", "a", "c"][int(value)]

    expected = [[name(item) for item in value] if isinstance(value, list) else name(value) for value in values]
    assert entries_of(found.splits["train"]) == expected


def test_names_without_a_row_are_kept_with_a_warning() -> None:
    found = decide([0, 1, 0, 1], labels=["a", "b", "c"])
    assert found.labels.names == ("a", "b", "c")
    assert any("cannot be learned: c" in note for note in found.notes)


@pytest.mark.parametrize(
    ("values", "feature", "labels"),
    [
        ([0, 1, 2], None, ["a", "b"]),
        ([1, 2], None, ["a", "b"]),
        ([-1, 0], None, ["a", "b"]),
        ([0, 1], None, ["a", "a"]),
        ([0, 1, 2], None, ["a", "b", "a"]),
        (["x", "y"], None, ["a", "b"]),
        (["0", "1"], None, ["a", "b"]),
        ([True, False], None, ["no", "yes"]),
        ([0, 1], MOOD, ["a", "b", "c"]),
        ([0.5, 1.5], None, ["a", "b"]),
        ([[0], [2]], None, ["a", "b"]),
    ],
)
def test_names_that_do_not_fit_the_data_are_a_finding(values: list[Any], feature: Any, labels: list[str]) -> None:
    refuse(values, feature, place="dataset.labels", labels=labels)


# dataset.label_map


@pytest.mark.parametrize(
    ("values", "feature", "label_map", "names", "entries"),
    [
        # integers, by int or by text
        ([10, 2, 1], None, {1: "one", 2: "two"}, ("one", "two", "10"), ["10", "two", "one"]),
        ([10, 2, 1], None, {"1": "one"}, ("one", "2", "10"), ["10", "2", "one"]),
        ([3, 2, 1], None, {1: "low", 2: "low", 3: "high"}, ("low", "high"), ["high", "low", "low"]),
        ([1, 2, 3, 4], None, {1: None}, ("2", "3", "4"), ["2", "3", "4"]),
        ([1, 2, 10], None, {1: 10}, ("2", "10"), ["10", "2", "10"]),
        ([1, 2, 10], None, {1: 2, 2: 1}, ("1", "2", "10"), ["2", "1", "10"]),
        ([-1, 1, 0], None, {-1: "against", 0: None, 1: "for"}, ("against", "for"), ["against", "for"]),
        # whole floats
        ([1.0, 2.0], None, {1: "a"}, ("a", "2"), ["a", "2"]),
        ([1.0, 2.0], None, {1.0: "a", 2.0: "b"}, ("a", "b"), ["a", "b"]),
        ([1.0, 2.0], None, {"1": "a"}, ("a", "2"), ["a", "2"]),
        # strings
        (["c", "a", "b"], None, {"a": "z", "c": "z"}, ("z", "b"), ["z", "z", "b"]),
        (["c", "a", "b"], None, {"c": None}, ("a", "b"), ["a", "b"]),
        (["a", "b", "c"], None, {"a": 1, "b": 2, "c": 10}, ("1", "2", "10"), ["1", "2", "10"]),
        # bools
        ([True, False], None, {True: "yes", False: "no"}, ("no", "yes"), ["yes", "no"]),
        ([True, False], None, {"True": "yes"}, ("False", "yes"), ["yes", "False"]),
        # ClassLabel, by name or by id
        ([0, 1, 2], MOOD, {"sad": "bad"}, ("bad", "glad", "calm"), ["bad", "glad", "calm"]),
        ([0, 1, 2], MOOD, {0: "bad", "2": "good", 1: "good"}, ("bad", "good"), ["bad", "good", "good"]),
        ([0, 1, 2], MOOD, {"calm": None}, ("sad", "glad"), ["sad", "glad"]),
        ([0, 1, 2], MOOD, {2: None}, ("sad", "glad"), ["sad", "glad"]),
        ([0, 1, 2], MOOD, {"sad": "glad", "glad": "sad"}, ("glad", "sad", "calm"), ["glad", "sad", "calm"]),
        ([0, 1, 2], DIGITS, {1: "one"}, ("one", "2", "3"), ["one", "2", "3"]),
        ([0, 1, 2], DIGITS, {0: "one"}, ("one", "2", "3"), ["one", "2", "3"]),
        # lists
        ([["a", "b"], ["c"], []], None, {"c": "b"}, ("a", "b"), [["a", "b"], ["b"], []]),
        ([["a", "b"], ["b", "c"]], None, {"a": "b"}, ("b", "c"), [["b"], ["b", "c"]]),
        ([["a", "b"], ["c"], []], None, {"c": None}, ("a", "b"), [["a", "b"], []]),
        ([[0, 1], [2], []], List(MOOD), {0: "glad", "calm": None}, ("glad",), [["glad"], []]),
    ],
)
def test_a_label_map_renames_merges_and_drops(
    values: list[Any], feature: Any, label_map: dict[Any, Any], names: tuple[str, ...], entries: list[Any]
) -> None:
    found = decide(values, feature, label_map=label_map)
    assert found.labels.names == names
    assert entries_of(found.splits["train"]) == entries


def test_a_label_map_and_names_work_together() -> None:
    for label_map in ({"a": "b"}, {0: "b"}, {"0": "b"}):
        found = decide([0, 1, 2, 0], labels=["a", "b", "c"], label_map=label_map)
        assert found.labels.names == ("b", "c")
        assert entries_of(found.splits["train"]) == ["b", "b", "c", "b"]
    assert decide([0.0, 1.0, 2.0], labels=["a", "b", "c"], label_map={0: None}).labels.names == ("b", "c")


def test_dropped_rows_are_counted_and_the_others_keep_their_ids() -> None:
    found = decide(["a", "b", "c", "a"], test=["c", "b", "c"], label_map={"c": None})
    assert ids_of(found.splits["train"]) == [0, 1, 3]
    assert ids_of(found.splits["test"]) == [1]
    dropped = [note for note in found.notes if "dropped" in note]
    assert dropped == [
        "train: 1 rows dropped by dataset.label_map",
        "test: 2 rows dropped by dataset.label_map",
    ]


@pytest.mark.parametrize(
    ("values", "feature", "label_map"),
    [
        ([1, 2], None, {3: "x"}),
        ([1, 2], None, {"one": "x"}),
        ([1, 2], None, {1.5: "x"}),
        ([1.0, 2.0], None, {"1.0": "x"}),
        (["a", "b"], None, {"A": "x"}),
        (["a", "b"], None, {"": "x"}),
        ([True, False], None, {"true": "x"}),
        ([True, False], None, {1: "x"}),
        ([0, 1], MOOD, {3: "x"}),
        ([0, 1], MOOD, {-1: "x"}),
        ([0, 1], MOOD, {"Sad": "x"}),
        ([["a"], ["b"]], None, {"c": "x"}),
        ([0.5, 1.5], None, {0.5: 1}),
        ([1, 2, 3], None, {1: None, 2: None}),
    ],
)
def test_a_label_map_that_does_not_fit_is_a_finding(values: list[Any], feature: Any, label_map: Any) -> None:
    refuse(values, feature, label_map=label_map)


def test_all_wrong_keys_of_a_label_map_are_named() -> None:
    with pytest.raises(DataError) as caught:
        decide(["apple", "pear"], label_map={"aple": "x", "peer": "y", "apple": "z"})
    assert [finding.found for finding in caught.value.findings] == ["aple", "peer"]
    assert [finding.fix for finding in caught.value.findings] == ["did you mean 'apple'?", "did you mean 'pear'?"]


@pytest.mark.parametrize("role", ["validation", "test"])
def test_a_map_that_drops_a_whole_split_is_a_finding(role: str) -> None:
    data = {"train": labelled(["a", "b"] * 5), role: labelled(["c", "c"])}
    with pytest.raises(DataError, match=role) as caught:
        load({"label_map": {"c": None}}, data)
    assert_says_all(caught.value, "dataset.label_map")


# several labels


@pytest.mark.parametrize(
    ("values", "feature", "names", "entries"),
    [
        ([["b", "a"], [], ["b"]], None, ("a", "b"), [["b", "a"], [], ["b"]]),
        ([[10, 2], [], [1]], None, ("1", "2", "10"), [["10", "2"], [], ["1"]]),
        ([[2, 0], [], [1]], List(MOOD), ("sad", "glad", "calm"), [["calm", "sad"], [], ["glad"]]),
        ([["a", "a"], ["b"]], None, ("a", "b"), [["a"], ["b"]]),
        ([["a"], [], []], None, ("a",), [["a"], [], []]),
        ([[0, 1], [1, 0]], None, ("0", "1"), [["0", "1"], ["1", "0"]]),
    ],
)
def test_lists_are_several_labels(
    values: list[Any], feature: Any, names: tuple[str, ...], entries: list[list[str]]
) -> None:
    found = decide(values, feature)
    assert found.labels == Labels(problem="multi_label", names=names)
    assert entries_of(found.splits["train"]) == entries


def test_a_test_split_of_empty_lists_has_labels() -> None:
    assert entries_of(decide([["a"], ["b"]], test=[[], []]).splits["test"]) == [[], []]


def test_single_labels_may_be_asked_for_as_several() -> None:
    found = decide(["a", "b"], problem="multi_label")
    assert found.labels == Labels(problem="multi_label", names=("a", "b"))
    assert entries_of(found.splits["train"]) == [["a"], ["b"]]


def test_lists_of_one_label_may_be_asked_for_as_single() -> None:
    found = decide([["a"], ["b"]], problem="single_label")
    assert found.labels == Labels(problem="single_label", names=("a", "b"))
    assert entries_of(found.splits["train"]) == ["a", "b"]


@pytest.mark.parametrize("values", [[["a", "b"], ["b"]], [["a"], [], ["b"]]])
def test_no_label_of_a_list_is_left_out_in_silence(values: list[list[str]]) -> None:
    assert "one label per row" in refuse(values, place="dataset.columns.label", problem="single_label")


@pytest.mark.parametrize(
    "values",
    [[[0.0, 1.0], [1.0, 0.0]], [[0, 1, 1], [1, 0, 0]], [[0, 0], [1, 1]], [[True, False], [False, True]]],
)
def test_vectors_of_zeros_and_ones_are_not_taken_for_lists_of_ids(values: list[Any]) -> None:
    refuse(values, place="dataset.columns.label")


def test_lists_without_any_label_are_a_finding() -> None:
    refuse([[], []], List(Value("string")), place="dataset.columns.label")


# a number


@pytest.mark.parametrize("values", [["1.5", "2", "-3e1"], [1, 2, 3], [True, False, True], [0.5, 1.0, 2.0]])
def test_numbers_are_read_from_what_says_numbers(values: list[Any]) -> None:
    found = decide(values, problem="regression")
    assert found.labels == Labels(problem="regression", names=("label",))
    assert entries_of(found.splits["train"]) == [float(value) for value in values]


def test_the_one_name_of_a_regression_is_its_column() -> None:
    rows = labelled([0.5, 1.5]).rename_column("label", "score")
    assert load(UNCUT | {"columns": {"label": "score"}}, {"train": rows}).labels.names == ("score",)


@pytest.mark.parametrize(
    ("values", "test"),
    [
        (["1.5", "two"], None),
        (["1,5", "2"], None),
        (["nan", "1"], None),
        (["inf", "1"], None),
        ([float("inf"), 1.5], None),
        ([[1.0], [2.0]], None),
        (["", "1"], None),
        (["1.5", "2"], ["3", "x"]),
    ],
)
def test_what_is_no_number_is_a_finding(values: list[Any], test: list[Any] | None) -> None:
    refuse(values, place="dataset.columns.label", problem="regression", test=test)


def test_labels_are_decided_from_columns_alone() -> None:
    """What a stream knows before it has rows: a column of the declared names."""
    columns: Mapping[str, LabelColumn] = {"train": LabelColumn(values=["b", "a"])}
    labels, _ = decide_labels(columns, DataSet(path="memory", labels=["b", "a"]))
    assert labels == Labels(problem="single_label", names=("b", "a"))


@pytest.mark.parametrize("first", [0, 1])
def test_padded_numbers_with_names_for_ids_are_to_be_mapped(first: int) -> None:
    low, high = f"0{first}", f"0{first + 1}"
    said = refuse([high, low], labels=["neg", "pos"])
    assert f'instead of dataset.labels set dataset.label_map: {{"{low}": "neg", "{high}": "pos"}}' in said
    assert names_of([high, low], label_map={low: "neg", high: "pos"}) == ("neg", "pos")
    assert "label_map" not in refuse(["a", "b"], labels=["neg", "pos"])
