"""The last layer of a model as the solution of a convex problem: a regression on what reaches it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_sft.errors import Finding, ModelError
from hf_sft.modeling.anatomy import output_layers
from hf_sft.modeling.convex import METHODS, Fit, Layer, Method
from hf_sft.modeling.folds import choose_rows, deal_folds, deal_groups

HALF_A_POWER = math.sqrt(10.0)  # beside the best power of ten
WITHOUT_FOLDS = 1.0  # the strength where there are too few rows to choose one by
WORK = 600_000_000  # rows x features x outputs on which the strength is chosen; of more rows so many are drawn
FEWEST_ROWS = 2_000
CHOOSING, FINAL = 1e-5, 1e-7  # tolerances
FLATTEST = 1e-4  # a feature that varies less, beside its mean or the most variable one, is not blown up
STEPS_CHOOSING, STEPS_FINAL = 400, 60  # products with all rows that take place, for an estimate of time


@dataclass(frozen=True, kw_only=True)
class Solved:
    """A last layer in float64. weight: [L, D]; bias: [L], zeros where the layer has none.

    method: in words. regularisation: C of the logistic regression or alpha of the ridge regression, on standardised
    features. scores: each that was tried -> mean loss on held-out rows (log-loss, squared error); empty without folds.
    """

    weight: NDArray
    bias: NDArray
    method: str
    letter: str
    regularisation: float
    folds: int
    scores: Mapping[float, float]

    def __str__(self) -> str:
        chosen = f"of {self.folds} folds" if self.folds else "(no folds: too few rows or groups)"
        return f"head solved by {self.method}, {self.letter} {self.regularisation:.3g} {chosen}"

    def logits(self, features: NDArray) -> NDArray:
        """[N, L] in float64: what the model answers once the layer is its own."""
        return features.astype(np.float64) @ self.weight.T + self.bias


def solve(
    features: NDArray,
    targets: NDArray,
    problem: str,
    *,
    seed: int,
    num_outputs: int,
    intercept: bool = True,
    groups: NDArray | None = None,
) -> Solved:
    """The layer that scikit-learn finds for features [N, D] (standardised meanwhile) and a Problem's targets.

    The strength of the regularisation is that with the least loss on held-out rows, in up to 5 folds that hold like
    shares of the targets, or whole groups [N] where these are given. A label without a row gets an output that no row
    prefers. The same call gives the same layer. intercept False: for a layer without a bias.
    """
    method = METHODS[problem]
    shift, scale = _standard(features, intercept)
    rows = (features.astype(np.float64) - shift) / scale
    how = Fit(num_outputs=num_outputs, intercept=intercept, strength=WITHOUT_FOLDS, tolerance=CHOOSING)
    drawn = choose_rows(targets, _most_rows(rows.shape[1], num_outputs), seed=seed)
    alike = deal_folds(targets[drawn], problem, seed=seed)
    folds = alike if groups is None else deal_groups(groups[drawn], seed=seed)
    scores = {} if folds is None else _score_strengths(method, rows[drawn], targets[drawn], folds, how)
    if not scores and groups is not None and alike is not None:  # groups that are the classes judge nothing
        folds, scores = alike, _score_strengths(method, rows[drawn], targets[drawn], alike, how)
    strength = min(scores, key=lambda tried: (scores[tried], tried)) if scores else WITHOUT_FOLDS
    weight, bias = method.fit(rows, targets, replace(how, strength=strength, tolerance=FINAL))
    weight = weight / scale
    return Solved(
        weight=weight,
        bias=bias - weight @ shift,
        method=method.name,
        letter=method.letter,
        regularisation=_shown(method, strength),
        folds=int(folds.max()) + 1 if folds is not None and scores else 0,
        scores={_shown(method, tried): loss for tried, loss in scores.items()},
    )


def predict_held_out(
    features: NDArray, targets: NDArray, problem: str, folds: NDArray, *, solved: Solved, intercept: bool = True
) -> NDArray:
    """[N, L] in float64: what a layer answers that was solved without the row's fold, as strongly regularised.

    folds: int64 [N]. solved: on all rows; of it the strength alone is taken, one number, the same for every fold.
    """
    method, logits = METHODS[problem], np.zeros((len(features), len(solved.weight)))
    strength = _shown(method, solved.regularisation)
    how = Fit(num_outputs=len(solved.weight), intercept=intercept, strength=strength, tolerance=CHOOSING)
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        shift, scale = _standard(features[~out], intercept)
        weight, bias = method.fit((features[~out].astype(np.float64) - shift) / scale, targets[~out], how)
        logits[out] = ((features[out].astype(np.float64) - shift) / scale) @ weight.T + bias
    return logits


def _shown(method: Method, strength: float) -> float:
    return 1 / strength if method.letter == "alpha" else strength


def _standard(features: NDArray, intercept: bool) -> tuple[NDArray, NDArray]:
    """(what is taken off each feature, what it is divided by); without an intercept nothing is taken off."""
    mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    scale = np.maximum(deviation, FLATTEST * np.maximum(np.abs(mean), deviation.max(initial=0.0)))
    return mean if intercept else np.zeros_like(mean), np.where(scale > 0, scale, 1.0)


def _most_rows(features: int, outputs: int) -> int:
    return max(FEWEST_ROWS, 20 * outputs, WORK // (features * outputs))


def _score_strengths(method: Method, rows: NDArray, targets: NDArray, folds: NDArray, how: Fit) -> dict[float, float]:
    """Strength -> mean loss on held-out rows: powers of ten until it rises, then what lies beside the best."""
    layers: dict[int, Layer] = {}

    def score(strength: float) -> float:
        losses = []
        for fold in range(int(folds.max()) + 1):
            out = folds == fold
            fit = replace(how, strength=strength, start=layers.get(fold))
            layers[fold] = weight, bias = method.fit(rows[~out], targets[~out], fit)
            losses.append(method.loss(rows[out] @ weight.T + bias, targets[out], targets[~out]))
        return float(np.nanmean(losses)) if not np.isnan(losses).all() else math.nan

    scores: dict[float, float] = {}
    for strength in method.strengths:
        scores[strength] = score(strength)
        if scores[strength] > min(scores.values()):
            break
    scores = {tried: loss for tried, loss in scores.items() if not math.isnan(loss)}
    if scores:
        best = min(scores, key=lambda tried: (scores[tried], tried))
        scores |= {tried: score(tried) for tried in (best * HALF_A_POWER, best / HALF_A_POWER)}
    return scores


def write_head(model: Any, solved: Solved) -> None:
    """Put the solution into the model's own output layer. Raises ModelError where that is of another shape."""
    parts = list(_output_parts(model))
    sizes = [size for _, _, size in parts]
    if solved.weight.shape != (model.config.num_labels, sum(sizes)):
        expected = f"{model.config.num_labels} outputs of {sum(sizes)} features"
        found = f"{solved.weight.shape[0]} of {solved.weight.shape[1]}"
        raise ModelError(Finding(place="head", expected=expected, found=found))
    with torch.no_grad():
        for (weight, bias, _), part in zip(parts, np.split(solved.weight, np.cumsum(sizes)[:-1], axis=1), strict=True):
            weight.copy_(torch.from_numpy(part * len(parts)).reshape(weight.shape))  # of two layers the mean is taken
            if bias is not None:
                bias.copy_(torch.from_numpy(solved.bias))


