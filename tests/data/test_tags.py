"""Tags of words: how they are read, ordered, mapped, and what is said where they cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_sft.data.spans import tag_words
from hf_sft.data.words import join_words, split_text
from hf_sft.errors import DataError, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import TaskData, load_data

TASK = TASKS["token-classification"]
NAMES = ["O", "B-PER", "I-PER", "B-LOC"]
IDS = Features({"tokens": List(Value("string")), "label": List(ClassLabel(names=NAMES))})


def load(rows: Dataset, processor: Any = None, **dataset: Any) -> TaskData:
    content = {"task": TASK.name, "model": {"name": "none"}, "processor": processor or {}}
    recipe = Recipe.from_dict({**content, "dataset": {"path": "memory", **dataset}})
    return load_data(recipe, TASK, {"train": rows, "validation": rows})


def refused(rows: Dataset, **dataset: Any) -> str:
    with pytest.raises((DataError, RecipeError)) as caught:
        load(rows, **dataset)
    return str(caught.value)


def tagged(*tags: list[Any], features: Any = None) -> Dataset:
    rows = {"tokens": [["a"] * len(row) for row in tags], "label": list(tags)}
    return Dataset.from_dict(rows, features=features)


def entries(found: TaskData) -> list[list[str]]:
    kept = found.splits["train"].entries
    assert kept is not None
    return list(kept)


def test_tags_by_name_stand_with_o_first_then_by_type() -> None:
    found = load(tagged(["B-PER", "O"], ["I-LOC", "I-PER", "B-LOC"]))
    assert found.labels.names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert found.labels.problem == "tags" and not found.labels.constrained
    assert entries(found) == [["B-PER", "O"], ["I-LOC", "I-PER", "B-LOC"]]


@pytest.mark.parametrize("named", [True, False])
def test_tags_by_id_keep_the_order_of_their_names(named: bool) -> None:
    """Names in the features, or in dataset.labels; also those that no row has."""
    rows = tagged([1, 2, 0], [0, 1], features=IDS if named else None)
    found = load(rows, **({} if named else {"labels": NAMES}))
    assert found.labels.names == tuple(NAMES)
    assert entries(found) == [["B-PER", "I-PER", "O"], ["O", "B-PER"]]
    if not named:
        assert "dataset.labels" in refused(rows) and "tags of IOB2" in refused(rows)


def test_tags_are_renamed_and_dropped_by_the_map() -> None:
    rows = tagged(["B-PER", "I-PER", "B-LOC"], ["O", "B-X", "O"])
    found = load(rows, label_map={"B-PER": "B-MAN", "I-PER": "I-MAN", "B-LOC": None, "B-X": "O"})
    assert entries(found) == [["B-MAN", "I-MAN", "O"], ["O", "O", "O"]]
    assert found.labels.names == ("O", "B-MAN", "I-MAN")
    assert "B-PERSON" in refused(rows, label_map={"B-PERSON": "O"})


def test_words_tagged_minus_100_have_no_tag_unless_the_map_gives_them_one() -> None:
    for tags, others in (
        ([[1, -100, 2], [-100, 0]], {"labels": NAMES}),
        ([["B-PER", "-100", "I-PER"], ["-100", "O"]], {}),
    ):
        found = load(tagged(*tags), **others)
        assert entries(found) == [["B-PER", "I-PER"], ["O"]] and "-100" not in found.labels.names
        (targets,) = {problem.encode for problem in TASK.problems.values()}
        assert [row.tolist().index(-100) for row in targets(entries(found), found.labels)] == [1, 0]
        for name in ("O", None):
            mapped = load(tagged(*tags), **others, label_map={-100: name})
            assert entries(mapped) == [["B-PER", "O", "I-PER"], ["O", "O"]]


@pytest.mark.parametrize("tags", [["NOUN", "VERB"], ["O", "S-PER"], ["O", "B-"], ["O", "PER"]])
def test_tags_of_another_scheme_are_refused(tags: list[str]) -> None:
    said = refused(tagged(tags))
    assert "expected tags of IOB2" in said and repr(tags[1]) in said and "label_map" in said


def test_rows_with_another_number_of_tags_are_named_or_skipped() -> None:
    rows = Dataset.from_dict(
        {
            "tokens": [["a", "b"], ["a"], ["a", "b", "c"], ["a"], ["a"]],
            "label": [["O", "B-X"], ["O", "O"], ["O"], None, ["B-X"]],
        }
    )
    said = refused(rows)
    assert "as many tags as tokens" in said and ": 1, 2 (2 tags for 1 tokens in the first of them)" in said
    assert "is empty (null) in 1 row of train: 3" in said
    found = load(rows, on_bad_row="skip")
    assert found.splits["train"].split.row_ids.tolist() == [0, 4]
    assert sorted(row.row_id for row in found.bad_rows if row.split == "train") == [1, 2, 3]


def test_a_word_without_a_tag_makes_a_bad_row() -> None:
    rows = tagged([1, 2], [0, -1], [0, 1], features=IDS)
    assert "1 row" in refused(rows)
    assert load(rows, on_bad_row="skip").splits["train"].split.row_ids.tolist() == [0, 2]


def test_rows_without_words_are_named_or_skipped() -> None:
    rows = Dataset.from_dict({"tokens": [["a"], [], ["a", None], ["b"]], "label": [["O"], [], ["O", "O"], ["B-X"]]})
    said = refused(rows)
    assert "holds no word in 1 row of" in said and "holds a null among its words" in said
    assert load(rows, on_bad_row="skip").splits["train"].split.row_ids.tolist() == [0, 3]


@pytest.mark.parametrize(
    "columns, words",
    [
        ({"tokens": "text"}, "a list of words in every row"),
        ({"tokens": "tokens", "text": "text"}, "tokens and text"),
        ({"text": "text", "label": "label"}, "a list of spans per row"),
        ({"tokens": "tokens", "label": "spans"}, "a list of tags per row"),
        ({"tokens": "tokenz"}, "did you mean 'tokens'"),
    ],
)
def test_columns_of_another_kind_are_refused(columns: dict[str, str], words: str) -> None:
    spans = [[{"start": 0, "end": 1, "label": "X"}], [{"start": 0, "end": 1, "label": "X"}]]
    rows = {"tokens": [["a"], ["b"]], "label": [["O"], ["B-X"]], "text": ["a", "b"], "spans": spans}
    assert words in refused(Dataset.from_dict(rows), columns=columns)


# spans


def spans(*parts: tuple[int, int, str]) -> list[dict[str, Any]]:
    return [{"start": start, "end": end, "label": label} for start, end, label in parts]


TEXT = "Ada Byron-King lived in St. James's."


def test_spans_become_tags_of_the_words_of_the_text() -> None:
    tags = tag_words(split_text(TEXT), spans((0, 14, "PER"), (24, 36, "LOC")))
    assert split_text(TEXT).words == ["Ada", "Byron", "-", "King", "lived", "in", "St", ".", "James", "'", "s", "."]
    assert tags == ["B-PER", *["I-PER"] * 3, "O", "O", "B-LOC", *["I-LOC"] * 5]
    assert tag_words(split_text(TEXT), spans((0, 4, "PER")))[:2] == ["B-PER", "O"], "a space at the border is no matter"
    assert tag_words(split_text("a b"), spans((0, 1, "X"), (2, 3, "X"))) == ["B-X", "B-X"]


@pytest.mark.parametrize(
    "parts, fault",
    [
        ([(0, 2, "X")], "cut a word"),
        ([(1, 9, "X")], "cut a word"),
        ([(0, 99, "X")], "outside the text"),
        ([(-1, 3, "X")], "outside the text"),
        ([(3, 3, "X")], "outside the text"),
        ([(3, 4, "X")], "without a word"),
        ([(0, 9, "X"), (4, 9, "Y")], "overlap"),
    ],
)
def test_spans_that_are_none_are_bad_rows(parts: list[tuple[int, int, str]], fault: str) -> None:
    rows = Dataset.from_dict(
        {"text": [TEXT, TEXT, "nothing"], "entities": [spans((0, 3, "PER")), spans(*parts), []]},
        features=Features(
            {
                "text": Value("string"),
                "entities": List({"start": Value("int64"), "end": Value("int64"), "label": Value("string")}),
            }
        ),
    )
    columns = {"text": "text", "label": "entities"}
    said = refused(rows, columns=columns)
    assert fault in said and "in 1 row of train: 1 (" in said
    found = load(rows, columns=columns, on_bad_row="skip")
    assert found.splits["train"].split.row_ids.tolist() == [0, 2]
    assert entries(found)[1] == ["O"]


@pytest.mark.parametrize("nested", [True, False])
def test_spans_may_name_their_types_by_id_and_lie_in_columns(nested: bool) -> None:
    parts = {"start": Value("int64"), "end": Value("int64"), "label": ClassLabel(names=["LOC", "PER"])}
    feature = {name: List(part) for name, part in parts.items()} if nested else List(parts)
    cell: Any = {"start": [0], "end": [3], "label": [1]} if nested else [{"start": 0, "end": 3, "label": 1}]
    rows = Dataset.from_dict(
        {"text": [TEXT, TEXT], "label": [cell, cell]}, features=Features({"text": Value("string"), "label": feature})
    )
    found = load(rows, columns={"text": "text"})
    assert found.labels.names == ("O", "B-PER")


SPANS = {"text": "text", "label": "entities"}
PLACES = Features(
    {
        "text": Value("string"),
        "entities": List({"start": Value("float64"), "end": Value("float64"), "label": Value("string")}),
    }
)
SENTENCES = ["good film room", "a book in Bonn", "Ada left on 3 May 1840", "it was fine"] * 10
ENTITIES = [[(10, 14, "X")], [(2, 6, "X"), (10, 14, "Y")], [(0, 3, "Y"), (12, 22, "X")], []] * 10


def texts(entities: Any, less: int = 0, sentences: Any = SENTENCES) -> Dataset:
    """Rows whose ends are so many characters less than they should be."""
    cells = [spans(*((start, end - less, label) for start, end, label in row)) for row in entities]
    return Dataset.from_dict({"text": list(sentences), "entities": cells}, features=PLACES)


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_ends_that_count_their_last_character_are_an_error_whatever_becomes_of_bad_rows(on_bad_row: str) -> None:
    rows = texts(ENTITIES, less=1)
    said = refused(rows, columns=SPANS, on_bad_row=on_bad_row)
    assert "50 of 50 spans lack their last character, as 10 to 13, 'roo' of 'room'" in said and "add 1 to" in said
    some_fit = texts([*ENTITIES, [(0, 1, "X")]], less=1, sentences=[*SENTENCES, "a b"])  # 0 to 0, of one letter
    assert "51 of 51" in refused(some_fit, columns=SPANS, on_bad_row=on_bad_row)


def test_spans_that_lost_a_letter_or_that_count_words_are_bad_rows() -> None:
    lost = [[(10, 13, "X")], *ENTITIES[1:4]] * 10
    found = load(texts(lost), columns=SPANS, on_bad_row="skip")
    assert len(found.splits["train"].entries) == 30 and "cut a word" in refused(texts(lost), columns=SPANS)
    words = texts([[(2, 3, "X")]] * 40)
    said = refused(words, columns=SPANS, on_bad_row="skip")
    assert "cut a word" in said and "inclusive" not in said and "no row is left" in said


def test_places_may_be_whole_floats_and_labels_are_types() -> None:
    found = load(texts(ENTITIES), columns=SPANS)
    assert entries(found)[1] == ["O", "B-X", "O", "B-Y"]
    halves = [[(10, 13.5, "X")], *ENTITIES[1:]]
    assert "holds what is no span in 1 row" in refused(texts(halves), columns=SPANS)
    prefixed = [[(start, end, f"B-{label}") for start, end, label in row] for row in ENTITIES]
    said = refused(texts(prefixed), columns=SPANS)
    assert "'B-X', 'B-Y'" in said and "write X, Y:" in said and "one span" not in said
    assert "one span of all words" in refused(texts([[(10, 14, "I-X")], *prefixed[1:]]), columns=SPANS)
    cells = [[(10, 14, "B-cell")], *ENTITIES[1:]]  # a type like any other beside others
    assert "B-B-cell" in load(texts(cells), columns=SPANS).labels.names


# lists that were lost


@pytest.mark.parametrize(
    "words, tags, said",
    [
        ("['a', 'b']", "['O', 'B-X']", ["lists written as text", "ast.literal_eval", "'tokens' and 'label'"]),
        ('["a", "b"]', '["O", "B-X"]', ["lists written as text", "json.loads"]),
        ("['a' 'b']", "['O' 'B-X']", ["lists written as text", "as json lines"]),
        ("a b", "O B-X", ["texts with spaces", "str.split()"]),
        ("a", "B-X", ["one word or tag per row", 'groupby("sentence_id", sort=False)[["tokens", "label"]]']),
        ("a", 1, ["one word or tag per row: 1", "row of each sentence"]),
        (["a", "b"], "O B-X", ["'label' of type string", "texts with spaces"]),
        ("a b", ["O", "B-X"], ["'tokens' of type string", "texts with spaces"]),
    ],
)
def test_lists_that_a_file_lost_are_told_by_what_its_cells_hold(words: Any, tags: Any, said: list[str]) -> None:
    rows = Dataset.from_dict({"sentence_id": [0, 0, 1], "tokens": [words] * 3, "label": [None, tags, tags]})
    if isinstance(tags, list):
        rows = rows.select([1, 2])
    found = refused(rows)
    assert all(part in found for part in said), found
    assert "{text:" not in found and ("literal_eval" in found) == ("literal_eval" in said[1])


def test_spans_written_as_text_or_under_other_names_are_told() -> None:
    text = Dataset.from_dict({"text": ["a b"] * 2, "entities": ['[{"start": 0, "end": 1, "label": "X"}]'] * 2})
    assert "lists written as text" in refused(text, columns=SPANS)
    one = Dataset.from_dict({"text": ["a b"] * 2, "entities": ["good", "bad"]})
    assert "task: text-classification" in refused(one, columns=SPANS)
    others = Dataset.from_dict({"text": ["a b"] * 2, "entities": [[{"start": 0, "end": 1, "type": "X"}]] * 2})
    assert "keys start, end, label: it has start, end, type" in refused(others, columns=SPANS)


# words


@pytest.mark.parametrize(
    "text, words",
    [
        ("It's 3.5 km, isn't it?", ["It", "'", "s", "3", ".", "5", "km", ",", "isn", "'", "t", "it", "?"]),
        ("東京へ行く", ["東", "京", "へ", "行", "く"]),
        ("क्या हाल", ["क्या", "हाल"]),
        ("  \n", []),
        ("a😀b", ["a", "😀", "b"]),
    ],
)
def test_words_of_a_text_are_runs_of_letters_and_single_marks(text: str, words: list[str]) -> None:
    assert split_text(text).words == words


def test_given_words_keep_their_number_whatever_they_are() -> None:
    given = ["New York", "", " ", "a\tb", ".", "", "é"]
    assert join_words(given).words == given
    assert join_words([]).words == []


def test_what_the_task_has_no_use_for_is_refused() -> None:
    rows = tagged(["O", "B-X"])
    assert "a problem of token-classification" in refused(rows, problem="single_label")
    with pytest.raises(RecipeError, match=r"dataset\.streaming"):
        content = {"task": TASK.name, "model": {"name": "n"}, "dataset": {"path": "memory", "streaming": True}}
        load_data(Recipe.from_dict(content), TASK)
