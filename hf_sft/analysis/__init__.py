"""Looking inside a finished run. An analysis is one function in one file, and one line in ANALYSES."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hf_sft.analysis.activations import show_activations
from hf_sft.analysis.attribution import show_attribution
from hf_sft.analysis.cartography import show_cartography
from hf_sft.analysis.confidence import show_confidence
from hf_sft.analysis.course import show_course
from hf_sft.analysis.errors import show_errors
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.gradients import show_gradients
from hf_sft.analysis.predictions import Predictions
from hf_sft.analysis.section import Section
from hf_sft.analysis.weights import show_weights

Show = Callable[[FinishedRun, Mapping[str, Predictions]], Section]


@dataclass(frozen=True)
class Analysis:
    """show: what looks. passes: how many rows it sends through a model, in samples of `rows`, for the cost."""

    title: str
    show: Show
    passes: float = 0.0


ANALYSES: dict[str, Analysis] = {
    "errors": Analysis("Errors", show_errors, passes=5),
    "confidence": Analysis("Confidence", show_confidence),
    "attribution": Analysis("Attribution", show_attribution, passes=10),
    "weights": Analysis("Weights", show_weights),
    "activations": Analysis("Activations", show_activations, passes=2),
    "course": Analysis("Course of learning", show_course),
    "gradients": Analysis("Gradients", show_gradients),
    "cartography": Analysis("Rows over training", show_cartography),
}
