"""Rows of words as a model reads them: long ones in windows that overlap, each word read where it stands best.

A transformed row holds the tokens of all its windows one after the other (`input_ids` and what else the model reads),
`windows`, the length of each, and `places`: per word the index of its first token among them, -1 where the tokenizer
makes nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from hf_sft.data.words import Words

IGNORED = -100  # the label of a word that has no token: PyTorch's cross entropy leaves it out
NOWHERE = np.iinfo(np.int64).max


def tokenize_words(tokenizer: Any, rows: Sequence[Words], *, stride: int) -> dict[str, list[Any]]:
    """Transformed rows. Windows have tokenizer.model_max_length tokens at most and share `stride` with the next."""
    encoded = tokenizer(
        [row.text for row in rows],
        truncation=True,
        max_length=tokenizer.model_max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
    )
    row_of = np.asarray(encoded["overflow_to_sample_mapping"], dtype=np.int64)
    step = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add() - stride
    names = [name for name in encoded if name in tokenizer.model_input_names]
    columns: dict[str, list[Any]] = {name: [] for name in (*names, "windows", "places")}
    for number, row in enumerate(rows):
        windows = np.flatnonzero(row_of == number) if len(row_of) > len(rows) else [number]
        for name in names:
            columns[name].append([value for window in windows for value in encoded[name][window]])
        columns["windows"].append([len(encoded["input_ids"][window]) for window in windows])
        parts = [(encoded["offset_mapping"][window], encoded["special_tokens_mask"][window]) for window in windows]
        columns["places"].append(place_words(row, parts, step).tolist())
    return columns


def place_words(words: Words, windows: Sequence[tuple[Any, Any]], step: int) -> NDArray:
    """int64 [words]: the index of each word's first token among the tokens of all windows, or -1.

    Of several windows that hold it the one where it stands furthest from an edge that cuts the text. windows: of each
    token (start, end) in characters, and whether it is a special one; step: tokens from one window's start to the next.
    """
    size = len(words.starts)
    places, margins = np.full(size, -1, dtype=np.int64), np.full(size, -1, dtype=np.int64)
    first, before = np.full(size, NOWHERE, dtype=np.int64), 0
    for number, (offsets, special) in enumerate(windows):
        own = np.flatnonzero(np.asarray(special) == 0)
        spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)[own]
        word = np.searchsorted(words.ends, spans[:, 0], side="right")  # the first that ends after the token begins
        held = np.flatnonzero((word < size) & (spans[:, 1] > spans[:, 0]))
        held = held[words.starts[word[held]] < spans[held, 1]]
        found, index = np.unique(word[held], return_index=True)
        token = held[index]
        left = token if number else np.full(len(token), NOWHERE)
        right = len(own) - 1 - token if number + 1 < len(windows) else np.full(len(token), NOWHERE)
        overall, margin = number * step + token, np.minimum(left, right)
        better = (overall < first[found]) | ((overall == first[found]) & (margin > margins[found]))
        chosen = found[better]
        first[chosen], margins[chosen] = overall[better], margin[better]
        places[chosen] = before + own[token[better]]
        before += len(special)
    return places


def one_window_each(rows: Dataset, targets: NDArray) -> tuple[Dataset, NDArray, NDArray]:
    """Transformed rows cut into their windows, for training: (rows, targets, position of the row each comes from).

    A window has the words that are read in it; one without a word has nothing to learn from and is left out.
    """
    places = rows.select_columns(["places"])[:]["places"]
    lengths = rows.select_columns(["windows"])[:]["windows"]
    bounds = [np.cumsum([0, *row]) for row in lengths]
    origin, inside = [], []
    for position, row in enumerate(places):
        own = np.asarray(row, dtype=np.int64)
        window = np.where(own < 0, -1, np.searchsorted(bounds[position], own, side="right") - 1)
        for number in range(len(lengths[position])):
            words = np.flatnonzero(window == number)
            if len(words):
                origin.append((position, number))
                inside.append(words)
    positions = np.array([position for position, _ in origin], dtype=np.int64)
    if len(origin) == len(rows) == sum(map(len, lengths)):
        return rows, targets, positions
    cut = partial(_cut, [(bounds[row][number], bounds[row][number + 1]) for row, number in origin], inside)
    parts = rows.select(positions).map(cut, batched=True, with_indices=True)
    answers = np.empty(len(origin), dtype=object)
    for index, (position, words) in enumerate(zip(positions, inside, strict=True)):
        answers[index] = targets[position][words]
    return parts, answers, positions


def _cut(
    bounds: Sequence[tuple[int, int]], inside: Sequence[NDArray], batch: Mapping[str, Any], indices: Sequence[int]
) -> dict[str, Any]:
    found: dict[str, list[Any]] = {name: [] for name in batch}
    for row, index in enumerate(indices):
        start, end = bounds[index]
        for name in batch:
            if name == "windows":
                found[name].append([int(end - start)])
            elif name == "places":
                found[name].append([batch[name][row][word] - int(start) for word in inside[index]])
            else:
                found[name].append(batch[name][row][start:end])
    return found


def collate_windows(tokenizer: Any, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of all windows of all rows [W, T], padded on the right, and of all words: int64 [words].

    places: index of a word's first token among W x T, -1 for none; labels: IGNORED for those. counts: words of a row.
    """
    names = [name for name in features[0] if name in tokenizer.model_input_names]
    inputs: dict[str, list[Any]] = {name: [] for name in names}
    rows, before = [], 0  # per row: its windows' number in the batch, and where they begin among its tokens
    for feature in features:
        begins = np.cumsum([0, *feature["windows"]])
        rows.append((before, begins))
        before += len(feature["windows"])
        for name in names:
            inputs[name] += [feature[name][start:end] for start, end in pairwise(begins)]
    batch = dict(tokenizer.pad(inputs, return_tensors="pt"))
    width, places = batch["input_ids"].shape[1], []
    for feature, (number, begins) in zip(features, rows, strict=True):
        own = np.asarray(feature["places"], dtype=np.int64)
        window = np.searchsorted(begins, own, side="right") - 1
        places.append(np.where(own < 0, -1, (number + window) * width + own - begins[window]))
    batch["places"] = torch.from_numpy(np.concatenate(places))
    batch["counts"] = torch.tensor([len(row) for row in places])
    batch["weight"] = torch.tensor([feature["weight"] for feature in features])
    if "labels" in features[0]:
        labels = torch.from_numpy(np.concatenate([feature["labels"] for feature in features]).astype(np.int64))
        batch["labels"] = torch.where(batch["places"] < 0, IGNORED, labels)
    return batch
