"""The one problem of object detection: a set of boxes with labels for each image, trained as set_loss says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray

from hf_sft.data.boxes import Objects
from hf_sft.data.labels import Labels
from hf_sft.errors import Finding, first_few
from hf_sft.metrics.detection import AREAS, MOST_BOXES, box_outcome, per_label
from hf_sft.metrics.metric import Outcome
from hf_sft.recipe import Recipe
from hf_sft.tasks.set_loss import corners, count_boxes, pad_truth, set_losses
from hf_sft.tasks.tagging import as_rows
from hf_sft.tasks.task import Batch, Penalty, Problem, Rows

LEAST_SIDE = 1.0  # pixels of a box; one with less has vanished


def _encode(values: Sequence[Objects], labels: Labels) -> NDArray:
    """object [N] of float64 [n, 5]: corners in pixels, label."""
    index_of = labels.index_of
    return as_rows(
        [np.column_stack([row.boxes, np.array([index_of[name] for name in row], dtype=float)]) for row in values]
    )


def _count(batch: Batch, penalty: Penalty) -> torch.Tensor:
    return count_boxes(batch["labels"], batch["weight"])


def _objective(outputs: Any, batch: Batch, penalty: Penalty) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean over the layers that predict boxes, where the model shows them, each matched with the truth anew."""
    number, truth = batch["labels"][0]["num_labels"], pad_truth(batch["labels"], outputs["pred_boxes"])
    losses = torch.stack([set_losses(logits, boxes, truth, number) for logits, boxes in _layers(outputs)]).mean(0)
    return (losses * batch["weight"].to(losses)).sum(), _count(batch, penalty).to(losses)


