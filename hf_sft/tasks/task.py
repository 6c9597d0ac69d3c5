"""What a task is: a frozen record of functions. One task, one file; no subclass, no branch on its name elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray

from hf_sft.data.bad_rows import Fault
from hf_sft.data.labels import LabelColumn, Labels, targets_as_names
from hf_sft.data.quality import Inspection
from hf_sft.errors import Finding, RecipeError
from hf_sft.metrics.metric import Outcome
from hf_sft.recipe import DataSet, ProblemName, Recipe

Batch = Mapping[str, Any]
Rows = dict[str, NDArray]  # column -> one entry per row; object arrays where entries differ in size
# What a batch holds beside the model's inputs. counts: items of each row; places: where each is read in the outputs.
# truth: targets that travel, in the image's own size, a list; sizes: those sizes, int64 [B, 2], height and width.
BESIDE_INPUTS = ("labels", "weight", "counts", "places", "truth", "sizes")


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """What training changes of a loss; losses that evaluate never have it.

    class_weights: float32 [L] by label id; None weighs all alike. focal_gamma: 0 is the plain loss.
    dice_weight: what of a Dice loss is added to that of pixels.
    """

    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None
    focal_gamma: float = 0.0
    dice_weight: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Problem:
    """How the outputs of a model are trained and read. `decode` is the one reader of model outputs.

    problem_type: what transformers calls it in a model's config; pipeline() chooses softmax or sigmoid by it. None
        where it has no word for it.
    encode: (label values as names, lists of names or numbers; labels) -> array of targets, one per row.
    count: (batch, penalty) -> number of items its loss is averaged over (a tensor without dimensions), or the sum of
        their weights where it is a weighted mean.
    objective: (outputs, batch, penalty) -> (sum of item losses, what count says), so that accumulation, ragged batches
        and processes add up.
    decode: (outputs, batch, labels) -> rows: "scores", "predictions" and, where targets are known, "losses", with
        "items", the number of items that each is the mean of, where that differs from row to row.
    outcome: (rows, targets, labels) -> what metrics read.
    baseline: (training targets, targets of the rows to answer, labels) -> rows that ignore the input.
    answers: labels -> column that predict adds -> its type, in the order of `Task.write`.
    per_class: (outcome, labels) -> class -> precision, recall, f1, support; None where there are no classes.
    ranked: whether a row has a score for each label, so that the best few can be asked for.
    counted: what check counts for each label, in words.
    inspect_labels: (split's name, entries as names, row ids, labels) -> facts and warnings for check; None: no more
        than the counts.
    calibrate: (scores, targets, labels) -> labels with what is chosen on validation; None where nothing is.
    balance: (training targets, number of labels) -> the weight of each label that makes up for how rare it is; None
        where there are no labels.
    reads: the outputs of the model that decode reads.
    answer: as decode, with the whole answers as well (masks, boxes): "answers", object [N]; None where decode gives all
        that there is. Of decode's rows those of a whole split are held at once, of answer's a batch or a few.
    keep_above: (rows, threshold) -> rows with the parts of their answers whose score is above it; None where an answer
        is no list of parts.
    """

    problem_type: str | None
    encode: Callable[[Sequence[Any], Labels], NDArray]
    count: Callable[[Batch, Penalty], torch.Tensor]
    objective: Callable[[Any, Batch, Penalty], tuple[torch.Tensor, torch.Tensor]]
    decode: Callable[[Any, Batch, Labels], Rows]
    outcome: Callable[[Rows, NDArray, Labels], Outcome]
    baseline: Callable[[NDArray, NDArray, Labels], Rows]
    answers: Callable[[Labels], dict[str, pyarrow.DataType]]
    per_class: Callable[[Outcome, Labels], dict[str, dict[str, float]]] | None = None
    ranked: bool = False
    counted: str = "rows per label"
    inspect_labels: Callable[[str, Sequence[Any], NDArray, Labels], tuple[dict[str, Any], list[Finding]]] | None = None
    calibrate: Callable[[NDArray, NDArray, Labels], Labels] | None = None
    balance: Callable[[NDArray, int], NDArray] | None = None
    reads: tuple[str, ...] = ("logits",)
    answer: Callable[[Any, Batch, Labels], Rows] | None = None
    keep_above: Callable[[Rows, float], Rows] | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of the Hub, as the functions in which it differs from another.

    name: the Hub's pipeline tag.
    columns: role -> required or not. instead: role -> the required role that it may stand in for.
    target: the role that holds what is to be predicted.
    read_labels: (rows, dataset settings) -> what the label column says; None where the rows have none.
    name_targets: (label column, problem, dataset settings) -> an entry per row: a name or a number, or what gives names
        when it is iterated over; None where there is no label or it is dropped.
    decide_labels: (split -> label column, recipe) -> the labels of all splits, and decisions in words.
    auto_model: name of the Auto class in transformers.
    load_processor: (source folder or id, recipe, model config, remote code allowed) -> tokenizer or image processor.
    on_backbone: the model type that a pretrained image classifier becomes the backbone of; empty: of none.
    fit_config: (model's config, labels, recipe) -> None: what it must know of them before the model is made.
    fit_model: (model, processor) -> None: what the model's config must know of the processor.
    prepare: (rows, recipe) -> rows whose columns can be read (types checked, paths cast to images).
        Raises DataError for columns of the wrong type.
    find_faults: (prepared split, recipe) -> a Fault per input that cannot be used: null, an image that does not decode.
    inspect: (role, prepared split, recipe, positions) -> what check says about those rows.
    full_lengths: (batch of source columns, processor, recipe) -> int64 [N], lengths before anything is cut; None where
        nothing is. cuts: whether the rest is lost, or read in further windows.
    longest_input: (processor, model config) -> the greatest length the model can take; None where there is none.
    transform: (processor, recipe) -> picklable function: batch of source columns -> batch of model inputs.
    ahead: whether transform runs once over the whole split (text) or each time a row is read (images).
    parts: (transformed rows, targets) -> (rows, targets, position of the row that each is a part of), for training;
        None where a row is trained on as a whole.
    streams: whether training rows can be streamed.
    collate: (processor, recipe) -> data collator over rows of model inputs with "labels" and "weight".
    length: name of the column whose lists are as long as the row costs; None where all rows cost the same.
    write: (rows, labels, recipe, source columns of the rows, read by positions) -> columns of a predictions file.
    write_files: (rows with "answers", labels, model's config, recipe, source columns, folder or None, names of rows)
        -> what predict adds beside `write`'s columns, files written into the folder; None where there are none.
        file_columns: those columns -> their types.
    open_rows: (recipe, labels, training) -> picklable function: batch of source columns -> batch in which images and
        their targets are what augmentations change together (tv_tensors), and what transform then takes; None where a
        target is no part of the input. See `travels`.
    seen: (feature, processor) -> (RGB image, truth) as the model sees them, for `draw`; where targets travel.
    draw: (RGB image, truth or None, answer or None, labels, model's config) -> a picture of them side by side.
    opened: raw input -> what augmentations change: a text, an RGB image.
    pixels: processor -> side of the model's input in pixels; 0 where there are none.
    channels_last: whether convolutional models run in that memory format.
    training_defaults: TrainingArguments the task sets where a recipe is silent.
    packages: that an extra installs, and without which it cannot be measured.
    """

    name: str
    columns: Mapping[str, bool]
    problems: Mapping[ProblemName, Problem]
    read_labels: Callable[..., LabelColumn | None]
    decide_labels: Callable[[Mapping[str, LabelColumn], Recipe], tuple[Labels, list[str]]]
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
    write: Callable[[Rows, Labels, Recipe, Any], dict[str, Any]]
    opened: Callable[[Any], Any]
    pixels: Callable[[Any], int]
    instead: Mapping[str, str] = field(default_factory=dict)
    target: str = "label"
    name_targets: Callable[[LabelColumn, ProblemName, DataSet], list[Any]] = targets_as_names
    open_rows: Callable[[Recipe, Labels, bool], Callable[[Batch], dict[str, Any]]] | None = None
    on_backbone: str = ""
    fit_config: Callable[[Any, Labels, Recipe], None] | None = None
    seen: Callable[[Batch, Any], tuple[Any, Any]] | None = None
    draw: Callable[[Any, Any, Any, Labels, Any], Any] | None = None
    write_files: Callable[..., dict[str, Any]] | None = None
    file_columns: Mapping[str, pyarrow.DataType] = field(default_factory=dict)
    cuts: bool = True
    parts: Callable[[Any, NDArray], tuple[Any, NDArray, NDArray]] | None = None
    streams: bool = True
    channels_last: bool = False
    training_defaults: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()

    @property
    def travels(self) -> bool:
        """Whether targets are read with the rows and moved with the image: masks, boxes.

        Of a split's targets `Inputs.targets` then holds only what metrics, weights and baselines need.
        """
        return self.open_rows is not None

    def roles(self, named: Mapping[str, Any], available: Sequence[str] = ()) -> dict[str, bool]:
        """Role -> required, with each role that another may stand in for decided: as the columns are named, else as

        columns of these names are available. Raises RecipeError where both are named.
        """
        roles = dict(self.columns)
        for other, usual in self.instead.items():
            if other in named and usual in named:
                found, fix = f"{usual} and {other}", "name one of them"
                expected = f"a column for {usual} or for {other}"
                raise RecipeError(Finding(place="dataset.columns", expected=expected, found=found, fix=fix))
            chosen = other in named or (usual not in named and usual not in available and other in available)
            roles[other if chosen else usual] = True
            del roles[usual if chosen else other]
        return roles


def beside(batch: Batch) -> dict[str, Any]:
    """What decode and objective read of a batch, which the model does not."""
    return {name: batch[name] for name in BESIDE_INPUTS if name in batch}


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Rows of several batches as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
