"""Whatever the sizes, names, groups and fractions: splits share no row and lose none, every time; or our error."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from generated import bounded, examples
from hypothesis import event, given
from hypothesis import strategies as st

from hf_sft.data.splits import Split, cut_validation, sample_positions, select_splits
from hf_sft.errors import HfSftError
from hf_sft.recipe import SPLIT_ROLES, DataSet, Recipe

NAMES = ("train", "validation", "test", "dev", "all", "unsupervised", "a+b", "train[:5]", "Train", "é 1")
SLICES = st.one_of(
    st.just(""),
    st.builds("[{}:{}]".format, *[st.one_of(st.just(""), st.integers(-40, 40).map(str))] * 2),
    st.builds("[{}%:{}%]".format, *[st.integers(-20, 120)] * 2),
    st.builds("[:{}%]".format, st.integers(0, 100)),
    st.sampled_from(
        ["[", "[]", "[:]", "[a:b]", "[:10%](pct1_dropremainder)", "[5]", "[::2]", "[:1e9]", "[:" + "9" * 30 + "]"]
    ),
)
SPECS = st.one_of(
    st.sampled_from(["train", "train[:50%]", "train[50%:]", "train[-9:]", "test", "train[:5]+validation"]),
    st.builds("{}{}".format, st.sampled_from(NAMES), SLICES),
    st.lists(st.builds("{}{}".format, st.sampled_from(NAMES[:4]), SLICES), min_size=2, max_size=3).map("+".join),
    st.text(max_size=6),
)
SEEDS = st.integers(0, 2**31 - 1)


def settings_with(**content: Any) -> DataSet | None:
    recipe = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "p", **content}}
    try:
        return Recipe.from_dict(recipe).dataset
    except HfSftError:
        return None


@st.composite
def sources(draw: st.DrawFn) -> DatasetDict:
    """Splits whose rows know where they stand."""
    others = draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
    names = dict.fromkeys([*(["train"] if draw(st.integers(0, 5)) or not others else []), *others])
    rows = {name: [f"{name} {place}" for place in range(draw(st.integers(0, 40)))] for name in names}
    return DatasetDict({name: Dataset.from_dict({"row": content}) for name, content in rows.items()})


@examples(0.1)
@given(sources(), st.dictionaries(st.sampled_from(SPLIT_ROLES), st.one_of(st.none(), SPECS), max_size=3))
def test_splits_are_selected_or_refused(source: DatasetDict, specs: dict[str, str | None]) -> None:
    settings = settings_with(splits=specs)
    assert settings is not None
    with bounded():
        try:
            found = select_splits(source, settings)
        except HfSftError as error:
            assert error.findings and len(str(error)) < 5000
            event("refused")
            return
    event("selected")
    assert "train" in found and set(found) <= set(SPLIT_ROLES)
    rows = {role: split.rows["row"][:] for role, split in found.items()}
    for role, split in found.items():
        assert len(rows[role]) == len(split) == len(split.row_ids) > 0
        assert [int(name.rpartition(" ")[2]) for name in rows[role]] == split.row_ids.tolist()
        assert role == "test" or not set(rows[role]) & set(rows.get("test", ()))
    again = select_splits(source, settings)
    assert {role: split.rows["row"][:] for role, split in again.items()} == rows


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[str], list[Any], DataSet, bool, int]:
    """Labels and groups of the rows, how they are to be cut, and the seed."""
    size = draw(st.integers(0, 60))
    labels = draw(st.lists(st.sampled_from("aaaabbcd"), min_size=size, max_size=size))
    kinds = [
        st.integers(0, 5),
        st.sampled_from(["x", "y", "z"]),
        st.booleans(),
        st.one_of(st.none(), st.integers(0, 3)),
    ]
    groups = draw(st.lists(draw(st.sampled_from(kinds)), min_size=size, max_size=size))
    fraction = draw(st.one_of(st.floats(0.01, 0.99), st.sampled_from([1e-9, 0.1, 0.5, 0.999999])))
    grouped = "group" if draw(st.integers(0, 2)) == 0 else None
    settings = settings_with(validation_fraction=fraction, group_column=grouped)
    assert settings is not None
    return labels, groups, settings, draw(st.booleans()), draw(SEEDS)


@examples(0.1)
@given(cuts())
def test_validation_is_cut_or_refused(cut: tuple[list[str], list[Any], DataSet, bool, int]) -> None:
    labels, groups, settings, stratify, seed = cut
    rows = Dataset.from_dict({"row": range(len(labels)), "group": groups})
    train = Split(rows=rows, row_ids=np.arange(len(labels)), source="train")
    with bounded():
        try:
            if settings.group_column:
                select_splits(DatasetDict({"train": rows}), settings)  # looks at the groups
            rest, held, words = cut_validation(train, labels, settings, stratify=stratify, seed=seed)
        except HfSftError as error:
            assert error.findings
            event("refused")
            return
    event(words.partition("%, ")[2].partition(",")[0])
    assert sorted([*rest, *held]) == list(range(len(labels)))
    assert list(rest) == sorted(rest) and list(held) == sorted(held) and len(rest) and len(held)
    again = cut_validation(train, labels, settings, stratify=stratify, seed=seed)
    assert np.array_equal(again[0], rest) and np.array_equal(again[1], held)
    if settings.group_column:
        assert not {groups[place] for place in rest} & {groups[place] for place in held}
    elif stratify and len(rest) >= len(set(labels)):
        assert {labels[place] for place in rest} == set(labels)
    if "stratified" in words:
        counts, there = Counter(labels), Counter(labels[place] for place in held)
        share = len(held) / len(labels)
        assert all(abs(there[name] - share * number) <= 2 for name, number in counts.items())


@examples(0.1)
@given(st.integers(0, 200), st.sampled_from(SPLIT_ROLES), st.integers(1, 250), SEEDS)
def test_samples_are_some_rows_in_their_order(size: int, role: str, most: int, seed: int) -> None:
    settings = settings_with(max_samples={role: most})
    assert settings is not None
    found = sample_positions(size, role, settings, seed=seed)
    if found is None:
        assert size <= most
        return
    assert len(found) == most < size
    assert list(found) == sorted(set(found)) and found[0] >= 0 and found[-1] < size
    again = sample_positions(size, role, settings, seed=seed)
    assert again is not None and np.array_equal(found, again)
    assert all(sample_positions(size, other, settings, seed=seed) is None for other in SPLIT_ROLES if other != role)


def test_a_class_is_not_lost_to_validation() -> None:
    """Three quarters of thirteen rows, and one row of a class of its own: rounding and chance would take them."""
    for labels, fraction in ((["a"] * 11 + ["b"] * 2, 0.75), (["a"] * 9 + ["b"], 0.5), (["a", "b", "c", "c"], 0.5)):
        train = Split(rows=Dataset.from_dict({"row": labels}), row_ids=np.arange(len(labels)), source="train")
        settings = settings_with(validation_fraction=fraction)
        assert settings is not None
        for seed in range(20):
            rest, held, _ = cut_validation(train, labels, settings, stratify=True, seed=seed)
            assert len(held) == round(fraction * len(labels))
            assert len({labels[place] for place in rest}) == min(len(rest), len(set(labels)))
