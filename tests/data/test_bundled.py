"""Laws of the bundled data: what a learner can trust about them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from bag_of_words import bag_of_words_accuracy
from datasets import DatasetDict
from loading import assert_says_all, load
from sklearn.datasets import load_digits

from hf_sft.data.bundled import BUNDLED, load_bundled
from hf_sft.errors import RecipeError

DOMAINS = {"films", "restaurants", "hotels", "electronics", "apps", "books"}


@pytest.fixture(scope="module")
def reviews() -> DatasetDict:
    return load_bundled("bundled:reviews")


@pytest.fixture(scope="module")
def words(reviews: DatasetDict) -> list[list[str]]:
    """The words of every review, in lower case, without punctuation."""
    return [re.findall(r"[a-z0-9']+", text.lower()) for rows in reviews.values() for text in rows["text"]]


def test_bundled_names_are_found_with_and_without_the_prefix() -> None:
    assert set(BUNDLED) == {"reviews", "digits", "entities", "shapes_masks", "shapes_boxes"}
    assert load_bundled("reviews")["test"][:] == load_bundled("bundled:reviews")["test"][:]
    with pytest.raises(RecipeError) as caught:
        load_bundled("bundled:digit")
    assert_says_all(caught.value, "dataset.path")
    assert "did you mean 'digits'" in str(caught.value)


# reviews


def test_reviews_have_their_columns_and_splits(reviews: DatasetDict) -> None:
    assert list(reviews) == ["train", "validation", "test"]
    assert sum(map(len, reviews.values())) >= 1200 and min(map(len, reviews.values())) >= 300
    for rows in reviews.values():
        assert rows.column_names == ["text", "label", "domain"]
        assert set(rows["domain"]) == DOMAINS


def test_reviews_are_balanced_in_every_split_and_domain(reviews: DatasetDict) -> None:
    cells = {(domain, label) for domain in DOMAINS for label in ("negative", "positive")}
    for rows in reviews.values():
        counts = Counter(zip(rows["domain"], rows["label"], strict=True))
        assert counts == dict.fromkeys(cells, len(rows) // len(cells))


def test_reviews_have_5_to_60_words_of_ascii(reviews: DatasetDict) -> None:
    for rows in reviews.values():
        for text in rows["text"]:
            assert 5 <= len(text.split()) <= 60, text
            assert text.isascii() and text.isprintable() and text == text.strip(), text


def test_no_review_stands_in_two_splits_or_twice(words: list[list[str]]) -> None:
    """Compared by their words alone: case, spaces and punctuation make no other review."""
    counts = Counter(" ".join(review) for review in words)
    assert [text for text, number in counts.items() if number > 1] == []


def grams(review: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(review[start:] for start in range(length)), strict=False)


def test_reviews_are_sentences_not_templates(words: list[list[str]]) -> None:
    """Templates filled from lists repeat their openings and their phrases, and draw on few words."""
    openings = Counter(tuple(review[:3]) for review in words)
    assert max(openings.values()) <= 6
    assert sum(number for number in openings.values() if number > 3) / len(words) < 0.03
    phrases = Counter(phrase for review in words for phrase in set(grams(review, 6)))
    assert max(phrases.values()) <= 5
    assert sum(number > 2 for number in phrases.values()) <= 3
    assert max(Counter(phrase for review in words for phrase in set(grams(review, 10))).values()) <= 2


def test_reviews_draw_on_many_words(words: list[list[str]]) -> None:
    running = [word for review in words for word in review]
    assert len(set(running)) >= 6000
    windows = [running[start : start + 1000] for start in range(0, len(running) - 999, 1000)]
    ratios = [len(set(window)) / 1000 for window in windows]  # of edited English prose: 0.40 to 0.55
    assert np.mean(ratios) > 0.48 and min(ratios) > 0.44


def test_counting_words_does_badly_on_reviews(reviews: DatasetDict) -> None:
    assert 0.55 < bag_of_words_accuracy(reviews) < 0.70


def test_words_of_a_domain_do_not_tell_the_label(reviews: DatasetDict) -> None:
    """No single word says much by itself: a shortcut would."""
    rows = [row for split in reviews.values() for row in split]
    seen: dict[str, Counter[str]] = {}
    for row in rows:
        for word in set(re.findall(r"[a-z0-9']+", row["text"].lower())):
            seen.setdefault(word, Counter())[row["label"]] += 1
    shortcuts = {
        word: counts
        for word, counts in seen.items()
        if sum(counts.values()) >= 50 and max(counts.values()) > 0.8 * sum(counts.values())
    }
    assert shortcuts == {}


def test_reviews_load_for_text_classification(reviews: DatasetDict) -> None:
    found = load({"path": "bundled:reviews"})
    assert found.labels.names == ("negative", "positive")
    assert {role: len(part.split) for role, part in found.splits.items()} == {k: len(v) for k, v in reviews.items()}
    assert not any("warning" in note for note in found.notes)


# digits


@pytest.fixture(scope="module")
def digits() -> DatasetDict:
    return load_bundled("bundled:digits")


def pixels_of(digits: DatasetDict) -> dict[str, np.ndarray]:
    return {name: np.stack([np.asarray(image) for image in rows["image"]]) for name, rows in digits.items()}


def test_digits_are_grey_images_of_ten_balanced_classes(digits: DatasetDict) -> None:
    assert {name: len(rows) for name, rows in digits.items()} == {"train": 1200, "validation": 197, "test": 400}
    for name, pixels in pixels_of(digits).items():
        assert pixels.shape[1:] == (32, 32) and pixels.dtype == np.uint8
        assert pixels.min() == 0 and pixels.max() == 255 and len(np.unique(pixels)) == 17
        shares = np.bincount(digits[name]["label"], minlength=10) / len(pixels)
        assert shares.min() > 0.09 and shares.max() < 0.11
        assert digits[name].features["label"].names == [str(digit) for digit in range(10)]


def test_digits_are_those_of_scikit_learn_each_once(digits: DatasetDict) -> None:
    """The bitmaps, four times four, with their labels; equal bitmaps in two splits only where the source has them."""
    source, labels = load_digits(return_X_y=True)
    levels = {name: np.rint(pixels[:, ::4, ::4] * (16 / 255)) for name, pixels in pixels_of(digits).items()}
    for name, pixels in pixels_of(digits).items():
        repeated = pixels[:, ::4, ::4].repeat(4, axis=1).repeat(4, axis=2)
        assert (pixels == repeated).all(), name
    ours = Counter(
        (image.astype(int).tobytes(), label)
        for name, images in levels.items()
        for image, label in zip(images, digits[name]["label"], strict=True)
    )
    theirs = Counter((image.astype(int).tobytes(), label) for image, label in zip(source, labels.tolist(), strict=True))
    assert ours == theirs


def test_digits_are_the_same_each_time(digits: DatasetDict) -> None:
    again = load_bundled("digits")
    assert all((pixels == pixels_of(digits)[name]).all() for name, pixels in pixels_of(again).items())


def test_digits_load_for_image_classification() -> None:
    found = load({"path": "bundled:digits"}, task="image-classification")
    assert found.labels.names == tuple(str(digit) for digit in range(10))
    assert set(found.splits) == {"train", "validation", "test"}


# entities


def test_sentences_have_words_and_tags_of_four_types() -> None:
    found = load_bundled("entities")
    assert [len(rows) for rows in found.values()] == [548, 100, 162]
    for rows in found.values():
        kinds: Counter[str] = Counter()
        for row in rows:
            assert len(row["tokens"]) == len(row["ner_tags"]) >= 3
            before = "O"
            for tag in row["ner_tags"]:
                assert tag == "O" or tag[0] == "B" or before[1:] == tag[1:], row
                before = tag
                kinds[tag[2:]] += tag[0] == "B"
        assert set(kinds) == {"", "PER", "LOC", "ORG", "DATE"}
        assert min(kinds[kind] for kind in ("PER", "LOC", "ORG", "DATE")) >= 40


def test_no_sentence_stands_in_two_splits_with_other_names() -> None:
    """Compared by the words outside of every entity, articles left out."""
    frames: dict[str, set[str]] = {}
    texts: Counter[str] = Counter()
    for split, rows in load_bundled("entities").items():
        for row in rows:
            texts[" ".join(row["tokens"])] += 1
            pairs = zip(row["tokens"], row["ner_tags"], strict=True)
            frame = " ".join(word.lower() for word, tag in pairs if tag == "O" and word.lower() != "the")
            frames.setdefault(frame, set()).add(split)
    assert len(frames) >= 150 and {len(splits) for splits in frames.values()} == {1}
    assert set(texts.values()) == {1}
