"""What a metric is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from numpy.typing import NDArray

from hf_sft.recipe import ProblemName


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a model said about the N rows of a split, beside what is true.

    |             | single_label               | multi_label    | regression |
    | references  | int64 [N]                  | bool [N, L]    | float64 [N] |
    | predictions | int64 [N]                  | bool [N, L]    | float64 [N] |
    | scores      | float64 [N, L], rows sum 1 | float64 [N, L] | float64 [N] |

    scores are [N, 0] where no metric reads them: then nothing of that size was kept.
    Of words with tags see `metrics.entities.TagOutcome`.
    """

    references: NDArray
    predictions: NDArray
    scores: NDArray
    num_labels: int

    @property
    def cells(self) -> int:
        """How much a resample of the bootstrap takes."""
        return int(self.scores.size)

    def take(self, rows: NDArray) -> Outcome:
        """The outcome of some rows (indices; repeated rows count as often as they stand)."""
        return replace(
            self, references=self.references[rows], predictions=self.predictions[rows], scores=self.scores[rows]
        )


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A named number about an Outcome. `compute` returns NaN where the number is not defined (one class only).

    reads_scores: whether references and predictions do not suffice; else the scores of classes may be left out.
    """

    name: str
    compute: Callable[[Outcome], float]
    problems: tuple[ProblemName, ...]
    greater_is_better: bool = True
    unit_interval: bool = True  # values lie in [0, 1] and print as percentages make sense
    reads_scores: bool = False
