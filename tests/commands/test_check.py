"""Laws of a check: what a reader would ask about is said, nothing is left behind, costs are those of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image as pil
from tiny import WORDS, save_image_model, save_text_model, texts

from hf_sft import check, fine_tune
from hf_sft.commands.check import CheckReport
from hf_sft.modeling import build


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_text_model("bert", folder / "bert")
    save_text_model("bert", folder / "trained", labels=["Negative", "Positive"])
    save_image_model("resnet", folder / "resnet")
    return folder


def recipe(models: Path, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "task": "text-classification",
        "model": {"name": str(models / "bert")},
        "dataset": {"path": "memory"},
        "training": {"num_train_epochs": 2, "per_device_train_batch_size": 8},
        "output_dir": str(tmp_path / "out"),
    }
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return content


def data(**splits: Any) -> dict[str, Dataset]:
    found = {"train": texts(48, seed=0), "validation": texts(16, seed=1), "test": texts(16, seed=2)}
    return found | splits


def unique(number: int, start: int = 0) -> list[str]:
    """Texts that differ from each other in their words."""
    size = len(WORDS)
    return [f"{WORDS[index % size]} {WORDS[index // size % size]} {index}" for index in range(start, start + number)]


def rows(text: list[str], label: list[str] | None = None) -> Dataset:
    return Dataset.from_dict({"text": text, "label": label or ["a", "b"] * (len(text) // 2)})


def said(report: CheckReport, place: str) -> str:
    return "\n".join(str(finding) for finding in report.warnings if finding.place.startswith(place))


def test_a_right_recipe_passes_and_leaves_nothing(models: Path, tmp_path: Path) -> None:
    given = {"train": rows(unique(48)), "validation": rows(unique(16, 100)), "test": rows(unique(16, 200))}
    report = check(recipe(models, tmp_path), data=given)
    assert report.ok and not report.warnings and report.rehearsal is not None
    assert report.data["train"]["rows"] == 48 and report.data["train"]["labels"] == {"a": 24, "b": 24}
    assert not (tmp_path / "out").exists()
    assert json.loads(json.dumps(report.as_dict()))["ok"] is True
    assert "0 errors" in str(report) and "0 errors" in report._repr_html_()


@pytest.mark.parametrize("training", [{}, {"gradient_accumulation_steps": 2}, {"max_steps": 5}])
def test_the_steps_are_those_of_the_run(training: dict[str, Any], models: Path, tmp_path: Path) -> None:
    given = data(train=texts(44, seed=0))
    report = check(recipe(models, tmp_path, training=training), data=given)
    record = fine_tune(recipe(models, tmp_path, training=training), data=given)
    assert report.rehearsal is not None
    assert report.rehearsal.steps == record.history["steps"][-1]["step"]
    assert 0 < report.rehearsal.train_seconds < report.rehearsal.total_seconds < 120
    on_disk = sum(file.stat().st_size for file in (tmp_path / "out" / "model").rglob("*") if file.is_file())
    assert on_disk < report.rehearsal.disk + 200_000 < on_disk * 30 + 400_000


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"training": {"learning_rate": 0.5}}, "training.learning_rate", "times that"),
        ({"training": {"learning_rate": 1e-7}}, "training.learning_rate", "th of that"),
        ({"training": {"warmup_steps": 50}}, "training.warmup_steps", "fewer than the 12 steps"),
        ({"processor": {"max_length": 3}}, "processor.max_length", "to lose under 1%"),
    ],
)
def test_settings_that_make_little_sense_are_warnings(
    changes: dict[str, Any], place: str, words: str, models: Path, tmp_path: Path
) -> None:
    assert not said(check(recipe(models, tmp_path), data=data(), fast=True), place)
    report = check(recipe(models, tmp_path, **changes), data=data(), fast=True)
    assert report.ok and words in said(report, place)


@pytest.mark.parametrize(
    ("given", "place", "words"),
    [
        ({"train": rows(["", " ", *unique(10)])}, "dataset.columns.text", "2 without one in train: rows 0, 1"),
        ({"train": rows(["same"] * 12)}, "dataset.columns.text", "one text 'same' in all rows"),
        ({"train": rows([str(index) for index in range(12)])}, "dataset.columns.text", "without a letter"),
        (
            {"train": rows(unique(44), ["a"] * 40 + ["b"] * 4)},
            "dataset",
            "10 to 1: 'a' 40 rows, 'b' 4",
        ),
        ({"train": rows(["twice", "twice", *unique(10)])}, "dataset.columns.label", "rows 0, 1"),
        (
            {"train": rows(unique(12)), "test": rows([unique(12)[3], *unique(3, 50)])},
            "dataset.splits.test",
            "1 rows of test stand in train: train row 3 is test row 0",
        ),
        (
            {"train": rows(unique(12)), "test": rows([unique(12)[3].upper() + " !", *unique(3, 50)])},
            "dataset.splits.test",
            "0 rows of test stand in train (1 more but for case",
        ),
        (
            {"train": rows(unique(12), ["a", "b", "c"] * 4), "test": rows(unique(4, 50))},
            "dataset.splits.test",
            "1 without a row in test: c",
        ),
        ({"train": rows(unique(13), ["a", "b", *"ab" * 5, "c"])}, "dataset.columns.label", "one row in train: c"),
    ],
)
def test_data_that_a_reader_should_know_of_are_warnings(
    given: dict[str, Dataset], place: str, words: str, models: Path, tmp_path: Path
) -> None:
    report = check(recipe(models, tmp_path, dataset={"splits": {"validation": None}}), data=given, fast=True)
    assert words in said(report, place)


def test_pictures_of_odd_sizes_and_modes_and_in_two_splits_are_warnings(models: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def picture(size: int, mode: str = "RGB") -> Any:
        return pil.fromarray(generator.integers(0, 255, (size, size, 3), dtype=np.uint8)).convert(mode)

    shared = picture(40)
    train = [picture(40), shared, picture(8), picture(40, "CMYK"), picture(40, "L"), picture(40)]
    given = {
        "train": Dataset.from_dict({"image": [_encoded(image) for image in train], "label": ["a", "b"] * 3}),
        "test": Dataset.from_dict({"image": [_encoded(shared), _encoded(picture(40))], "label": ["a", "b"]}),
    }
    changed = recipe(models, tmp_path, model={"name": str(models / "resnet")}, dataset={"splits": {"validation": None}})
    report = check(changed | {"task": "image-classification"}, data=given)
    assert report.ok and report.rehearsal is not None
    assert "under 16 pixels in train: rows 2" in said(report, "dataset.columns.image")
    assert "1 of mode CMYK" in said(report, "dataset.columns.image")
    assert "train row 1 is test row 0" in said(report, "dataset.splits.test")
    assert report.data["train"]["size"]["smallest"] == "8 x 8"


def _encoded(image: Any) -> dict[str, Any]:
    import io

    file = io.BytesIO()
    image.save(file, "tiff")
    return {"bytes": file.getvalue(), "path": None}


def test_a_classifier_whose_labels_differ_in_spelling_alone_is_pointed_out(models: Path, tmp_path: Path) -> None:
    report = check(recipe(models, tmp_path, model={"name": str(models / "trained")}), data=data(), fast=True)
    assert "label_map: {negative: Negative, positive: Positive}" in said(report, "model.head")


def test_fast_loads_no_weights_and_full_looks_at_every_row(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_sft.commands.check.MOST_ROWS", 10)
    some, every = (check(recipe(models, tmp_path), data=data(), fast=True, full=full) for full in (False, True))
    assert (some.data["train"]["looked_at"], every.data["train"]["looked_at"]) == (10, 48)
    assert some.data["train"]["labels"] == every.data["train"]["labels"]
    monkeypatch.setattr(build, "build_model", None)
    assert check(recipe(models, tmp_path), data=data(), fast=True).ok


def test_mistakes_in_data_metrics_and_model_are_reported_together(models: Path, tmp_path: Path) -> None:
    wrong = recipe(models, tmp_path, dataset={"columns": {"text": "txt"}}, model={"name": str(models / "none")})
    report = check(wrong, data=data())
    assert [finding.place for finding in report.errors] == ["dataset.columns.text", "model.name"]
    report = check(recipe(models, tmp_path, metrics=["mse"], processor={"max_length": 500}), data=data())
    assert {finding.place for finding in report.errors} == {"metrics", "processor.max_length"}
    assert report.rehearsal is None and report.not_looked_at


def test_a_wrong_recipe_is_a_report_too() -> None:
    report = check({"task": "text-classification", "modl": {}})
    assert not report.ok and {"modl", "model", "dataset"} <= {finding.place for finding in report.errors}


def test_what_would_be_recorded_is_said_and_nothing_is_written(models: Path, tmp_path: Path) -> None:
    cached = {"strategy": "head", "cache_dir": str(tmp_path / "cache")}
    live, report = (
        check(recipe(models, tmp_path, tuning=tuning, training={"num_train_epochs": 10}), data=data())
        for tuning in ({"strategy": "head", "cache": "off"}, cached)
    )
    assert live.rehearsal is not None and report.rehearsal is not None and not live.rehearsal.cache
    assert "64 rows cached (under 1 MB), about" in report.rehearsal.cache and "frozen layers" in str(report)
    assert report.rehearsal.disk > live.rehearsal.disk
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_is_an_error_of_the_check(models: Path, tmp_path: Path) -> None:
    report = check(recipe(models, tmp_path, tuning={"strategy": "full", "cache": "on"}), data=data())
    assert [finding.place for finding in report.errors] == ["tuning.cache"]
