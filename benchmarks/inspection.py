"""What a default report costs: the embedded text run within 60 seconds, the digits run within 120, on two cores."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

from hf_sft import Recipe, fine_tune, inspect

BARS = {"bert_sentiment": 60.0, "efficientnet_digits": 120.0}  # seconds


def main() -> int:
    """Train each recipe for one epoch, inspect it, print seconds and memory beside the bar; 1 where one is missed."""
    missed = 0
    for name, bar in BARS.items():
        with tempfile.TemporaryDirectory() as folder:
            overrides = ["training.num_train_epochs=1", f"output_dir={Path(folder) / name}"]
            record = fine_tune(Recipe.load(f"bundled:{name}", overrides))
            started = time.perf_counter()
            report = inspect(record)
            seconds = time.perf_counter() - started
            missed += seconds > bar or not report.ok
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            size = (Path(folder) / name / "report" / "index.html").stat().st_size / 1e6
            print(f"{name}: {seconds:.0f} s (bar {bar:.0f}), {memory:.1f} GB at most, page of {size:.1f} MB")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
