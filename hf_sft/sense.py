"""Settings that are allowed and make little sense: what an experienced reader would ask about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_sft.data.labels import Labels
from hf_sft.errors import Finding
from hf_sft.modeling.build import Opened
from hf_sft.recipe import Recipe
from hf_sft.training.learning_rates import default_learning_rate

FAR = 10.0  # times the table's learning rate, or a tenth of it
TRUNCATED = 0.01  # share of tokens that may be lost at processor.max_length without a word
VOCABULARY = 0.9  # of the model's embeddings that a matching tokenizer uses at least
ROUND = 16  # tokens, to which a suggested length is rounded up


def learning_rate(recipe: Recipe, config: Any) -> list[Finding]:
    """A learning rate far from the table's for this family, strategy and optimizer."""
    given = recipe.training.get("learning_rate") if recipe.tuning.solver == "gradient" else None
    usual, why = default_learning_rate(
        config,
        recipe.tuning.strategy,
        random=recipe.model.weights == "random",
        optimizer=str(recipe.training.get("optim", "")),
    )
    if not isinstance(given, (int, float)) or given <= 0 or 1 / FAR < given / usual < FAR:
        return []
    expected, found = f"about {usual:g} ({why})", f"{given:g}, {_times(given / usual)}"
    fix = "leave it out for the table's, or go on if you know better"
    return [Finding(place="training.learning_rate", expected=expected, found=found, fix=fix)]


def warm_up(training: Mapping[str, Any], rows: int | None, processes: int) -> list[Finding]:
    """More warm-up than there are steps: the learning rate never gets where it should."""
    warm, steps = training.get("warmup_steps") or 0, num_steps(training, rows, processes)
    if warm < 1 or steps is None or warm < steps:
        return []
    expected, found = f"fewer than the {steps:,} steps of the run", f"{warm:g}"
    fix = "set training.warmup_steps: 0.1 (a tenth of the steps)"
    return [Finding(place="training.warmup_steps", expected=expected, found=found, fix=fix)]


def queries(config: Any, facts: Mapping[str, Any]) -> list[Finding]:
    """A detector that answers with fewer boxes than an image has. facts: split -> what was seen of it."""
    known = config.to_dict()
    key = next((key for key in ("num_queries", "num_detection_tokens") if known.get(key)), None)
    most = {split: part["boxes"]["most"] for split, part in facts.items() if "boxes" in part}
    if key is None or not most or max(most.values()) <= known[key]:
        return []
    number, split = max((number, split) for split, number in most.items())
    found, expected = f"{known[key]}, and an image of {split} has {number:,} boxes", "a query for each box of an image"
    fix = f"set model.config: {{{key}: {number}}} or more, where the weights allow it; the boxes beyond are not learned"
    return [Finding(place=f"model.config.{key}", expected=expected, found=found, fix=fix)]


def num_steps(training: Mapping[str, Any], rows: int | None, processes: int) -> int | None:
    """Optimizer steps of a run with these (filled) settings; None where that is not known."""
    if (most := training.get("max_steps") or 0) > 0:
        return int(most)
    if rows is None:
        return None
    batch = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] * processes
    return math.ceil(math.ceil(rows / batch) * training["num_train_epochs"])


def vocabulary(opened: Opened) -> tuple[list[Finding], list[Finding]]:
    """(errors, warnings) about a tokenizer that belongs to another model."""
    size, known = getattr(opened.config, "vocab_size", None), getattr(opened.processor, "vocab_size", None)
    if not size or not known:
        return [], []
    found = f"a tokenizer of {len(opened.processor):,} tokens for {size:,} embeddings"
    finding = Finding(
        place="model.name",
        expected="a tokenizer and a model that belong together",
        found=found,
        fix="take both from the folder or id that was pretrained",
    )
    if len(opened.processor) > size:
        return [finding], []
    return [], [finding] if len(opened.processor) < VOCABULARY * size else []


def same_but_for_spelling(opened: Opened, labels: Labels) -> list[Finding]:
    """A base model with the very labels of the data under other spellings: its classifier would be thrown away."""
    known = opened.known or []
    spelled = sorted(name.casefold() for name in known)
    if set(known) == set(labels.names) or spelled != sorted(name.casefold() for name in labels.names):
        return []
    pairs = {name.casefold(): name for name in known}
    renamed = ", ".join(f"{name}: {pairs[name.casefold()]}" for name in labels.names[:4])
    expected, found = "label names " + ", ".join(known[:6]), ", ".join(labels.names[:6])
    fix = f"set dataset.label_map: {{{renamed}}} to keep the classifier that the model brings"
    return [Finding(place="model.head", expected=expected, found=found, fix=fix)]


def truncation(lengths: NDArray, limit: int, longest: int) -> tuple[dict[str, Any], list[Finding]]:
    """(facts, findings) about texts of these lengths in tokens, cut at `limit`; longest: what the model can take."""
    total = max(1, int(lengths.sum()))
    lost = int(np.maximum(lengths - limit, 0).sum()) / total
    facts = {
        "median_tokens": float(np.median(lengths)) if len(lengths) else 0.0,
        "longest": int(lengths.max(initial=0)),
        "truncated_rows": float((lengths > limit).mean()) if len(lengths) else 0.0,
        "lost_tokens": lost,
    }
    if lost < TRUNCATED:
        return facts, []
    enough = length_that_keeps(lengths, 1 - TRUNCATED)
    found = f"{facts['truncated_rows']:.1%} of the rows cut, {lost:.1%} of all tokens lost at {limit}"
    if enough <= longest:
        fix = f"set processor.max_length: {enough} to lose under {TRUNCATED:.0%}"
    else:
        fix = f"the model takes at most {longest}; a model for longer texts, or texts cut where they matter, keeps more"
    expected = f"under {TRUNCATED:.0%} of the tokens lost"
    return facts, [Finding(place="processor.max_length", expected=expected, found=found, fix=fix)]


def windows(lengths: NDArray, limit: int) -> dict[str, Any]:
    """Facts about texts of these lengths in tokens, of which those beyond `limit` are read in several windows."""
    return {
        "median_tokens": float(np.median(lengths)) if len(lengths) else 0.0,
        "longest": int(lengths.max(initial=0)),
        "windowed_rows": float((lengths > limit).mean()) if len(lengths) else 0.0,
    }


def length_that_keeps(lengths: NDArray, share: float) -> int:
    """The least length (a multiple of 16) at which that share of all tokens is kept."""
    total, ordered = lengths.sum(), np.sort(lengths)
    for length in range(ROUND, int(ordered[-1]) + ROUND, ROUND):
        if np.minimum(ordered, length).sum() >= share * total:
            return length
    return -(-int(ordered[-1]) // ROUND) * ROUND


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times that" if ratio > 1 else f"a {1 / ratio:.0f}th of that"
