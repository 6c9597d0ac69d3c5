"""Text classification: one text or a pair -> one label, several labels, or a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from hf_sft.data.bad_rows import Fault, null_faults
from hf_sft.data.columns import check_texts, columns_of, joined, label_column
from hf_sft.data.quality import inspect_texts
from hf_sft.data.splits import Split
from hf_sft.errors import Finding, ModelError, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.tasks.classification import PROBLEMS, collate_targets, decide, write_rows
from hf_sft.tasks.task import Batch, Task

DEFAULT_MAX_LENGTH = 512  # padding follows the longest text of a batch, so that a high limit costs short texts nothing
COUNTED_FROM_PADDING = (
    "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet",
    "xmod",
)  # fmt: skip


def load_tokenizer(source: str, recipe: Recipe, config: Any, trust_remote_code: bool) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(
        source, revision=recipe.model.revision, trust_remote_code=trust_remote_code
    )
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a folder without tokenizer files
        found = f"no tokenizer files in {source}"
        fix = "copy the tokenizer's files there: AutoTokenizer.from_pretrained(base).save_pretrained(folder)"
        raise ModelError(Finding(place="model.name", expected="a tokenizer with a vocabulary", found=found, fix=fix))
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            found = f"neither a padding nor an end-of-sequence token in {source}"
            raise ModelError(Finding(place="model.name", expected="a tokenizer that can pad", found=found))
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    limit = longest_input(tokenizer, config)
    asked = recipe.processor.max_length
    if asked is not None and asked > limit:
        fix = f"set processor.max_length to at most {limit}"
        raise RecipeError(
            Finding(place="processor.max_length", expected=f"at most {limit} tokens", found=str(asked), fix=fix)
        )
    tokenizer.model_max_length = asked or min(limit, DEFAULT_MAX_LENGTH)
    return tokenizer


def longest_input(tokenizer: Any, config: Any) -> int:
    """Tokens the model has positions for. RoBERTa's family counts positions from the padding id on."""
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 0
    if "roberta" in config.model_type or config.model_type in COUNTED_FROM_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    return int(positions) if positions > 0 else 10**6  # XLNet says -1: any length


def fit_model(model: Any, tokenizer: Any) -> None:
    model.config.pad_token_id = tokenizer.pad_token_id


def _text_columns(recipe: Recipe) -> dict[str, list[str]]:
    """Role -> columns, for the roles that this recipe has."""
    roles = ["text", *(["text_pair"] if "text_pair" in recipe.dataset.columns else [])]
    return {role: columns_of(recipe.dataset, role) for role in roles}


def _prepare(split: Split, recipe: Recipe) -> Split:
    for role, columns in _text_columns(recipe).items():
        check_texts(split, columns, role)
    return split


def _find_faults(split: Split, recipe: Recipe) -> list[Fault]:
    return [
        fault
        for role, columns in _text_columns(recipe).items()
        for column in columns
        for fault in null_faults(split.rows, column, role)
    ]


def _configure_transform(tokenizer: Any, recipe: Recipe) -> Callable[[Batch], dict[str, Any]]:
    columns = _text_columns(recipe)
    return partial(tokenize, tokenizer, columns["text"], columns.get("text_pair"))


def _full_lengths(batch: Batch, tokenizer: Any, recipe: Recipe) -> NDArray:
    columns = _text_columns(recipe)
    pair = joined(batch, columns["text_pair"]) if "text_pair" in columns else None
    ids = tokenizer(joined(batch, columns["text"]), pair, truncation=False, return_attention_mask=False, verbose=False)
    return np.array([len(row) for row in ids["input_ids"]], dtype=np.int64)


def tokenize(tokenizer: Any, text: Sequence[str], pair: Sequence[str] | None, batch: Batch) -> dict[str, Any]:
    """Token ids without padding; a pair goes to the tokenizer as a pair. The attention mask is made when padding."""
    inputs = tokenizer(
        joined(batch, text),
        joined(batch, pair) if pair else None,
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_attention_mask=False,
    )
    return dict(inputs)


def _configure_collate(tokenizer: Any, recipe: Recipe) -> Callable[[Sequence[Batch]], dict[str, Any]]:
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True  # tokenised once, padded per batch
    return partial(_collate, tokenizer)


def _collate(tokenizer: Any, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = [name for name in features[0] if name in tokenizer.model_input_names]
    inputs = {name: [feature[name] for feature in features] for name in names}
    return dict(tokenizer.pad(inputs, return_tensors="pt")) | collate_targets(features)


def no_pixels(tokenizer: Any) -> int:
    return 0


TEXT_CLASSIFICATION = Task(
    name="text-classification",
    columns={"text": True, "text_pair": False, "label": True},
    read_labels=label_column,
    decide_labels=decide,
    problems=PROBLEMS,
    auto_model="AutoModelForSequenceClassification",
    load_processor=load_tokenizer,
    fit_model=fit_model,
    prepare=_prepare,
    find_faults=_find_faults,
    inspect=inspect_texts,
    full_lengths=_full_lengths,
    longest_input=longest_input,
    transform=_configure_transform,
    ahead=True,
    collate=_configure_collate,
    length="input_ids",
    write=write_rows,
    opened=str,
    pixels=no_pixels,
)
