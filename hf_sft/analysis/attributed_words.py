"""Which words an answer rests on, row by row and over all rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_sft.analysis.chosen_rows import Chosen, kinds, probability
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.map_checks import CONTROLLED, SHARES, check, draw_checks, key_figures
from hf_sft.analysis.maps import Inputs, deletion, in_short_batches, rank_correlation, shuffled, word_gradients
from hf_sft.analysis.section import Cell, Part, Section, Table, Tokens

FEWEST = 3  # rows that a word must stand in to be told
MOST_WORDS = 200


def show_words(run: FinishedRun, chosen: Chosen) -> Section:
    """Marked texts, the words that pull towards each class, and the checks."""
    model, tokenizer = run.saved.model, run.saved.processor
    blank = blank_of(tokenizer)
    targets = torch.as_tensor(chosen.predicted, device=chosen.inputs["input_ids"].device)
    special = tokenizer.all_special_ids
    found = in_short_batches(
        lambda inputs, classes: word_gradients(model, inputs, classes, blank, special), chosen.inputs, targets
    )
    control = shuffled(model, run.seed)
    some = {name: value[:CONTROLLED] for name, value in chosen.inputs.items()}
    other = in_short_batches(
        lambda inputs, classes: word_gradients(control, inputs, classes, blank, special), some, targets[:CONTROLLED]
    )
    ids = chosen.inputs["input_ids"]
    able = _able(chosen, special)

    def answer(blanked: NDArray) -> NDArray:
        words = torch.where(torch.as_tensor(blanked, device=ids.device), torch.full_like(ids, blank), ids)
        return in_short_batches(_probabilities, {**chosen.inputs, "input_ids": words}, targets)[:, 0]

    def _probabilities(inputs: Inputs, classes: torch.Tensor) -> NDArray:
        return probability(model, inputs, classes)[:, None]

    marked, at_random = deletion(answer, found, able, SHARES, run.seed)
    alike = rank_correlation(found[:CONTROLLED][able[:CONTROLLED]], other[able[:CONTROLLED]])
    checks = [check("Integrated gradients", marked, at_random, alike, run.seed)]
    texts = [
        merge_words(tokenizer.convert_ids_to_tokens(row[own].tolist()), values[own], spelling(tokenizer))
        for row, own, values in zip(ids.cpu().numpy(), able, found, strict=True)
    ]
    names = run.saved.labels.names
    parts: list[Part] = [_rows(chosen, texts, names), _pulling(chosen, texts, names), draw_checks(checks)]
    sentence = (
        f"Which words speak for the class that was predicted (orange) and which against it (blue), on "
        f"{len(chosen.row_ids)} rows of {chosen.role}. Look for words that should not matter: names, places, "
        "punctuation. They are what the model has learned of your data, and not of the task."
    )
    return Section(
        name="attribution",
        title="Attribution",
        sentence=sentence,
        parts=tuple(parts),
        key_figures=key_figures(checks, len(chosen.row_ids)),
        notes=tuple(one.in_words() for one in checks),
    )


def blank_of(tokenizer: Any) -> int:
    """The token that stands for nothing: the mask, which models know, else the padding."""
    masked: int | None = tokenizer.mask_token_id
    return int(tokenizer.pad_token_id if masked is None else masked)


def spelling(tokenizer: Any) -> Callable[[list[str]], str]:
    """How tokens of one word are written: as the tokenizer does, which knows its bytes; else one after another."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return put_together if backend is not None and backend.decoder is None else tokenizer.convert_tokens_to_string


def put_together(tokens: list[str]) -> str:
    """Tokens one after another, without the marks of where words begin and go on."""
    return "".join(token.removeprefix("##").lstrip("Ġ▁") for token in tokens)


def merge_words(tokens: Sequence[str], values: NDArray, spell: Callable[[list[str]], str] = put_together) -> Tokens:
    """Pieces put together to words, their values added; scaled so that the largest is 1."""
    groups, weights = list[list[str]](), list[float]()
    marked = any(token.startswith(("Ġ", "▁")) for token in tokens)
    for token, value in zip(tokens, values.tolist(), strict=True):
        goes_on = token.startswith("##") or (marked and not token.startswith(("Ġ", "▁")))
        if goes_on and groups:
            groups[-1].append(token)
            weights[-1] += value
        else:
            groups.append([token])
            weights.append(value)
    pieces = (spell(group).strip().removeprefix("##") for group in groups)
    most = max((abs(weight) for weight in weights), default=0.0) or 1.0
    return Tokens(tuple(pieces), tuple(weight / most for weight in weights))


def _able(chosen: Chosen, special: Sequence[int]) -> NDArray:
    """bool [B, T]: words, without padding and special tokens."""
    ids = chosen.inputs["input_ids"].cpu().numpy()
    mask = chosen.inputs.get("attention_mask")
    there = np.ones(ids.shape, dtype=bool) if mask is None else mask.cpu().numpy().astype(bool)
    return there & ~np.isin(ids, list(special))


def _rows(chosen: Chosen, texts: Sequence[Tokens], names: Sequence[str]) -> Table:
    rows: list[list[Cell]] = []
    for place, kind in enumerate(kinds(chosen)):
        truth, said = names[int(chosen.references[place])], names[int(chosen.predicted[place])]
        rows.append([kind, int(chosen.row_ids[place]), texts[place], truth, said, float(chosen.losses[place])])
    heads = ("", "row", "words", "truth", "prediction", "loss")
    caption = (
        "Texts with what speaks for the prediction (orange) and against it (blue): the worst rows, then right ones."
    )
    return Table(name="texts", caption=caption, heads=heads, rows=rows, shown=chosen.worst + chosen.right)


def _pulling(chosen: Chosen, texts: Sequence[Tokens], names: Sequence[str]) -> Table:
    """Mean of a word's weight over the rows in which a class was predicted; the strongest first."""
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    for text, said in zip(texts, chosen.predicted.tolist(), strict=True):
        for piece, weight in zip(text.pieces, text.weights, strict=True):
            if any(map(str.isalnum, piece)):
                found[said, piece.lower()].append(weight)
    rows: list[list[Cell]] = [
        [names[said], word, float(np.mean(weights)), len(weights)]
        for (said, word), weights in found.items()
        if len(weights) >= FEWEST
    ]
    rows.sort(key=lambda row: -float(str(row[2])))
    heads = ("class", "word", "mean weight", "times")
    caption = (
        "Words that pull towards a class, on average over the rows where it was predicted (1: the strongest word)."
    )
    return Table(name="words", caption=caption, heads=heads, rows=rows[:MOST_WORDS], shown=20)
