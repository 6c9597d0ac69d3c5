"""The picture and the tables of several runs over the depth of their model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from hf_sft.analysis.activations import solved_at
from hf_sft.analysis.drawing import COLOURS, GREY, drawn, plain
from hf_sft.analysis.section import Absent, Cell, Figure, Interval, Table
from hf_sft.record import RunRecord
from hf_sft.summary import results, splits

MARKERS = "osD^vP*X"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A model's way from block to block. cka: to the pretrained model it belongs to; empty where that is not known."""

    name: str
    kind: str
    cka: Sequence[float] = ()
    probe: Sequence[float] = ()
    record: RunRecord | None = None

    @property
    def probed(self) -> bool:
        """Whether any probe has a value."""
        return not np.isnan(np.asarray(self.probe, dtype=float)).all()  # of an empty list too

    @property
    def label(self) -> str:
        return f"{self.name} ({self.kind})"


def draw_depth(blocks: Sequence[str], lines: Sequence[Line], judged_by: str, base: float | None, size: int) -> Figure:
    panels_of = [what for what, there in (("cka", any(line.cka for line in lines)), ("probe", judged_by)) if there]
    if not panels_of:
        raise Absent("neither the pretrained model nor one label per row is known")
    places = np.arange(len(blocks))
    with drawn(max(4.9, 0.24 * len(blocks) + 2.6) * len(panels_of), 4.5) as canvas:
        panels = canvas.panels(1, len(panels_of))
        for what, panel in zip(panels_of, panels, strict=True):
            _draw(panel, places, lines, what)
            panel.set_xticks(places, [plain(block, 14) for block in blocks], rotation=90, fontsize=8)
            panel.set_xlabel("from input to output")
            panel.grid(alpha=0.25)
            if what == "cka":
                lowest = float(np.nanmin([0.0, *(value for line in lines for value in line.cka)]))
                panel.set_ylim(lowest - 0.03, 1.05)
                panel.set_title("What is left of the pretrained model", fontsize=10)
                panel.set_ylabel("CKA with the pretrained model")
            else:
                panel.set_title("Where the task is solved", fontsize=10)
                panel.set_ylabel(f"{judged_by} of a linear probe on the block")
                if base is not None:
                    panel.axhline(base, color=GREY, linewidth=1, linestyle=":", label="probe that sees nothing")
        shown, told = panels[-1].get_legend_handles_labels()
        canvas.drawing.legend(shown, told, loc="outside lower center", ncols=min(3, len(told)), frameon=False)
    caption = "Block by block"
    caption += ": how alike each run's outputs are to the pretrained model's" if "cka" in panels_of else ""
    caption += ", and" if len(panels_of) == 2 else ":" if judged_by else ""
    caption += f" the {judged_by} of a linear probe on them, in five folds of the rows" if judged_by else ""
    if judged_by == "accuracy":
        caption += f" (known to about ±{1 / np.sqrt(size):.2f} on {size:,} rows)"
    return canvas.figure("blocks", caption + ".")


def _draw(panel: Axes, places: NDArray, lines: Sequence[Line], what: str) -> None:
    """The start broad and grey below all; a run that lies on another is seen by its narrower line and its mark."""
    runs = [line for line in lines if line.record is not None]
    for line in lines:
        values = getattr(line, what)
        if line.record is None and values:
            panel.plot(places, values, color=GREY, alpha=0.45, linewidth=7, label=plain(line.label, 60))
    for number, line in enumerate(runs):
        values = getattr(line, what)
        panel.plot(
            places if values else [],
            values,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linewidth=max(1.2, 2.6 - 0.6 * number),
            markersize=max(4.0, 7.5 - 1.2 * number),
            label=plain(line.label, 60),
        )


def table_of_runs(blocks: Sequence[str], lines: Sequence[Line], role: str) -> Table:
    rows: list[list[Cell]] = []
    metric = ""
    for line in lines:
        value: Cell = None
        if line.record is not None and role in splits(line.record):
            result = next((one for one in results(line.record, role) if metric in ("", one.metric)), None)
            if result is not None and result.value is not None:
                metric = result.metric
                value = Interval(result.value, *result.interval) if result.interval else result.value
        row: list[Cell] = [line.name, line.kind, value, line.cka[-1] if line.cka else None]
        best = (line.probe[-1], float(np.nanmax(line.probe)), solved_at(blocks, line.probe)) if line.probed else ()
        rows.append([*row, *(best or (None, None, None))])
    heads = ["run", "what it is", f"{metric or 'metric'} of {role}", "CKA, last block", "probe, last block"]
    heads += ["best probe", "its best from"]
    caption = (
        f"Each run on all rows of {role} with its 95 % interval. Its best from: the first block whose probe comes "
        "within 0.02 of the run's best, however good that is. A run whose last probe clearly beats its answers has a "
        "head that learned too little."
    )
    return Table(name="runs", caption=caption, heads=heads, rows=rows)


def table_of_blocks(blocks: Sequence[str], lines: Sequence[Line]) -> Table:
    columns = [(f"CKA, {line.name}", line.cka) for line in lines if line.cka]
    columns += [(f"probe, {line.name}", line.probe) for line in lines if line.probe]
    rows: list[list[Cell]] = [[block, *(values[place] for _, values in columns)] for place, block in enumerate(blocks)]
    heads = ["block", *(head for head, _ in columns)]
    return Table(name="per_block", caption="The figures of the picture.", heads=heads, rows=rows, shown=200)
