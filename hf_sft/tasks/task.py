"""What a task is: a frozen record of functions. One task, one file; no subclass, no branch on its name elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_sft.data.bad_rows import Fault
from hf_sft.data.labels import Labels
from hf_sft.data.quality import Inspection
from hf_sft.metrics.metric import Outcome
from hf_sft.recipe import ProblemName

Batch = Mapping[str, Any]
Rows = dict[str, NDArray]  # column -> one entry per row


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """What training changes of a loss; losses that evaluate never have it.

    class_weights: float32 [L] by label id; None weighs all alike. focal_gamma: 0 is the plain loss.
    """

    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None
    focal_gamma: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Problem:
    """How the outputs of a model are trained and read. `decode` is the one reader of model outputs.

    problem_type: what transformers calls it in a model's config; pipeline() chooses softmax or sigmoid by it.
    encode: (label values as names, lists of names or numbers; labels) -> array of targets, one per row.
    count: (batch, penalty) -> number of items its loss is averaged over (a tensor without dimensions), or the sum of
        their weights where it is a weighted mean.
    objective: (outputs, batch, penalty) -> (sum of item losses, what count says), so that accumulation, ragged batches
        and processes add up.
    decode: (outputs, batch, labels) -> rows: "scores", "predictions" and, where targets are known, "losses".
    outcome: (rows, targets, labels) -> what metrics read.
    baseline: (training targets, number of rows, labels) -> rows that ignore the input.
    calibrate: (scores, targets, labels) -> labels with what is chosen on validation; None where nothing is.
    balance: (training targets, number of labels) -> the weight of each label that makes up for how rare it is; None
        where there are no labels.
    """

    problem_type: str
    encode: Callable[[Sequence[Any], Labels], NDArray]
    count: Callable[[Batch, Penalty], torch.Tensor]
    objective: Callable[[Any, Batch, Penalty], tuple[torch.Tensor, torch.Tensor]]
    decode: Callable[[Any, Batch, Labels], Rows]
    outcome: Callable[[Rows, NDArray, Labels], Outcome]
    baseline: Callable[[NDArray, int, Labels], Rows]
    calibrate: Callable[[NDArray, NDArray, Labels], Labels] | None = None
    balance: Callable[[NDArray, int], NDArray] | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of the Hub, as the functions in which it differs from another.

    name: the Hub's pipeline tag.
    columns: role -> required or not.
    auto_model: name of the Auto class in transformers.
    load_processor: (source folder or id, recipe, model config, remote code allowed) -> tokenizer or image processor.
    fit_model: (model, processor) -> None: what the model's config must know of the processor.
    prepare: (rows, recipe) -> rows whose columns can be read (types checked, paths cast to images).
        Raises DataError for columns of the wrong type.
    find_faults: (prepared split, recipe) -> a Fault per input that cannot be used: null, an image that does not decode.
    inspect: (role, prepared split, recipe, positions) -> what check says about those rows.
    full_lengths: (batch of source columns, processor, recipe) -> int64 [N], lengths before anything is cut; None where
        nothing is.
    longest_input: (processor, model config) -> the greatest length the model can take; None where there is none.
    transform: (processor, recipe) -> picklable function: batch of source columns -> batch of model inputs.
    ahead: whether transform runs once over the whole split (text) or each time a row is read (images).
    collate: (processor, recipe) -> data collator over rows of model inputs with "labels" and "weight".
    length: name of the column whose lists are as long as the row costs; None where all rows cost the same.
    write: (rows, labels) -> columns of a predictions file.
    opened: raw input -> what augmentations change: a text, an RGB image.
    pixels: processor -> side of the model's input in pixels; 0 where there are none.
    channels_last: whether convolutional models run in that memory format.
    training_defaults: TrainingArguments the task sets where a recipe is silent.
    """

    name: str
    columns: Mapping[str, bool]
    problems: Mapping[ProblemName, Problem]
    auto_model: str
    load_processor: Callable[..., Any]
    fit_model: Callable[[Any, Any], None]
    prepare: Callable[..., Any]
    find_faults: Callable[..., list[Fault]]
    inspect: Callable[..., Inspection]
    full_lengths: Callable[..., NDArray] | None
    longest_input: Callable[..., int] | None
    transform: Callable[..., Callable[[Batch], dict[str, Any]]]
    ahead: bool
    collate: Callable[..., Callable[[Sequence[Batch]], dict[str, Any]]]
    length: str | None
    write: Callable[[Rows, Labels], dict[str, Any]]
    opened: Callable[[Any], Any]
    pixels: Callable[[Any], int]
    channels_last: bool = False
    training_defaults: Mapping[str, Any] = field(default_factory=dict)


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Rows of several batches as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
