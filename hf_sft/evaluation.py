"""A model over the rows of a split: predictions in the order of the data, and the metrics with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from hf_sft.data.labels import Labels
from hf_sft.data.rows import Rows as RowSet
from hf_sft.metrics.metric import Metric
from hf_sft.tasks.task import BESIDE_INPUTS, Problem, Rows, beside, concatenate


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """All that evaluating a split takes, whichever model is given. Each process reads its share of the batches."""

    problem: Problem
    collate: Callable[[Sequence[Any]], dict[str, Any]]
    metrics: Sequence[Metric]
    batch_size: int
    workers: int = 0
    channels_last: bool = False

    @property
    def reads_scores(self) -> bool:
        """Whether a metric, or a threshold, is computed from the scores of all rows."""
        return self.problem.calibrate is not None or any(metric.reads_scores for metric in self.metrics)

    def predict(
        self,
        model: Any,
        rows: RowSet,
        lengths: NDArray,
        labels: Labels,
        *,
        keep_scores: bool = True,
        whole: bool = False,
    ) -> Rows:
        """What `Problem.decode` reads off the model for every row, in the order of `rows`, on every process.

        keep_scores False: of the scores of classes [N, L] none are kept, [N, 0]; memory does not grow with L.
        whole: what `Problem.answer` reads, where the problem has it.
        """
        decode = (whole and self.problem.answer) or self.problem.decode
        state = PartialState()
        batches = length_batches(lengths, self.batch_size)
        rounds = -(-len(batches) // state.num_processes)  # all processes step together; some repeat the first batch
        turns = range(state.process_index, rounds * state.num_processes, state.num_processes)
        mine = [batches[turn] if turn < len(batches) else batches[0] for turn in turns]
        own = sum(turn < len(batches) for turn in turns)
        loader = DataLoader(
            rows,
            batch_sampler=mine,
            collate_fn=self.collate,
            num_workers=self.workers,
            generator=torch.Generator(),  # else it draws from the global one: evaluating would change the dropout after
        )
        training = model.training
        model.eval()
        decoded = []
        with torch.inference_mode():
            for number, batch in enumerate(loader):
                part = decode(self._outputs(model, batch), beside(batch), labels)
                if number < own:
                    if not keep_scores and part["scores"].ndim > 1:
                        part["scores"] = part["scores"][:, :0].copy()
                    decoded.append(part)
        model.train(training)
        share = [(np.asarray([row for batch in mine[:own] for row in batch], dtype=np.int64), concatenate(decoded))]
        shares = [share for share in gather_object(share) if len(share[0])]
        order = np.argsort(np.concatenate([positions for positions, _ in shares]))
        return {name: values[order] for name, values in concatenate([part for _, part in shares]).items()}

    def _outputs(self, model: Any, batch: dict[str, Any]) -> Any:
        """Of `forward`, so many inputs at a time as a batch has rows: a row may be read in many windows."""
        inputs = {name: value for name, value in batch.items() if name not in BESIDE_INPUTS}
        size = len(next(iter(inputs.values())))
        outputs = [
            forward(
                model,
                {name: value[start : start + self.batch_size] for name, value in inputs.items()},
                self.channels_last,
                self.problem.reads,
            )
            for start in range(0, size, self.batch_size)
        ]
        if len(outputs) == 1:
            return outputs[0]
        return {name: torch.cat([part[name] for part in outputs]) for name in self.problem.reads}

    def measure(self, rows: Rows, targets: NDArray, labels: Labels) -> dict[str, float]:
        """`loss` (mean of the rows' own losses, by their items where those differ) and every metric."""
        outcome = self.problem.outcome(rows, targets, labels)
        values = {"loss": _mean_loss(rows)} if "losses" in rows else {}
        return values | {metric.name: float(metric.compute(outcome)) for metric in self.metrics}


def forward(model: Any, batch: dict[str, Any], channels_last: bool, reads: Sequence[str] = ("logits",)) -> Any:
    """The model's outputs of those names for a collated batch; targets stay out, the loss is ours."""
    return _OutputsOnCpu(model(**model_inputs(batch, next(model.parameters()).device, channels_last)), reads)


def model_inputs(batch: dict[str, Any], device: torch.device, channels_last: bool) -> dict[str, torch.Tensor]:
    """What of a collated batch goes into the model."""
    inputs = {}
    for name, value in batch.items():
        if name not in BESIDE_INPUTS:
            value = value.to(device, non_blocking=True)
            if channels_last and value.ndim == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            inputs[name] = value
    return inputs


class _OutputsOnCpu(dict[str, torch.Tensor]):
    """Outputs reduced to what is read of them, on the CPU: nothing else is kept of a batch."""

    def __init__(self, outputs: Any, reads: Sequence[str]):
        named = outputs if isinstance(outputs, dict) else {reads[0]: outputs[0]}
        kept = {name: named[name] for name in reads}
        super().__init__(
            {name: value.cpu() if value.dtype == torch.float64 else value.float().cpu() for name, value in kept.items()}
        )


def _mean_loss(rows: Rows) -> float:
    items = rows.get("items")
    if items is None:
        return float(rows["losses"].mean())
    return float(np.average(rows["losses"], weights=items)) if items.any() else float("nan")


def length_batches(lengths: NDArray, batch_size: int) -> list[list[int]]:
    """Positions of all rows, longest first, in batches: little padding, and memory runs out at once or never."""
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
