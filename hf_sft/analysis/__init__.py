"""Looking inside a finished run. An analysis is one function in one file, and one line in ANALYSES."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hf_sft.analysis.activations import show_activations
from hf_sft.analysis.attribution import show_attribution
from hf_sft.analysis.cartography import show_cartography
from hf_sft.analysis.confidence import show_confidence
from hf_sft.analysis.course import show_course
from hf_sft.analysis.duplicates import MOST_TRAIN
from hf_sft.analysis.errors import show_errors
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.gradients import show_gradients
from hf_sft.analysis.predictions import Predictions
from hf_sft.analysis.section import Section
from hf_sft.analysis.weights import show_weights

Show = Callable[[FinishedRun, Mapping[str, Predictions]], Section]


@dataclass(frozen=True)
class Analysis:
    """show: what looks; the rest tells the cost. passes: how often a sample of the judged split goes through a model.

    once: split -> of how many samples each row goes through a model once, where the run has that split.
    """

    title: str
    show: Show
    passes: float = 0.0
    once: Mapping[str, int] = field(default_factory=dict)


ANALYSES: dict[str, Analysis] = {
    "errors": Analysis("Errors", show_errors, once={"train": MOST_TRAIN, "validation": 1, "test": 1}),
    "confidence": Analysis("Confidence", show_confidence),
    "attribution": Analysis("Attribution", show_attribution, passes=10),
    "weights": Analysis("Weights", show_weights),
    "activations": Analysis("Activations", show_activations, passes=2),
    "course": Analysis("Course of learning", show_course),
    "gradients": Analysis("Gradients", show_gradients),
    "cartography": Analysis("Rows over training", show_cartography),
}
