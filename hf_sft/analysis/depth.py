"""What fine-tuning does over the depth of a model: several runs on the same rows, beside the model they began with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hf_sft.analysis.activations import FEWEST, solved_at
from hf_sft.analysis.blocks_seen import BlocksSeen, Features, common_blocks, origin, pretrained_starts
from hf_sft.analysis.depth_parts import Line, draw_depth, table_of_blocks, table_of_runs
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.section import Section
from hf_sft.analysis.similarity import FOLDS, linear_cka, probe_accuracy
from hf_sft.record import RunRecord

NAME, TITLE = "depth", "What fine-tuning does"
PROBES = {"single_label": "accuracy", "regression": "R2"}  # problem -> what a probe of it is judged by
KINDS = {"full": "fully tuned", "head": "head only"}
START = "pretrained model"


def show_depth(runs: Sequence[FinishedRun], names: Sequence[str], seen: BlocksSeen) -> Section:
    """Per block and run, how alike its outputs are to the pretrained model's, and how well a probe solves the task.

    Raises Absent where the runs' models have other blocks.
    """
    first, role = runs[0], seen.role
    found = [seen.after(run) for run in runs]
    blocks = common_blocks(found, names)
    starts, notes = pretrained_starts(runs, names, blocks, seen)
    inputs = first.inputs(role, first.sample(role))
    problem, targets = first.labels.problem, inputs.targets
    judged_by = PROBES.get(problem, "") if targets is not None and len(inputs.row_ids) >= FEWEST else ""
    if not judged_by:
        notes.append(f"no probe: it needs at least {FEWEST} rows with one label or number each")

    def probes(features: Features) -> list[float]:
        return [_probe(features[block], targets, judged_by, first.seed) for block in blocks] if judged_by else []

    lines = []
    for begun_by, start in starts.values():
        name = START if len(starts) == 1 else f"{START} of {begun_by}"
        lines.append(Line(name=name, kind="before training", probe=probes(start)))
    for run, name, features in zip(runs, names, found, strict=True):
        _, begun = starts.get(origin(run.record), ("", {}))
        cka = [linear_cka(begun[block], features[block]) for block in blocks if begun]
        lines.append(Line(name=name, kind=kind_of(run.record), cka=cka, probe=probes(features), record=run.record))
    if len({run.record.data.get("train", {}).get("fingerprint") for run in runs}) > 1:
        notes.append("the runs learned from other training rows: that, too, is a difference between the lines")
    size = len(inputs.row_ids)
    base = _base(targets, judged_by)
    return Section(
        name=NAME,
        title=TITLE,
        sentence=_sentence(size, role, judged_by, any(line.cka for line in lines)),
        parts=(
            draw_depth(blocks, lines, judged_by, base, size),
            table_of_runs(blocks, lines, role),
            table_of_blocks(blocks, lines),
        ),
        key_figures=_figures(blocks, lines, size),
        notes=tuple(notes),
    )


def kind_of(record: RunRecord) -> str:
    """What a run is, in words: which weights it began with, where not the pretrained ones, and which learned."""
    strategy = record.recipe["tuning"]["strategy"]
    kind = KINDS.get(strategy, strategy.replace("_", " "))
    if record.recipe["model"].get("weights") != "random":
        return kind
    return "random weights" if strategy == "full" else f"random weights, {kind}"


def _probe(features: NDArray, targets: NDArray | None, judged_by: str, seed: int) -> float:
    assert targets is not None
    return (
        probe_accuracy(features, targets, seed=seed) if judged_by == "accuracy" else probe_r2(features, targets, seed)
    )


def probe_r2(features: NDArray, targets: NDArray, seed: int) -> float:
    """Share of the targets' variance that a ridge regression on these features explains, in five folds."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    truth = targets.astype(np.float64).reshape(len(targets))
    around = float(((truth - truth.mean()) ** 2).sum())
    if around == 0:
        return float("nan")
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(0, 5, 6)))
    told = cross_val_predict(model, features, truth, cv=KFold(FOLDS, shuffle=True, random_state=seed))
    return float(1 - ((truth - told) ** 2).sum() / around)


def _base(targets: NDArray | None, judged_by: str) -> float | None:
    """What a probe that sees nothing would reach."""
    if targets is None or not judged_by:
        return None
    return float(np.bincount(targets).max() / len(targets)) if judged_by == "accuracy" else 0.0


def _sentence(size: int, role: str, judged_by: str, alike: bool) -> str:
    text = f"The same {size:,} rows of {role} through every block of each run, from input to output. "
    if alike:
        text += (
            "CKA with the pretrained model says how much of its view of the rows is left: 1 where a block is frozen, "
            "low where training made it anew. "
        )
    if judged_by:
        text += (
            "The probe says where the task is solved: look for the block at which a run leaves the line of the model "
            "before training, for from there on fine-tuning pays; where no run leaves it, a new head is enough."
        )
    return text.strip()


def _figures(blocks: Sequence[str], lines: Sequence[Line], size: int) -> dict[str, float | int | str | None]:
    figures: dict[str, float | int | str | None] = {"rows": size}
    for line in lines:
        name = line.name.replace(" ", "_")
        if line.cka:
            figures[f"cka_last_block_{name}"] = line.cka[-1]
        if line.probed:
            figures[f"probe_last_block_{name}"] = line.probe[-1]
            figures[f"probe_best_from_{name}"] = solved_at(blocks, line.probe)
    return figures
