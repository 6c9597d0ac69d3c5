"""A model that is trained already, as evaluate and predict take it: weights, processor, labels, what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from safetensors import SafetensorError

from hf_sft.data.labels import Labels
from hf_sft.environment import prepare_environment, silence_libraries
from hf_sft.errors import DataError, Finding, HfSftError, ModelError, nearest
from hf_sft.evaluation import Evaluator
from hf_sft.metrics.metric import Metric
from hf_sft.modeling.adapter_files import config_folder, holds_adapters, load_adapted
from hf_sft.modeling.anatomy import is_convolutional
from hf_sft.modeling.build import explain_weights, quiet, read_config
from hf_sft.packages import PREFIX, locate_in_package, require_package
from hf_sft.recipe import ProblemName, Recipe
from hf_sft.record import RunDirectory
from hf_sft.tasks import TASKS
from hf_sft.tasks.task import Problem, Task

USUAL_COLUMNS = {
    "text": ("text", "sentence", "content", "review", "body", "comment", "message", "tweet", "document"),
    "tokens": ("tokens", "words"),
    "image": ("image", "img", "picture", "file_name", "file", "path"),
}
PLACE = "model"


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """source: folder or Hub id that from_pretrained reads. run: the run it came from, where there is one.

    recipe: that run's, or the least one that describes the model. The model is in float32, in eval mode, on its device.
    temperature: what `hf-sft inspect` fitted on validation; None where it has not.
    """

    source: str
    run: RunDirectory | None
    recipe: Recipe
    task: Task
    labels: Labels
    model: Any
    processor: Any
    channels_last: bool
    temperature: float | None = None

    @property
    def problem(self) -> Problem:
        return self.task.problems[self.labels.problem]

    def evaluator(self, metrics: Sequence[Metric] = (), *, batch_size: int = 64) -> Evaluator:
        """What runs this model over rows; batches hold rows of similar length."""
        return Evaluator(
            problem=self.problem,
            collate=self.task.collate(self.processor, self.recipe),
            metrics=metrics,
            batch_size=batch_size,
            channels_last=self.channels_last,
        )


def load_saved(model: str | Path, *, trust_remote_code: bool = False) -> SavedModel:
    """A run directory, a model folder, `package:...` or a Hub id, ready to be asked.

    Raises ModelError for what is no classifier of ours to ask: no weights, weights missing, another kind of model.
    """
    silence_libraries()
    source, run, recipe_file = _locate(str(model))
    with quiet():
        config = read_config(config_folder(source), trust_remote_code=trust_remote_code)
        task = _task_of(config, source)
        recipe = _recipe_of(recipe_file, source, task)
        prepare_environment(recipe)
        processor = _load_processor(task, source, recipe, config, trust_remote_code)
        loaded = _load_weights(task, source, config, trust_remote_code)
    task.fit_model(loaded, processor)
    channels_last = task.channels_last and is_convolutional(loaded)
    if channels_last:
        loaded.to(memory_format=torch.channels_last)
    loaded.to(PartialState().device).eval()
    return SavedModel(
        source=source,
        run=run,
        recipe=recipe,
        task=task,
        labels=_labels_of(config, task),
        model=loaded,
        processor=processor,
        channels_last=channels_last,
        temperature=getattr(config, "hf_sft_temperature", None),
    )


def _locate(model: str) -> tuple[str, RunDirectory | None, Path | None]:
    """What from_pretrained reads, the run it belongs to, and its recipe file."""
    if model.startswith(PREFIX):
        return str(locate_in_package(model, PLACE)), None, None
    path = Path(model).expanduser()
    if not path.exists():
        beside = path.parent if "/" in model and path.parent.is_dir() else None
        if model.startswith((".", "/", "~")) or model.count("/") > 1 or beside is not None:
            near = nearest(path.name, [entry.name for entry in beside.iterdir()]) if beside is not None else ""
            fix = near if near.startswith("did you mean") else "name a run directory, a model folder, or a Hub id"
            raise ModelError(Finding(place=PLACE, expected="a folder that exists", found=model, fix=fix))
        return model, None, None
    run = RunDirectory(path)
    if _holds_a_model(run.model):
        return str(run.model), run, run.recipe
    if _holds_a_model(path):
        parent = RunDirectory(path.parent)
        own = parent.record.is_file() and parent.model.name == path.name
        return str(path), parent if own else None, parent.recipe if own else path / "recipe.yaml"
    if run.asked.is_file() or run.checkpoints.is_dir():
        found, fix = f"{model}, a run that has not finished", "the command that started it goes on where it stopped"
    else:
        found, fix = f"{model} without config.json", "name a run directory or a folder that save_pretrained wrote"
    raise ModelError(Finding(place=PLACE, expected="a saved model", found=found, fix=fix))


def _holds_a_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or holds_adapters(folder)


def _task_of(config: Any, source: str) -> Task:
    for task in TASKS.values():
        known = getattr(transformers, task.auto_model)._model_mapping
        kinds = known.get(type(config), ())
        heads = {kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,))}
        if heads and (heads & set(config.architectures) or not config.architectures):  # timm's own files name none
            return task
    found = f"{' '.join(config.architectures) or config.model_type} ({source})"
    fix = "fine-tune it first: hf-sft run"
    raise ModelError(Finding(place=PLACE, expected="a model with a classifier (or regressor)", found=found, fix=fix))


def _recipe_of(file: Path | None, source: str, task: Task) -> Recipe:
    least = {"task": task.name, "model": {"name": source}, "dataset": {"path": "memory"}}
    if file is None or not file.is_file():
        return Recipe.from_dict(least)
    try:
        return Recipe.load(file)
    except HfSftError:  # somebody else's recipe.yaml, or one of another version: columns are then asked for
        return Recipe.from_dict(least)


def _load_processor(task: Task, source: str, recipe: Recipe, config: Any, trust_remote_code: bool) -> Any:
    """The processor as it was saved: a tokenizer keeps the length it was saved with."""
    plain = Recipe.from_dict({"task": task.name, "model": {"name": source}, "dataset": {"path": "memory"}})
    try:
        processor = task.load_processor(source, plain, config, trust_remote_code)
    except (OSError, ValueError) as error:
        found = (str(error).splitlines() or [type(error).__name__])[0]
        expected = f"a tokenizer or image processor beside the weights of {source}"
        raise ModelError(Finding(place=PLACE, expected=expected, found=found)) from error
    saved = getattr(processor, "init_kwargs", {}).get("model_max_length")
    if task.length is not None and saved and saved < 10**6:
        processor.model_max_length = int(saved)
    return processor


def _load_adapted(task: Task, source: str, config: Any, trust_remote_code: bool) -> Any:
    require_package("peft", PLACE)
    try:
        auto_class = getattr(transformers, task.auto_model)
        return load_adapted(auto_class, source, config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        found = f"{source}: {(str(error).splitlines() or [type(error).__name__])[0]}"
        expected = f"the adapters of a {task.name} model, and their base where adapter_config.json says it lies"
        fix = "put the base back there, or correct base_model_name_or_path in adapter_config.json"
        raise ModelError(Finding(place=PLACE, expected=expected, found=found, fix=fix)) from error


def _load_weights(task: Task, source: str, config: Any, trust_remote_code: bool) -> Any:
    if holds_adapters(source):
        return _load_adapted(task, source, config, trust_remote_code)
    try:
        model, info = getattr(transformers, task.auto_model).from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        found = (str(error).splitlines() or [type(error).__name__])[0]
        expected = f"a {task.name} model with safetensors weights at {source}"
        found, fix = explain_weights(source, found)
        raise ModelError(Finding(place=PLACE, expected=expected, found=found, fix=fix)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        found = f"{len(missing)} weights missing in {source}: {', '.join(missing[:4])}"
        fix = "a pretrained model has no classifier yet: fine-tune it first"
        raise ModelError(Finding(place=PLACE, expected="a trained model", found=found, fix=fix))
    return model


def _labels_of(config: Any, task: Task) -> Labels:
    """Names, problem and thresholds from the model's config; one output without a problem_type is a regression."""
    problems = {problem.problem_type: name for name, problem in task.problems.items()}
    names = tuple(str(name) for _, name in sorted((int(index), name) for index, name in config.id2label.items()))
    usual: ProblemName = "regression" if len(names) == 1 else "single_label"
    problem = problems.get(config.problem_type, usual if usual in task.problems else next(iter(task.problems)))
    thresholds = getattr(config, "hf_sft_thresholds", None)
    return Labels(
        problem=problem,
        names=names,
        thresholds=tuple(thresholds) if thresholds else None,
        constrained=bool(getattr(config, "hf_sft_constrained", False)),
    )


