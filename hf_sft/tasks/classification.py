"""The three problems that text and image classification share: one label, several labels, a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray

from hf_sft.data.labels import LabelColumn, Labels, decide_labels
from hf_sft.metrics.classification import per_class
from hf_sft.metrics.metric import Outcome
from hf_sft.recipe import Recipe
from hf_sft.tasks.class_weights import balance_classes, balance_presence
from hf_sft.tasks.losses import count_class_weights, count_rows, multi_losses, single_losses
from hf_sft.tasks.task import Batch, Penalty, Problem, Rows


def logits_of(outputs: Any) -> torch.Tensor:
    """The logits [B, L] in float32, whatever the precision of the forward pass."""
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _sum(losses: torch.Tensor, batch: Batch) -> torch.Tensor:
    return (losses * batch["weight"].to(losses.dtype)).sum()


def _array(tensor: torch.Tensor) -> NDArray:
    return tensor.detach().cpu().double().numpy()  # in this order: MPS has no float64


# one label


def _encode_single(values: Sequence[Any], labels: Labels) -> NDArray:
    index_of = labels.index_of
    return np.fromiter((index_of[value] for value in values), dtype=np.int64, count=len(values))


def _single_objective(outputs: Any, batch: Batch, penalty: Penalty) -> tuple[torch.Tensor, torch.Tensor]:
    losses = single_losses(logits_of(outputs), batch["labels"], penalty)
    return _sum(losses, batch), count_class_weights(batch, penalty)


def _decode_single(outputs: Any, batch: Batch, labels: Labels) -> Rows:
    logits = logits_of(outputs)
    scores = _array(logits.softmax(-1))
    rows = {"scores": scores, "predictions": scores.argmax(-1)}
    if "labels" in batch:
        rows["losses"] = _array(single_losses(logits, batch["labels"]))
    return rows


def _single_outcome(rows: Rows, targets: NDArray, labels: Labels) -> Outcome:
    return Outcome(
        references=targets, predictions=rows["predictions"], scores=rows["scores"], num_labels=len(labels.names)
    )


def _majority(targets: NDArray, answered: NDArray, labels: Labels) -> Rows:
    frequencies = np.bincount(targets, minlength=len(labels.names)) / max(len(targets), 1)
    return {
        "scores": np.tile(frequencies, (len(answered), 1)),
        "predictions": np.full(len(answered), frequencies.argmax(), dtype=np.int64),
    }


# several labels


def _encode_multi(values: Sequence[Any], labels: Labels) -> NDArray:
    index_of = labels.index_of
    targets = np.zeros((len(values), len(labels.names)), dtype=np.float32)
    for row, names in enumerate(values):
        targets[row, [index_of[name] for name in names]] = 1.0
    return targets


def _multi_objective(outputs: Any, batch: Batch, penalty: Penalty) -> tuple[torch.Tensor, torch.Tensor]:
    return _sum(multi_losses(logits_of(outputs), batch["labels"], penalty), batch), count_rows(batch, penalty)


def _decode_multi(outputs: Any, batch: Batch, labels: Labels) -> Rows:
    logits = logits_of(outputs)
    scores = _array(logits.sigmoid())
    rows = {"scores": scores, "predictions": scores >= _thresholds(labels)}
    if "labels" in batch:
        rows["losses"] = _array(multi_losses(logits, batch["labels"]))
    return rows


def _thresholds(labels: Labels) -> NDArray:
    return np.asarray(labels.thresholds or [0.5] * len(labels.names))


def _multi_outcome(rows: Rows, targets: NDArray, labels: Labels) -> Outcome:
    """Predictions are taken from the scores again: the thresholds may have been chosen since."""
    predictions = rows["scores"] >= _thresholds(labels)
    return Outcome(
        references=targets.astype(bool), predictions=predictions, scores=rows["scores"], num_labels=len(labels.names)
    )


def _prevalence(targets: NDArray, answered: NDArray, labels: Labels) -> Rows:
    frequencies = targets.mean(0) if len(targets) else np.zeros(len(labels.names))
    scores = np.tile(frequencies, (len(answered), 1)).astype(float)
    return {"scores": scores, "predictions": scores >= 0.5}


def _choose_thresholds(scores: NDArray, targets: NDArray, labels: Labels) -> Labels:
    """Per label the probability that gives the best F1 (Lipton et al. 2014); 0.5 where no row has the label.

    The threshold lies half-way between two neighbouring scores, so that rounding moves no row across it.
    """
    chosen = []
    for label in range(len(labels.names)):
        order = np.argsort(-scores[:, label], kind="stable")
        sorted_scores, hits = scores[order, label], np.cumsum(targets[order, label])
        if not len(hits) or not hits[-1]:
            chosen.append(0.5)
            continue
        f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
        last_of_equals = np.append(sorted_scores[1:] < sorted_scores[:-1], True)
        best = int(np.where(last_of_equals, f1, -1).argmax())
        below = sorted_scores[best + 1] if best + 1 < len(sorted_scores) else 0.0
        chosen.append(float((sorted_scores[best] + below) / 2))
    return replace(labels, thresholds=tuple(chosen))


# a number


def _encode_number(values: Sequence[Any], labels: Labels) -> NDArray:
    return np.asarray(values, dtype=np.float32)


def _squared_errors(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    return (logits.squeeze(-1) - batch["labels"].to(logits.dtype)).square()


def _number_objective(outputs: Any, batch: Batch, penalty: Penalty) -> tuple[torch.Tensor, torch.Tensor]:
    return _sum(_squared_errors(logits_of(outputs), batch), batch), count_rows(batch, penalty)


def _decode_number(outputs: Any, batch: Batch, labels: Labels) -> Rows:
    logits = logits_of(outputs)
    scores = _array(logits.squeeze(-1))
    rows = {"scores": scores, "predictions": scores}
    if "labels" in batch:
        rows["losses"] = _array(_squared_errors(logits, batch))
    return rows


def _number_outcome(rows: Rows, targets: NDArray, labels: Labels) -> Outcome:
    return Outcome(
        references=targets.astype(float), predictions=rows["predictions"], scores=rows["scores"], num_labels=1
    )


def _mean(targets: NDArray, answered: NDArray, labels: Labels) -> Rows:
    values = np.full(len(answered), targets.mean() if len(targets) else 0.0)
    return {"scores": values, "predictions": values}


# all of them


def decide(columns: Mapping[str, LabelColumn], recipe: Recipe) -> tuple[Labels, list[str]]:
    """The label map of a classification task."""
    return decide_labels(columns, recipe.dataset)


def _per_label(outcome: Outcome, labels: Labels) -> dict[str, dict[str, float]]:
    return per_class(outcome, labels.names)


def _one_name(labels: Labels) -> dict[str, pyarrow.DataType]:
    return {"prediction": pyarrow.string(), **_score_columns(labels)}


def _several_names(labels: Labels) -> dict[str, pyarrow.DataType]:
    return {"prediction": pyarrow.list_(pyarrow.string()), **_score_columns(labels)}


def _one_number(labels: Labels) -> dict[str, pyarrow.DataType]:
    return {"prediction": pyarrow.float64()}


def _score_columns(labels: Labels) -> dict[str, pyarrow.DataType]:
    return {f"score_{name}": pyarrow.float64() for name in labels.names}


PROBLEMS: dict[Any, Problem] = {
    "single_label": Problem(
        problem_type="single_label_classification",
        encode=_encode_single,
        balance=balance_classes,
        count=count_class_weights,
        objective=_single_objective,
        decode=_decode_single,
        outcome=_single_outcome,
        baseline=_majority,
        answers=_one_name,
        per_class=_per_label,
        ranked=True,
    ),
    "multi_label": Problem(
        problem_type="multi_label_classification",
        encode=_encode_multi,
        balance=balance_presence,
        count=count_rows,
        objective=_multi_objective,
        decode=_decode_multi,
        outcome=_multi_outcome,
        baseline=_prevalence,
        answers=_several_names,
        per_class=_per_label,
        ranked=True,
        calibrate=_choose_thresholds,
    ),
    "regression": Problem(
        problem_type="regression",
        encode=_encode_number,
        count=count_rows,
        objective=_number_objective,
        decode=_decode_number,
        outcome=_number_outcome,
        baseline=_mean,
        answers=_one_number,
    ),
}


def collate_targets(features: Sequence[Batch]) -> dict[str, torch.Tensor]:
    """The target (where there is one) and the weight of each row, as tensors."""
    batch = {"weight": torch.tensor([feature["weight"] for feature in features])}
    if "labels" in features[0]:
        batch["labels"] = torch.as_tensor(np.stack([feature["labels"] for feature in features]))
    return batch


def write_rows(rows: Rows, labels: Labels, recipe: Recipe | None = None, source: Any = None) -> dict[str, Any]:
    """Columns of a predictions file: reference and prediction as names, the score of each label, the row's loss."""
    names = np.asarray(labels.names, dtype=object)

    def as_names(values: NDArray) -> list[Any]:
        if labels.problem == "regression":
            return values.astype(float).tolist()
        if labels.problem == "single_label":
            return names[values.astype(int)].tolist()
        return [names[row.astype(bool)].tolist() for row in values]

    columns: dict[str, Any] = {}
    if "references" in rows:
        columns["reference"] = as_names(rows["references"])
    columns["prediction"] = as_names(rows["predictions"])
    if labels.problem != "regression":
        columns |= {f"score_{name}": rows["scores"][:, index] for index, name in enumerate(labels.names)}
    if "losses" in rows:
        columns["loss"] = rows["losses"]
    return columns
