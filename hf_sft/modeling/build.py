"""A pretrained model with a new head: what is loaded, what is new, and that nothing else is."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from hf_sft.data.labels import Labels
from hf_sft.errors import Finding, ModelError, nearest
from hf_sft.hub_access import require_hub, what_to_do
from hf_sft.modeling import backbones, timm_models
from hf_sft.modeling.anatomy import head_parameters, may_be_new, output_layers
from hf_sft.modeling.source import ModelSource, find_model
from hf_sft.recipe import Recipe

if TYPE_CHECKING:
    from hf_sft.tasks.task import Task

OTHERS_NAMED = 6  # weights beside the output layer that are new
DECIDED_BY_DATA = {
    **dict.fromkeys(("id2label", "label2id", "label_names"), "see dataset.labels and dataset.label_map"),
    **dict.fromkeys(("num_labels", "num_classes"), "every label of the data has an output; see dataset.label_map"),
    "problem_type": "set dataset.problem",
    "hf_sft_thresholds": "thresholds are chosen on the validation split",
}


CLASSIFYING = ("Classification", "Segmentation", "ObjectDetection")  # in names of classes whose outputs are labels


@dataclass(frozen=True, kw_only=True)
class Built:
    """A model ready for training. labels may be in the order of the base model; report says what was done.

    new: names of the parameters that start untrained.
    """

    model: Any
    processor: Any
    labels: Labels
    report: str
    new: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model before its weights are read: where it lies, its configuration and processor as the recipe wants them.

    known: the label names it was trained with; None where it has no classifier.
    classifier: the configuration of the classifier whose backbone it gets, where the task wants one.
    """

    source: ModelSource
    config: Any
    processor: Any
    known: list[str] | None
    classifier: Any = None


def open_model(recipe: Recipe, task: Task, *, trust_remote_code: bool = False) -> Opened:
    """Raises ModelError (or RecipeError) for a model or processor that is not there or does not fit the task."""
    source = find_model(recipe)
    if source.architecture is not None:
        config = timm_models.make_config(source.architecture)
        known = timm_models.known_labels(source)
    else:
        config = _load_config(source, recipe, task, trust_remote_code)
        known = _label_names(config) if not source.random else None
    processor = _load_processor(source, recipe, task, config, trust_remote_code)
    classifier = None
    if type(config) not in _auto(task)._model_mapping and task.on_backbone:
        classifier, size = config, getattr(processor, "size", None)
        known, config = None, backbones.make_config(task.on_backbone, classifier, source.name, size)
    _override(config, recipe.model.config)
    return Opened(source=source, config=config, processor=processor, known=known, classifier=classifier)


def build_model(
    recipe: Recipe, task: Task, labels: Labels, *, opened: Opened | None = None, trust_remote_code: bool = False
) -> Built:
    """Load the recipe's model and its processor for these labels; weights are float32 whatever the checkpoint holds.

    opened: what open_model returned, where it was called before; its config is used up.
    Raises ModelError when weights other than the head's are missing or of another shape.
    """
    opened = opened or open_model(recipe, task, trust_remote_code=trust_remote_code)
    source, config = opened.source, opened.config
    kept = _decide_head(recipe, source, labels, opened.known)
    if kept is not None:
        labels = labels.reordered(kept)
    _set_labels(config, labels, task)
    if task.fit_config is not None:
        task.fit_config(config, labels, recipe)
    with quiet():
        if source.random:
            model = _auto(task).from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
            new, report = frozenset(n for n, _ in model.named_parameters()), "random weights: nothing is loaded"
        elif opened.classifier is not None:
            model = _auto(task).from_config(config, dtype=torch.float32)
            with _reading(source, "an image classifier"):
                new, report = backbones.load(source, opened.classifier, model, recipe.model.revision)
        elif source.architecture is not None:
            model, new, report = timm_models.load(source, config)
        else:
            model, new, report = _load(source, recipe, task, config, keep=kept is not None, trust=trust_remote_code)
    task.fit_model(model, opened.processor)
    return Built(model=model, processor=opened.processor, labels=labels, report=report, new=new)


def _auto(task: Task) -> Any:
    return getattr(transformers, task.auto_model)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and load report: what was loaded is said once, in our words."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    timm_level = logging.getLogger("timm").level
    logging.getLogger("timm").setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        logging.getLogger("timm").setLevel(timm_level)
        if bars:
            transformers.logging.enable_progress_bar()