def _output_parts(model: Any) -> Iterator[tuple[Any, Any, int]]:
    """(weight, bias or None, features) of each output layer."""
    layers: dict[str, Any] = dict(output_layers(model, model.config.num_labels))
    for layer in layers.values():
        yield layer.weight, layer.bias, layer.weight[0].numel()


def has_bias(model: Any) -> bool:
    """Whether the output layer adds a constant to each output."""
    return all(bias is not None for _, bias, _ in _output_parts(model))


def num_features(model: Any) -> int:
    """How many numbers reach the output layer for each row."""
    return sum(size for _, _, size in _output_parts(model))


def new_below_output(model: Any, new: frozenset[str]) -> list[str]:
    """Parameters that start untrained and stand below the output layer, in the order of the model."""
    layers = output_layers(model, model.config.num_labels)
    inside = {f"{name}.{part}" for name, layer in layers.items() for part, _ in layer.named_parameters()}
    return [name for name, _ in model.named_parameters() if name in new - inside]


def expected_seconds(rows: int, features: int, outputs: int) -> float:
    """About what `solve` takes here, from the time of two products of matrices."""
    some = min(rows, FEWEST_ROWS)
    one, other = np.ones((some, features)), np.ones((features, outputs))
    started = time.perf_counter()
    one.T @ (one @ other)
    per_row = (time.perf_counter() - started) / some
    return per_row * (STEPS_CHOOSING * min(rows, _most_rows(features, outputs)) + STEPS_FINAL * rows)
