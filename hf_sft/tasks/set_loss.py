"""The loss of a set of predicted boxes: each true box is given to one query (Carion et al. 2020).

Queries that are given none should say so. Sums over rows, so that batches, ragged ones and processes add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional

COSTS = {"label": 2.0, "box": 5.0, "overlap": 2.0}  # of giving a box to a query
WEIGHTS = {"label": 1.0, "box": 5.0, "overlap": 2.0}  # of what is minimised
ALPHA, GAMMA = 0.25, 2.0  # of the focal cost (Lin et al. 2017)
EMPTY_ALPHA = 0.75  # of the varifocal loss (Zhang et al. 2021): queries without a box
EMPTY_WEIGHT = 0.1  # of a query without a box where "no object" is a label of its own


class Truth(NamedTuple):
    """The boxes of B rows, padded to the longest: boxes [B, N, 4] (cxcywh, shares of the image), labels and there

    [B, N]; there is False where a row has no more boxes.
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    there: torch.Tensor


def pad_truth(targets: Sequence[dict[str, torch.Tensor]], like: torch.Tensor) -> Truth:
    """Of rows {"boxes": [n, 4], "class_labels": [n]}, on the device of `like`, in float32 unless that is float64."""
    most, device = max([len(row["boxes"]) for row in targets] + [1]), like.device
    boxes = torch.full((len(targets), most, 4), 0.5, dtype=_exact(like), device=device)
    labels = torch.zeros((len(targets), most), dtype=torch.int64, device=device)
    there = torch.zeros((len(targets), most), dtype=torch.bool, device=device)
    for number, row in enumerate(targets):
        size = len(row["boxes"])
        boxes[number, :size], labels[number, :size], there[number, :size] = row["boxes"], row["class_labels"], True
    return Truth(boxes, labels, there)


def _exact(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def set_losses(logits: torch.Tensor, boxes: torch.Tensor, truth: Truth, num_labels: int) -> torch.Tensor:
    """[B]: the loss of each row, a sum over its boxes. logits [B, Q, L], or [B, Q, L + 1] with "no object" as the last

    one; boxes [B, Q, 4] as the truth's.
    """
    dtype = _exact(logits)
    logits, boxes = logits.to(dtype), boxes.to(dtype)
    truth = truth._replace(boxes=truth.boxes.to(dtype))
    softmax = logits.shape[-1] == num_labels + 1
    query = _match(logits, boxes, truth, softmax)  # [B, N]
    there = truth.there.to(dtype)
    own = boxes.gather(1, query[..., None].expand(-1, -1, 4))
    overlap, generalised = overlaps(own, truth.boxes)
    distance = ((own - truth.boxes).abs().sum(-1) * there).sum(-1)
    apart = ((1 - generalised) * there).sum(-1)
    label_losses = _softmax_losses if softmax else _varifocal_losses
    of_labels = label_losses(logits, query, truth, overlap.detach())
    return WEIGHTS["label"] * of_labels + WEIGHTS["box"] * distance + WEIGHTS["overlap"] * apart


@torch.no_grad()
def _match(logits: torch.Tensor, boxes: torch.Tensor, truth: Truth, softmax: bool) -> torch.Tensor:
    """int64 [B, N]: the query that each true box is given; of padding (and of boxes beyond Q) whichever."""
    labels = truth.labels[:, None, :].expand(-1, logits.shape[1], -1)
    if softmax:
        cost = -logits.softmax(-1).gather(2, labels)
    else:
        score = logits.sigmoid().gather(2, labels)
        right = ALPHA * (1 - score) ** GAMMA * -(score + 1e-8).log()
        cost = right - (1 - ALPHA) * score**GAMMA * -(1 - score + 1e-8).log()
    distance = (boxes[:, :, None] - truth.boxes[:, None]).abs().sum(-1)
    _, generalised = overlaps(boxes[:, :, None], truth.boxes[:, None])
    cost = COSTS["label"] * cost + COSTS["box"] * distance - COSTS["overlap"] * generalised
    cost = torch.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=1e9).cpu()
    query = torch.zeros(truth.labels.shape, dtype=torch.int64)
    for row, size in enumerate(truth.there.sum(-1).tolist()):
        queries, places = linear_sum_assignment(cost[row, :, :size])
        query[row, torch.as_tensor(places)] = torch.as_tensor(queries)
    return query.to(logits.device)


def _varifocal_losses(logits: torch.Tensor, query: torch.Tensor, truth: Truth, overlap: torch.Tensor) -> torch.Tensor:
    """[B]: every query learns the overlap of its box as the score of its label, and 0 for all else."""
    wanted = torch.zeros_like(logits)
    chosen = torch.zeros_like(logits, dtype=torch.bool)
    row, place = truth.there.nonzero(as_tuple=True)
    spot = (row, query[row, place], truth.labels[row, place])
    wanted[spot], chosen[spot] = overlap[row, place].to(logits), True
    empty = EMPTY_ALPHA * logits.detach().sigmoid() ** GAMMA
    weight = torch.where(chosen, wanted, empty)
    terms = functional.binary_cross_entropy_with_logits(logits, wanted, weight=weight, reduction="none")
    return terms.sum((1, 2))


def _softmax_losses(logits: torch.Tensor, query: torch.Tensor, truth: Truth, overlap: torch.Tensor) -> torch.Tensor:
    """[B]: the weighted mean of the queries' cross-entropies, as often as the row has boxes (at least once)."""
    wanted = torch.full(logits.shape[:2], logits.shape[-1] - 1, device=logits.device)
    row, place = truth.there.nonzero(as_tuple=True)
    wanted[row, query[row, place]] = truth.labels[row, place]
    weight = torch.ones(logits.shape[-1]).to(logits)
    weight[-1] = EMPTY_WEIGHT
    terms = functional.cross_entropy(logits.transpose(1, 2), wanted, weight=weight, reduction="none")
    return terms.sum(-1) / weight[wanted].sum(-1) * truth.there.sum(-1).clamp(min=1)


def overlaps(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(IoU, generalised IoU: Rezatofighi et al. 2019) of boxes cxcywh, which broadcast."""
    (low, high), (first, last) = corners(one), corners(other)
    areas = (high - low).prod(-1) + (last - first).prod(-1)
    both = (torch.minimum(high, last) - torch.maximum(low, first)).clamp(min=0).prod(-1)
    either = areas - both
    around = (torch.maximum(high, last) - torch.minimum(low, first)).prod(-1)
    overlap = both / either.clamp(min=1e-9)
    return overlap, overlap - (around - either) / around.clamp(min=1e-9)


def corners(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Upper left and lower right corner, [..., 2] each, of boxes cxcywh."""
    centre, size = boxes.split(2, -1)
    half = size.clamp(min=0) / 2
    return centre - half, centre + half


def count_boxes(targets: Sequence[dict[str, Any]], weight: torch.Tensor) -> torch.Tensor:
    """The boxes of the rows that count; a row without one counts as one."""
    sizes = torch.tensor([max(len(row["boxes"]), 1) for row in targets], dtype=weight.dtype, device=weight.device)
    return (sizes * weight).sum()
