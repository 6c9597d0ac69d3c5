"""Losses of rows with one label or several; what a recipe adds to them reaches training alone."""

from __future__ import annotations

import torch
from torch.nn import functional

from hf_sft.tasks.task import Batch, Penalty

PLAIN = Penalty()


def single_losses(logits: torch.Tensor, labels: torch.Tensor, penalty: Penalty = PLAIN) -> torch.Tensor:
    """[B]: cross-entropy of logits [B, L] with labels as indices [B] or as shares of each label [B, L]."""
    hard = labels.ndim == 1
    labels = labels if hard else labels.to(logits.dtype)
    weights = None if penalty.class_weights is None else penalty.class_weights.to(logits)
    if not penalty.focal_gamma:
        return functional.cross_entropy(
            logits, labels, weight=weights, reduction="none", label_smoothing=penalty.label_smoothing
        )
    log_p = logits.log_softmax(-1)
    others = (-log_p.expm1()).clamp_min(torch.finfo(log_p.dtype).tiny)  # 1 - p; 0 has no slope for gamma below 1
    terms = -log_p * others**penalty.focal_gamma * (1.0 if weights is None else weights)
    return terms.gather(-1, labels[:, None]).squeeze(-1) if hard else (terms * labels).sum(-1)


def multi_losses(logits: torch.Tensor, labels: torch.Tensor, penalty: Penalty = PLAIN) -> torch.Tensor:
    """[B]: mean over labels of the binary cross-entropy of logits [B, L] with labels [B, L] from 0 to 1.

    A class weight is that of the rows which have the label, as `pos_weight` of torch.
    """
    labels, smoothing = labels.to(logits.dtype), penalty.label_smoothing
    labels = labels * (1 - smoothing) + 0.5 * smoothing
    weights = None if penalty.class_weights is None else penalty.class_weights.to(logits)
    if not penalty.focal_gamma:
        terms = functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="none")
        return terms.mean(-1)
    log_p, log_q = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    present = -log_p * (penalty.focal_gamma * log_q).exp() * (1.0 if weights is None else weights)
    absent = -log_q * (penalty.focal_gamma * log_p).exp()
    return (labels * present + (1 - labels) * absent).mean(-1)


def count_rows(batch: Batch, penalty: Penalty) -> torch.Tensor:
    """Rows that count; rows repeated only to fill a batch weigh 0."""
    return batch["weight"].sum()


def count_class_weights(batch: Batch, penalty: Penalty) -> torch.Tensor:
    """The rows that count, each as much as its class weighs: what torch's CrossEntropyLoss(weight) divides by."""
    weight, labels = batch["weight"], batch["labels"]
    if penalty.class_weights is None:
        return weight.sum()
    classes = penalty.class_weights.to(weight)
    own = classes[labels] if labels.ndim == 1 else (labels * classes).sum(-1)  # @ would be autocast to half precision
    return (weight * own).sum()
