"""The course of learning: losses, the gap between training and validation, rates, gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_sft.analysis.drawing import COLOURS, GREY, drawn
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.predictions import Predictions
from hf_sft.analysis.section import Absent, Cell, Figure, Part, Section, Table
from hf_sft.curves import as_png, best_epoch, metric_names
from hf_sft.summary import finite

SPIKE = 5.0  # times the median gradient norm from which on a step is called a spike
LEAST_SPIKE, EARLY = 0.01, 10  # nor under this share of the largest norm among the first tenth of the steps
Entry = Mapping[str, Any]


def show_course(run: FinishedRun, predictions: Mapping[str, Predictions]) -> Section:
    """Curves, the gap with the epoch where overfitting begins, and gradient norms, from the record's history."""
    steps, epochs = (run.record.history.get(kind) or [] for kind in ("steps", "epochs"))
    if not steps and not epochs:
        raise Absent("the record holds no course: nothing was trained step by step")
    parts: list[Part] = [
        Figure(
            name="curves",
            caption="Losses, metrics on validation, learning rate and gradient norm over the epochs.",
            png=as_png(run.record),
        )
    ]
    figures: dict[str, float | int | str | None] = {"epochs": len(epochs), "logged_steps": len(steps)}
    told = [entry for entry in epochs if None not in (_of(entry, "train_loss"), _of(entry, "validation_loss"))]
    if told:
        begins = overfitting_begins(told)
        figures["overfitting_begins_at_epoch"] = _epoch(begins) if begins is not None else "not seen"
        turned = [int(entry["step"]) for entry in told if entry["epoch"] == begins and "step" in entry]
        figures["overfitting_begins_at_step"] = turned[0] if turned else "not seen"
        figures["gap_at_the_end"] = gap(told[-1])
        if len(told) > 1:
            parts.append(_draw_gap(told, begins))
    if epochs:
        parts.append(_table(epochs, metric_names(run.record)))
    best = best_epoch(run.record)
    if best is not None:
        figures["best_epoch"] = _epoch(best["epoch"])
    norms = np.array([value for entry in steps if (value := _of(entry, "grad_norm")) is not None])
    notes = []
    if len(norms):
        floor = LEAST_SPIKE * norms[: max(1, len(norms) // EARLY)].max()  # below it the model is done: nothing jumps
        spikes = int((norms > max(SPIKE * float(np.median(norms)), floor)).sum())
        figures |= {"median_gradient_norm": float(np.median(norms)), "gradient_spikes": spikes}
        if spikes:
            notes.append(
                f"{spikes} of {len(norms)} logged steps have a gradient norm over {SPIKE:g} times the median: a lower "
                "learning rate, a longer warm-up or training.max_grad_norm calms them"
            )
    sentence = (
        "How the run learned. Where validation loss turns while training loss falls on, the model begins to learn its "
        "rows by heart: fewer epochs or early_stopping would have done as well."
    )
    return Section(
        name="course",
        title="Course of learning",
        sentence=sentence,
        parts=tuple(parts),
        key_figures=figures,
        notes=tuple(notes),
    )


def gap(entry: Entry) -> float:
    """Validation loss less training loss."""
    return float(entry["validation_loss"]) - float(entry["train_loss"])


def overfitting_begins(epochs: Sequence[Entry]) -> float | None:
    """The epoch of the lowest validation loss, where that rises and the training loss falls after it; else None."""
    best = min(range(len(epochs)), key=lambda place: epochs[place]["validation_loss"])
    later = epochs[best + 1 :]
    rises = any(entry["validation_loss"] > epochs[best]["validation_loss"] for entry in later)
    falls = any(entry["train_loss"] < epochs[best]["train_loss"] for entry in later)
    return float(epochs[best]["epoch"]) if rises and falls else None


def _epoch(epoch: float) -> int | float:
    """A whole epoch as a whole number."""
    return int(epoch) if float(epoch).is_integer() else float(epoch)


def _of(entry: Entry, key: str) -> float | None:
    return finite(entry.get(key))


def _draw_gap(epochs: Sequence[Entry], begins: float | None) -> Figure:
    x = [entry["epoch"] for entry in epochs]
    train, validation = ([entry[key] for entry in epochs] for key in ("train_loss", "validation_loss"))
    with drawn(6.2, 3.4) as canvas:
        (panel,) = canvas.panels()
        panel.plot(x, train, "o-", color=COLOURS[0], label="training")
        panel.plot(x, validation, "s-", color=COLOURS[1], label="validation")
        panel.fill_between(x, train, validation, color="#dddddd", alpha=0.6, label="gap")
        if begins is not None:
            panel.axvline(begins, color=GREY, linestyle=":", label=f"overfitting begins (epoch {begins:g})")
        panel.set_xlabel("epoch")
        panel.set_ylabel("loss")
        panel.legend(frameon=False, fontsize=8)
        panel.grid(alpha=0.25)
    caption = "The gap between rows that were trained on and others. Training loss is with dropout: it may lie higher."
    return canvas.figure("gap", caption)


def _table(epochs: Sequence[Entry], names: Sequence[str]) -> Table:
    rows: list[list[Cell]] = [
        [
            _epoch(entry["epoch"]),
            *(_of(entry, key) for key in ("train_loss", "validation_loss")),
            *(_of(entry, name) for name in names),
        ]
        for entry in epochs
    ]
    heads = ("epoch", "training loss", "validation loss", *names)
    return Table(name="epochs", caption="The evaluations in numbers.", heads=heads, rows=rows, shown=100)
