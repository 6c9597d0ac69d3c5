"""Token classification: a row of words, or a text -> a tag for each word (named entities)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute
from datasets import List, Value
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hf_sft.data.bad_rows import Fault, null_faults
from hf_sft.data.columns import check_texts
from hf_sft.data.quality import Inspection, hash_texts, normalise
from hf_sft.data.splits import Split
from hf_sft.data.tag_columns import wrong_column
from hf_sft.data.tags import decide_tags, read_tags
from hf_sft.data.words import read_words, reads_text, word_columns
from hf_sft.errors import Finding, ModelError, RecipeError
from hf_sft.recipe import DataSet, Recipe
from hf_sft.tasks.tagging import PROBLEMS, write_tags
from hf_sft.tasks.task import Batch, Task
from hf_sft.tasks.text_classification import fit_model, load_tokenizer, longest_input, no_pixels
from hf_sft.tasks.windows import collate_windows, one_window_each, tokenize_words


def _load_tokenizer(source: str, recipe: Recipe, config: Any, trust_remote_code: bool) -> Any:
    """A tokenizer that tells where its tokens stand, and reads a text's first word like any other.

    Raises ModelError for one that does not, RecipeError for windows that would never get on.
    """
    tokenizer = load_tokenizer(source, recipe, config, trust_remote_code)
    if not tokenizer.is_fast:
        found = f"{type(tokenizer).__name__} of {source}, which is written in Python"
        expected = "a tokenizer that gives the place of each token (a fast one)"
        raise ModelError(Finding(place="model.name", expected=expected, found=found, fix="name another model"))
    _begin_with_a_space(tokenizer)
    room, stride = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add(), recipe.processor.stride
    if stride is not None and stride >= room:
        expected = f"less than the {room} tokens that a window holds (processor.max_length)"
        fix = f"set processor.stride: {room // 4}"
        raise RecipeError(Finding(place="processor.stride", expected=expected, found=str(stride), fix=fix))
    return tokenizer


def _begin_with_a_space(tokenizer: Any) -> None:
    """GPT-2's and RoBERTa's tokens hold the space before a word; so must that of the first word, saved and reloaded."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = [
        part
        for kind, inside in (("pre_tokenizer", "pretokenizers"), ("post_processor", "processors"))
        for part in (content[kind] or {}).get(inside, [content[kind] or {}])
    ]
    if not any(part.get("type") == "ByteLevel" and not part["add_prefix_space"] for part in parts):
        return
    for part in parts:
        if part.get("type") in ("ByteLevel", "RobertaProcessing"):  # the second one says where the tokens stand
            part["add_prefix_space"] = True
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_prefix_space = True
    tokenizer.init_kwargs["add_prefix_space"] = True


def _stride(tokenizer: Any, recipe: Recipe) -> int:
    asked = recipe.processor.stride
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    return asked if asked is not None else min(tokenizer.model_max_length // 4, room - 1)


def _prepare(split: Split, recipe: Recipe) -> Split:
    columns = word_columns(recipe.dataset)
    if reads_text(recipe.dataset):
        check_texts(split, columns, "text")
        return split
    for column in columns:
        feature = split.rows.features[column]
        inner = feature.feature if isinstance(feature, List) else None
        if not (isinstance(inner, Value) and inner.dtype in ("string", "large_string")):
            fix = "name the column that holds lists of words; of texts: dataset.columns: {text: ...}"
            expected, place = "a list of words in every row", "dataset.columns.tokens"
            raise wrong_column(split.rows, column, expected, fix, words=column, place=place)
    return split


def _find_faults(split: Split, recipe: Recipe) -> list[Fault]:
    """Rows without a word, and lists with a null among the words."""
    (column,) = word_columns(recipe.dataset)
    role = "text" if reads_text(recipe.dataset) else "tokens"
    expected = "" if role == "text" else "a list of words in every row"
    faults = [
        Fault(position=fault.position, role=role, column=column, kind=fault.kind, expected=expected)
        for fault in null_faults(split.rows, column, role)
    ]
    values = split.rows.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    expected, kinds = "words in every row", []
    if role == "text":
        blank = pyarrow.compute.equal(pyarrow.compute.utf8_trim_whitespace(values), "")
        kinds.append(("is blank", pyarrow.compute.indices_nonzero(blank)))
    else:
        empty = pyarrow.compute.equal(pyarrow.compute.list_value_length(values), 0)
        kinds.append(("holds no word", pyarrow.compute.indices_nonzero(empty)))
        flat, parents = pyarrow.compute.list_flatten(values), pyarrow.compute.list_parent_indices(values)
        kinds.append(("holds a null among its words", parents.filter(pyarrow.compute.is_null(flat)).unique()))
    for kind, positions in kinds:
        faults += [
            Fault(position=int(position), role=role, column=column, kind=kind, expected=expected)
            for position in positions.to_pylist()
        ]
    return faults


def _inspect(role: str, split: Split, recipe: Recipe, positions: NDArray) -> Inspection:
    """Numbers of words; hashes of the words as they are, and in lower case without punctuation."""
    columns = word_columns(recipe.dataset)
    rows = read_words(split.rows.select(positions).select_columns(columns)[:], recipe.dataset)
    texts, sizes = [row.text for row in rows], np.array([len(row.starts) for row in rows] or [0])
    facts = {"words": {"median": float(np.median(sizes)), "most": int(sizes.max())}}
    keys = {"exact": hash_texts(texts), "normalised": hash_texts(map(normalise, texts))}
    return Inspection(split=role, positions=positions, row_ids=split.row_ids[positions], keys=keys, facts=facts)


def _full_lengths(batch: Batch, tokenizer: Any, recipe: Recipe) -> NDArray:
    texts = [row.text for row in read_words(batch, recipe.dataset)]
    ids = tokenizer(texts, truncation=False, return_attention_mask=False, verbose=False)["input_ids"]
    return np.array([len(row) for row in ids], dtype=np.int64)


def _configure_transform(tokenizer: Any, recipe: Recipe) -> Callable[[Batch], dict[str, Any]]:
    return partial(read_windows, tokenizer, recipe.dataset, _stride(tokenizer, recipe))


def read_windows(tokenizer: Any, settings: DataSet, stride: int, batch: Batch) -> dict[str, Any]:
    """Rows as `tasks.windows` describes them."""
    return tokenize_words(tokenizer, read_words(batch, settings), stride=stride)


def _configure_collate(tokenizer: Any, recipe: Recipe) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True  # tokenised once, padded per batch
    return partial(collate_windows, tokenizer)


TOKEN_CLASSIFICATION = Task(
    name="token-classification",
    columns={"tokens": True, "text": False, "label": True},
    instead={"text": "tokens"},
    problems=PROBLEMS,
    read_labels=read_tags,
    decide_labels=decide_tags,
    auto_model="AutoModelForTokenClassification",
    load_processor=_load_tokenizer,
    fit_model=fit_model,
    prepare=_prepare,
    find_faults=_find_faults,
    inspect=_inspect,
    full_lengths=_full_lengths,
    longest_input=longest_input,
    cuts=False,
    transform=_configure_transform,
    ahead=True,
    parts=one_window_each,
    streams=False,
    collate=_configure_collate,
    length="input_ids",
    write=write_tags,
    opened=str,
    pixels=no_pixels,
)
