"""The recipe: what a run is asked to do. Plain data, frozen, checked on its own; no torch in sight."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr
from pydantic_core import PydanticCustomError

from hf_sft.errors import nearest
from hf_sft.recipe_hub import Hub
from hf_sft.recipe_inspect import Inspect
from hf_sft.recipe_section import Section, expanded
from hf_sft.recipe_tuning import Tuning

TaskName = Literal[
    "text-classification", "image-classification", "token-classification", "image-segmentation", "object-detection"
]
ProblemName = Literal["single_label", "multi_label", "regression", "tags", "pixels", "boxes"]
BoxFormat = Literal["xywh", "xyxy", "cxcywh_normalised"]
BOX_FORMATS: tuple[BoxFormat, ...] = ("xywh", "xyxy", "cxcywh_normalised")
SPLIT_ROLES = ("train", "validation", "test")
METRIC_NAMES = (
    "accuracy", "macro_f1", "micro_f1", "weighted_f1", "macro_precision", "macro_recall",
    "micro_precision", "micro_recall", "weighted_precision", "weighted_recall", "matthews",
    "auroc", "average_precision", "log_loss", "expected_calibration_error",
    "mse", "mae", "pearson", "spearman", "r2",
    "entity_f1", "entity_precision", "entity_recall", "macro_entity_f1", "macro_entity_precision",
    "macro_entity_recall", "strict_entity_f1", "token_accuracy", "invalid_sequences",
    "mean_iou", "mean_dice", "pixel_accuracy",
    "map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100",
)  # fmt: skip
ROLES: dict[str, tuple[str, ...]] = {  # per task: the roles that dataset.columns may name
    "text-classification": ("text", "text_pair", "label"),
    "image-classification": ("image", "label"),
    "token-classification": ("tokens", "text", "label"),
    "image-segmentation": ("image", "mask"),
    "object-detection": ("image", "objects"),
}
MOVING: dict[str, tuple[str, ...]] = {  # augmentations that move a mask or boxes along with the image
    "random_resized_crop": ("scale", "ratio"),
    "random_crop": ("padding",),
    "horizontal_flip": ("p",),
    "vertical_flip": ("p",),
    "rotation": ("degrees",),
    "color_jitter": ("brightness", "contrast", "saturation", "hue"),
    "grayscale": ("p",),
    "gaussian_blur": ("kernel_size", "sigma"),
}
AUGMENTATION_KEYS: dict[str, dict[str, tuple[str, ...]]] = {  # per task: augmentation -> its settings
    "text-classification": {"word_dropout": ("p",), "word_swap": ("p",)},
    "image-classification": {
        **MOVING,
        "rand_augment": ("num_ops", "magnitude"),
        "trivial_augment": (),
        "aug_mix": ("severity", "mixture_width", "chain_depth", "alpha"),
        "auto_augment": ("policy",),
        "random_erasing": ("p", "scale", "ratio"),
    },
    "token-classification": {},
    "image-segmentation": MOVING,
    "object-detection": MOVING,
}
MASKED_TASKS = ("image-segmentation",)  # whose targets are masks: ignore_label, label_colors, dice_weight
BOXED_TASKS = ("object-detection",)  # whose targets are boxes: bbox_format
MIXED_TASKS = ("image-classification",)  # whose inputs can be mixed: objective.mixup, objective.cutmix
PROCESSOR_KEYS: dict[str, tuple[str, ...]] = {
    "text-classification": ("max_length",),
    "image-classification": ("size", "image_mean", "image_std", "do_normalize"),
    "token-classification": ("max_length", "stride", "constrained_decoding"),
    "image-segmentation": ("size", "image_mean", "image_std", "do_normalize"),
    "object-detection": ("size", "image_mean", "image_std", "do_normalize"),
}


def _fault(expected: str, found: Any, fix: str = "") -> PydanticCustomError:
    """A validation error that carries the parts of an errors.Finding."""
    return PydanticCustomError("recipe", "{expected}", {"expected": expected, "found": str(found), "fix": fix})


def _known_metric(name: str) -> str:
    prefix, _, rest = name.partition(":")
    if name in METRIC_NAMES or (prefix in ("evaluate", "function") and rest):
        return name
    raise _fault(
        "a metric, evaluate:<id or local folder>, or function:<name given to fine_tune>",
        name,
        nearest(name, METRIC_NAMES),
    )


def _split_role(name: str) -> str:
    if name not in SPLIT_ROLES:
        raise _fault("train, validation or test", name, nearest(name, SPLIT_ROLES))
    return name


def _plain(value: Any) -> Any:
    """A value that YAML has: numbers of numpy, paths and tuples (from Python) as numbers, text and lists."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    raise _fault("text, a number, true, false, null, a list, or keys and values", type(value).__name__)


