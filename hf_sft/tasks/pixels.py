"""The one problem of semantic segmentation: a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray
from torch.nn import functional

from hf_sft.data.augment import IGNORED
from hf_sft.data.labels import Labels
from hf_sft.errors import Finding
from hf_sft.metrics.metric import Outcome
from hf_sft.metrics.segmentation import count_pixels, image_ious, per_class, pixel_outcome
from hf_sft.recipe import Recipe
from hf_sft.tasks.classification import logits_of
from hf_sft.tasks.losses import single_losses
from hf_sft.tasks.task import Batch, Penalty, Problem, Rows

RARE = 0.001  # share of the pixels that count, under which a class is named


def _encode(values: Sequence[dict[str, int]], labels: Labels) -> NDArray:
    """int64 [N, L]: pixels of each class."""
    index_of, targets = labels.index_of, np.zeros((len(values), len(labels.names)), dtype=np.int64)
    for row, pixels in enumerate(values):
        for name, many in pixels.items():
            targets[row, index_of[name]] = many
    return targets


# training


def _pixel_weights(batch: Batch) -> torch.Tensor:
    """[B, H, W]: 1 for a pixel that counts, 0 for others and in rows that only fill a batch."""
    return (batch["labels"] != IGNORED) * batch["weight"][:, None, None]


def _class_weights(batch: Batch, penalty: Penalty) -> torch.Tensor:
    """[B, H, W]: what each pixel adds to the divisor: 1, or as much as its class weighs."""
    weight = _pixel_weights(batch)
    if penalty.class_weights is None:
        return weight
    return weight * penalty.class_weights.to(weight)[batch["labels"].clamp(min=0)]


def _count(batch: Batch, penalty: Penalty) -> torch.Tensor:
    return _class_weights(batch, penalty).sum()


def _objective(outputs: Any, batch: Batch, penalty: Penalty) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the logits enlarged to the labels' size, as transformers does it; with Dice where asked for."""
    labels = batch["labels"]
    logits = _enlarged(logits_of(outputs), labels.shape[-2:])
    flat = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    losses = single_losses(flat, labels.clamp(min=0).reshape(-1), penalty)
    total = (losses * _pixel_weights(batch).reshape(-1).to(losses.dtype)).sum()
    divisors = _class_weights(batch, penalty).to(losses.dtype)
    if penalty.dice_weight:
        total = total + penalty.dice_weight * (divisors.sum((1, 2)) * _dice_losses(logits, labels)).sum()
    return total, divisors.sum()


def _dice_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """[B]: 1 - the mean over the classes in an image's labels of the soft Dice (Milletari et al. 2016)."""
    counting = (labels != IGNORED)[:, None]
    probabilities = logits.softmax(1) * counting
    truth = functional.one_hot(labels.clamp(min=0), logits.shape[1]).movedim(-1, 1) * counting
    truth = truth.to(probabilities.dtype)
    overlap, sizes = (probabilities * truth).sum((2, 3)), (probabilities + truth).sum((2, 3))
    present = truth.sum((2, 3)) > 0
    dice = 2 * overlap / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)
    return 1 - (dice * present).sum(1) / present.sum(1).clamp(min=1)


