"""Laws of evaluating a saved model: the run's own numbers again, labels matched by name, slices that add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from tiny import save_text_model, texts

from hf_sft import RunRecord, evaluate, fine_tune
from hf_sft.cli import app
from hf_sft.errors import DataError, RecipeError
from hf_sft.saved_model import SavedModel, load_saved


def rows(number: int, seed: int) -> pd.DataFrame:
    frame = pd.DataFrame(texts(number, seed=seed)[:])
    return frame.assign(domain=["film", "book", "meal"] * (number // 3) + ["film"] * (number % 3))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over csv files, validation cut from train."""
    folder = tmp_path_factory.mktemp("run")
    save_text_model("bert", folder / "bert")
    (folder / "data").mkdir()
    rows(48, 0).to_csv(folder / "data" / "train.csv", index=False)
    rows(30, 1).to_csv(folder / "data" / "test.csv", index=False)
    fine_tune(
        {
            "task": "text-classification",
            "model": {"name": str(folder / "bert")},
            "dataset": {"path": str(folder / "data")},
            "training": {"num_train_epochs": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-2},
            "metrics": ["macro_f1", "accuracy"],
            "output_dir": str(folder / "out"),
        }
    )
    return folder / "out"


@pytest.fixture(scope="module")
def saved(run: Path) -> SavedModel:
    return load_saved(run / "model")


@pytest.mark.parametrize("split", ["test", "validation", None])
@pytest.mark.parametrize("of", ["", "model"])
def test_a_split_of_the_run_has_the_numbers_of_its_record(run: Path, split: str | None, of: str) -> None:
    record, found = RunRecord.load(run), evaluate(run / of, split=split)
    role = split or "test"
    assert found.metrics == pytest.approx(record.metrics[role], abs=1e-6)
    assert list(found.metrics) == ["loss", "macro_f1", "accuracy"]
    assert found.intervals["macro_f1"] == pytest.approx(record.intervals[role]["macro_f1"], abs=1e-6)
    assert found.per_class == record.per_class[role]


def test_what_was_found_is_added_to_the_record_of_the_run(run: Path) -> None:
    before = len(RunRecord.load(run).evaluations)
    evaluate(run, split="validation")
    record = RunRecord.load(run)
    assert len(record.evaluations) == before + 1
    assert record.evaluations[-1]["rows"] == record.data["validation"]["rows"]
    assert json.loads((run / "record.json").read_text())["evaluations"][-1]["date"]


def test_predictions_are_those_of_the_run_in_its_order(run: Path, tmp_path: Path) -> None:
    evaluate(run).write_predictions(tmp_path / "p.parquet")
    here = pyarrow.parquet.read_table(tmp_path / "p.parquet").to_pydict()
    there = pyarrow.parquet.read_table(run / "predictions" / "test.parquet").to_pydict()
    assert list(here) == list(there)
    for name in here:
        assert here[name] == (
            pytest.approx(there[name], abs=1e-6) if name.startswith(("score", "loss")) else there[name]
        )


def relabelled(frame: pd.DataFrame, form: str) -> Any:
    """The same rows with their labels in another form."""
    if form == "names":
        return frame
    if form == "other order":
        names = ["positive", "negative"]
        ids = [names.index(name) for name in frame["label"]]
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        return Dataset.from_dict({"text": frame["text"].tolist(), "label": ids}, features=features)
    return frame.assign(label=[["negative", "positive"].index(name) for name in frame["label"]])


@pytest.mark.parametrize("form", ["names", "other order", "ids of the model"])
def test_labels_are_matched_by_name_whatever_their_form(form: str, saved: SavedModel) -> None:
    frame = rows(30, 1)
    plain = evaluate(saved, data=frame)
    found = evaluate(saved, data=relabelled(frame, form))
    assert found.metrics == pytest.approx(plain.metrics) and found.per_class == plain.per_class
    assert bool(found.notes) == (form == "ids of the model")