def _as_label(name: Any) -> Any:
    """The key of a mapping as labels are named: 1, 1.0 and "1" are one label."""
    if isinstance(name, float) and name.is_integer():
        name = int(name)
    return str(name) if isinstance(name, (bool, int, float)) else name


Metric = Annotated[str, AfterValidator(_known_metric)]
LabelName = Annotated[str, BeforeValidator(_as_label)]
SplitRole = Annotated[str, AfterValidator(_split_role)]
Plain = Annotated[Any, AfterValidator(_plain)]


class Model(Section):
    """Which pretrained model, and what becomes of its head."""

    name: str = Field(
        min_length=1, description="Hub id | local folder | package:<python package>/<folder inside it> | timm/<name>"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a Hub model")
    weights: str | None = Field(
        None,
        description="a local checkpoint file for a timm architecture (or package:...) | random: train from scratch",
    )
    config: dict[str, Plain] = Field({}, description="overrides of the model's configuration")
    head: Literal["auto", "new", "keep"] = Field(
        "auto", description="auto: an existing classifier is kept only when its label names are the task's"
    )
    base_model: str | None = Field(
        None, description="Hub id of the pretrained model, for the card, where name is a path"
    )


class DataSet(Section):
    """Where the rows come from, which columns play which role, how they are split."""

    path: str = Field(
        min_length=1,
        description="Hub id | csv, json, parquet, imagefolder, coco | local file or folder | bundled:<name>",
    )
    name: str | None = Field(None, description="the data set's configuration")
    revision: str | None = Field(None, description="branch, tag or commit of a data set on the Hub")
    data_files: str | list[str] | dict[str, str | list[str]] | None = Field(
        None, description="files per split, relative to the recipe's folder"
    )
    options: dict[str, Plain] = Field({}, description="handed to the reader: {sep: ';', encoding: latin-1}")
    columns: dict[str, str | Annotated[list[str], Field(min_length=1)]] = Field(
        {}, description="role: column, or a list of columns"
    )
    splits: dict[SplitRole, str | None] = Field(
        {}, description="role: split of the source, slices allowed; null: not used; absent: found by name"
    )
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="cut from train where no validation split is found")
    group_column: str | None = Field(None, description="rows of one group stay on one side of a cut")
    labels: list[str] | None = Field(None, description="label names, in order, where the data carries bare integers")
    label_map: dict[str | int | bool | float, str | int | None] | None = Field(
        None, description="rename, merge or (null) drop labels"
    )
    ignore_label: int | None = Field(
        None, ge=0, description="masks: the id of pixels that count nowhere: not in the loss, metrics or class weights"
    )
    label_colors: dict[LabelName, Annotated[list[int], Field(min_length=3, max_length=3)]] = Field(
        {}, description="masks: label: [red, green, blue] in pictures; absent: a palette"
    )
    bbox_format: BoxFormat = Field(
        "xywh",
        description="boxes: xywh: left, top, width, height in pixels | xyxy: two corners in pixels | "
        "cxcywh_normalised: centre, width, height as shares of the image",
    )
    problem: ProblemName | None = Field(None, description="absent: decided once from the whole training column")
    max_samples: dict[SplitRole, Annotated[int, Field(gt=0)]] = Field({}, description="a seeded sample per split")
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="skip: rows without a label or a readable input are left out, counted and listed"
    )
    sampling: Literal["natural", "balanced"] = Field(
        "natural",
        description="balanced: every class is drawn equally often in training, as many rows an epoch as before",
    )
    streaming: bool = Field(False, description="rows are read as they are needed; needs splits, labels and max_steps")


