"""Laws of splits: which rows train, validate and test, and that nobody sees the rows of another."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, load_dataset
from loading import (
    UNCUT,
    assert_says_all,
    entries_of,
    ids_of,
    labelled,
    load,
    make_recipe,
    make_rows,
    plain,
    texts_of,
    write,
)

from hf_sft.data.load import load_source
from hf_sft.data.splits import Split, cut_validation, name_splits, sample_positions, select_splits
from hf_sft.errors import DataError
from hf_sft.recipe import DataSet

ROWS = make_rows(50)


def make_split(number: int, groups: list[Any] | None = None) -> Split:
    columns: dict[str, list[Any]] = {"text": [f"text {index}" for index in range(number)]}
    if groups:
        columns["group"] = groups
    return Split(rows=Dataset.from_dict(columns), row_ids=np.arange(number), source="train")


def cut(
    number: int, targets: list[Any], *, seed: int = 0, fraction: float = 0.2, stratify: bool = True
) -> tuple[list[int], list[int]]:
    settings = DataSet(path="memory", validation_fraction=fraction)
    rest, held, _ = cut_validation(make_split(number), targets, settings, stratify=stratify, seed=seed)
    return rest.tolist(), held.tolist()


def cut_groups(groups: list[Any], *, seed: int = 0, fraction: float = 0.2) -> tuple[list[int], list[int]]:
    settings = DataSet(path="memory", validation_fraction=fraction, group_column="group")
    split = make_split(len(groups), groups)
    rest, held, _ = cut_validation(split, ["a", "b"] * len(groups), settings, stratify=True, seed=seed)
    return rest.tolist(), held.tolist()


# found by name


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train"], {"train": "train"}),
        (["training", "testing"], {"train": "training", "test": "testing"}),
        (["test", "validation", "train"], {"train": "train", "validation": "validation", "test": "test"}),
        (["train", "valid"], {"train": "train", "validation": "valid"}),
        (["train", "val"], {"train": "train", "validation": "val"}),
        (["train", "dev"], {"train": "train", "validation": "dev"}),
        (["train", "eval"], {"train": "train", "validation": "eval"}),
        (["train", "dev", "validation"], {"train": "train", "validation": "validation"}),
        (["train", "unsupervised", "extra"], {"train": "train"}),
    ],
)
def test_usual_names_of_splits_are_found(names: list[str], found: dict[str, str]) -> None:
    assert name_splits(names, DataSet(path="memory")) == found


def test_what_the_recipe_says_of_a_split_wins_over_usual_names() -> None:
    settings = DataSet(path="memory", splits={"train": "dev[:50%]", "validation": None, "test": "extra"})
    assert name_splits(["train", "dev", "test", "extra"], settings) == {"train": "dev[:50%]", "test": "extra"}


def test_null_unuses_a_split() -> None:
    data = {"train": Dataset.from_list(ROWS), "validation": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS)}
    assert set(load({}, data).splits) == {"train", "validation", "test"}
    assert set(load({"splits": {"test": None}}, data).splits) == {"train", "validation"}
    found = load({"splits": {"test": None, "validation": None}}, data)
    assert set(found.splits) == {"train"}
    assert texts_of(found.splits["train"]) == [row["text"] for row in ROWS]


# slices

SLICES = [
    "train",
    "train[:80%]",
    "train[33%:66%]",
    "train[-10%:]",
    "train[10:15]",
    "train[-2:]",
    "train[10:15]+train[-2:]",
    "train[:10%]+other[:3]+train[90%:]",
    "train+other",
    "train[45:1000]",
    "train[-1000:3]",
    "train[50:60]+train[:2]",
    "train[:7%](closest)",
]
SOURCES = ("csv", "jsonl", "parquet", "folder", "saved", "Dataset", "DataFrame")


def make_source(kind: str, folder: Path) -> tuple[dict[str, Any], Any]:
    """Fifty rows of "train" and seven of "other", kept in that way."""
    parts = {"train": ROWS, "other": make_rows(7, start=100)}
    if kind == "Dataset":
        return {}, {name: Dataset.from_list(rows) for name, rows in parts.items()}
    if kind == "DataFrame":
        return {}, {name: Dataset.from_list(rows).to_pandas() for name, rows in parts.items()}
    if kind == "saved":
        DatasetDict({name: Dataset.from_list(rows) for name, rows in parts.items()}).save_to_disk(folder / "saved")
        return {"path": "saved"}, None
    ending = "csv" if kind == "folder" else kind
    files = {name: str(write(rows, folder / f"{name}.{ending}")) for name, rows in parts.items()}
    reader = "json" if ending == "jsonl" else ending
    return {"path": "." if kind == "folder" else reader, "data_files": files}, None


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What load_dataset itself makes of each slice."""
    folder = tmp_path_factory.mktemp("reference")
    parts = {"train": ROWS, "other": make_rows(7, start=100)}
    files = {name: str(write(rows, folder / f"{name}.csv")) for name, rows in parts.items()}
    cache = str(folder / "cache")
    return {spec: plain(load_dataset("csv", data_files=files, split=spec, cache_dir=cache)) for spec in SLICES}


