"""Which strategy suits how many rows, how good the features are already, and how far the data are from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# Rows per class. Below the first a solved head comes within two points of training everything from it, in a fraction of
# the time, and is far above training everything from a random one: benchmarks/RESULTS.md, few labels.
HEAD_BELOW = 48.0
MANY_CLASSES = 20  # the first number holds from so many on: of 4 classes training everything won from 8 rows each
FULL_FROM = 64.0
# Shares of the way from an answer that ignores the input (0) to a perfect one (1) that a linear probe has come.
NOTHING_LEARNT = 0.05  # below it the features hardly tell the labels apart
NEARLY_PERFECT = 0.97  # from it on there is next to nothing left to win
SEPARATED = 0.5  # from it on the features tell the labels apart, mostly
# Of the old head: mean entropy over that of an even guess. `benchmarks/RESULTS.md`, ranking.
UNFAMILIAR_FROM = 0.5
# Of the features: standard deviations from those of pretraining. `benchmarks/RESULTS.md`, feature shift.
SHIFTED_FROM = 0.6
SHARE_OF_LAYERS = 1 / 3  # that train between the two numbers of rows
NUMBER_COUNTS_AS = 8  # classes that a number to be predicted counts as, so that it has rows per class
WARM: dict[str, Any] = {"warm_start": "linear_probe"}
EVERYTHING = ("full", "layer_decay", "gradual", "rules", "lora")  # strategies in which every layer may change


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What an advice rests on; None where it is not known.

    rows_per_class: of the training rows, the median over classes (see `rows_per_class`).
    gained: how far a linear probe has come from the baseline (0) to a perfect score (1); see `gained`.
    classes: of which a row has one.
    entropy: of the model's old head on these rows, over that of an even guess: 0 sure, 1 no idea.
    shift: how far the features lie from those of pretraining, in standard deviations (modeling.feature_shift).
    layers: how many the model has. random: its weights are drawn, not loaded. kept_head: it brings the very classifier.
    solvable: whether the head can be solved.
    """

    rows_per_class: float
    classes: int | None = None
    gained: float | None = None
    entropy: float | None = None
    shift: float | None = None
    layers: int | None = None
    random: bool = False
    kept_head: bool = False
    solvable: bool = True


@dataclass(frozen=True, kw_only=True)
class Advice:
    """tuning: the section of a recipe, as far as it differs from the defaults. reason: one sentence."""

    strategy: str
    tuning: Mapping[str, Any]
    reason: str

    def __str__(self) -> str:
        inside = ", ".join(f"{key}: {value}" for key, value in self.tuning.items())
        return f"tuning: {{{inside}}}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def advise(evidence: Evidence) -> Advice:
    """The strategy for these rows and this model, and why: the first line of the table that applies."""
    number = evidence.rows_per_class
    few = f"{number:,.0f} rows per class" if number >= 1 else "less than one row per class"
    gained, share = evidence.gained, ""
    if gained is not None:
        share = f"; a linear probe comes {max(0.0, gained):.0%} of the way from the baseline to a perfect score"
    useless = gained is not None and gained < NOTHING_LEARNT
    warm = {} if evidence.kept_head or useless or not evidence.solvable else WARM
    if evidence.random:
        return _advice("full", {}, "random weights: nothing below the head is worth keeping as it is")
    if useless:
        return _advice("full", {}, f"{few}{share}: its features hardly know these labels and have to change")
    if gained is not None and gained >= NEARLY_PERFECT:
        return _head(evidence, f"{few}{share}: the features are good as they are")
    if evidence.classes is not None and evidence.classes < MANY_CLASSES and number < FULL_FROM:
        return _advice(
            "full", warm, f"{few} of {evidence.classes} classes: so few are told apart by changing all{share}"
        )
    if number < HEAD_BELOW:
        return _head(evidence, f"{few}, under {HEAD_BELOW:.0f}: layers below the head hardly gain from so few{share}")
    if number >= FULL_FROM:
        return _advice("full", warm, f"{few}, at least {FULL_FROM:.0f}: enough to train every layer{share}")
    between = f"{few}, between {HEAD_BELOW:.0f} and {FULL_FROM:.0f}"
    unfamiliar = _what_is_unfamiliar(evidence)
    separated = gained is None or gained >= SEPARATED
    if evidence.layers is None or evidence.layers < 2 or (unfamiliar and not separated):
        why = "every layer may have to change" if unfamiliar else "every layer, from a head that is good already"
        return _advice("full", warm, f"{between}: {why}{share}")
    some = {"layers": max(1, round(evidence.layers * SHARE_OF_LAYERS))}
    if unfamiliar:
        why = f"{between}; {unfamiliar}, and its features tell the labels apart{share}"
        return _advice("first_layers", some | warm, why)
    return _advice("top_layers", some | warm, f"{between}: enough to train the last layers{share}")


def _what_is_unfamiliar(evidence: Evidence) -> str:
    """Why these inputs look new to the model; empty where they do not, or where nothing tells."""
    if evidence.entropy is not None and evidence.entropy >= UNFAMILIAR_FROM:
        return f"its old head is unsure of these inputs (entropy {evidence.entropy:.0%} of an even guess)"
    if evidence.shift is not None and evidence.shift >= SHIFTED_FROM:
        return f"its features lie {evidence.shift:.2f} standard deviations from those it was pretrained on"
    return ""


def _head(evidence: Evidence, reason: str) -> Advice:
    """Solved, unless the model brings a classifier for these labels, which goes on training."""
    solved = evidence.solvable and not evidence.kept_head
    return _advice("head", {"solver": "logistic"} if solved else {}, reason)


def _advice(strategy: str, settings: Mapping[str, Any], reason: str) -> Advice:
    return Advice(strategy=strategy, tuning={"strategy": strategy, **settings}, reason=reason)


def agrees(tuning: Mapping[str, Any], advice: Advice) -> bool:
    """Whether a recipe's tuning section does what is advised; how many layers learn, and how slowly, is its own."""
    strategy = tuning.get("strategy", "full")
    if advice.strategy == "full" and strategy in EVERYTHING and strategy != "full":
        return True
    warm = tuning.get("warm_start", "auto") in (("auto", "linear_probe") if strategy == "full" else ("linear_probe",))
    return strategy == advice.strategy and (warm or "warm_start" not in advice.tuning)


def rows_per_class(counts: Mapping[Any, int], rows: int, problem: str) -> float:
    """The median over the classes (or labels of several) that have rows; of numbers an eighth of all rows."""
    found = sorted(number for number in counts.values() if number)
    if problem == "regression" or not found:
        return rows / NUMBER_COUNTS_AS
    middle = len(found) // 2
    return float(found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2)


def gained(score: float, baseline: float, perfect: float | None) -> float | None:
    """The share of the way from the baseline to a perfect score; a baseline that is not defined (NaN) counts as 0."""
    start = 0.0 if math.isnan(baseline) else baseline
    if perfect is None or math.isnan(score) or math.isclose(perfect, start):
        return None
    return (score - start) / (perfect - start)
