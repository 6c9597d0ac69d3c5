"""Laws of evaluating a saved model: the run's own numbers again, labels matched by name, slices that add up."""

from __future__ import annotations

import json
import shutil
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
from hf_sft.errors import DataError, EnvironmentProblem, RecipeError
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
    assert len(record.evaluations) in (before, before + 1)
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


def test_the_same_question_again_replaces_its_answer_in_the_record(run: Path) -> None:
    def asked() -> list[tuple[Any, ...]]:
        entries = RunRecord.load(run).evaluations
        return [(entry["data"], entry["split"], entry["by"], sorted(entry["metrics"])) for entry in entries]

    settings: list[dict[str, Any]] = [{"split": "test"}, {"split": "test", "by": "domain"}, {"split": "validation"}]
    settings += [{"split": "test", "metrics": ["accuracy"]}]
    for one in settings:
        evaluate(run, **one)
    before = asked()
    for one in settings:
        evaluate(run, **one)
    assert sorted(map(str, asked())) == sorted(map(str, before)) and len(set(map(str, before))) == len(before) >= 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"by": 5}, r"(?s)by.*the name of a column.*5 \(a whole number\)"),
        ({"on_bad_row": "leave"}, "error or skip"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_before_the_model_is_looked_for(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        evaluate("no such model", **settings)


def test_values_of_a_column_are_shown_as_they_were_written(saved: SavedModel) -> None:
    values = np.asarray([0.3, 0.25, 1e-9], dtype=np.float32)
    data = Dataset.from_pandas(rows(30, 1), preserve_index=False)
    part = Dataset.from_dict({"dose": list(np.resize(values, 30))}, features=Features({"dose": Value("float32")}))
    found = evaluate(
        saved, data=data.add_column("dose", part.data["dose"].to_pylist(), feature=Value("float32")), by="dose"
    )
    assert set(found.slices) == {"0.3", "0.25", "1e-09"}
    gaps = data.add_column("shop", [None, "a"] * 15)
    assert set(evaluate(saved, data=gaps, by="shop").slices) == {"(null)", "a"}


def test_rows_that_cannot_be_used_are_left_out_when_asked(saved: SavedModel) -> None:
    frame = rows(30, 1)
    frame.loc[3, "text"] = None
    with pytest.raises(DataError, match="1 row"):
        evaluate(saved, data=frame)
    assert evaluate(saved, data=frame, on_bad_row="skip").rows == 29


def command(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        app(["evaluate", *arguments], prog_name="hf-sft")
    printed = capfd.readouterr()
    return int(caught.value.code or 0), printed.out, printed.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder.parquet", "a folder"),
        ("p.csv", "a file .parquet"),
        ("-", "a file .parquet"),
        ("nowhere/p.parquet", "a folder that exists"),
        ("old.parquet", "--overwrite"),
    ],
)
def test_a_file_for_predictions_is_judged_before_the_model_is_loaded(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "old.parquet").touch()
    monkeypatch.setattr("hf_sft.commands.evaluate.load_saved", lambda *_, **__: pytest.fail("the model is loaded"))
    code, out, error = command(capfd, "no such model", "-o", name)
    assert (code, out) == (2, "") and words in error and "Traceback" not in error


def test_predictions_are_written_over_a_file_when_asked(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.parquet"
    file.write_text("old")
    assert command(capfd, str(run), "-o", str(file), "--overwrite")[0] == 0
    assert pyarrow.parquet.read_table(file).num_rows == 30
    found = evaluate(run)
    with pytest.raises(EnvironmentProblem, match="--overwrite"):
        found.write_predictions(file)

    def full(table: Any, path: Path) -> None:
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        found.write_predictions(file, overwrite=True)
    monkeypatch.undo()
    assert pyarrow.parquet.read_table(file).num_rows == 30 and [path.name for path in tmp_path.iterdir()] == [file.name]


def test_errors_of_the_command_name_flags_that_exist(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows(30, 1).to_csv("semi.csv", sep=";", index=False)
    frame = rows(30, 1)
    frame.loc[3, "text"] = None
    frame.to_json("gap.jsonl", orient="records", lines=True)
    code, _, error = command(capfd, str(run), "--data", "semi.csv")
    assert code == 2 and "--option sep=';'" in error and "dataset.options" not in error
    assert command(capfd, str(run), "--data", "semi.csv", "--option", "sep=;")[0] == 0
    code, _, error = command(capfd, str(run), "--data", "gap.jsonl")
    assert code == 2 and "--on-bad-row skip" in error and "dataset." not in error
    assert command(capfd, str(run), "--data", "gap.jsonl", "--on-bad-row", "skip")[0] == 0
    code, _, error = command(capfd, str(run), "--data", "nowhere.csv")
    assert code == 2 and "relative paths start from the working directory" in error


def test_json_of_the_command_has_null_where_a_number_is_not_defined(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from hf_sft.commands import evaluate as module

    monkeypatch.setattr(module, "bootstrap_intervals", lambda *_, **__: {"accuracy": [float("nan"), float("inf")]})
    code, out, _ = command(capfd, str(run), "--json")
    assert code == 0
    assert json.loads(out, parse_constant=pytest.fail)["intervals"] == {"accuracy": [None, None]}


def test_columns_and_label_map_change_nothing_else_of_the_run_s_own_rows(run: Path) -> None:
    plain = evaluate(run, split="validation")
    for changes in ({"columns": {"text": "text"}}, {"label_map": {"positive": "positive"}}):
        assert evaluate(run, split="validation", **changes).metrics == pytest.approx(plain.metrics)
    with pytest.raises(RecipeError, match="did you mean 'label'"):
        evaluate(run, columns={"lable": "label"})
    with pytest.raises(DataError, match="label_map"):
        evaluate(run, label_map={"nosuch": "positive"})
    assert any("trained on these rows" in note for note in evaluate(run, split="train").notes)


def test_rows_that_have_changed_since_the_run_are_pointed_out(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    shutil.copytree(run.parent / "data", tmp_path / "data")
    text = (moved / "recipe.yaml").read_text().replace(str(run.parent / "data"), str(tmp_path / "data"))
    (moved / "recipe.yaml").write_text(text)
    assert not evaluate(moved, split="validation").notes
    rows(40, 5).to_csv(tmp_path / "data" / "train.csv", index=False)
    assert any("not the rows of the run's validation" in note for note in evaluate(moved, split="validation").notes)
    rows(40, 5).assign(label="meh").to_csv(tmp_path / "data" / "test.csv", index=False)
    with pytest.raises(DataError, match="labels that the model knows"):
        evaluate(moved, split="test")


def test_the_command_prints_a_table_or_json_alone(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, text, _ = command(capfd, str(run), "--split", "test")
    assert code == 0 and "macro_f1" in text and "per class" in text
    code, text, _ = command(capfd, str(run), "--json", "--metric", "accuracy")
    assert code == 0 and set(json.loads(text)["metrics"]) == {"loss", "accuracy"}
    code, text, _ = command(capfd, str(run), "--data", "nowhere.csv")
    assert code == 2
