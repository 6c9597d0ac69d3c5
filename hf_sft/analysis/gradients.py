"""Gradients of each block over training: which blocks were asked to move, when, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hf_sft.analysis.drawing import PALETTE, drawn
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.predictions import Predictions
from hf_sft.analysis.recorded_files import anything_recorded, broken, read_about, read_recorded
from hf_sft.analysis.section import Absent, Cell, Figure, Section, Table

LINES = 6  # blocks that are drawn as lines, spread over the depth
FADING = 1e-3  # of the last layer's median norm: a first layer below it hardly learns


def show_gradients(run: FinishedRun, predictions: Mapping[str, Predictions]) -> Section:
    """Norms by block and step, from what inspect.record kept. Raises Absent where it kept nothing."""
    steps, epochs, norms = read_norms(run)
    about = read_about(run)
    silent = [name for name, values in norms.items() if np.isnan(values).all()]
    told = {name: values for name, values in norms.items() if name not in silent}
    if not told:
        raise Absent("no step was logged in which a block had a gradient")
    matrix = np.stack(list(told.values()))
    whole = ~np.isinf(matrix).any(axis=0)
    medians = {name: _median(values[whole]) for name, values in told.items()}
    notes = []
    if silent:
        notes.append(f"no gradient at any logged step, since they were frozen: {', '.join(silent)}")
    late = {name: int(steps[np.flatnonzero(~np.isnan(values))[0]]) for name, values in told.items()}
    joined = [f"{name} at step {step:,}" for name, step in late.items() if step > steps[0]]
    if joined:
        notes.append(f"first seen with a gradient: {', '.join(joined)}")
    if not whole.all():
        notes.append(infinite(int((~whole).sum()), run.record.environment["precision"]))
    figures: dict[str, float | int | str | None] = {"logged_steps": len(steps), "blocks": len(norms)}
    layers = [name for name in told if name.startswith("block.")]
    if len(layers) > 1:
        ratio = medians[layers[0]] / medians[layers[-1]] if medians[layers[-1]] else float("nan")
        figures["first_layer_to_last"] = ratio
        if ratio < FADING:
            notes.append("gradients fade on their way down: the first layer gets under a thousandth of the last one's")
    shares = shares_of(told, whole)
    if shares:
        largest = max(shares, key=shares.__getitem__)
        figures |= {"largest_block": largest, "its_share": shares[largest]}
        most = float(run.record.recipe.get("training", {}).get("max_grad_norm") or 0)
        notes += clipping(np.sqrt(np.nansum(matrix[:, whole] ** 2, axis=0)), most)
    sentence = (
        "The norm of each block's gradient, before clipping, at the logged steps; shares are of the squared norm. A "
        "block that stands out decides alone how much clipping slows all others; one that fades away hardly learns."
    )
    return Section(
        name="gradients",
        title="Gradients",
        sentence=sentence,
        parts=(
            _draw_map(epochs, told, whole),
            _draw_lines(epochs, told, whole),
            _table(steps, told, medians, shares, about["parameters"]),
        ),
        key_figures=figures,
        notes=tuple(notes),
    )


def infinite(count: int, precision: str) -> str:
    """Of logged steps with gradients of no finite norm, in words: with float16 alone are they expected, and skipped."""
    if precision == "fp16":
        return f"at {count} logged steps float16 overflowed, and the optimizer left them out"
    return f"at {count} logged steps the norm was not finite; training took them, this section leaves them out"


def _median(values: NDArray) -> float:
    there = values[~np.isnan(values)]
    return float(np.median(there)) if len(there) else float("nan")


def shares_of(norms: Mapping[str, NDArray], steps: NDArray) -> dict[str, float]:
    """Block -> the part of the squared norm of all gradients that it has, in the mean of the steps that count.

    Empty where no step has a gradient that is not zero.
    """
    squares = {block: np.nan_to_num(values[steps]) ** 2 for block, values in norms.items()}
    total = np.sum(list(squares.values()), axis=0)
    if not (total > 0).any():
        return {}
    return {block: float((values[total > 0] / total[total > 0]).mean()) for block, values in squares.items()}


def clipping(totals: NDArray, most: float) -> list[str]:
    """What training.max_grad_norm did at steps with gradients of these norms, in words; 0: it was off."""
    over = totals > most
    if not most or not over.any():
        return []
    times = float(np.median(totals[over])) / most
    return [
        f"training.max_grad_norm {most:g} scaled the gradients of {int(over.sum())} of {len(totals)} logged steps "
        f"down, typically by {times:.3g}"
    ]


def read_norms(run: FinishedRun) -> tuple[NDArray, NDArray, dict[str, NDArray]]:
    """steps, epochs, block -> norm at each of them, NaN where it had no gradient. Raises Absent."""
    if not anything_recorded(run):
        raise Absent(
            "the run kept no gradients of its blocks; `inspect: {record: true}` in the recipe keeps them while training"
        )
    columns = {name: np.array(values, dtype=float) for name, values in read_recorded(run, "gradient_norms").items()}
    if not {"step", "epoch"} <= columns.keys():
        raise broken(run.record.directory.recorded("gradient_norms"))
    return columns.pop("step").astype(int), columns.pop("epoch"), columns


def _draw_map(epochs: NDArray, norms: Mapping[str, NDArray], whole: NDArray) -> Figure:
    from matplotlib.colors import LogNorm

    values = np.stack(list(norms.values()))
    shown = np.where(whole & (values > 0), values, np.nan)
    found = shown[np.isfinite(shown)]
    least, most = (float(found.min()), float(found.max())) if len(found) else (1e-8, 1.0)
    with drawn(7.2, min(9.0, 1.4 + 0.2 * len(norms))) as canvas:
        (panel,) = canvas.panels()
        edges = np.concatenate([[0.0], epochs])
        mesh = panel.pcolormesh(
            edges,
            np.arange(len(norms) + 1),
            shown,
            cmap="viridis",
            norm=LogNorm(vmin=least, vmax=most if most > least else 2 * least),
        )
        panel.set_yticks(np.arange(len(norms)) + 0.5, list(norms), fontsize=8 if len(norms) <= 30 else 5)
        panel.invert_yaxis()
        panel.set_xlabel("epoch")
        canvas.drawing.colorbar(mesh, ax=panel, label="gradient norm")
    caption = "Blocks from the input (above) to the head, over training; white where a block had no gradient."
    return canvas.figure("blocks", caption)


def _draw_lines(epochs: NDArray, norms: Mapping[str, NDArray], whole: NDArray) -> Figure:
    names = list(norms)
    chosen = [names[place] for place in np.unique(np.linspace(0, len(names) - 1, min(LINES, len(names))).astype(int))]
    with drawn(7.2, 3.4) as canvas:
        (panel,) = canvas.panels()
        for place, name in enumerate(chosen):
            values = np.where(whole & (norms[name] > 0), norms[name], np.nan)
            panel.plot(epochs, values, color=PALETTE[place], linewidth=1.3, marker="." if len(epochs) < 40 else "")
        panel.set_yscale("log")
        panel.set_xlabel("epoch")
        panel.set_ylabel("gradient norm")
        panel.legend(chosen, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        panel.grid(alpha=0.25)
    caption = "Some of the blocks as lines, from the input to the head."
    return canvas.figure("lines", caption)


def _table(
    steps: NDArray,
    norms: Mapping[str, NDArray],
    medians: Mapping[str, float],
    shares: Mapping[str, float],
    parameters: Mapping[str, int],
) -> Table:
    rows: list[Sequence[Cell]] = []
    for name, values in norms.items():
        there = np.flatnonzero(np.isfinite(values))
        if not len(there):
            rows.append([name, parameters.get(name), None, None, None, None, None, None])
            continue
        peak = there[values[there].argmax()]
        size = parameters.get(name) or 0
        each = medians[name] / size**0.5 if size else None
        first, last = (float(values[place]) for place in (there[0], there[-1]))
        rows.append([name, size, first, medians[name], last, int(steps[peak]), shares.get(name), each])
    heads = ("block", "weights that train", "first", "median", "last", "largest at step", "share", "of one weight")
    caption = (
        "Norms in numbers. The last column compares blocks of different sizes: the gradient of one weight (root mean "
        "square) at the median step."
    )
    return Table(name="norms", caption=caption, heads=heads, rows=rows, shown=100)