class Processor(Section):
    """How inputs become tensors; saved with the model."""

    max_length: int | None = Field(None, gt=1, description="tokens per text; absent: 512 or what the model allows")
    stride: int | None = Field(
        None, ge=0, description="tokens that two windows of a long row share; absent: a quarter of max_length"
    )
    constrained_decoding: bool | None = Field(
        None, description="predicted tags keep to IOB2: no I- but after B- or I- of its type"
    )
    size: int | None = Field(None, gt=7, description="pixels, height and width")
    image_mean: list[float] | None = Field(None, min_length=3, max_length=3, description="red, green, blue")
    image_std: list[Annotated[float, Field(gt=0)]] | None = Field(
        None, min_length=3, max_length=3, description="red, green, blue"
    )
    do_normalize: bool | None = Field(None, description="whether image_mean and image_std are applied")


class Objective(Section):
    """What is minimised in training. Evaluation has the plain loss."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Szegedy et al. 2016; classification with one label")
    class_weights: Literal["balanced"] | dict[LabelName, Annotated[float, Field(ge=1e-6, le=1e6)]] | None = Field(
        None, description="balanced: rare classes weigh as much as common ones | {label: weight}, others weigh 1"
    )
    focal_gamma: float | None = Field(
        None,
        ge=0,
        description="Lin et al. 2017: rows that are predicted well weigh less, the more so the higher; often 2",
    )
    dice_weight: float | None = Field(
        None, ge=0, le=100, description="masks: so much of a Dice loss (Milletari et al. 2016) is added; often 1"
    )
    mixup: float | None = Field(
        None, ge=1e-3, le=100, description="Zhang et al. 2018: images blended, labels too; alpha, often 0.2"
    )
    cutmix: float | None = Field(
        None, ge=1e-3, le=100, description="Yun et al. 2019: a box of one image in another; alpha, often 1"
    )


class EarlyStopping(Section):
    """Stop when the first metric has not improved on validation for `patience` evaluations."""

    patience: int = Field(3, gt=0, description="evaluations without improvement before it stops")
    threshold: float = Field(0.0, ge=0, description="the least improvement that counts")


class Run(Section):
    """About the machine."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="auto: bf16 on GPUs that have it, fp16 on older ones; on a CPU bf16 where a step of the model "
        "measures clearly faster, else fp32; weights stay float32",
    )
    workers: Literal["auto"] | Annotated[int, Field(ge=0)] = Field("auto", description="data-loading processes")
    global_batch_size: int | None = Field(
        None,
        gt=0,
        description="rows per optimizer step, over all processes; what a device cannot take at once is accumulated",
    )
    max_hours: float | None = Field(
        None, gt=0, description="stop after so long, with a checkpoint from which the same command goes on"
    )
    keep_checkpoints: bool = Field(False, description="leave checkpoints/ after success, as resume: extend needs it")