def _enlarged(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return functional.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def balance_pixels(targets: NDArray, number: int) -> NDArray:
    """float [number]: pixels / (classes with pixels * pixels of the class); 0 for a class without any."""
    counts = targets.sum(0)
    divisor = np.count_nonzero(counts) * counts
    return np.divide(counts.sum(), divisor, out=np.zeros(number), where=counts > 0)


# answers


def _decode(outputs: Any, batch: Batch, labels: Labels) -> Rows:
    rows = _answer(outputs, batch, labels)
    del rows["answers"]
    return rows


def _answer(outputs: Any, batch: Batch, labels: Labels) -> Rows:
    """Per image, in its own size: "scores", mean probabilities; "predictions", pixels per class; "answers", the mask;

    with a truth "counts" (see PixelOutcome), "losses" and "items", the pixels that count.
    """
    logits, number = logits_of(outputs), len(labels.names)
    truths = batch.get("truth", batch.get("labels"))
    sizes = batch["sizes"].tolist() if "sizes" in batch else [part.shape for part in truths]
    rows: dict[str, list[Any]] = {"scores": [], "predictions": [], "answers": []}
    if truths is not None:
        rows |= {"counts": [], "losses": [], "items": []}
    for row, size in enumerate(sizes):
        own = _enlarged(logits[row : row + 1], size)[0]
        found, log_p = own.argmax(0).numpy(), own.log_softmax(0)
        rows["answers"].append(found.astype(np.int32))
        rows["scores"].append(log_p.exp().double().mean((1, 2)).numpy())
        rows["predictions"].append(np.bincount(found.ravel(), minlength=number))
        if truths is not None:
            truth = truths[row].long()
            losses = functional.nll_loss(log_p[None], truth[None], ignore_index=IGNORED, reduction="none").double()
            items = int((truth != IGNORED).sum())
            rows["counts"].append(count_pixels(truth.numpy(), found, number))
            rows["losses"].append(float(losses.sum()) / max(items, 1))
            rows["items"].append(items)
    masks = np.empty(len(sizes), dtype=object)
    for row, mask in enumerate(rows.pop("answers")):
        masks[row] = mask
    return {name: np.array(values) for name, values in rows.items()} | {"answers": masks}


def _outcome(rows: Rows, targets: NDArray, labels: Labels) -> Outcome:
    return pixel_outcome(rows["counts"], rows["scores"])


def _majority(targets: NDArray, answered: NDArray, labels: Labels) -> Rows:
    """Every pixel has the most frequent class."""
    frequencies = targets.sum(0) / max(targets.sum(), 1)
    best = int(frequencies.argmax())
    counts = np.zeros((*answered.shape, 3), dtype=np.int64)
    counts[..., 2] = answered
    counts[:, best, 0], counts[:, best, 1] = answered[:, best], answered.sum(1)
    return {
        "scores": np.tile(frequencies, (len(answered), 1)),
        "predictions": counts[..., 1],
        "counts": counts,
    }


def _per_class(outcome: Outcome, labels: Labels) -> dict[str, dict[str, float]]:
    return per_class(outcome, labels.names)


def _answers(labels: Labels) -> dict[str, pyarrow.DataType]:
    shares = {f"share_{name}": pyarrow.float64() for name in labels.names}
    return {"prediction": pyarrow.list_(pyarrow.string()), **shares}


def write_pixels(rows: Rows, labels: Labels, recipe: Recipe, source: Any) -> dict[str, Any]:
    """Columns of a predictions file, an image per row: classes in truth (reference) and prediction, each the largest

    first; the predicted share of each class (share_<name>); mean_iou and loss of the image.
    """
    columns: dict[str, Any] = {}
    if "counts" in rows:
        columns["reference"] = [_present(pixels, labels) for pixels in rows["counts"][..., 2]]
    columns["prediction"] = [_present(pixels, labels) for pixels in rows["predictions"]]
    shares = rows["predictions"] / np.maximum(rows["predictions"].sum(1, keepdims=True), 1)
    columns |= {f"share_{name}": shares[:, index] for index, name in enumerate(labels.names)}
    if "counts" in rows:
        columns["mean_iou"] = image_ious(rows["counts"])
    if "losses" in rows:
        columns["loss"] = rows["losses"]
    return columns


def _present(pixels: NDArray, labels: Labels) -> list[str]:
    return [labels.names[index] for index in np.argsort(-pixels, kind="stable") if pixels[index]]


def _inspect(
    role: str, entries: Sequence[Any], row_ids: NDArray, labels: Labels
) -> tuple[dict[str, Any], list[Finding]]:
    """The share of each class among the pixels that count; those that hardly occur."""
    totals = _encode(entries, labels).sum(0)
    shares = totals / max(totals.sum(), 1)
    facts = {"pixels": dict(zip(labels.names, shares.tolist(), strict=True))}
    rare = [f"{name} {share:.2%}" for name, share in zip(labels.names, shares, strict=True) if 0 < share < RARE]
    if role != "train" or not rare:
        return facts, []
    expected, found = f"classes with {RARE:.1%} of the pixels or more", f"in train {', '.join(rare[:8])}"
    fix = "objective.class_weights: balanced, or dice_weight, lets rare classes count"
    return facts, [Finding(place="dataset.columns.mask", expected=expected, found=found, fix=fix)]


PROBLEMS: dict[Any, Problem] = {
    "pixels": Problem(
        problem_type=None,
        encode=_encode,
        count=_count,
        objective=_objective,
        decode=_decode,
        answer=_answer,
        outcome=_outcome,
        baseline=_majority,
        answers=_answers,
        per_class=_per_class,
        counted="images with the class",
        inspect_labels=_inspect,
        balance=balance_pixels,
    ),
}
