"""The course of a run, read from the Trainer's log: a pure function of it, so that a resumed run tells it whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]


def step_entries(log: Sequence[Entry]) -> list[dict[str, Any]]:
    """One entry per optimizer log: step, epoch, mean loss since the last, grad_norm, learning_rate of the head."""
    keys = ("step", "epoch", "loss", "grad_norm", "learning_rate")
    return [{key: entry[key] for key in keys if key in entry} for entry in log if "loss" in entry]


def mean_loss(log: Sequence[Entry], after: int, until: int) -> float:
    """Mean training loss per item over the steps in (after, until]; logs tell how many items each stands for."""
    entries = [entry for entry in log if "loss" in entry and after < entry["step"] <= until]
    items = sum(entry["items"] for entry in entries)
    return sum(entry["loss"] * entry["items"] for entry in entries) / items if items else math.nan


def epoch_entries(log: Sequence[Entry], *, evaluated: bool) -> list[dict[str, Any]]:
    """One entry per evaluation (per epoch where nothing is evaluated): train_loss, validation_loss, metrics."""
    entries: list[dict[str, Any]] = []
    before = 0
    for entry in log:
        step = entry["step"]
        if evaluated and "eval_loss" in entry:
            values = {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}
            loss = values.pop("loss")
        elif not evaluated and "loss" in entry and float(entry["epoch"]).is_integer():
            values, loss = {}, None
        else:
            continue
        values |= {name: value for name, value in entry.items() if name.startswith("train_")}  # of a solved head
        train_loss = mean_loss(log, before, step)
        entries.append(
            {"epoch": entry["epoch"], "step": step, "train_loss": train_loss, "validation_loss": loss, **values}
        )
        before = step
    return entries
