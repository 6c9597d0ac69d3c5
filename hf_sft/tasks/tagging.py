"""The one problem of token classification: a tag for each word, trained and read at the word's first token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray
from torch.nn import functional

from hf_sft.data.labels import OUTSIDE, Labels, PartlyTagged
from hf_sft.data.words import read_words
from hf_sft.errors import Finding, first_few
from hf_sft.metrics.entities import find_entities, per_type, stray, tag_kinds, tag_outcome
from hf_sft.metrics.metric import Outcome
from hf_sft.recipe import Recipe
from hf_sft.tasks.class_weights import balance_classes
from hf_sft.tasks.classification import logits_of
from hf_sft.tasks.losses import single_losses
from hf_sft.tasks.task import Batch, Penalty, Problem, Rows
from hf_sft.tasks.windows import IGNORED

SPAN = pyarrow.struct(
    [
        ("label", pyarrow.string()),
        ("start", pyarrow.int64()),
        ("end", pyarrow.int64()),
        ("score", pyarrow.float64()),
        ("text", pyarrow.string()),
    ]
)


def _encode(values: Sequence[Sequence[str]], labels: Labels) -> NDArray:
    index_of = labels.index_of
    return as_rows([_spread(row, np.array([index_of[tag] for tag in row], dtype=np.int64)) for row in values])


def _spread(row: Sequence[str], tags: NDArray) -> NDArray:
    """A tag for each word of the row, IGNORED for words without one."""
    if not isinstance(row, PartlyTagged):
        return tags
    whole = np.full(row.size, IGNORED, dtype=np.int64)
    whole[row.places] = tags
    return whole


def as_rows(entries: Sequence[Any]) -> NDArray:
    """object [N]: arrays that may differ in size, or what else a row has."""
    rows = np.empty(len(entries), dtype=object)
    for position, entry in enumerate(entries):
        rows[position] = entry
    return rows


def _item_weights(batch: Batch) -> torch.Tensor:
    """Per word: 1, or 0 in a row that only fills a batch, and for a word without a token."""
    return batch["weight"].repeat_interleave(batch["counts"]) * (batch["labels"] != IGNORED)


def _count(batch: Batch, penalty: Penalty) -> torch.Tensor:
    return _class_weights(batch, penalty).sum()


def _class_weights(batch: Batch, penalty: Penalty) -> torch.Tensor:
    """What each word adds to the divisor: 1, or as much as its class weighs."""
    weight = _item_weights(batch)
    if penalty.class_weights is None:
        return weight
    return weight * penalty.class_weights.to(weight)[batch["labels"].clamp(min=0)]


def _word_logits(outputs: Any, batch: Batch) -> torch.Tensor:
    """[words, L]; that of a word without a token is some other token's and must not be read."""
    logits = logits_of(outputs)
    return logits.reshape(-1, logits.shape[-1])[batch["places"].clamp(min=0)]


def _objective(outputs: Any, batch: Batch, penalty: Penalty) -> tuple[torch.Tensor, torch.Tensor]:
    losses = single_losses(_word_logits(outputs, batch), batch["labels"].clamp(min=0), penalty)
    return (losses * _item_weights(batch).to(losses.dtype)).sum(), _count(batch, penalty).to(losses.dtype)


def _balance(targets: NDArray, number: int) -> NDArray:
    """As balance_classes, counted in words."""
    words = np.concatenate([np.zeros(0, dtype=np.int64), *targets])
    return balance_classes(words[words != IGNORED], number)


def _decode(outputs: Any, batch: Batch, labels: Labels) -> Rows:
    logits = _word_logits(outputs, batch)
    there = (batch["places"] >= 0).numpy()
    scores = logits.softmax(-1).detach().double().numpy()
    scores = np.where(there[:, None], scores, np.eye(len(labels.names))[_outside(labels)])
    cuts = np.cumsum(batch["counts"].numpy())[:-1]
    per_row = np.split(scores, cuts)
    choose = choose_constrained if labels.constrained else _choose
    rows = {"scores": as_rows(per_row), "predictions": as_rows([choose(part, labels) for part in per_row])}
    if "labels" in batch:
        losses = functional.cross_entropy(logits, batch["labels"], ignore_index=IGNORED, reduction="none")
        items = [int(part.sum()) for part in np.split((batch["labels"] != IGNORED).numpy(), cuts)]
        sums = [float(part.sum()) for part in np.split(losses.detach().double().numpy(), cuts)]
        rows["losses"] = np.array([total / max(number, 1) for total, number in zip(sums, items, strict=True)])
        rows["items"] = np.array(items, dtype=np.int64)
    return rows


def _outside(labels: Labels) -> int:
    """The tag of a word that the model does not see."""
    return labels.index_of.get(OUTSIDE, 0)


def _choose(scores: NDArray, labels: Labels) -> NDArray:
    return scores.argmax(-1).astype(np.int64)


def choose_constrained(scores: NDArray, labels: Labels) -> NDArray:
    """The likeliest sequence of tags in which every I- goes on with its type (Viterbi 1967); int64 [words].

    scores: probabilities [words, L], of one row.
    """
    if not len(scores):
        return np.zeros(0, dtype=np.int64)
    kinds = tag_kinds(labels.names)
    goes_on = (kinds.kind >= 0) & ~kinds.begins
    allowed = ~goes_on[None, :] | (kinds.kind[:, None] == kinds.kind[None, :])
    if goes_on.all():  # tags of which none can begin: nothing to keep to
        return _choose(scores, labels)
    with np.errstate(divide="ignore"):
        words, barred = np.log(scores), np.where(allowed, 0.0, -np.inf)
    best, back = np.where(goes_on, -np.inf, words[0]), []
    for word in words[1:]:
        paths = best[:, None] + barred
        back.append(paths.argmax(0))
        best = paths.max(0) + word
    path = [int(best.argmax())]
    for step in reversed(back):
        path.append(int(step[path[-1]]))
    return np.array(path[::-1], dtype=np.int64)


