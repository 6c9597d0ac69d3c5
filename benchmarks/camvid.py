"""Semantic segmentation of CamVid: a SegFormer from random weights; a pretrained backbone against the same at random.

`HF_SFT_REAL_DATA=... python -m benchmarks.camvid [--epochs N] [NAME ...]` prints one line per run. Equal steps for the
pretrained and the random backbone; the bar is a mean IoU of 0.20 within 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from hf_sft import Recipe, fine_tune

RECIPES = Path(__file__).parent / "recipes"
RUNS = {  # name -> recipe and overrides
    "segformer": ("camvid_segformer", []),
    "efficientnet": ("camvid_efficientnet", []),
    "efficientnet_random": ("camvid_efficientnet", ["model.weights=random"]),
}


def measure(name: str, folder: Path, overrides: list[str]) -> str:
    """A line of the table: mean IoU with its interval, pixel accuracy, the majority's, seconds."""
    recipe, own = RUNS[name]
    started = time.perf_counter()
    record = fine_tune(
        Recipe.load(RECIPES / f"{recipe}.yaml", [*own, f"output_dir={folder / name}", *overrides]), overwrite=True
    )
    seconds = time.perf_counter() - started
    found, (low, high) = record.metrics["validation"], record.intervals["validation"]["mean_iou"]
    majority = record.baselines["validation"]["majority"]["mean_iou"]
    steps = record.history["steps"][-1]["step"]
    return (
        f"| {name} | {steps:,} | {found['mean_iou']:.4f} ({low:.4f} to {high:.4f}) | {found['pixel_accuracy']:.4f} | "
        f"{majority:.4f} | {seconds / 60:.1f} min |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(RUNS), choices=[*RUNS, []])
    parser.add_argument("--epochs", type=int, help="of each, in place of the recipes'")
    parser.add_argument("--output", type=Path, help="where the runs stay; absent: nowhere")
    asked = parser.parse_args()
    overrides = [] if asked.epochs is None else [f"training.num_train_epochs={asked.epochs}"]
    print("| run | steps | mean IoU, validation | pixel accuracy | majority's mean IoU | time |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name in asked.names:
            print(measure(name, asked.output or Path(temporary), overrides), flush=True)


if __name__ == "__main__":
    main()
