"""Small real sets, from `hf-sft init` to a result, beside a plain Trainer with the same rows, epochs and learning rate.

`HF_SFT_REAL_DATA=... python -m benchmarks.real_data [SET ...]` prints one line per set. The recipe is the one that init
writes; rows are sampled so that a set takes a minute or two on two cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
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
    set_seed,
)

from hf_sft import Recipe, check, fine_tune
from hf_sft.commands.init import write_recipe
from hf_sft.data.columns import columns_of, joined
from hf_sft.metrics import METRICS
from hf_sft.packages import locate_in_package
from hf_sft.tasks import TASKS
from hf_sft.tasks.load import LabelledSplit, TaskData, load_data

SAMPLES = "{train: 1200, validation: 300, test: 600}"
EPOCHS = {"text-classification": 3, "image-classification": 2}
SETS: dict[str, list[str]] = {  # set -> overrides of the recipe that init writes
    "sst2": [],
    "uci_sentiment": [],
    "ag_news_small": [],
    "banking77": ["dataset.max_samples={train: 3000, validation: 300, test: 600}"],
    "go_emotions": ["dataset.max_samples={train: 3000, validation: 500, test: 600}"],
    "mrpc": [],
    "stsb": [],
    "cifar10": [],
    "fashion_mnist_small": [],
    "flowers5": [],
    "cats_dogs_folder": [],
}


def compare(name: str, root: Path, folder: Path, seed: int) -> str:
    """Init, check, run and the plain Trainer on one set -> a line of the table."""
    file = folder / f"{name}.yaml"
    write_recipe(str(root / name), output=file)
    task = Recipe.load(file).task
    overrides = [f"output_dir={folder / name}", f"seed={seed}", f"training.num_train_epochs={EPOCHS[task]}"]
    overrides += [f"dataset.max_samples={SAMPLES}", *SETS[name]]
    report = check(file, overrides, fast=True)
    started = time.perf_counter()
    record = fine_tune(Recipe.load(file, overrides))
    ours = time.perf_counter() - started
    resolved = Recipe.load(folder / name / "recipe.yaml")
    started = time.perf_counter()
    plain = plain_trainer(resolved, folder / "plain")
    seconds = time.perf_counter() - started
    metric = resolved.metrics[0]
    low, high = record.intervals["test"][metric]
    rows = "/".join(f"{record.data[role]['rows']:,}" for role in ("train", "validation", "test"))
    mine = record.metrics["test"][metric]
    verdict = "not below" if mine >= plain or plain <= high else "BELOW"
    checked = f"{len(report.errors)} errors, {len(report.warnings)} warnings"
    return (
        f"| `{name}` ({rows}) | {checked} | {metric} {mine:.4f} | {low:.4f} to {high:.4f} | {ours:.0f} s "
        f"| {plain:.4f} | {seconds:.0f} s | {verdict} |"
    )


def plain_trainer(recipe: Recipe, folder: Path, *, bf16: bool = False) -> float:
    """The script most people write, on the rows of the run: its first metric on test with the last weights.

    The model is left in folder/model, as from_pretrained reads it.
    """
    task = TASKS[recipe.task]
    found = load_data(recipe, task)
    problem = task.problems[found.labels.problem]
    train, test = (found.splits[role] for role in ("train", "test"))
    set_seed(recipe.seed)
    names = found.labels.names
    settings = {
        "num_labels": len(names),
        "problem_type": problem.problem_type,
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
    make = _plain_text if recipe.task == "text-classification" else _plain_images
    model, data, collate = make(recipe, found, settings)
    arguments = plain_arguments(recipe, folder, bf16=bf16, remove_unused_columns=False)
    trainer = Trainer(model=model, args=arguments, train_dataset=data(train), data_collator=collate)
    trainer.train()
    model.save_pretrained(folder / "model")
    if recipe.task == "text-classification":
        tokenizer = AutoTokenizer.from_pretrained(locate_in_package(recipe.model.name, "model"))
        tokenizer.model_max_length = recipe.processor.max_length
        tokenizer.save_pretrained(folder / "model")
    logits = torch.as_tensor(trainer.predict(data(test)).predictions)
    targets = problem.encode(list(_entries(test)), found.labels)
    rows = problem.decode({"logits": logits}, {}, found.labels)
    return float(METRICS[recipe.metrics[0]].compute(problem.outcome(rows, targets, found.labels)))


def plain_arguments(recipe: Recipe, folder: Path, **others: Any) -> TrainingArguments:
    """Of a Trainer with the recipe's epochs, batch size, learning rate and seed, and nothing of ours."""
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=recipe.training["num_train_epochs"],
        per_device_train_batch_size=recipe.training["per_device_train_batch_size"],
        per_device_eval_batch_size=64,
        learning_rate=recipe.training["learning_rate"],
        seed=recipe.seed,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=not torch.accelerator.is_available(),
        log_level="error",
        **others,
    )