def _outcome(rows: Rows, targets: NDArray, labels: Labels) -> Outcome:
    return tag_outcome(targets, rows["predictions"], rows["scores"], labels.names)


def _majority(targets: NDArray, answered: NDArray, labels: Labels) -> Rows:
    """Every word has the most frequent tag, O as a rule."""
    words = np.concatenate([np.zeros(0, np.int64), *targets])
    counts = np.bincount(words[words != IGNORED], minlength=len(labels.names))
    frequencies = counts / max(counts.sum(), 1)
    return {
        "scores": as_rows([np.tile(frequencies, (len(row), 1)) for row in answered]),
        "predictions": as_rows([np.full(len(row), counts.argmax(), dtype=np.int64) for row in answered]),
    }


def _per_type(outcome: Outcome, labels: Labels) -> dict[str, dict[str, float]]:
    return per_type(outcome)


def _answers(labels: Labels) -> dict[str, pyarrow.DataType]:
    text, number = pyarrow.string(), pyarrow.float64()
    return {
        "words": pyarrow.list_(text),
        "prediction": pyarrow.list_(text),
        "scores": pyarrow.list_(number),
        "spans": pyarrow.list_(SPAN),
    }


def write_tags(rows: Rows, labels: Labels, recipe: Recipe, source: Any) -> dict[str, Any]:
    """Columns of a predictions file, a list per row: words, reference, prediction (tags), scores (of the predicted

    tags), spans (entities: label, start and end in characters, score: mean of their words', text), loss (a number).
    A word that does not count has None as its reference. Characters are counted in the text, or in the words with a
    space between.
    """
    read = read_words(source[range(len(rows["predictions"]))], recipe.dataset)
    names = np.asarray(labels.names, dtype=object)
    kinds = tag_kinds(labels.names)
    columns: dict[str, Any] = {"words": [row.words for row in read]}
    if "references" in rows:
        known = np.array([*labels.names, None], dtype=object)  # the last for IGNORED
        columns["reference"] = [known[tags.clip(min=-1)].tolist() for tags in rows["references"]]
    columns["prediction"] = [names[tags].tolist() for tags in rows["predictions"]]
    scores = [part[np.arange(len(part)), tags] for part, tags in zip(rows["scores"], rows["predictions"], strict=True)]
    columns["scores"] = [part.tolist() for part in scores]
    columns["spans"] = []
    for row, tags, part in zip(read, rows["predictions"], scores, strict=True):
        entities = find_entities(tags, np.zeros(len(tags), dtype=np.int64), kinds)
        spans = []
        for first, last, kind in zip(entities.start, entities.end, entities.kind, strict=True):
            start, end = int(row.starts[first]), int(row.ends[last - 1])
            score = float(part[first:last].mean())
            text = row.text[start:end]
            spans.append({"label": kinds.types[kind], "start": start, "end": end, "score": score, "text": text})
        columns["spans"].append(spans)
    if "losses" in rows:
        columns["loss"] = rows["losses"]
    return columns


def _inspect_labels(
    role: str, entries: Sequence[Any], row_ids: NDArray, labels: Labels
) -> tuple[dict[str, Any], list[Finding]]:
    """Entities of each type, and the rows whose tags do not keep to IOB2."""
    kinds, tags = tag_kinds(labels.names), _encode(entries, labels)
    flat = np.concatenate([np.zeros(0, np.int64), *tags])
    row_of = np.repeat(np.arange(len(tags)), [len(row) for row in tags])[flat != IGNORED]
    facts: dict[str, Any] = {}
    if len(row_of) < len(flat):
        facts["uncounted_words"] = len(flat) - len(row_of)
        flat = flat[flat != IGNORED]
    found = Counter(find_entities(flat, row_of, kinds).kind.tolist())
    facts["entities"] = {name: found[index] for index, name in enumerate(kinds.types)}
    wrong = np.flatnonzero(stray(flat, row_of, kinds))
    facts["illegal_tags"] = len(wrong)
    place, findings = "dataset.columns.label", []
    if len(wrong):
        rows = list(dict.fromkeys(row_ids[row_of[wrong]].tolist()))
        what = f"{len(wrong):,} I- tags in {role} that go on with nothing, in {len(rows):,} rows: {first_few(rows)}"
        fix = "they count as the first word of an entity, in training as they stand; mend them where they are slips"
        findings.append(Finding(place=place, expected="every I- after B- or I- of its type", found=what, fix=fix))
    if not sum(found.values()):
        what, fix = f"none in {role}", f"results on {role} say nothing; is this the right column?"
        findings.append(Finding(place=place, expected="entities", found=what, fix=fix))
    return facts, findings


PROBLEMS: dict[Any, Problem] = {
    "tags": Problem(
        problem_type=None,
        encode=_encode,
        count=_count,
        objective=_objective,
        decode=_decode,
        outcome=_outcome,
        baseline=_majority,
        answers=_answers,
        per_class=_per_type,
        counted="words per tag",
        inspect_labels=_inspect_labels,
        balance=_balance,
    ),
}
