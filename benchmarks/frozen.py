"""Frozen layers computed once, side by side with a Trainer that computes them each epoch: `make bench`.

`HF_SFT_REAL_DATA=... python -m benchmarks.frozen [images|text|top|recording ...]`. The timed part is the whole job
on both sides, process start aside: reading data and model, ten epochs with an evaluation after each, saving.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from benchmarks.speed import MODEL, compare
from hf_sft import Recipe, fine_tune
from hf_sft.environment import prepare_environment
from hf_sft.job import prepare
from hf_sft.packages import locate_in_package
from hf_sft.training.activation_cache import replaying
from hf_sft.training.cache_plan import decide

BATCH = 32
DATA = Path(os.environ.get("HF_SFT_REAL_DATA", ""))
LITE0 = DATA / "checkpoints" / "efficientnet_lite0"


def _kept(folder: Path, tuning: dict[str, Any]) -> dict[str, str]:
    return {} if tuning.get("cache") == "off" else {"cache_dir": str(folder / "cache")}


def images_recipe(folder: Path, **tuning: Any) -> dict[str, Any]:
    return {
        "task": "image-classification",
        "model": {"name": str(LITE0), "head": "new"},
        "dataset": {
            "path": str(DATA / "cifar10"),
            "splits": {"test": None},
            "max_samples": {"train": 1000, "validation": 200},
        },
        "tuning": {"strategy": "head", **_kept(folder, tuning), **tuning},
        "training": {"num_train_epochs": 10, "per_device_train_batch_size": BATCH, "learning_rate": 1e-3},
        "run": {"precision": "fp32"},  # as the Trainer's
        "output_dir": str(folder / "ours"),
    }


def text_recipe(folder: Path, epochs: int, rows: int, **tuning: Any) -> dict[str, Any]:
    return {
        "task": "text-classification",
        "model": {"name": MODEL},
        "dataset": {
            "path": str(DATA / "sst2"),
            "labels": ["negative", "positive"],
            "splits": {"test": None},
            "max_samples": {"train": rows, "validation": 300},
        },
        "tuning": {"strategy": "head", **_kept(folder, tuning), **tuning},
        "training": {"num_train_epochs": epochs, "per_device_train_batch_size": BATCH, "learning_rate": 1e-3},
        "run": {"precision": "fp32"},  # as the Trainer's
        "output_dir": str(folder / "ours"),
    }


def ours(recipe: dict[str, Any], folder: Path, *, fresh: bool) -> float:
    """fresh: nothing is recorded yet."""
    if fresh:
        shutil.rmtree(folder / "cache", ignore_errors=True)
    started = time.perf_counter()
    record = fine_tune(Recipe.from_dict(recipe), overwrite=True)
    seconds = time.perf_counter() - started
    print(f"    {seconds:.1f} s, validation {record.metrics['validation']}", flush=True)
    return seconds


def plain(recipe: dict[str, Any], folder: Path, trains: Callable[[str], bool]) -> float:
    """The usual script: parameters frozen by requires_grad, dynamic padding, an evaluation each epoch.

    The rows are those of our run; picking them is outside the timed part.
    """
    settings = Recipe.from_dict(recipe)
    work = prepare(settings, prepare_environment(settings))
    splits = {role: part.split.rows for role, part in work.data.splits.items()}
    targets = {role: work.inputs[role].targets.tolist() for role in splits}
    names = list(work.labels.names)
    started = time.perf_counter()
    settings_of_model = {"num_labels": len(names), "ignore_mismatched_sizes": True}
    if recipe["task"] == "image-classification":
        source = str(LITE0)
        processor = AutoImageProcessor.from_pretrained(source)
        model = AutoModelForImageClassification.from_pretrained(source, **settings_of_model)

        def transform(batch: dict[str, Any]) -> dict[str, Any]:
            pixels = processor([image.convert("RGB") for image in batch["image"]], return_tensors="pt")["pixel_values"]
            return {"pixel_values": pixels, "labels": batch["labels"]}

        data = {
            role: rows.select_columns(["image"]).add_column("labels", targets[role]).with_transform(transform)
            for role, rows in splits.items()
        }
        collate: Any = None
    else:
        source = locate_in_package(MODEL, "model")
        processor = AutoTokenizer.from_pretrained(source)
        model = AutoModelForSequenceClassification.from_pretrained(source, **settings_of_model)
        data = {
            role: rows.map(lambda batch: processor(batch["text"], truncation=True), batched=True)
            .select_columns(["input_ids", "attention_mask"])
            .add_column("labels", targets[role])
            for role, rows in splits.items()
        }
        collate = DataCollatorWithPadding(processor)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains(name))
    arguments = TrainingArguments(
        output_dir=str(folder / "plain"),
        num_train_epochs=recipe["training"]["num_train_epochs"],
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=64,
        learning_rate=recipe["training"]["learning_rate"],
        eval_strategy="epoch",
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        log_level="error",
        use_cpu=not torch.accelerator.is_available(),
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=data["train"], eval_dataset=data["validation"],
        data_collator=collate, compute_metrics=_accuracy,
    )  # fmt: skip
    trainer.train()
    model.save_pretrained(folder / "plain")
    seconds = time.perf_counter() - started
    print(f"    {seconds:.1f} s, plain: {trainer.state.log_history[-2]}", flush=True)
    return seconds


def _accuracy(found: Any) -> dict[str, float]:
    return {"accuracy": float((np.asarray(found.predictions).argmax(-1) == found.label_ids).mean())}


def head_of_image_model(name: str) -> bool:
    return "classifier" in name


def head_of_text_model(name: str) -> bool:
    return name.startswith("classifier")


def last_layer_too(name: str) -> bool:
    return "layer.5." in name or "pooler" in name or head_of_text_model(name)


def heads(title: str, recipe: Callable[..., dict[str, Any]], trains: Callable[[str], bool], repetitions: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recorded = "ours, on recorded activations"
        arms = {
            "Trainer, frozen parameters": lambda: plain(recipe(folder), folder, trains),
            "ours, recording included": lambda: ours(recipe(folder), folder, fresh=True),
            recorded: lambda: ours(recipe(folder), folder, fresh=False),
            "ours, recorded, head solved": lambda: ours(recipe(folder, solver="logistic"), folder, fresh=False),
        }
        seconds = {arm: [] for arm in arms}  # type: dict[str, list[float]]
        for _ in range(repetitions):
            for arm, run in arms.items():
                seconds[arm].append(run())
        for arm in list(arms)[1:]:
            ratios = sorted(a / b for a, b in zip(seconds["Trainer, frozen parameters"], seconds[arm], strict=True))
            print(f"{title}: {arm} {np.median(ratios):.1f} times as fast ({ratios[0]:.1f} to {ratios[-1]:.1f})")


def images(repetitions: int) -> None:
    heads("1,000 CIFAR-10 images, EfficientNet-Lite0, 10 epochs", images_recipe, head_of_image_model, repetitions)


def text(repetitions: int) -> None:
    recipe = partial(text_recipe, epochs=10, rows=2000)
    heads("2,000 SST-2 sentences, MiniLM, 10 epochs", recipe, head_of_text_model, repetitions)


def top(repetitions: int) -> None:
    """One of six layers and the head, five epochs, with and without the cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {"strategy": "top_layers", "layers": 1}
        recipe = partial(text_recipe, folder, 5, 2000)
        compare(
            "2,000 SST-2 sentences, the last of six layers, 5 epochs",
            {
                "cached, recording included": lambda: ours(recipe(**settings), folder, fresh=True),
                "on recorded activations": lambda: ours(recipe(**settings), folder, fresh=False),
                "every epoch anew": lambda: ours(recipe(**settings, cache="off"), folder, fresh=True),
                "Trainer, frozen parameters": lambda: plain(recipe(**settings), folder, last_layer_too),
            },
            repetitions,
            "cached, recording included",
        )