def read_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """A model's configuration, as it must be to load its weights. Raises ModelError where there is none."""
    require_hub("model.name", name, "model", revision=revision)
    try:
        config = transformers.AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, StrictDataclassError) as error:
        found = (str(error).splitlines() or [type(error).__name__])[0]
        otherwise = "check the id and the connection, or name a local folder or package:<python package>/<folder>"
        place, fix = "model.name", what_to_do(error, otherwise)
        raise ModelError(Finding(place=place, expected=f"a model at {name}", found=found, fix=fix)) from error
    config.architectures = config.architectures or []  # transformers loops over None for DeiT and LeViT
    if config.model_type == "timm_wrapper" and config.model_args:
        config.model_args.pop("num_classes", None)  # timm's save_for_hf writes it; the wrapper would pass it twice
    return config


def _load_config(source: ModelSource, recipe: Recipe, task: Task, trust_remote_code: bool) -> Any:
    config = read_config(source.name, revision=recipe.model.revision, trust_remote_code=trust_remote_code)
    known = type(config) in _auto(task)._model_mapping or (task.on_backbone and backbones.has_backbone(config))
    if not known and not (trust_remote_code and hasattr(config, "auto_map")):
        expected, fix = f"an architecture that can do {task.name}", "is the task the right one?"
        if task.on_backbone:
            expected, fix = backbones.explain_unfit(config, task.name)
        found = f"{config.model_type} ({source.name})"
        raise ModelError(Finding(place="model.name", expected=expected, found=found, fix=fix))
    return config


def _load_processor(source: ModelSource, recipe: Recipe, task: Task, config: Any, trust_remote_code: bool) -> Any:
    try:
        return task.load_processor(source.name, recipe, config, trust_remote_code)
    except (OSError, ValueError) as error:
        found = (str(error).splitlines() or [type(error).__name__])[0]
        expected = f"a tokenizer or image processor beside the weights of {source.name}"
        raise ModelError(Finding(place="model.name", expected=expected, found=found)) from error


def _label_names(config: Any) -> list[str] | None:
    """The label names a checkpoint was trained with; None when it has no classifier or only placeholder names."""
    classifier = any(kind in name for name in config.architectures or [] for kind in CLASSIFYING) or (
        config.model_type == "timm_wrapper"
    )
    names = [name for _, name in sorted((int(index), str(name)) for index, name in config.id2label.items())]
    placeholders = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    return None if placeholders or not classifier else names


def _decide_head(recipe: Recipe, source: ModelSource, labels: Labels, known: list[str] | None) -> list[str] | None:
    """The label order of the checkpoint when its head is kept, else None."""
    same = known is not None and set(known) == set(labels.names) and len(known) == len(labels.names)
    if recipe.model.head == "keep" and not same:
        found = f"{source.name} with " + ("no named labels" if known is None else ", ".join(known[:10]))
        expected = "a checkpoint whose labels are " + ", ".join(labels.names[:10])
        fix = "set model.head: auto, or rename labels with dataset.label_map"
        raise ModelError(Finding(place="model.head", expected=expected, found=found, fix=fix))
    return known if same and recipe.model.head != "new" else None


def _set_labels(config: Any, labels: Labels, task: Task) -> None:
    config.id2label = dict(enumerate(labels.names))
    config.label2id = labels.index_of
    config.num_labels = len(labels.names)
    config.problem_type = task.problems[labels.problem].problem_type
    if config.model_type == "timm_wrapper":
        config.label_names = list(labels.names)  # the wrapper saves these and reads no id2label


def _override(config: Any, overrides: dict[str, Any]) -> None:
    known = [key for key in config.to_dict() if key not in DECIDED_BY_DATA]
    findings = []
    for key, value in overrides.items():
        expected, fix = f"a setting of {type(config).__name__}", nearest(key, known)
        if key in DECIDED_BY_DATA:
            expected, fix = "a setting that the data do not decide", DECIDED_BY_DATA[key]
        elif key in known:
            try:
                setattr(config, key, value)
                continue
            except (TypeError, ValueError, StrictDataclassError) as error:
                expected, fix = "a value that the setting can have", " ".join(str(error).split())
        findings.append(Finding(place=f"model.config.{key}", expected=expected, found=f"{key}: {value}", fix=fix))
    if findings:
        raise ModelError(findings)