def _entries(part: LabelledSplit) -> Any:
    assert part.entries is not None
    return part.entries


def _targets(part: LabelledSplit, found: TaskData, recipe: Recipe) -> np.ndarray:
    return TASKS[recipe.task].problems[found.labels.problem].encode(list(_entries(part)), found.labels)


def _plain_text(recipe: Recipe, found: TaskData, settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    source = locate_in_package(recipe.model.name, "model")
    tokenizer = AutoTokenizer.from_pretrained(source)

    def data(part: LabelledSplit) -> list[dict[str, Any]]:
        batch = part.split.rows[:]
        texts = joined(batch, columns_of(recipe.dataset, "text"))
        pair = "text_pair" in recipe.dataset.columns
        pairs = joined(batch, columns_of(recipe.dataset, "text_pair")) if pair else None
        inputs = tokenizer(texts, pairs, truncation=True, max_length=recipe.processor.max_length)
        targets = _targets(part, found, recipe).tolist()
        return [{**{name: inputs[name][row] for name in inputs}, "labels": targets[row]} for row in range(len(targets))]

    model = AutoModelForSequenceClassification.from_pretrained(source, **settings)
    return model, data, DataCollatorWithPadding(tokenizer)


def _plain_images(recipe: Recipe, found: TaskData, settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    source = Path(os.environ["HF_SFT_REAL_DATA"]) / "checkpoints" / "efficientnet_lite0"
    model = AutoModelForImageClassification.from_pretrained(source, ignore_mismatched_sizes=True, **settings)
    size = recipe.processor.size or 224
    model.config.pretrained_cfg["input_size"] = (3, size, size)
    processor = AutoImageProcessor.from_pretrained(source)
    processor = type(processor)(model.config.pretrained_cfg, architecture=model.config.architecture)
    if recipe.tuning.strategy == "head":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "classifier" in name
    (column,) = columns_of(recipe.dataset, "image")

    def data(part: LabelledSplit) -> datasets.Dataset:
        rows = part.split.rows.select_columns([column]).add_column("labels", _targets(part, found, recipe).tolist())
        return rows.with_transform(partial(_read, processor, column))

    return model, data, None


def _read(processor: Any, column: str, batch: dict[str, Any]) -> dict[str, Any]:
    images = [image.convert("RGB") for image in batch[column]]
    return {"pixel_values": processor(images, return_tensors="pt")["pixel_values"], "labels": batch["labels"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help=f"which of {', '.join(SETS)} (default: all)")
    parser.add_argument("--seed", type=int, default=42)
    chosen = parser.parse_args()
    root = Path(os.environ["HF_SFT_REAL_DATA"])
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"{date.today()}, torch {torch.__version__}, transformers {transformers.__version__}")
    lines = [
        "| set (rows) | check | ours, test | 95 % | time | plain Trainer | time | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in chosen.sets or SETS:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(compare(name, root, Path(folder), chosen.seed))
            print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