def recording(repetitions: int) -> None:
    """Recording all rows, against the same model's predictions of the same rows, by our evaluator."""
    for title, recipe in (("images", images_recipe), ("texts", partial(text_recipe, epochs=10, rows=2000))):
        with tempfile.TemporaryDirectory() as name:
            settings = Recipe.from_dict(recipe(Path(name)))
            work = prepare(settings, prepare_environment(settings))
            inputs = [work.inputs["train"], work.inputs["validation"]]

            def record(work: Any = work, folder: str = name) -> float:
                shutil.rmtree(f"{folder}/cache", ignore_errors=True)
                plan = decide(work)
                assert plan is not None
                started = time.perf_counter()
                with replaying(work, plan):
                    return time.perf_counter() - started

            def infer(work: Any = work, inputs: Any = inputs) -> float:
                started = time.perf_counter()
                for part in inputs:
                    work.evaluator.predict(work.built.model, part.rows, part.lengths, work.labels)
                return time.perf_counter() - started

            compare(f"recording {title}", {"recording": record, "inference": infer}, repetitions, "recording")


PARTS: dict[str, Callable[[int], None]] = {"images": images, "text": text, "top": top, "recording": recording}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which comparisons (default: all)")
    parser.add_argument("--repetitions", type=int, default=3)
    chosen = parser.parse_args()
    if not LITE0.is_dir():
        raise SystemExit("HF_SFT_REAL_DATA names no folder that holds cifar10, sst2 and checkpoints/efficientnet_lite0")
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{date.today()}, {device}, torch {torch.__version__}, {platform.machine()}")
    for part in chosen.parts or PARTS:
        PARTS[part](chosen.repetitions)


if __name__ == "__main__":
    main()