def _load(
    source: ModelSource, recipe: Recipe, task: Task, config: Any, *, keep: bool, trust: bool
) -> tuple[Any, frozenset[str], str]:
    with _reading(source, f"a {task.name} model"):
        model, info = _auto(task).from_pretrained(
            source.name,
            revision=recipe.model.revision,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=trust,
        )
    before = {name: shape[0] for name, shape, _ in info["mismatched_keys"] if shape}
    new = set(info["missing_keys"]) | {name for name, _, _ in info["mismatched_keys"]}
    _check_only_head_is_new(model, new, source)
    layers = output_layers(model, config.num_labels)
    inside = {f"{name}.{part}" for name, layer in layers.items() for part, _ in layer.named_parameters()}
    if not keep and not inside <= new:
        before |= dict.fromkeys(inside - new, config.num_labels)
        new |= inside
        for layer in layers.values():
            initialise(model, layer)
    loaded = len(model.state_dict()) - len(new)
    new &= {name for name, _ in model.named_parameters()}  # a new head's BatchNorm statistics are nothing that learns
    outputs = max((len(layer.weight) for layer in layers.values()), default=config.num_labels)  # type: ignore[arg-type]
    return model, frozenset(new), _report(layers, before, new, inside, loaded, outputs)


@contextmanager
def _reading(source: ModelSource, what: str) -> Iterator[None]:
    """Raises ModelError for weights that transformers cannot read."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        found = (str(error).splitlines() or [type(error).__name__])[0]
        expected = f"{what} with safetensors weights at {source.name}"
        found, fix = explain_weights(source.name, found)
        raise ModelError(Finding(place="model.name", expected=expected, found=found, fix=fix)) from error


def explain_weights(name: str, found: str) -> tuple[str, str]:
    """(found, fix) for weights that do not load: a pickle beside them, or nothing at all, where that is why."""
    if list(Path(name).glob("*.safetensors*")):
        return found, "the file is damaged or belongs to another config: copy or download it again"
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in Path(name).glob(pattern))
    if pickles:
        fix = "if you trust it, load it once where that is safe and save_pretrained the model: that writes safetensors"
        return f"{pickles[0]}, a pickle, which runs code when it is loaded", fix
    if Path(name).is_dir():
        return "no weights in that folder", "copy model.safetensors there, or set model.weights: random"
    return found, "check the id, the revision and the connection; weights must be in safetensors"


def _check_only_head_is_new(model: nn.Module, new: set[str], source: ModelSource) -> None:
    wrong = sorted(name for name in new if not may_be_new(name, model))
    if wrong:
        found = f"{len(wrong)} missing or of another shape: {', '.join(wrong[:4])}"
        head = ", ".join(head_parameters(model)[:4])
        fix = f"is {source.name} of this architecture, and model.config as it was pretrained?"
        expected = f"a checkpoint that lacks at most the head ({head})"
        raise ModelError(Finding(place="model.name", expected=expected, found=found, fix=fix))


def initialise(model: Any, layer: nn.Module) -> None:
    """Draw a layer's weights anew, as its model does for a new head."""
    for parameter in layer.parameters():
        setattr(parameter, "_is_hf_initialized", False)  # noqa: B010  # transformers leaves alone what it believes loaded
    model._init_weights(layer)


def _report(
    layers: Mapping[str, nn.Module],
    before: Mapping[str, int],
    new: set[str],
    inside: set[str],
    loaded: int,
    outputs: int,
) -> str:
    name = " and ".join(layers)
    sizes = [before[f"{layer}.weight"] for layer in layers if f"{layer}.weight" in before]
    if not inside & new:
        head = f"{name}: kept, {outputs} outputs"
    elif sizes:
        head = f"{name} {sizes[0]} -> {outputs} re-initialised"
    else:
        head = f"{name}: new, {outputs} outputs"
    others = sorted(new - inside)
    more = f" and {len(others) - OTHERS_NAMED} more" if len(others) > OTHERS_NAMED else ""
    also = f"; also new: {', '.join(others[:OTHERS_NAMED])}{more}" if others else ""
    return f"{head}, {loaded} tensors loaded{also}"
