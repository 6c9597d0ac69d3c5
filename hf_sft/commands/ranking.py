"""What ranking candidates found: a row per model, in order, and what is suggested; as text, HTML and plain data."""

from __future__ import annotations

import html
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hf_sft import tables
from hf_sft.advice import Advice
from hf_sft.tables import Table


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A candidate that could be probed. name: as it was given; model: the section of a recipe that says it.

    value: of the metric on held-out rows; gained: from the baseline (0) to perfect (1), None where that is not known.
    entropy: of its old head on the rows, over that of an even guess; None without such a head.
    shift: of its features from those of pretraining, in standard deviations; None where it has no BatchNorm.
    rows_per_second: of a forward pass, in seconds of the processor (of the clock on a GPU).
    """

    name: str
    model: Mapping[str, Any]
    value: float
    interval: tuple[float, float]
    gained: float | None
    entropy: float | None
    shift: float | None
    parameters: int
    rows_per_second: float
    advice: Advice


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """A candidate that could not be probed, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """ranked: the best first. suggestion: one of them, or None. Prints itself, shows itself in a notebook.

    rows: that were probed; rows_per_class: of all training rows. baseline: of an answer that ignores the input.
    """

    recipe: str
    metric: str
    greater_is_better: bool
    rows: int
    rows_per_class: float
    folds: int
    baseline: float | None
    ranked: Sequence[Ranked]
    unusable: Sequence[Unusable]
    seconds: float

    @property
    def alike(self) -> list[Ranked]:
        """The best and those whose intervals overlap its own: the rows do not tell them apart."""
        if not self.ranked:
            return []
        low, high = self.ranked[0].interval
        others = [one for one in self.ranked[1:] if one.interval[0] <= high and low <= one.interval[1]]
        return [self.ranked[0], *others]

    @property
    def suggestion(self) -> Ranked | None:
        """Of those that the rows do not tell apart the smallest."""
        return min(self.alike, key=lambda one: one.parameters, default=None)  # of equals the better

    @property
    def reason(self) -> str:
        """Why that one."""
        chosen, best = self.suggestion, self.ranked[0] if self.ranked else None
        if chosen is None or best is None:
            return "no candidate could be used"
        if chosen is not best:
            faster = chosen.rows_per_second / best.rows_per_second
            speed = f" and is {faster:.1f} times as fast" if faster >= 1.1 else ""
            return (
                f"its interval overlaps that of the best, {best.name}, and it is smaller: "
                f"{_millions(chosen.parameters)} parameters instead of {_millions(best.parameters)}{speed}"
            )
        others = [one.name for one in self.alike if one is not best]
        if others:
            return f"the best {self.metric}; the intervals of {', '.join(others)} overlap its own, and none is smaller"
        alone = "the only candidate that could be used" if len(self.ranked) == 1 else "no other interval overlaps"
        return f"the best {self.metric}; {alone}"

    def recipe_fragment(self) -> dict[str, Any]:
        """The sections of a recipe that do what is suggested; empty where nothing is."""
        chosen = self.suggestion
        return {} if chosen is None else {"model": dict(chosen.model), "tuning": dict(chosen.advice.tuning)}

    def as_dict(self) -> dict[str, Any]:
        """The ranking as plain data."""
        chosen = self.suggestion
        return {
            "recipe": self.recipe,
            "metric": self.metric,
            "greater_is_better": self.greater_is_better,
            "rows": self.rows,
            "rows_per_class": self.rows_per_class,
            "folds": self.folds,
            "baseline": self.baseline,
            "candidates": [asdict(one) for one in self.ranked],
            "unusable": [asdict(one) for one in self.unusable],
            "alike": [one.name for one in self.alike],
            "suggestion": chosen and {"name": chosen.name, "reason": self.reason, **self.recipe_fragment()},
            "seconds": self.seconds,
        }

    def table(self) -> Table:
        """A row per candidate, the best first, those that could not be used last."""
        entropy = any(one.entropy is not None for one in self.ranked)
        shift = any(one.shift is not None for one in self.ranked)
        told = [*(["old head"] if entropy else []), *(["shift"] if shift else [])]
        heads = ["model", self.metric, "95 % interval", "parameters", "rows/s", *told]
        rows = [
            [
                one.name,
                f"{one.value:.4f}",
                f"{one.interval[0]:.4f} to {one.interval[1]:.4f}",
                _millions(one.parameters),
                f"{one.rows_per_second:,.3g}" if one.rows_per_second < 100 else f"{one.rows_per_second:,.0f}",
                *([_sure(one.entropy)] if entropy else []),
                *(["-" if one.shift is None else f"{one.shift:.2f}"] if shift else []),
                one.advice.strategy,
            ]
            for one in self.ranked
        ]
        unusable = [[one.name, *["-"] * (len(heads) - 1), "not used"] for one in self.unusable]
        title = f"linear probe of {self.rows:,} training rows, {self.folds} folds"
        return Table(title=title, heads=[*heads, "strategy"], rows=[*rows, *unusable])

    def notes(self) -> list[str]:
        """What the table cannot say: the baseline, who could not be used and why, what is suggested and why."""
        lines = []
        if self.ranked and self.baseline is not None:
            lines.append(f"an answer that ignores the input gets {self.metric} {self.baseline:.4f}")
        lines += [f"{one.name} is not used: {one.reason}" for one in self.unusable]
        chosen = self.suggestion
        if chosen is None:
            return lines
        rivals = [one.name for one in self.alike if one is not self.ranked[0]]
        if rivals:
            others = ", ".join(rivals)
            lines.append(f"these rows do not tell {self.ranked[0].name} apart from {others}: their intervals overlap")
        lines += [f"suggested: {chosen.name}: {self.reason}", f"suggested: {chosen.advice}: {chosen.advice.reason}"]
        return lines

    def __str__(self) -> str:
        width = min(120, shutil.get_terminal_size((100, 24)).columns)
        notes = [
            textwrap.fill(tables.printable(note), width, subsequent_indent="  ", break_on_hyphens=False)
            for note in self.notes()
        ]
        return "\n\n".join([tables.as_text(self.table(), width), "\n".join(notes)])

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{html.escape(tables.printable(note))}</li>" for note in self.notes())
        return f'<div style="color:inherit">{tables.as_html(self.table())}<ul>{notes}</ul></div>'


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f}M" if number >= 100_000 else f"{number:,}"


def _sure(entropy: float | None) -> str:
    return "-" if entropy is None else f"unsure {entropy:.0%}"