def test_labels_of_other_names_are_explained_and_can_be_mapped(saved: SavedModel) -> None:
    frame = rows(30, 1)
    other = frame.assign(label=frame["label"].map({"positive": "pos", "negative": "neg"}))
    with pytest.raises(DataError, match="labels that the model knows: negative, positive") as caught:
        evaluate(saved, data=other)
    assert "'neg', 'pos'" in str(caught.value) and "--label-map" in str(caught.value)
    mapped = evaluate(saved, data=other, label_map={"pos": "positive", "neg": "negative"})
    assert mapped.metrics == pytest.approx(evaluate(saved, data=frame).metrics)
    dropped = evaluate(saved, data=other, label_map={"pos": "positive", "neg": None})
    assert dropped.rows == (frame["label"] == "positive").sum()


def test_slices_are_what_their_rows_alone_give(saved: SavedModel) -> None:
    frame = rows(30, 1)
    found = evaluate(saved, data=frame, by="domain")
    assert sum(part["rows"] for part in found.slices.values()) == found.rows == 30
    for value, part in found.slices.items():
        alone = evaluate(saved, data=frame[frame["domain"] == value])
        assert part["metrics"] == pytest.approx(alone.metrics)
        assert part["intervals"].keys() == alone.intervals.keys()
        low, high = part["intervals"]["macro_f1"]
        assert low <= part["metrics"]["macro_f1"] <= high
    assert "by domain" in str(found) and "by domain" in found._repr_html_()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"by": "domian"}, "did you mean 'domain'"),
        ({"by": "text"}, "at most"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"columns": {"text": "body"}}, "a column 'body'"),
        ({"columns": {"label": "lable"}}, "did you mean 'label'"),
        ({"metrics": ["pearson"]}, "a metric that fits single_label"),
    ],
)
def test_what_does_not_exist_is_named(settings: dict[str, Any], words: str, saved: SavedModel) -> None:
    with pytest.raises((DataError, RecipeError), match=words):
        evaluate(saved, **({"data": rows(90, 1).drop_duplicates("text")} | settings))


def test_a_text_column_of_another_name_is_found_where_it_is_a_usual_one(saved: SavedModel) -> None:
    frame = rows(30, 1)
    plain = evaluate(saved, data=frame)
    for name in ("sentence", "review"):
        assert evaluate(saved, data=frame.rename(columns={"text": name})).metrics == pytest.approx(plain.metrics)
    with pytest.raises(DataError, match="--columns text=NAME"):
        evaluate(saved, data=frame.rename(columns={"text": "t1"}))
    assert evaluate(saved, data=frame.rename(columns={"text": "t1"}), columns={"text": "t1"}).rows == 30


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_other_problems_are_evaluated_as_in_their_run(problem: str, tmp_path: Path) -> None:
    save_text_model("bert", tmp_path / "bert")
    generator = np.random.default_rng(0)
    data = {}
    for role, number in (("train", 32), ("validation", 24), ("test", 24)):
        part = texts(number, seed=len(data)).remove_columns("label")
        labels: list[Any] = [float(value) for value in generator.normal(size=number)]
        if problem == "multi_label":
            labels = [[name for name in "abc" if generator.random() < 0.5] for _ in range(number)]
        data[role] = part.add_column("label", labels)
    recipe = {
        "task": "text-classification",
        "model": {"name": str(tmp_path / "bert")},
        "dataset": {"path": "memory"},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 8},
        "output_dir": str(tmp_path / "out"),
    }
    record = fine_tune(recipe, data=data)
    found = evaluate(tmp_path / "out", data=data["test"])
    assert found.metrics == pytest.approx(record.metrics["test"], abs=1e-6)


def test_the_command_prints_a_table_or_json_alone(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def command(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            app(["evaluate", str(run), *arguments], prog_name="hf-sft")
        return int(caught.value.code or 0), capfd.readouterr().out

    code, text = command("--split", "test")
    assert code == 0 and "macro_f1" in text and "per class" in text
    code, text = command("--json", "--metric", "accuracy")
    assert code == 0 and set(json.loads(text)["metrics"]) == {"loss", "accuracy"}
    code, text = command("--data", "nowhere.csv")
    assert code == 2
