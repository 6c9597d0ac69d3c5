"""Finished tiny runs for the laws of looking inside, and predictions whose properties are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from numpy.typing import NDArray
from tiny import images, save_image_model, save_text_model, texts

from hf_sft import RunRecord, fine_tune
from hf_sft.analysis.predictions import Predictions

SCRIPT_TAG = "<script>alert('review')</script> good film"


def finish_text(folder: Path, family: str = "bert", **changes: Any) -> RunRecord:
    """A run over csv files: test has a row of train, script tags in all others, and a column `domain`."""
    save_text_model(family, folder / family)
    (folder / "data").mkdir()
    train = pd.DataFrame(texts(48, seed=0)[:])
    test = pd.DataFrame(texts(40, seed=1)[:]).assign(domain=["film", "book"] * 20)
    test["text"] = f"{SCRIPT_TAG} " + test["text"]
    test.loc[[1], ["text", "label"]] = train.loc[[5], ["text", "label"]].to_numpy()
    train.assign(domain="film").to_csv(folder / "data" / "train.csv", index=False)
    test.to_csv(folder / "data" / "test.csv", index=False)
    content = {
        "task": "text-classification",
        "model": {"name": str(folder / family)},
        "dataset": {"path": str(folder / "data")},
        "training": {"num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-2},
        "metrics": ["accuracy", "macro_f1"],
        "output_dir": str(folder / "out"),
    }
    return fine_tune({**content, **changes})


def finish_images(folder: Path, family: str = "resnet", **changes: Any) -> RunRecord:
    """A run over images that are bright above or below, kept on disk so that they can be read again."""
    save_image_model(family, folder / family)
    splits = {"train": images(32, seed=0), "test": images(24, seed=1)}
    for name, rows in splits.items():
        _as_folder(rows, folder / "data" / name)
    content = {
        "task": "image-classification",
        "model": {"name": str(folder / family)},
        "dataset": {"path": str(folder / "data")},
        "training": {"num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-2},
        "metrics": ["accuracy"],
        "output_dir": str(folder / "out"),
    }
    return fine_tune({**content, **changes})


def _as_folder(rows: Dataset, folder: Path) -> None:
    names = rows.features["label"].names
    for number, row in enumerate(rows):
        path = folder / names[row["label"]] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        row["image"].save(path)


def single(references: NDArray, scores: NDArray, split: str = "test") -> Predictions:
    """Predictions of a model with these scores."""
    rows = np.arange(len(references))
    return Predictions(
        split=split,
        problem="single_label",
        names=tuple(f"class {number}" for number in range(scores.shape[1])),
        row_ids=rows,
        references=references,
        predictions=scores.argmax(axis=1),
        scores=scores,
        losses=-np.log(np.maximum(scores[rows, references], 1e-15)),
    )


def drawn_scores(rows: int, classes: int, *, sharpness: float = 1.0, seed: int = 0) -> tuple[NDArray, NDArray]:
    """(references, scores): labels drawn by softmax(logits), scores softmax(sharpness x logits); 1 is calibrated."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=2.0, size=(rows, classes))
    truth = _softmax(logits)
    references = (generator.random((rows, 1)) < truth.cumsum(axis=1)).argmax(axis=1)
    return references, _softmax(sharpness * logits)


def _softmax(logits: NDArray) -> NDArray:
    powers: NDArray = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