def _layers(outputs: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(logits, boxes) of the last layer; of RT-DETR and D-FINE of all, and of the encoder that proposes queries."""
    found = [(outputs["logits"], outputs["pred_boxes"])]
    logits, boxes = outputs.get("intermediate_logits"), outputs.get("intermediate_reference_points")
    if logits is not None and boxes is not None:
        found += [(logits[:, layer], boxes[:, layer]) for layer in range(logits.shape[1] - 1)]
    if outputs.get("enc_topk_logits") is not None:
        found.append((outputs["enc_topk_logits"], outputs["enc_topk_bboxes"]))
    return found


def _decode(outputs: Any, batch: Batch, labels: Labels) -> Rows:
    """The best boxes of each row, best first, in pixels of the image as it came; losses are those of the last layer."""
    logits, boxes = outputs["logits"], outputs["pred_boxes"]
    number = len(labels.names)
    if logits.shape[-1] == number + 1:  # one label per query, or none
        scores, names = logits.softmax(-1)[..., :-1].max(-1)
        scores, query = scores.topk(min(MOST_BOXES, scores.shape[1]))
        names = names.gather(1, query)
    else:
        scores, place = logits.sigmoid().flatten(1).topk(min(MOST_BOXES, logits.shape[1]))
        query, names = place // number, place % number
    low, high = corners(boxes.gather(1, query[..., None].expand(-1, -1, 4)))
    sides = batch["sizes"].flip(1)[:, None].to(boxes)  # width, height
    found = torch.cat([low * sides, high * sides, names[..., None].to(boxes)], -1).double().numpy()
    rows = {"scores": as_rows(list(scores.double().numpy())), "predictions": as_rows(list(found))}
    if "labels" in batch:
        losses = set_losses(logits, boxes, pad_truth(batch["labels"], boxes), number).double().numpy()
        rows["items"] = np.array([max(len(row["boxes"]), 1) for row in batch["labels"]], dtype=np.int64)
        rows["losses"] = losses / rows["items"]
    return rows


def _answer(outputs: Any, batch: Batch, labels: Labels) -> Rows:
    """As decode; answers: what a picture shows of each row, {"predictions": float64 [n, 5], "scores": float64 [n]}."""
    rows = _decode(outputs, batch, labels)
    answers = [
        {"predictions": boxes, "scores": scores}
        for boxes, scores in zip(rows["predictions"], rows["scores"], strict=True)
    ]
    return rows | {"answers": as_rows(answers)}


def _outcome(rows: Rows, targets: NDArray, labels: Labels) -> Outcome:
    return box_outcome(targets, rows["predictions"], rows["scores"], len(labels.names))


def _mean_boxes(targets: NDArray, answered: NDArray, labels: Labels) -> Rows:
    """In every image the mean box of each label, with the share of training images that have the label as its score."""
    boxes, scores = [], []
    for label in range(len(labels.names)):
        own = [row[row[:, 4] == label] for row in targets]
        if seen := [row for row in own if len(row)]:
            boxes.append(np.concatenate(seen).mean(0))
            scores.append(len(seen) / len(targets))
    order = np.argsort(-np.array(scores), kind="stable")
    same, sure = np.array(boxes).reshape(-1, 5)[order], np.array(scores)[order]
    return {
        "predictions": as_rows([same.copy() for _ in answered]),
        "scores": as_rows([sure.copy() for _ in answered]),
    }


def _per_label(outcome: Outcome, labels: Labels) -> dict[str, dict[str, float]]:
    return per_label(outcome, labels.names)


def _answers(labels: Labels) -> dict[str, pyarrow.DataType]:
    number = pyarrow.float64()
    return {
        "prediction": pyarrow.list_(pyarrow.string()),
        "scores": pyarrow.list_(number),
        "boxes": pyarrow.list_(pyarrow.list_(number)),
    }


def write_boxes(rows: Rows, labels: Labels, recipe: Recipe | None = None, source: Any = None) -> dict[str, Any]:
    """Columns of a predictions file, lists per row: prediction (labels), scores, boxes (left, top, right, bottom, in

    pixels), best first; reference and reference_boxes where they are known; loss (a number).
    """
    names = np.asarray(labels.names, dtype=object)
    columns: dict[str, Any] = {}
    if "references" in rows:
        columns["reference"] = [names[row[:, 4].astype(int)].tolist() for row in rows["references"]]
        columns["reference_boxes"] = [row[:, :4].tolist() for row in rows["references"]]
    columns["prediction"] = [names[row[:, 4].astype(int)].tolist() for row in rows["predictions"]]
    columns["scores"] = [row.tolist() for row in rows["scores"]]
    columns["boxes"] = [row[:, :4].tolist() for row in rows["predictions"]]
    if "losses" in rows:
        columns["loss"] = rows["losses"]
    return columns


def keep_above(rows: Rows, threshold: float) -> Rows:
    """The rows with the boxes whose score is above a threshold, as pipeline() has it."""
    above = [scores > threshold for scores in rows["scores"]]
    kept = {
        name: as_rows([row[keep] for row, keep in zip(rows[name], above, strict=True)])
        for name in ("scores", "predictions")
    }
    return rows | kept


def _inspect_labels(
    role: str, entries: Sequence[Objects], row_ids: NDArray, labels: Labels
) -> tuple[dict[str, Any], list[Finding]]:
    """Boxes per image and their sizes, as COCO counts them."""
    numbers = np.array([len(row) for row in entries])
    boxes = np.concatenate([np.zeros((0, 4)), *(row.boxes for row in entries)])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    facts: dict[str, Any] = {
        "boxes": {"all": len(boxes), "median": float(np.median(numbers)), "most": int(numbers.max(initial=0))},
        "box_sizes": {
            size: int(((areas >= low) & (areas < high)).sum()) for size, (low, high) in AREAS.items() if size != "all"
        },
    }
    findings, place = [], "dataset.columns.objects"
    if empty := int((numbers == 0).sum()):
        facts["without_a_box"] = empty
    if len(numbers) and not len(boxes):
        what, fix = f"none in {role}", f"results on {role} say nothing; is this the right column?"
        findings.append(Finding(place=place, expected="boxes", found=what, fix=fix))
    small = np.concatenate([np.zeros(0, bool), *(_vanishing(row.boxes) for row in entries)])
    if small.any():
        facts["under_a_pixel"] = int(small.sum())
        rows = [number for number, row in zip(row_ids.tolist(), entries, strict=True) if _vanishing(row.boxes).any()]
        what = f"{small.sum():,} of {len(small):,} boxes of {role} with less, in rows {first_few(rows)}"
        fix = "training leaves them out; mend them where they are slips"
        if 2 * small.sum() > len(small):
            fix += "; were shares of the image read as pixels, set dataset.bbox_format: cxcywh_normalised"
        expected = f"boxes of at least {LEAST_SIDE:g} pixel in width and height"
        findings.append(Finding(place=place, expected=expected, found=what, fix=fix))
    crowded = np.flatnonzero(numbers > MOST_BOXES)
    if len(crowded):
        what = f"{len(crowded):,} rows of {role} with more: {first_few(row_ids[crowded].tolist())}"
        fix = "cut such images into parts: of an image no more boxes are predicted"
        findings.append(Finding(place=place, expected=f"at most {MOST_BOXES} boxes", found=what, fix=fix))
    return facts, findings


def _vanishing(boxes: NDArray) -> NDArray:
    """bool [n]."""
    return (boxes[:, 2:] - boxes[:, :2] < LEAST_SIDE).any(1)


PROBLEMS: dict[Any, Problem] = {
    "boxes": Problem(
        problem_type=None,
        encode=_encode,
        count=_count,
        objective=_objective,
        decode=_decode,
        outcome=_outcome,
        baseline=_mean_boxes,
        answers=_answers,
        per_class=_per_label,
        counted="boxes per label",
        inspect_labels=_inspect_labels,
        reads=("logits", "pred_boxes"),
        answer=_answer,
        keep_above=keep_above,
    ),
}
