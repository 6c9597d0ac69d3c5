"""Whether a map of what an answer rests on can be believed: deletion against random order, and shuffled weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import NDArray

from hf_sft.analysis.drawing import COLOURS, GREY, drawn
from hf_sft.analysis.proportions import bootstrap
from hf_sft.analysis.section import Figure, Interval

SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
CONTROLLED = 12  # rows whose map is compared with that of a shuffled model
ALIKE = 0.5  # rank correlation with the map of a shuffled model from which on a map explains the input, not the model
LEAST_GAIN = 0.005  # of probability: less explains nothing, however sure it is


@dataclass(frozen=True, kw_only=True)
class Check:
    """Whether a map can be believed. curve, random: mean probability at each share that is blanked.

    gain: how much faster the answer falls than in random order, the mean over the curve; alike: rank correlation with
    the map of a model whose weights were shuffled (Adebayo et al. 2018).
    """

    method: str
    curve: NDArray
    random: NDArray
    gain: Interval
    alike: float

    def in_words(self) -> str:
        if self.gain.low <= 0 or self.gain.value < LEAST_GAIN:
            return (
                f"{self.method}: blanking what it marks hurts hardly more than blanking at random; do not trust it here"
            )
        if self.alike > ALIKE:
            return f"{self.method}: a model with shuffled weights gets a like map (rank correlation {self.alike:.2f})"
        return f"{self.method}: blanking what it marks costs {self.gain.value:.2f} more probability than at random"


def check(method: str, marked: NDArray, at_random: NDArray, alike: float, seed: int) -> Check:
    """marked, at_random: [S, B], the probabilities as more and more is blanked."""
    gain = bootstrap((at_random - marked)[1:-1].mean(axis=0), seed=seed)
    return Check(method=method, curve=marked.mean(axis=1), random=at_random.mean(axis=1), gain=gain, alike=alike)


def draw_checks(checks: Sequence[Check]) -> Figure:
    with drawn(4.4 * len(checks) + 0.6, 3.3) as canvas:
        for panel, one in zip(canvas.panels(1, len(checks), sharey=True), checks, strict=True):
            panel.plot(SHARES, one.curve, "o-", color=COLOURS[1], label="most important first")
            panel.plot(SHARES, one.random, "o--", color=GREY, label="at random")
            panel.set_ylim(0, 1.02)
            panel.set_xlabel("share of the input that is blanked")
            panel.set_title(f"{one.method} (shuffled weights: {one.alike:.2f})", fontsize=10)
            panel.grid(alpha=0.25)
            panel.legend(fontsize=8, frameon=False)
    caption = (
        "The probability of the predicted class as more and more is blanked. A map that explains something falls well "
        "below random order; in brackets, how alike the map of a model with shuffled weights is (near 0 is good)."
    )
    return canvas.figure("deletion", caption)


def key_figures(checks: Sequence[Check], rows: int) -> dict[str, float | int | str | None]:
    figures: dict[str, float | int | str | None] = {"rows": rows}
    for one in checks:
        name = one.method.lower().replace(" ", "_").replace("-", "_")
        figures[f"{name}_gain_over_random"] = one.gain.value
        figures[f"{name}_like_shuffled"] = one.alike
    return figures