def name_columns(saved: SavedModel, available: Sequence[str], given: Mapping[str, Any], what: str) -> Recipe:
    """The model's recipe with the columns of its inputs: as given, else as in its run, else by their usual names.

    given: role -> column, or a list of columns; the label's column is passed on unchecked.
    Raises DataError naming the columns there are.
    """
    recipe = saved.recipe
    chosen = _roles(saved, available, given)
    roles = {role: need for role, need in chosen.items() if role != saved.task.target}
    named = {**recipe.dataset.columns, **given}
    columns = {role: column for role, column in named.items() if role in chosen or role not in saved.task.columns}
    for role, required in roles.items():
        named = columns.get(role, role)
        absent = any(name not in available for name in ([named] if isinstance(named, str) else named))
        if required and role not in given and absent:
            usual = [name for name in USUAL_COLUMNS.get(role, ()) if name in available]
            guess = usual[0] if usual else available[0] if len(available) == 1 else None
            if guess is None:
                fix = f"--columns {role}=NAME (from Python: columns={{'{role}': ...}})"
                found = "columns " + ", ".join(map(repr, available))
                expected = f"a column that holds the {role} in {what}"
                raise DataError(Finding(place=f"columns.{role}", expected=expected, found=found, fix=fix))
            columns[role] = guess
    columns |= {role: role for role in roles if role in saved.task.instead and role not in columns}
    _refuse_absent(columns, roles, available, what)
    return recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"columns": columns})})


def _roles(saved: SavedModel, available: Sequence[str], given: Mapping[str, Any]) -> dict[str, bool]:
    """Role -> required, with roles that may stand in for each other decided by what is given, else by what there is."""
    task, named = saved.task, saved.recipe.dataset.columns
    either = {*task.instead, *task.instead.values()}
    there = {role: column for role, column in named.items() if role not in either or column in available}
    found = [role for role in task.columns if {role, *USUAL_COLUMNS.get(role, ())} & set(available)]
    return task.roles(given if either & set(given) else {**there, **given}, found)


def _refuse_absent(columns: Mapping[str, Any], roles: Mapping[str, bool], available: Sequence[str], what: str) -> None:
    findings = []
    for role, required in roles.items():
        named = columns.get(role, role if required else [])
        for name in [named] if isinstance(named, str) else named:
            if name not in available:
                near = nearest(name, available)
                fix = f"{near} " * near.startswith("did you mean") + f"--columns {role}=NAME"
                found = "columns " + ", ".join(map(repr, available))
                expected = f"a column {name!r} in {what}"
                findings.append(Finding(place=f"columns.{role}", expected=expected, found=found, fix=fix))
    if findings:
        raise DataError(findings)