@pytest.mark.parametrize("kind", SOURCES)
def test_slices_of_every_source_are_those_of_load_dataset(
    kind: str, reference: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    dataset, data = make_source(kind, tmp_path)
    source, _ = load_source(make_recipe(dataset, folder=tmp_path), data)
    for spec in SLICES:
        chosen = select_splits(source, DataSet(path="memory", splits={"train": spec}))["train"]
        assert plain(chosen.rows) == reference[spec], spec
        assert len(chosen) == len(reference[spec]) and chosen.source == spec


@pytest.mark.parametrize("kind", SOURCES)
def test_row_ids_point_at_the_rows_of_the_source(kind: str, tmp_path: Path) -> None:
    dataset, data = make_source(kind, tmp_path)
    splits = {"train": "train[10:45]", "test": "train[:5]+train[-3:]"}
    found = load(
        {**dataset, "splits": splits, "max_samples": {"train": 20}, "label_map": {2: None}}, data, folder=tmp_path
    )
    assert set(found.splits) == {"train", "validation", "test"}
    for part in found.splits.values():
        assert part.split.row_ids.dtype == np.int64
        assert texts_of(part) == [ROWS[row]["text"] for row in ids_of(part)]
        assert entries_of(part) == [str(ROWS[row]["label"]) for row in ids_of(part)]


def test_a_split_may_have_any_name_in_memory() -> None:
    found = load({"splits": {"train": "my split [2]", "validation": None}}, {"my split [2]": Dataset.from_list(ROWS)})
    assert texts_of(found.splits["train"]) == [row["text"] for row in ROWS]


@pytest.mark.parametrize(
    "spec",
    [
        *("trian", "Train", "all", "", " ", "train[80:", "train[abc]", "train]", "train+", "+train", "train;test"),
        *("train[100:200]", "train[5:2]", "train[:0]", "train[50:]", "train[:0%]", "train[:200%]"),
        *("train[:50%]+nope", "nope[:3]", "train[:1%](pct1_dropremainder)", "train[::2]", "train[3]", "empty"),
    ],
)
def test_a_split_that_is_not_there_is_a_finding(spec: str) -> None:
    data = {"train": Dataset.from_list(ROWS), "empty": Dataset.from_list(ROWS).select([])}
    for role in ("train", "validation", "test"):
        with pytest.raises(DataError) as caught:
            load({"splits": {"train": "train", role: spec}}, data)
        assert_says_all(caught.value, f"dataset.splits.{role}")


@pytest.mark.parametrize("splits", [{}, {"train": None}])
def test_nothing_to_train_on_is_a_finding(splits: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        load({"splits": splits}, {"test" if not splits else "train": Dataset.from_list(ROWS)})
    assert_says_all(caught.value, "dataset.splits.train")


# the test split


@pytest.mark.parametrize(
    "splits",
    [
        {"test": "train"},
        {"test": "train[50%:]"},
        {"train": "train[:60%]", "test": "train[50%:]"},
        {"train": "train[:10]+train[30:40]", "test": "train[39:50]"},
        {"validation": "test"},
        {"validation": "test[:2]"},
    ],
)
def test_rows_of_the_test_split_may_stand_nowhere_else(splits: dict[str, str]) -> None:
    data = {"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS)}
    with pytest.raises(DataError) as caught:
        load({"splits": splits}, data)
    assert_says_all(caught.value, "dataset.splits.test")


def test_slices_that_touch_do_not_overlap() -> None:
    splits = {"train": "train[:60%]+train[90%:]", "validation": "train[60%:70%]", "test": "train[70%:90%]"}
    found = load({"splits": splits}, {"train": Dataset.from_list(ROWS)})
    ids = [row for part in found.splits.values() for row in ids_of(part)]
    assert sorted(ids) == list(range(50))


def test_the_cut_takes_nothing_from_the_test_split() -> None:
    data = {"train": Dataset.from_list(ROWS), "test": Dataset.from_list(make_rows(20, start=200))}
    found = load({}, data)
    assert texts_of(found.splits["test"]) == [row["text"] for row in make_rows(20, start=200)]
    cut_apart = sorted([*ids_of(found.splits["train"]), *ids_of(found.splits["validation"])])
    assert cut_apart == list(range(50))
    for changed in (None, Dataset.from_list(make_rows(3, start=500))):
        again = load({}, {"train": data["train"], **({"test": changed} if changed else {})})
        assert ids_of(again.splits["validation"]) == ids_of(found.splits["validation"])


# the cut


@pytest.mark.parametrize("number", [2, 3, 10, 37, 200])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5])
@pytest.mark.parametrize("seed", [0, 1, 42])
def test_a_cut_parts_the_rows_in_two(number: int, fraction: float, seed: int) -> None:
    targets = [index % 3 for index in range(number)]
    rest, held = cut(number, targets, seed=seed, fraction=fraction)
    assert sorted([*rest, *held]) == list(range(number))
    assert rest == sorted(rest) and held == sorted(held)
    assert len(held) == max(1, round(fraction * number))


def test_a_cut_is_stratified() -> None:
    targets = ["often"] * 150 + ["sometimes"] * 40 + ["rarely"] * 10
    for seed in range(5):
        _, held = cut(200, targets, seed=seed, fraction=0.1)
        assert Counter(targets[row] for row in held) == {"often": 15, "sometimes": 4, "rarely": 1}


@pytest.mark.parametrize(
    ("targets", "fraction"),
    [
        (["a"] * 10 + ["b"] * 9 + ["c"], 0.3),  # one row of c stands on one side
        ([str(index // 2) for index in range(20)], 0.1),  # ten classes, two held rows
        ([str(index // 2) for index in range(20)], 0.95),  # ten classes, one row left
    ],
)
def test_a_cut_that_cannot_be_stratified_is_at_random_and_says_so(targets: list[str], fraction: float) -> None:
    settings = DataSet(path="memory", validation_fraction=fraction)
    rest, held, words = cut_validation(make_split(20), targets, settings, stratify=True, seed=0)
    assert sorted([*rest, *held]) == list(range(20))
    assert "at random" in words


@pytest.mark.parametrize("values", [[["a", "b"], [], ["b"]], [["a"], ["b"], ["a"]], [0.5, 1.5, 2.25]])
def test_lists_of_labels_and_numbers_are_cut_at_random(values: list[Any]) -> None:
    found = load({}, {"train": labelled(values * 10)})
    assert len(found.splits["validation"].split) == 3
    assert any("at random" in note for note in found.notes)


def test_no_group_stands_on_both_sides_of_a_cut() -> None:
    groups = [f"writer {index * index % 17}" for index in range(120)]
    for seed in range(10):
        rest, held = cut_groups(groups, seed=seed)
        assert sorted([*rest, *held]) == list(range(120)) and rest and held
        assert not {groups[row] for row in rest} & {groups[row] for row in held}


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.9, 0.99])
def test_two_groups_are_cut_whatever_the_fraction(fraction: float) -> None:
    rest, held = cut_groups([1, 1, 1, 2], fraction=fraction)
    assert sorted([rest, held]) == [[0, 1, 2], [3]]


@pytest.mark.parametrize(
    "groups", [[1, 1, 2, 2], ["a", "a", "b", "b"], [0.5, 0.5, 1.0, 1.0], [True, True, False, False]]
)
def test_groups_may_be_values_of_any_simple_type(groups: list[Any]) -> None:
    rows = labelled(["x", "y", "x", "y"]).add_column("group", groups)
    found = load({"group_column": "group"}, {"train": rows})
    sides = [ids_of(found.splits["train"]), ids_of(found.splits["validation"])]
    assert sorted(sides) == [[0, 1], [2, 3]]
    assert any("grouped by group" in note for note in found.notes)


@pytest.mark.parametrize("groups", [["a", None, "b", "a"], [[1], [2], [1], [2]], [{"a": 1}] * 4])
@pytest.mark.parametrize("validation", [True, False])
def test_a_group_column_of_nulls_or_lists_is_a_finding(groups: list[Any], validation: bool) -> None:
    rows = labelled(["x", "y", "x", "y"]).add_column("group", groups)
    with pytest.raises(DataError) as caught:
        load({"group_column": "group"}, {"train": rows} | ({"validation": rows} if validation else {}))
    assert_says_all(caught.value, "dataset.group_column")


@pytest.mark.parametrize("validation", [True, False])
def test_a_group_column_that_is_not_there_is_a_finding(validation: bool) -> None:
    rows = Dataset.from_list(ROWS)
    with pytest.raises(DataError, match="did you mean 'group'") as caught:
        load({"group_column": "groups"}, {"train": rows} | ({"validation": rows} if validation else {}))
    assert_says_all(caught.value, "dataset.group_column")


def test_one_group_cannot_be_cut() -> None:
    with pytest.raises(DataError) as caught:
        load({"group_column": "group"}, {"train": Dataset.from_list(ROWS[:4])})
    assert_says_all(caught.value, "dataset.validation_fraction")


@pytest.mark.parametrize(("number", "fraction"), [(1, 0.1), (3, 0.999)])
def test_rows_too_few_to_cut_are_a_finding(number: int, fraction: float) -> None:
    with pytest.raises(DataError) as caught:
        cut(number, ["a"] * number, fraction=fraction)
    assert_says_all(caught.value, "dataset.validation_fraction")


def test_the_cut_is_a_function_of_rows_and_seed_alone(tmp_path: Path) -> None:
    """Another process has other states of every generator, another time, and its rows from a cache."""
    found = []
    for index, (kind, seed) in enumerate([("csv", 7), ("csv", 7), ("Dataset", 7), ("parquet", 7), ("csv", 8)]):
        random.seed(index)
        np.random.seed(index)
        torch.manual_seed(index)
        dataset, data = make_source(kind, tmp_path)
        for grouped in ({}, {"group_column": "group"}):
            part = load({**dataset, **grouped}, data, folder=tmp_path, seed=seed).splits["validation"]
            found.append((ids_of(part), texts_of(part)))
    plain_cuts, grouped_cuts = found[::2], found[1::2]
    for cuts in (plain_cuts, grouped_cuts):
        assert cuts[0] == cuts[1] == cuts[2] == cuts[3] != cuts[4]


def test_the_cut_is_the_same_today_as_when_a_run_began() -> None:
    """The rows of a run that is resumed years later: these numbers must not change with our code."""
    assert cut(20, [0.5] * 20, seed=42, stratify=False)[1] == [0, 1, 15, 17]
    assert cut(20, ["a", "b"] * 10, seed=42)[1] == [5, 6, 12, 13]
    assert cut_groups([index // 2 for index in range(20)], seed=42)[1] == [2, 3, 16, 17]
    drawn = sample_positions(20, "train", DataSet(path="memory", max_samples={"train": 4}), seed=42)
    assert drawn is not None and drawn.tolist() == [7, 9, 14, 15]


def test_the_cut_leaves_the_state_of_generators_alone() -> None:
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    load({"max_samples": {"train": 10}}, {"train": Dataset.from_list(ROWS)})
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


# samples


def test_a_sample_is_seeded_and_keeps_the_order() -> None:
    settings = DataSet(path="memory", max_samples={"train": 30})
    drawn = [sample_positions(1000, "train", settings, seed=seed) for seed in (0, 0, 1)]
    for positions in drawn:
        assert positions is not None
        assert len(set(positions.tolist())) == 30 and (np.diff(positions) > 0).all()
        assert positions.min() >= 0 and positions.max() < 1000
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()  # type: ignore[union-attr]


def test_every_row_is_as_likely_in_a_sample() -> None:
    settings = DataSet(path="memory", max_samples={"train": 10})
    counts = np.zeros(20)
    for seed in range(2000):
        counts[sample_positions(20, "train", settings, seed=seed)] += 1
    assert np.abs(counts / 2000 - 0.5).max() < 0.05


@pytest.mark.parametrize("most", [None, 50, 51, 1000])
def test_a_sample_of_all_rows_or_more_is_all_rows(most: int | None) -> None:
    dataset = UNCUT | ({"max_samples": {"train": most}} if most else {})
    assert ids_of(load(dataset, {"train": Dataset.from_list(ROWS)}).splits["train"]) == list(range(50))


def test_samples_are_drawn_from_each_split_on_its_own() -> None:
    data = {role: Dataset.from_list(ROWS) for role in ("train", "validation", "test")}
    whole, sampled = (load(settings, data) for settings in ({}, {"max_samples": {"train": 9, "test": 9}}))
    assert {role: len(part.split) for role, part in sampled.splits.items()} == {"train": 9, "validation": 50, "test": 9}
    assert ids_of(sampled.splits["train"]) != ids_of(sampled.splits["test"])
    assert sampled.labels == whole.labels


def test_a_sample_of_train_leaves_the_cut_as_it_was() -> None:
    data = {"train": Dataset.from_list(ROWS)}
    whole, sampled = (load(settings, data) for settings in ({}, {"max_samples": {"train": 9}}))
    assert ids_of(sampled.splits["validation"]) == ids_of(whole.splits["validation"])
    assert set(ids_of(sampled.splits["train"])) < set(ids_of(whole.splits["train"]))
