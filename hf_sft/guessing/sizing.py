"""Settings that fit the size of a data set: epochs, batches, tokens, pixels, metrics. Each comes with its reason."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from datasets import Dataset, Image

from hf_sft.data.columns import joined
from hf_sft.guessing.profile import sample
from hf_sft.recipe import ProblemName

EPOCHS = ((1_000, 10), (5_000, 6), (20_000, 4), (500_000, 3), (math.inf, 1))  # rows to train on, fewer than
FEW_PER_CLASS = 200  # rows of an average class that ask for more epochs
SMALL = 500  # rows below which a batch of 32 would make too few steps
LENGTHS = (64, 128, 256, 512)
TOKENS_PER_WORD = 1.5
SPECIAL_TOKENS = 3
PIXELS = ((32, 64), (64, 96), (128, 128), (math.inf, 224))  # shorter side, at most -> what the model sees
PIXELS_ON_CPU = 128
BOX_PIXELS, BOX_PIXELS_ON_CPU = 640, 256  # at most: small objects want more pixels than a class of the whole image
BOX_BATCH, BOX_STEPS = 8, 1_000  # a new detector learns little in fewer steps
BOX_EPOCHS = (5, 50)  # at least, at most
STRIDE = 32  # pixels of the image to a place of a detector's coarsest map
IMBALANCED = 3  # times as many rows in the largest class as in the smallest
IMAGES_OPENED = 200


def choose_epochs(rows: int, classes: int | None) -> tuple[int, str]:
    """How often the rows are seen, and why. classes: None for numbers."""
    epochs = next(epochs for limit, epochs in EPOCHS if rows < limit)
    if classes and rows < FEW_PER_CLASS * classes and epochs < 10:
        return 10, f"about {rows // classes:,} rows a class; early stopping ends it sooner"
    return epochs, f"{rows:,} rows"


def choose_box_epochs(rows: int) -> tuple[int, str]:
    """As choose_epochs, of images whose objects are to be found."""
    epochs = min(max(math.ceil(BOX_STEPS * BOX_BATCH / max(rows, 1)), BOX_EPOCHS[0]), BOX_EPOCHS[1])
    steps = epochs * math.ceil(rows / BOX_BATCH)
    return epochs, f"{rows:,} rows; {steps:,} steps, and a new detector needs about {BOX_STEPS:,}"


def choose_batch_size(rows: int, *, boxes: bool = False) -> int:
    if boxes:
        return BOX_BATCH
    return 16 if rows < SMALL else 32


def choose_metrics(problem: ProblemName, counts: Mapping[str, int]) -> tuple[list[str], str]:
    """The first chooses the best checkpoint. counts: rows per label."""
    if problem == "regression":
        return ["spearman", "pearson", "mae"], "of numbers"
    if problem == "pixels":
        return ["mean_iou", "mean_dice", "pixel_accuracy"], "every class counts alike in the first"
    if problem == "boxes":
        return ["map", "map_50", "map_75"], "COCO's mean average precision"
    if problem == "tags":
        return [
            "entity_f1",
            "entity_precision",
            "entity_recall",
            "token_accuracy",
        ], "entities count when they are whole"
    most, least = max(counts.values()), min(counts.values())
    imbalanced = most >= IMBALANCED * least
    why = f"{most:,} rows of the most frequent label, {least:,} of the rarest" if imbalanced else "balanced labels"
    first = ["macro_f1"] if imbalanced else []
    rest = ["micro_f1", "macro_f1"] if problem == "multi_label" else ["accuracy", "macro_f1"]
    return list(dict.fromkeys(first + rest)), why


def read_texts(rows: Dataset, columns: Sequence[str]) -> list[str]:
    """Some texts, joined as training joins them; an empty cell is an empty text."""
    batch = sample(rows.select_columns(list(columns)))[:]
    return joined({name: ["" if text is None else str(text) for text in batch[name]] for name in columns}, columns)


def read_words(rows: Dataset, column: str) -> list[str]:
    """Some lists of words, as texts."""
    batch = sample(rows.select_columns([column]))[:]
    return [" ".join(str(word) for word in words or []) for words in batch[column]]


def choose_max_length(texts: Sequence[str], pairs: Sequence[str] | None, folder: Path | None) -> tuple[int, str]:
    """Tokens that 99 of 100 texts need, rounded up. folder: the model's files, where they are on this machine."""
    tokenizer, limit = folder and folder / "tokenizer.json", _positions(folder)
    if tokenizer and tokenizer.is_file():
        lengths, how = _count_tokens(tokenizer, texts, pairs), "tokens"
    else:
        words = [len(text.split()) for text in texts]
        if pairs is not None:
            words = [one + len(other.split()) for one, other in zip(words, pairs, strict=True)]
        lengths, how = [round(number * TOKENS_PER_WORD) + SPECIAL_TOKENS for number in words], "tokens, by the words"
    needed = int(np.percentile(lengths, 99, method="inverted_cdf"))
    length = next((length for length in LENGTHS if needed <= length <= limit), min(LENGTHS[-1], limit))
    cut = sum(number > length for number in lengths) / len(lengths)
    truncated = f"; {100 * cut:.0f}% of the texts are cut" if cut > 0.01 else ""
    return length, f"99 of 100 texts have at most {needed:,} {how}{truncated}"


def _positions(folder: Path | None) -> int:
    """Tokens that the model has positions for."""
    config = folder / "config.json" if folder else None
    content = json.loads(config.read_text(encoding="utf-8")) if config and config.is_file() else {}
    return int(content.get("max_position_embeddings") or LENGTHS[-1])


def _count_tokens(file: Path, texts: Sequence[str], pairs: Sequence[str] | None) -> list[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    inputs: list[Any] = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(inputs)]


def looks_english(texts: Sequence[str]) -> bool:
    """Whether fewer than one letter of a hundred is outside the English alphabet."""
    letters = [letter for text in texts for letter in text[:1000] if letter.isalpha()]
    return sum(not letter.isascii() for letter in letters) <= 0.01 * len(letters)


def choose_pixels(rows: Dataset, column: str, folder: Path, *, gpu: bool, boxes: bool = False) -> tuple[int, str]:
    """Height and width for the model, from the median image. folder: where paths of images start from.

    boxes: whether objects in the image are to be found.
    """
    most_on_cpu = BOX_PIXELS_ON_CPU if boxes else PIXELS_ON_CPU
    some = sample(rows.select_columns([column]), IMAGES_OPENED)
    if isinstance(some.features[column], Image):
        some = some.cast_column(column, Image(decode=False))
    sides = [side for value in some[:][column] if (side := _shorter_side(value, folder))]
    if not sides:
        return (BOX_PIXELS if boxes else PIXELS[-1][1]) if gpu else most_on_cpu, "no image could be opened"
    median = round(float(np.median(sides)))
    size = next(size for limit, size in PIXELS if median <= limit)
    if boxes:
        size = min(BOX_PIXELS, STRIDE * math.ceil(median / STRIDE))
    why = f"the shorter side of a median image has {median:,} pixels"
    if not gpu and size > most_on_cpu:
        return most_on_cpu, f"{why}; {size} would be better, no GPU here"
    return size, why


def _shorter_side(value: Any, folder: Path) -> int | None:
    """None for what cannot be opened; check names such files."""
    if isinstance(value, dict):
        value = value["bytes"] if value["bytes"] is not None else value["path"]
    if value is None:
        return None
    try:
        with PIL.Image.open(io.BytesIO(value) if isinstance(value, bytes) else folder / value) as image:
            return min(image.size)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return None
