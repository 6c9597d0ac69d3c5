"""What the blocks of several runs, and of the models they began with, make of the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from hf_sft.analysis.block_outputs import block_outputs
from hf_sft.analysis.finished import FinishedRun
from hf_sft.analysis.section import Absent
from hf_sft.record import RunRecord

Features = Mapping[str, NDArray]  # block -> [N, D]
Origin = tuple[tuple[str, str], ...]


class BlocksSeen:
    """What the blocks of several runs give for one sample of the first one's rows; each model is asked once."""

    def __init__(self, first: FinishedRun, role: str):
        self.first, self.role = first, role
        self._found: dict[Any, Features] = {}

    def after(self, run: FinishedRun) -> Features:
        """Raises Absent where rows or blocks are not to be had."""
        return self._of(("after", run.path.resolve()), run, trained=True)

    def before(self, run: FinishedRun) -> Features:
        """Of the model that the run began with; runs that began with the same one share it."""
        return self._of(("before", origin(run.record)), run, trained=False)

    def _of(self, key: Any, run: FinishedRun, *, trained: bool) -> Features:
        if key not in self._found:
            inputs = run.inputs(self.role, self.first.sample(self.role))
            collate = run.task.collate(run.saved.processor, run.recipe)
            model = run.saved.model if trained else run.before
            channels_last = run.saved.channels_last
            outputs = block_outputs(model, inputs.rows, inputs.lengths, collate, channels_last=channels_last)
            self._found[key] = outputs.features
        return self._found[key]


def origin(record: RunRecord) -> Origin:
    """Which pretrained model a run belongs to: of random weights, the one whose architecture they have."""
    model = record.recipe["model"]
    known = {key: model.get(key) for key in ("name", "revision", "weights", "config")}
    known["weights"] = None if known["weights"] == "random" else known["weights"]
    return tuple((key, str(value)) for key, value in known.items())


def common_blocks(found: Sequence[Features], names: Sequence[str]) -> list[str]:
    """The blocks of all, in order."""
    blocks = list(found[0])
    if not blocks:
        raise Absent("no block of these models gives one output per row")
    for name, features in zip(names, found, strict=True):
        if list(features) != blocks:
            counts = f"{names[0]} has {len(blocks)} ({blocks[0]} to {blocks[-1]}), {name} {len(features)}"
            raise Absent(f"block stands beside block only where the models have the same ones; {counts}")
    return blocks


def pretrained_starts(
    runs: Sequence[FinishedRun], names: Sequence[str], blocks: Sequence[str], seen: BlocksSeen
) -> tuple[dict[Origin, tuple[str, Features]], list[str]]:
    """Origin -> the first run that began there and what the pretrained model gives; and what is not known."""
    starts: dict[Origin, tuple[str, Features]] = {}
    notes: list[str] = []
    for run, name in zip(runs, names, strict=True):
        if origin(run.record) in starts or run.record.recipe["model"].get("weights") == "random":
            continue
        try:
            start = seen.before(run)
        except Absent as reason:
            notes.append(f"{name}: {reason}")
            continue
        if all(block in start for block in blocks):
            starts[origin(run.record)] = (name, start)
    missing = [name for run, name in zip(runs, names, strict=True) if origin(run.record) not in starts]
    if missing:
        told = ", ".join(missing)
        notes.append(
            f"{told}: no CKA, as no run here began with the pretrained weights of that model, or had them still"
        )
    return starts, notes
