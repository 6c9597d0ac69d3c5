"""The words of a row: as they are given, or as they stand in its text, each with its place."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_sft.data.columns import columns_of
from hf_sft.recipe import DataSet

IDEOGRAPHS = "぀-ヿ㐀-䶿一-鿿豈-﫿"  # written without spaces: each is a word


@dataclass(frozen=True)
class Words:
    """A text and where its words stand in it: int64 [words], in characters, ends excluded."""

    text: str
    starts: NDArray
    ends: NDArray

    @property
    def words(self) -> list[str]:
        return [self.text[start:end] for start, end in zip(self.starts, self.ends, strict=True)]


def join_words(words: Sequence[str]) -> Words:
    """Given words, with a space between."""
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    ends = np.cumsum(lengths + 1) - 1
    return Words(" ".join(words), ends - lengths, ends)


def split_text(text: str) -> Words:
    """Runs of letters and digits; every other character that is no space alone, as BERT's tokenizers cut texts."""
    places = [match.span() for match in _pattern().finditer(text)]
    starts, ends = np.array(places, dtype=np.int64).reshape(-1, 2).T
    return Words(text, starts, ends)


@cache
def _pattern() -> re.Pattern[str]:
    marks = "".join(re.escape(chr(code)) for code in range(0x300, 0xFFFF) if unicodedata.category(chr(code))[0] == "M")
    return re.compile(rf"[{IDEOGRAPHS}]|(?:(?![{IDEOGRAPHS}])[\w{marks}])+|\S")


def reads_text(settings: DataSet) -> bool:
    """Whether rows hold texts whose words are to be found; else they hold their words."""
    return "text" in settings.columns and "tokens" not in settings.columns


def word_columns(settings: DataSet) -> list[str]:
    """The columns that hold the words, or the texts they are found in."""
    return columns_of(settings, "text" if reads_text(settings) else "tokens")


def read_words(batch: Mapping[str, Sequence[Any]], settings: DataSet) -> list[Words]:
    """The words of each row of a batch of source columns."""
    (column,) = word_columns(settings)
    find = split_text if reads_text(settings) else join_words
    return [find(cell) for cell in batch[column]]
