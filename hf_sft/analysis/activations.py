"""What the blocks make of the same rows before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from hf_sft.analysis.block_outputs import BlockOutputs, block_outputs
from hf_sft.analysis.drawing import COLOURS, GREY, PALETTE, drawn, plain
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.predictions import Predictions
from hf_sft.analysis.section import Absent, Cell, Cloud, Figure, Part, Section, Table
from hf_sft.analysis.similarity import linear_cka, probe_accuracy, two_dimensions

FEWEST = 20  # rows that a map or a probe is made from


def show_activations(run: FinishedRun, predictions: Mapping[str, Predictions]) -> Section:
    """CKA and a linear probe per block, before and after; units that are never active; a map of the rows."""
    role = run.judged_role
    if not role:
        raise Absent("the run has no rows but those that it was trained on")
    before, after, row_ids, targets = outputs_of(run, role)
    blocks = [block for block in before.features if block in after.features]
    if not blocks:
        raise Absent("no block of this model gives one output per row")
    cka = [linear_cka(before.features[block], after.features[block]) for block in blocks]
    enough, one_label = len(row_ids) >= FEWEST, run.labels.problem == "single_label" and targets is not None
    classes = targets if one_label and enough else None
    probes: dict[str, list[float]] = {}
    if classes is not None:
        for name, outputs in (("before", before), ("after", after)):
            probes[name] = [probe_accuracy(outputs.features[block], classes, seed=run.seed) for block in blocks]
    figures: dict[str, float | int | str | None] = {"rows": len(row_ids), "cka_last_block": cka[-1]}
    if probes:
        figures["probe_last_block_before"] = probes["before"][-1]
        figures["probe_last_block_after"] = probes["after"][-1]
        figures["solved_at"] = solved_at(blocks, probes["after"])
    parts: list[Part] = [_lines(blocks, cka, probes), _table(blocks, cka, probes, before, after)]
    notes = [] if one_label else ["no probe: it needs rows with one label each"]
    if not enough:
        few = f"{len(row_ids)} rows are too few ({FEWEST} at least)"
        notes.append(f"no map{' and no probe' if one_label else ''}: {few}")
    if np.isnan(cka).all():
        notes.append("no likeness of the blocks: it takes four rows that differ")
    if enough:
        parts += _maps(run, role, blocks[-1], before, after, row_ids, classes)
    sentence = (
        f"The same {len(row_ids):,} rows of {role} through the model before and after training. Where the similarity "
        "(CKA) falls, the block sees something new; where the probe's line reaches its height, the task is solved: "
        "blocks behind add little, and blocks before it need not be trained."
    )
    return Section(
        name="activations",
        title="Activations",
        sentence=sentence,
        parts=tuple(parts),
        key_figures=figures,
        notes=tuple(notes),
    )


def outputs_of(run: FinishedRun, role: str) -> tuple[BlockOutputs, BlockOutputs, NDArray, NDArray | None]:
    """What the blocks give for a sample before and after training, its row ids and targets."""
    inputs = run.inputs(role, run.sample(role))
    collate = run.task.collate(run.saved.processor, run.recipe)
    before, after = (
        block_outputs(model, inputs.rows, inputs.lengths, collate, channels_last=run.saved.channels_last)
        for model in (run.before, run.saved.model)
    )
    return before, after, inputs.row_ids, inputs.targets


def solved_at(blocks: Sequence[str], accuracies: Sequence[float], *, within: float = 0.02) -> str:
    """The first block whose probe comes within 0.02 of the best."""
    best = np.nanmax(accuracies) if not np.isnan(accuracies).all() else np.nan
    return next((block for block, value in zip(blocks, accuracies, strict=True) if value >= best - within), "none")


def _lines(blocks: Sequence[str], cka: Sequence[float], probes: Mapping[str, Sequence[float]]) -> Figure:
    places = np.arange(len(blocks))
    with drawn(9.5 if probes else 5.4, 3.6) as canvas:
        panels = canvas.panels(1, 2 if probes else 1)
        panels[0].plot(places, cka, "o-", color=COLOURS[0])
        panels[0].set_ylim(min([0.0, *(value for value in cka if value < 0)]) - 0.02, 1.05)
        panels[0].set_ylabel("CKA of before and after")
        for name, colour in (("before", GREY), ("after", COLOURS[1])) if probes else ():
            panels[1].plot(places, probes[name], "o-", color=colour, label=name)
        if probes:
            panels[1].set_ylabel("accuracy of a linear probe")
            panels[1].legend(frameon=False)
        for panel in panels:
            panel.set_xticks(places, [plain(block, 14) for block in blocks], rotation=90, fontsize=8)
            panel.grid(alpha=0.25)
    caption = "Block by block: how alike its outputs are before and after training"
    caption += ", and how well a linear classifier on them tells the classes apart." if probes else "."
    return canvas.figure("blocks", caption)


def _table(
    blocks: Sequence[str],
    cka: Sequence[float],
    probes: Mapping[str, Sequence[float]],
    before: BlockOutputs,
    after: BlockOutputs,
) -> Table:
    rows: list[list[Cell]] = []
    for place, block in enumerate(blocks):
        row: list[Cell] = [block, after.features[block].shape[1], cka[place]]
        row += [probes[name][place] for name in ("before", "after") if probes]
        rows.append([*row, before.dead(block), after.dead(block)])
    heads = ["block", "features", "CKA", *(["probe before", "probe after"] if probes else [])]
    heads += ["dead units before", "dead units after"]
    caption = "Each block in numbers. Dead: units of its activation functions that are positive on none of these rows."
    return Table(name="per_block", caption=caption, heads=heads, rows=rows, shown=200)


def _maps(
    run: FinishedRun,
    role: str,
    block: str,
    before: BlockOutputs,
    after: BlockOutputs,
    row_ids: NDArray,
    classes: NDArray | None,
) -> list[Part]:
    """The rows in two dimensions: both as a picture, the one after training with points that tell their row."""
    places = {name: two_dimensions(outputs.features[block]) for name, outputs in (("before", before), ("after", after))}
    how = "principal components"
    if find_spec("umap") is not None:
        how = "UMAP"
        places = {
            name: (_umap(outputs.features[block], run.seed), share)
            for (name, (_, share)), outputs in zip(places.items(), (before, after), strict=True)
        }
    groups = classes if classes is not None else np.zeros(len(row_ids), dtype=int)
    names = run.saved.labels.names if classes is not None else ("rows",)
    with drawn(9.5, 4) as canvas:
        for panel, (name, (points, share)) in zip(canvas.panels(1, 2), places.items(), strict=True):
            colours = [PALETTE[int(group) % len(PALETTE)] for group in groups]
            panel.scatter(points[:, 0], points[:, 1], c=colours, s=9, alpha=0.7, linewidths=0)
            told = f" ({share:.0%} of the variance)" if how != "UMAP" else ""
            panel.set_title(f"{name} training{told}", fontsize=10)
            panel.set_xticks([])
            panel.set_yticks([])
    caption = f"The rows as {block} sees them ({how}), coloured by class: training pulls the classes apart."
    points = places["after"][0]
    cloud = Cloud(
        name="map",
        caption="The rows after training; point at one to read it. Strays among another class are worth a look.",
        points=[(float(x), float(y)) for x, y in points],
        groups=[int(group) for group in groups],
        group_names=names,
        texts=[words[:300] for words in run.words(role, row_ids)],
        row_ids=[int(row_id) for row_id in row_ids],
    )
    return [canvas.figure("maps", caption), cloud]


def _umap(features: NDArray, seed: int) -> NDArray:
    from umap import UMAP

    found: NDArray = UMAP(n_components=2, random_state=seed).fit_transform(features)
    return found
