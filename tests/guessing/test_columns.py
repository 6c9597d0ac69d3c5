"""Columns of users' files: what each is for is seen from its name and what it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image

from hf_sft.errors import DataError
from hf_sft.guessing.columns import guess_columns
from hf_sft.guessing.profile import Column, look_at

ROWS = 40
SENTENCE = "the food was cold but people kept coming back for more of it every single day last year"
WORDS = SENTENCE.split()
Values = Callable[[int], Any]


def prose(row: int) -> str:
    """A text of its own for every row."""
    return " ".join(WORDS[(row * 7 + place) % len(WORDS)] for place in range(5 + row % 7)) + f" {row}"


def title(row: int) -> str:
    return f"{WORDS[row % len(WORDS)]} {WORDS[row * 3 % len(WORDS)]} {row}"


def one_of(*values: Any) -> Values:
    return lambda row: values[row % len(values)]


def per_group(row: int) -> str:
    return f"person {row // 4}"


def table(columns: Mapping[str, Values | Sequence[Any]], features: Features | None = None) -> Dataset:
    content = {
        name: [values(row) for row in range(ROWS)] if callable(values) else list(values)
        for name, values in columns.items()
    }
    return Dataset.from_dict(content, features=features)


def guess(columns: Mapping[str, Values | Sequence[Any]], **options: Any) -> dict[str, Any]:
    return dict(guess_columns(table(columns), Path(), data="the file", **options).columns)


NUMBER = one_of(0, 1, 2)
SHAPES: dict[str, tuple[dict[str, Values], dict[str, Any]]] = {
    "plain": ({"text": prose, "label": NUMBER}, {"text": "text", "label": "label"}),
    "a domain beside the label": (
        {"text": prose, "label": one_of(0, 1), "domain": one_of("amazon", "yelp", "imdb")},
        {"text": "text", "label": "label"},
    ),
    "stars of reviews": (
        {
            "review_id": lambda row: f"en_{row:07d}",
            "product_category": one_of("home", "toys", "books"),
            "stars": one_of(1, 2, 3, 4, 5),
            "review_title": title,
            "review_body": prose,
            "language": one_of("en", "en"),
        },
        {"text": ["review_title", "review_body"], "label": "stars"},
    ),
    "tweets about airlines": (
        {
            "tweet_id": lambda row: 570306133677760513 + row,
            "airline_sentiment": one_of("neutral", "positive", "negative"),
            "airline_sentiment_confidence": one_of(1.0, 0.3486, 0.6837),
            "airline": one_of("Virgin America", "United"),
            "name": lambda row: f"user{row}",
            "retweet_count": one_of(0, 1, 2, 7),
            "text": prose,
            "tweet_location": one_of(None, "Boston, MA", "New York", "here and there"),
        },
        {"text": "text", "label": "airline_sentiment"},
    ),
    "an index column": (
        {"Unnamed: 0": lambda row: row, "Review": prose, "Liked": one_of(0, 1)},
        {"text": "Review", "label": "Liked"},
    ),
    "nameless columns": (
        {"column_1": one_of(4, 0), "column_2": lambda row: 10**9 + row, "column_3": prose},
        {"text": "column_3", "label": "column_1"},
    ),
    "numbered columns": ({"0": prose, "1": one_of("spam", "ham")}, {"text": "0", "label": "1"}),
    "spam of old": (
        {"v1": one_of("ham", "ham", "spam"), "v2": prose, "Unnamed: 2": lambda row: None},
        {"text": "v2", "label": "v1"},
    ),
    "a subject and a body": (
        {"ticket_id": lambda row: row, "subject": title, "body": prose, "queue": one_of("billing", "sales")},
        {"text": ["subject", "body"], "label": "queue"},
    ),
    "premise and hypothesis": (
        {"premise": prose, "hypothesis": lambda row: prose(row + 50), "gold_label": one_of("neutral", "entailment")},
        {"text": "premise", "text_pair": "hypothesis", "label": "gold_label"},
    ),
    "question and sentence": (
        {"idx": lambda row: row, "question": title, "sentence": prose, "label": one_of("entailment", "no")},
        {"text": "question", "text_pair": "sentence", "label": "label"},
    ),
    "two sentences and a score": (
        {"sentence1": prose, "sentence2": lambda row: prose(row + 9), "score": lambda row: row / 7},
        {"text": "sentence1", "text_pair": "sentence2", "label": "score"},
    ),
    "two questions": (
        {"qid1": lambda row: row, "question1": prose, "question2": title, "is_duplicate": one_of(0, 1)},
        {"text": "question1", "text_pair": "question2", "label": "is_duplicate"},
    ),
    "texts a and b": (
        {"TextA": prose, "TextB": lambda row: prose(row + 3), "Label": one_of("same", "other")},
        {"text": "TextA", "text_pair": "TextB", "label": "Label"},
    ),
    "a passage and a yes or no": (
        {"question": title, "passage": prose, "answer": one_of(True, False)},
        {"text": "question", "text_pair": "passage", "label": "answer"},
    ),
    "lists of labels": (
        {"text": prose, "labels": one_of(["joy"], ["joy", "anger"], ["fear"]), "id": lambda row: f"x{row}"},
        {"text": "text", "label": "labels"},
    ),
    "a boolean": ({"comment": prose, "is_toxic": one_of(True, False)}, {"text": "comment", "label": "is_toxic"}),
    "yes and no": ({"message": prose, "urgent": one_of("yes", "no")}, {"text": "message", "label": "urgent"}),
    "names for integers": (
        {"text": prose, "label": NUMBER, "label_text": one_of("bad", "fair", "good")},
        {"text": "text", "label": "label_text"},
    ),
    "ids of classes": ({"utterance": prose, "intent_id": NUMBER}, {"text": "utterance", "label": "intent_id"}),
    "camel case": (
        {"reviewerID": per_group, "reviewText": prose, "summary": title, "overall": one_of(1.0, 5.0, 3.0)},
        {"text": ["summary", "reviewText"], "label": "overall"},
    ),
    "a country beside what is asked for": (
        {"text": prose, "country": one_of("de", "fr"), "colour": one_of("red", "green", "blue")},
        {"text": "text", "label": "colour"},
    ),
    "only a language": ({"text": prose, "language": one_of("de", "fr")}, {"text": "text", "label": "language"}),
    "single words": (
        {"surname": lambda row: f"name{row}", "nationality": one_of("Irish", "Polish")},
        {"text": "surname", "label": "nationality"},
    ),
    "Chinese": (
        {"评论": lambda row: "这家餐厅的菜非常好吃下次还会再来" + str(row), "情感": one_of("正面", "负面")},
        {"text": "评论", "label": "情感"},
    ),
    "a title with empty cells": (
        {"title": one_of(None, "some words here"), "text": prose, "label": NUMBER},
        {"text": "text", "label": "label"},
    ),
    "a hidden label": (
        {"text": prose, "label": one_of(-1), "category": one_of("a", "b")},
        {"text": "text", "label": "category"},
    ),
    "a target of a stance": (
        {"Tweet": prose, "Target": one_of("Atheism", "Climate"), "Stance": one_of("FAVOR", "AGAINST", "NONE")},
        {"text": "Tweet", "label": "Stance"},
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_columns_get_their_roles(shape: str) -> None:
    columns, expected = SHAPES[shape]
    assert guess(columns) == expected


def test_named_classes_are_a_label_whatever_they_are_called() -> None:
    features = Features({"text": Value("string"), "kingdom": ClassLabel(names=["a", "b"]), "n": Value("int64")})
    rows = table({"n": NUMBER, "kingdom": one_of(0, 1), "text": prose}, features)
    assert guess_columns(rows, Path(), data="it").columns == {"text": "text", "label": "kingdom"}


def test_images_are_known_by_what_files_are_there(tmp_path: Path) -> None:
    for row in range(ROWS):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{row}.png")
    columns = {"filename": lambda row: f"{row}.png", "caption": prose, "species": one_of("cat", "dog")}
    found = guess_columns(table(columns), tmp_path, data="it")
    assert (found.task, found.columns) == ("image-classification", {"image": "filename", "label": "species"})
    as_text = guess_columns(table(columns), tmp_path, data="it", task="text-classification")
    assert as_text.columns == {"text": "caption", "label": "species"}
    elsewhere = guess_columns(table(columns), tmp_path / "elsewhere", data="it")
    assert elsewhere.task == "text-classification"


def test_what_could_also_be_the_label_is_said() -> None:
    found = guess_columns(table({"text": prose, "rating": NUMBER, "sentiment": one_of("a", "b")}), Path(), data="it")
    assert found.columns["label"] == "sentiment"
    assert any("'rating'" in doubt and "dataset.columns.label" in doubt for doubt in found.doubts)
    assert not guess_columns(table({"text": prose, "label": NUMBER}), Path(), data="it").doubts


def test_columns_of_flags_may_be_one_label_with_several_values() -> None:
    flags = {name: one_of(0, 1) for name in ("toxic", "obscene", "threat")}
    found = guess_columns(table({"comment_text": prose, **flags}), Path(), data="it")
    assert found.columns["label"] == "toxic" and any("one column of lists" in doubt for doubt in found.doubts)


def test_empty_cells_of_used_columns_are_counted() -> None:
    columns = {"text": lambda row: None if row < 3 else prose(row), "label": one_of("a", "b", "c", "a", None)}
    assert guess_columns(table(columns), Path(), data="it").empty == {"text": 3, "label": 8}


def test_a_group_is_a_column_of_repeated_owners() -> None:
    columns = {"user_id": per_group, "text": prose, "label": NUMBER, "document": lambda row: row}
    assert guess_columns(table(columns), Path(), data="it").group == "user_id"


HOPELESS: dict[str, tuple[dict[str, Values], str]] = {
    "no label": ({"text": prose, "id": lambda row: row}, "labels"),
    "one class only": ({"text": prose, "label": one_of("same")}, "labels"),
    "no text": ({"a": NUMBER, "b": lambda row: row / 3, "label": NUMBER}, "texts"),
    "tokens": ({"tokens": one_of(["a", "b"]), "ner_tags": one_of([0, 1])}, "texts"),
    "lost images": ({"file": lambda row: f"{row}.jpg", "label": NUMBER}, "texts"),
}


@pytest.mark.parametrize("case", HOPELESS)
def test_data_that_cannot_serve_are_refused_with_what_was_seen(case: str) -> None:
    columns, expected = HOPELESS[case]
    with pytest.raises(DataError) as caught:
        guess_columns(table(columns), Path("/data"), data="my.csv")
    (finding,) = caught.value.findings
    assert finding.place == "my.csv" and expected in finding.expected and finding.fix
    assert all(repr(name) in finding.found for name in columns)


def test_lost_images_are_told_where_to_be() -> None:
    with pytest.raises(DataError, match=r"relative to /data"):
        guess_columns(table({"file": lambda row: f"{row}.jpg", "label": NUMBER}), Path("/data"), data="my.csv")


def test_image_tasks_need_images() -> None:
    with pytest.raises(DataError, match="a column of images"):
        guess({"text": prose, "label": NUMBER}, task="image-classification")


@pytest.mark.parametrize(
    ("values", "kind", "distinct"),
    [
        ([1, 2, None], "whole", 2),
        ([1.0, 2.0, None], "whole", 2),
        ([1.0, float("nan"), 1.0], "whole", 1),
        ([1.5, 2.0, None], "fraction", 2),
        ([True, False, None], "truth", 2),
        (["a", "b", "b"], "text", 2),
        ([["a", "b"], ["b"], []], "list", 2),
        ([None, None, None], "other", 0),
    ],
)
def test_columns_are_what_they_hold(values: list[Any], kind: str, distinct: int) -> None:
    column = look_at(Dataset.from_dict({"x": values}), Path())["x"]
    assert (column.kind, column.distinct, column.rows) == (kind, distinct, 3)


def test_lists_of_classes_count_what_is_inside() -> None:
    features = Features({"x": List(ClassLabel(names=["a", "b", "c"]))})
    column = look_at(Dataset.from_dict({"x": [[0, 1], [2], []]}, features=features), Path())["x"]
    assert (column.kind, column.distinct) == ("list", 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("reviewText", ["review", "text"]),
        ("review_text", ["review", "text"]),
        ("Review Text", ["review", "text"]),
        ("sentence1", ["sentence", "1"]),
        ("HTMLBody", ["html", "body"]),
        ("label", ["label"]),
        ("情感", ["情感"]),
    ],
)
def test_names_fall_into_words(name: str, words: list[str]) -> None:
    assert Column(name=name, kind="text", rows=1).tokens == words