class Recipe(Section):
    """A fine-tuning job. Read one with `Recipe.load("recipe.yaml")` or `Recipe.from_dict({...})`."""

    task: TaskName = Field(description=" | ".join(get_args(TaskName)))
    model: Model
    dataset: DataSet
    processor: Processor = Processor()
    augment: list[str | dict[str, dict[str, Any] | None]] = Field(
        [], description="random changes of training inputs, in order: [horizontal_flip, {rand_augment: {magnitude: 7}}]"
    )
    tuning: Tuning = Tuning()
    objective: Objective = Objective()
    training: dict[str, Plain] = Field({}, description="the fields of transformers.TrainingArguments, nothing renamed")
    metrics: list[Metric] = Field(
        [], description="the first chooses the best checkpoint; absent: chosen by the problem"
    )
    early_stopping: EarlyStopping | None = None
    run: Run = Run()
    inspect: Inspect = Inspect()
    hub: Hub | None = Field(None, description="the repository on the Hub that the finished model is pushed to")
    resume: Literal["auto", "never", "extend"] = Field(
        "auto",
        description="auto: the same command again goes on where it stopped; never: a folder with a run is refused; "
        "extend: a finished run is trained on, for more epochs or steps",
    )
    seed: int = Field(42, ge=0, lt=2**31, description="order of rows, splits, samples, new weights, dropout")
    output_dir: Annotated[str, AfterValidator(expanded)] = Field(
        "runs/run", min_length=1, description="the folder of the run; a relative one starts from the working directory"
    )

    _folder: Path = PrivateAttr(default_factory=Path.cwd)
    _notices: tuple[str, ...] = PrivateAttr(default=())

    @property
    def folder(self) -> Path:
        """The folder that relative paths of data, model and weights start from."""
        return self._folder

    @property
    def notices(self) -> tuple[str, ...]:
        """What was understood in another form than it was written (names of earlier versions)."""
        return self._notices

    @property
    def augmentations(self) -> list[tuple[str, dict[str, Any]]]:
        """`augment` as (name, settings) pairs."""
        entries = [{entry: None} if isinstance(entry, str) else entry for entry in self.augment]
        return [(name, settings or {}) for entry in entries for name, settings in entry.items()]

    def locate(self, name: str) -> str:
        """`name` as an absolute path where that exists beside the recipe (or is plainly a path), else unchanged."""
        if ":" in name.partition("/")[0]:  # package:..., bundled:..., a URL
            return name
        path = Path(expanded(name))
        inside = path if path.is_absolute() else self._folder / path
        plainly_path = name.startswith((".", "~", "/", "$"))
        return str(inside.resolve()) if plainly_path or os.path.exists(inside) else name

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a YAML recipe (or `bundled:<name>`), with `key.sub=value` overrides.

        Raises RecipeError with every mistake at once, each with file:line:column.
        """
        from hf_sft import recipe_file

        return recipe_file.load(path, overrides)

    @classmethod
    def from_dict(cls, content: dict[str, Any], folder: str | Path | None = None) -> Recipe:
        """A recipe from plain Python values; relative paths start from `folder` (default: working directory)."""
        from hf_sft import recipe_file

        return recipe_file.build(content, folder=Path(folder or Path.cwd()))

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value, as plain data."""
        return self.model_dump(mode="json")

    def to_yaml(self, *, absolute_paths: bool = False) -> str:
        """The recipe as YAML that `load` reads back; with absolute paths it can be run from any folder."""
        from hf_sft.yaml12 import dump

        content = self.to_dict()
        content["dataset"]["label_map"] = self.dataset.label_map  # JSON would turn integer keys into text
        content["dataset"]["options"], content["training"] = _plain(self.dataset.options), _plain(self.training)
        content["model"]["config"] = _plain(self.model.config)
        if self.run.global_batch_size is not None:  # it follows from that, on each machine anew
            content["training"].pop("gradient_accumulation_steps", None)
        if absolute_paths:
            content["model"]["name"] = self.locate(self.model.name)
            content["model"]["weights"] = self.model.weights and self.locate(self.model.weights)
            content["dataset"]["path"] = self.locate(self.dataset.path)
            content["dataset"]["data_files"] = self.located_data_files()
            if isinstance(folder := content["dataset"]["options"].get("data_dir"), str):
                content["dataset"]["options"]["data_dir"] = self.locate_file(folder)
            content["metrics"] = [
                f"evaluate:{self.locate(name.removeprefix('evaluate:'))}" if name.startswith("evaluate:") else name
                for name in self.metrics
            ]
        return dump(content)

    def located_data_files(self) -> Any:
        """dataset.data_files with every path made absolute where it exists beside the recipe."""

        def locate(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: locate(item) for key, item in value.items()}
            if isinstance(value, list):
                return [locate(item) for item in value]
            return value and str(self.locate_file(value))

        return locate(self.dataset.data_files)

    def locate_file(self, name: str) -> str:
        """A data file: relative to the recipe's folder unless it is absolute or a URL."""
        path = Path(expanded(name))
        return name if "://" in name else str(self._folder.resolve() / path)
