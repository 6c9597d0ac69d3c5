"""After training: final predictions, the saved model verified by reloading it, the record and its pictures."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import transformers
from accelerate import PartialState

from hf_sft import environment
from hf_sft.card import model_card
from hf_sft.card_metadata import headline_split, shows_confusion
from hf_sft.confusion import MOST_LABELS, count_confusion, save_confusion
from hf_sft.console import say
from hf_sft.curves import save_curves
from hf_sft.data.bad_rows import as_csv
from hf_sft.data.labels import Labels
from hf_sft.errors import Finding, ModelError
from hf_sft.examples import pick_examples
from hf_sft.metrics.intervals import bootstrap_intervals
from hf_sft.modeling.adapter_files import config_folder, holds_adapters, load_adapted, save_adapters
from hf_sft.modeling.lora import adapter_parameters
from hf_sft.modeling.source import find_model
from hf_sft.record import RunDirectory, RunRecord, write_text
from hf_sft.row_pictures import save_examples
from hf_sft.summary import gap_note
from hf_sft.tasks.load import fingerprint
from hf_sft.tasks.task import Rows
from hf_sft.training.fit import Trained, remove_checkpoints
from hf_sft.training.history import epoch_entries, step_entries
from hf_sft.training.probe import solves

if TYPE_CHECKING:
    from hf_sft.job import Job


@dataclass(frozen=True, kw_only=True)
class Results:
    """Per split: the predictions in the order of the data. labels: with thresholds, where they were chosen."""

    labels: Labels
    rows: Mapping[str, Rows]
    seconds: float


def list_bad_rows(job: Job, directory: RunDirectory) -> None:
    """report/bad_rows.csv: the rows that dataset.on_bad_row: skip left out; no file where there are none."""
    if job.data.bad_rows and PartialState().is_main_process:
        write_text(directory.report / "bad_rows.csv", as_csv(job.data.bad_rows))
        say(f"listed in {directory.report / 'bad_rows.csv'}")


def evaluate(job: Job, directory: RunDirectory) -> Results:
    """Predict every split but train with the final weights; thresholds come from validation alone."""
    started = time.perf_counter()
    labels, rows = job.labels, {}
    for role in ("validation", "test"):
        if role not in job.inputs:
            continue
        inputs = job.inputs[role]
        rows[role] = job.evaluator.predict(job.built.model, inputs.rows, inputs.lengths, labels)
        if role == "validation" and job.problem.calibrate is not None and inputs.targets is not None:
            labels = job.problem.calibrate(rows[role]["scores"], inputs.targets, labels)
    for role, part in rows.items():
        targets = job.inputs[role].targets
        if targets is not None:
            part["references"] = targets
            if job.problem.calibrate is not None:
                part["predictions"] = job.problem.outcome(part, targets, labels).predictions
    if PartialState().is_main_process:
        for role, part in rows.items():
            _write_predictions(job, directory, role, part, labels)
    return Results(labels=labels, rows=rows, seconds=time.perf_counter() - started)


def _write_predictions(job: Job, directory: RunDirectory, role: str, rows: Rows, labels: Labels) -> None:
    import pyarrow
    import pyarrow.parquet

    inputs = job.inputs[role]
    columns = {"row_id": inputs.row_ids, **job.task.write(rows, labels, job.recipe, inputs.source)}
    path = directory.predictions(role)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def save_model(job: Job, directory: RunDirectory, results: Results) -> None:
    """Write model/ beside, reload it and compare, then put it in its place.

    Raises ModelError when the reloaded model has other labels or gives other outputs.
    """
    state = PartialState()
    if state.is_main_process:
        model, partial = job.built.model, directory.path / "model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        model.config.hf_sft_thresholds = list(results.labels.thresholds) if results.labels.thresholds else None
        vars(model.config).pop("hf_sft_temperature", None)  # of the model this one was trained from
        if results.labels.constrained:
            model.config.hf_sft_constrained = True
        _write_weights(job, partial)
        if job.recipe.model.name and not _is_timm(model):
            job.built.processor.save_pretrained(partial)
            if holds_adapters(partial) and job.task.length is None:  # an image processor is looked for beside a config
                job.built.processor.save_pretrained(config_folder(str(partial)))
        write_text(partial / "recipe.yaml", job.recipe.to_yaml())
        _verify(job, str(partial))
        shutil.rmtree(directory.model, ignore_errors=True)
        os.replace(partial, directory.model)
    state.wait_for_everyone()


def _write_weights(job: Job, folder: Path) -> None:
    """The whole model, or the adapters that are still in it."""
    model, settings = job.built.model, job.recipe.model
    if adapter_parameters(model):
        base = find_model(job.recipe).name
        save_adapters(model, folder, auto_model=job.task.auto_model, base=base, revision=settings.revision)
    else:
        tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
        model.save_pretrained(folder, state_dict=tensors)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors leaves them to their owner alone


def _is_timm(model: Any) -> bool:
    return model.config.model_type == "timm_wrapper"  # its processor lives in the model's config


def _verify(job: Job, folder: str) -> None:
    """The saved folder, read as any user reads it, has the labels and (to 1e-4) the outputs of the model in memory."""
    auto_class = getattr(transformers, job.task.auto_model)
    if holds_adapters(folder):
        reloaded = load_adapted(auto_class, folder, transformers.AutoConfig.from_pretrained(config_folder(folder)))
    else:
        reloaded = auto_class.from_pretrained(folder)
    names = tuple(name for _, name in sorted(reloaded.config.id2label.items()))
    batch = job.collate(job.inputs["train"].features(4))
    reloaded.to(next(job.built.model.parameters()).device)
    here, there = (
        job.problem.decode(_outputs(job, model, batch), batch, job.labels)["scores"]
        for model in (job.built.model, reloaded)
    )
    here, there = (np.concatenate([np.ravel(row) for row in scores]) for scores in (here, there))
    difference = float(np.abs(here - there).max(initial=0.0))
    if names != job.labels.names or difference > 1e-4 * max(1.0, float(np.abs(here).max(initial=0.0))):
        found = f"labels {names[:5]}, outputs {difference:.1e} apart"
        expected = "the saved model to be the trained one when reloaded"
        raise ModelError(Finding(place=folder, expected=expected, found=found, fix="please report this as a bug"))


def _outputs(job: Job, model: Any, batch: dict[str, Any]) -> Any:
    import torch

    from hf_sft.evaluation import forward

    model.eval()
    with torch.inference_mode():
        return forward(model, batch, job.evaluator.channels_last, job.problem.reads)


def write_record(job: Job, directory: RunDirectory, trained: Trained, results: Results, *, started: float) -> RunRecord:
    """Metrics with intervals and baselines, the card, the curves, record.json; then checkpoints go."""
    metrics, intervals, baselines, classes, confusion = {}, {}, {}, {}, {}
    for role, rows in results.rows.items():
        targets = job.inputs[role].targets
        if targets is None:
            continue
        metrics[role] = job.evaluator.measure(rows, targets, results.labels)
        outcome = job.problem.outcome(rows, targets, results.labels)
        intervals[role] = bootstrap_intervals(job.metrics, outcome, seed=job.recipe.seed)
        train_targets = job.inputs["train"].targets
        if train_targets is not None:  # a stream's are not known
            majority = job.problem.baseline(train_targets, targets, job.labels)
            baselines[role] = {"majority": job.evaluator.measure(majority, targets, job.labels)}
        if trained.probe is not None:
            baselines[role]["linear_probe"] = dict(metrics[role] if solves(job.recipe) else trained.probe.metrics[role])
        if job.problem.per_class is not None:
            classes[role] = job.problem.per_class(outcome, job.labels)
        if job.labels.problem == "single_label" and len(job.labels.names) <= MOST_LABELS:
            confusion[role] = count_confusion(outcome.references, outcome.predictions, len(job.labels.names))
    history = {
        "steps": step_entries(trained.log),
        "epochs": epoch_entries(trained.log, evaluated=any("eval_loss" in entry for entry in trained.log)),
    }
    if trained.curve:
        history["wise_ft"] = trained.curve
    gap = gap_note(history)
    record = RunRecord(
        recipe=job.recipe.to_dict(),
        labels={
            "problem": job.labels.problem,
            "names": list(job.labels.names),
            "thresholds": list(results.labels.thresholds) if results.labels.thresholds else None,
        },
        metrics=metrics,
        intervals=intervals,
        baselines=baselines,
        per_class=classes,
        parameters=job.parameters,
        timings={
            "load": job.load_seconds,
            "train": trained.seconds,
            "evaluate": results.seconds,
            "total": time.perf_counter() - started,
            "train_rows_per_second": trained.rows / trained.seconds if trained.seconds else 0.0,
        },
        data=_describe_data(job),
        versions=environment.versions(),
        environment=job.environment.as_dict(),
        seed=job.recipe.seed,
        history=history,
        notes=[*job.notes, *trained.notes, *([gap] if gap else [])],
        confusion=confusion,
        examples=pick_examples(job, directory.model) if PartialState().is_main_process else [],
        origins=dict(job.origins),
        output_dir=str(directory.path),
    )
    picture = "validation" in results.rows and save_examples(job, directory, results.rows["validation"], "validation")
    if picture:
        record = replace(record, pictures=[picture])
    if PartialState().is_main_process:
        _draw(record, directory)
        write_text(directory.model / "README.md", model_card(record))
        record.save()
        if not job.recipe.run.keep_checkpoints:
            remove_checkpoints(directory)
    PartialState().wait_for_everyone()
    return record


def _draw(record: RunRecord, directory: RunDirectory) -> None:
    """The pictures, in report/ and beside the card, which shows them."""
    save_curves(record, directory.report / "curves.png")
    split = headline_split(record)
    if shows_confusion(record, split):
        save_confusion(record.confusion[str(split)], record.labels["names"], directory.report / "confusion.png")
    for picture in sorted(directory.report.glob("*.png")):
        (directory.model / "report").mkdir(exist_ok=True)
        shutil.copyfile(picture, directory.model / "report" / picture.name)


def _describe_data(job: Job) -> dict[str, Any]:
    described: dict[str, Any] = {
        role: {
            "rows": len(part.split),
            "fingerprint": fingerprint(part, job.recipe, job.task),
            "source": f"{job.data.origin}: {part.split.source}",
        }
        for role, part in job.data.splits.items()
    }
    return described | {"notes": list(job.data.notes)}
