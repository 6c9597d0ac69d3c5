"""Settings that fit the size of the data."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from hf_sft.guessing import sizing
from hf_sft.guessing.model import EMBEDDED


@pytest.mark.parametrize(
    ("rows", "classes", "epochs"),
    [(100, 2, 10), (3000, 2, 6), (9000, 77, 10), (9000, 2, 4), (10**5, 2, 3), (10**6, None, 1)],
)
def test_fewer_rows_are_seen_more_often(rows: int, classes: int | None, epochs: int) -> None:
    assert sizing.choose_epochs(rows, classes)[0] == epochs


@pytest.mark.parametrize(("words", "length"), [(3, 64), (70, 128), (150, 256), (5000, 512)])
def test_max_length_covers_nearly_all_texts(words: int, length: int) -> None:
    texts = ["word " * words] * 99 + ["word " * 3 * words]
    folder = EMBEDDED["text-classification"].path
    assert sizing.choose_max_length(texts, None, folder)[0] == length
    assert sizing.choose_max_length(texts, None, None)[0] == length
    assert sizing.choose_max_length(texts, ["word " * words] * 100, folder)[0] == min(
        512, 2 * length if words > 3 else 64
    )


def test_pixels_follow_the_median_image(tmp_path: Path) -> None:
    for size, on_gpu, on_cpu in ((28, 64, 64), (50, 96, 96), (100, 128, 128), (400, 224, 128)):
        for row in range(3):
            Image.new("RGB", (size, size + row)).save(tmp_path / f"{size}_{row}.jpg")
        rows = Dataset.from_dict({"image": [f"{size}_{row}.jpg" for row in range(3)] + ["none.jpg"]})
        for gpu, expected in ((True, on_gpu), (False, on_cpu)):
            assert sizing.choose_pixels(rows, "image", tmp_path, gpu=gpu)[0] == expected


@pytest.mark.parametrize(
    ("texts", "english"),
    [
        (["A plain text."], True),
        (["Ein schöner Tag, grüßte er."], False),
        (["好吃"], False),
        (["naïve " + "abc " * 99], True),
    ],
)
def test_other_languages_are_told_by_their_letters(texts: list[str], english: bool) -> None:
    assert sizing.looks_english(texts) is english
