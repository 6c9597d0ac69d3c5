"""Laws of prediction: rows in their order whatever the batches, the scores of `pipeline`, nothing lost on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet
import pytest
import torch
from datasets import load_dataset
from tiny import TEXT_FAMILIES, images, texts
from tiny_runs import make_data, make_recipe
from tiny_saved import load, pictures, ragged
from transformers import pipeline

import hf_sft.commands.predict
from hf_sft.commands.predict import predict
from hf_sft.run import fine_tune
from hf_sft.saved_model import SavedModel
from hf_sft.table_files.reading import open_rows

FAMILIES = ("bert", "roberta", "gpt2", "vit", "timm_resnet")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def bert(folders: Path) -> SavedModel:
    return load("bert", folders)


def as_scores(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> np.ndarray:
    return np.array([[row[f"score_{name}"] for name in names] for row in rows])


# the numbers


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
@pytest.mark.parametrize("family", FAMILIES)
def test_labels_and_scores_are_those_of_pipeline(family: str, problem: str, folders: Path) -> None:
    config: dict[str, Any] = {"problem_type": problem} | ({"labels": ["label"]} if problem == "regression" else {})
    saved = load(family, folders, **config)
    inputs: list[Any] = ragged(12) if family in TEXT_FAMILIES else pictures(6)
    ask = pipeline(saved.task.name, saved.source, device="cpu")
    options = {"truncation": True} if family in TEXT_FAMILIES else {}
    answers = [ask(entry, top_k=100, **options) for entry in inputs]
    rows = predict(saved, inputs, batch_size=4).rows
    if problem == "regression":
        expected, found = [[answer["score"]] for (answer,) in answers], [[row["prediction"]] for row in rows]
    else:
        expected = [[answer["score"] for name in saved.labels.names for answer in answered if answer["label"] == name]
                    for answered in answers]  # fmt: skip
        found = as_scores(rows, saved.labels.names).tolist()
    assert np.std(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    if problem == "single_label_classification":
        assert [row["prediction"] for row in rows] == [answered[0]["label"] for answered in answers]


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_pairs_are_read_as_pipeline_reads_them(family: str, folders: Path) -> None:
    saved = load(family, folders)
    pairs = [
        {"one": one, "other": other} for one, other in zip(texts(8)["text"], texts(8, seed=1)["text"], strict=True)
    ]
    ask = pipeline(saved.task.name, saved.source, device="cpu")
    inputs = [{"text": pair["one"], "text_pair": pair["other"]} for pair in pairs]
    answers = [ask(entry, top_k=1, truncation=True)[0] for entry in inputs]
    rows = predict(saved, pairs, columns={"text": "one", "text_pair": "other"}, top_k=1).rows
    assert [row["prediction_1"] for row in rows] == [answer["label"] for answer in answers]
    scores = [answer["score"] for answer in answers]
    np.testing.assert_allclose([row["score_1"] for row in rows], scores, rtol=0, atol=1e-5)


def test_labels_of_a_row_are_those_above_the_models_thresholds(folders: Path, tmp_path: Path) -> None:
    plain = load("bert", folders, problem_type="multi_label_classification")
    thresholds = [0.0, 1.0, float(np.median(as_scores(predict(plain, ragged(12)).rows, plain.labels.names)[:, 2]))]
    saved = load("bert", folders, problem_type="multi_label_classification", hf_sft_thresholds=thresholds)
    rows = predict(saved, ragged(12)).rows
    scores = as_scores(rows, saved.labels.names)
    hits = scores >= thresholds
    assert hits.sum() > len(rows) and hits[:, 2].any() and not hits[:, 2].all()
    names = [[name for name, hit in zip(saved.labels.names, row, strict=True) if hit] for row in hits]
    assert [row["prediction"] for row in rows] == names
    predict(saved, ragged(12), tmp_path / "o.csv")
    cells = [row["prediction"] for row in open_rows(tmp_path / "o.csv").read()]
    assert cells == ["|".join(row) for row in names]
    best = predict(saved, ragged(12), top_k=2).rows
    np.testing.assert_array_equal([[row["score_1"], row["score_2"]] for row in best], -np.sort(-scores)[:, :2])


@pytest.mark.parametrize("top_k", [1, 2, 3, 10])
def test_the_best_labels_are_the_first_of_all_by_their_score(top_k: int, bert: SavedModel) -> None:
    inputs, names = ragged(10), bert.labels.names
    every, best = predict(bert, inputs).rows, predict(bert, inputs, top_k=top_k).rows
    for all_scores, row in zip(every, best, strict=True):
        order = sorted(names, key=lambda name: -all_scores[f"score_{name}"])[:top_k]
        expected = {"text": all_scores["text"]}
        for rank, name in enumerate(order, 1):
            expected |= {f"prediction_{rank}": name, f"score_{rank}": all_scores[f"score_{name}"]}
        assert list(row.items()) == list(expected.items())
        assert row["prediction_1"] == all_scores["prediction"]


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
@pytest.mark.parametrize("family", ["bert", "vit"])
def test_a_run_predicts_as_its_own_predictions_file_says(family: str, problem: str, tmp_path: Path) -> None:
    data, columns = make_data(family, problem, train=16, validation=8, test=12), {}
    if family == "bert":  # two columns, and a length that cuts: both are known from the run
        data = {role: rows.add_column("title", list(texts(len(rows), seed=7)["text"])) for role, rows in data.items()}
        columns = {"columns": {"text": ["title", "text"]}}
    recipe = make_recipe(family, tmp_path, tmp_path / "run", dataset=columns, training={"num_train_epochs": 1})
    if family == "bert":
        recipe = recipe.model_copy(update={"processor": recipe.processor.model_copy(update={"max_length": 9})})
    record = fine_tune(recipe, data=data)
    expected = pyarrow.parquet.read_table(record.directory.predictions("test")).to_pylist()
    rows = predict(tmp_path / "run", data["test"].remove_columns("label")).rows
    numbers = [name for name, value in rows[0].items() if isinstance(value, float)]
    assert numbers == (
        ["prediction"] if problem == "regression" else [f"score_{name}" for name in record.labels["names"]]
    )
    found, wanted = ([[row[name] for name in numbers] for row in part] for part in (rows, expected))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    if problem != "regression":
        assert [row["prediction"] for row in rows] == [row["prediction"] for row in expected]


# the rows


@pytest.mark.parametrize(("batch_size", "chunk"), [(1, 1), (2, 3), (7, 1), (64, 64), (1000, 1)])
def test_rows_come_in_their_order_whatever_the_batches(
    batch_size: int, chunk: int, bert: SavedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = ragged(23)
    expected = predict(bert, inputs).rows
    monkeypatch.setattr(hf_sft.commands.predict, "BATCHES_SORTED", chunk)
    rows = predict(bert, inputs, batch_size=batch_size).rows
    assert [row["text"] for row in rows] == inputs
    found, wanted = (as_scores(part, bert.labels.names) for part in (rows, expected))
    assert len(np.unique(wanted.round(4), axis=0)) > 10
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def write_table(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    frame = pandas.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False, lineterminator="\r\n")
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("to", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("of", ["csv", "jsonl", "parquet"])
def test_every_table_keeps_its_columns_and_rows_in_every_table(
    of: str, to: str, bert: SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tricky = ["", "007", " a ", 'say "hi"', "two\nlines", "c\rd", "a\r\nb", "NaN", "x,y"]
    rows = [{"id": f"0{n}", "text": text, "note": tricky[n % len(tricky)]} for n, text in enumerate(ragged(20))]
    monkeypatch.setattr(hf_sft.commands.predict, "BATCHES_SORTED", 1)
    done = predict(bert, write_table(tmp_path / f"in.{of}", rows), tmp_path / f"out.{to}", batch_size=8)
    found = list(open_rows(tmp_path / f"out.{to}").read())
    added = ["prediction", *(f"score_{name}" for name in bert.labels.names)]
    assert [list(row) for row in found] == [["id", "text", "note", *added]] * 20
    assert [{name: row[name] for name in ("id", "text", "note")} for row in found] == rows
    expected = predict(bert, [row["text"] for row in rows]).rows
    assert [row["prediction"] for row in found] == [row["prediction"] for row in expected]
    scores = np.array([[float(row[name]) for name in added[1:]] for row in found])
    np.testing.assert_allclose(scores, as_scores(expected, bert.labels.names), rtol=0, atol=1e-6)
    assert (done.path, done.rows, len(done)) == (tmp_path / f"out.{to}", [], 20)


def test_rows_that_lack_columns_have_nothing_there_even_when_they_come_late(
    bert: SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_sft.commands.predict, "BATCHES_SORTED", 1)
    rows: list[dict[str, Any]] = [{"text": "good"}] * 4 + [{"new": 1, "text": "bad"}, {"text": "fine", "new": 0.5}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for ending in ("csv", "parquet", "jsonl"):
        predict(bert, tmp_path / "in.jsonl", tmp_path / f"o.{ending}", batch_size=2)
    assert pandas.read_parquet(tmp_path / "o.parquet")["new"].tolist()[4:] == [1.0, 0.5]
    assert pandas.read_csv(tmp_path / "o.csv", dtype=str, na_filter=False)["new"].tolist() == [""] * 4 + ["1", "0.5"]
    found = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [list(row)[:2] for row in found] == [["text", "prediction"]] * 4 + [["new", "text"], ["text", "new"]]


def test_images_of_a_data_set_are_still_images_in_parquet(folders: Path, tmp_path: Path) -> None:
    saved, rows = load("vit", folders), images(5)
    expected = predict(saved, list(rows["image"])).rows
    predict(saved, rows, tmp_path / "o.parquet")
    found = load_dataset("parquet", data_files=str(tmp_path / "o.parquet"), cache_dir=tmp_path / "cache")["train"]
    assert found.features["image"] == rows.features["image"]
    assert list(found["prediction"]) == [row["prediction"] for row in expected]
    again = predict(saved, tmp_path / "o.parquet", tmp_path / "again.csv", prefix="second_")
    assert (again.to_pandas()["second_prediction"] == again.to_pandas()["prediction"]).all()


def test_images_are_found_wherever_they_are_named(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, shown = load("vit", folders), pictures(4)
    (tmp_path / "in").mkdir()
    for number, picture in enumerate(shown):
        picture.save(tmp_path / "in" / f"{number}.png")
    names = [f"{number}.png" for number in range(4)]
    table = pandas.DataFrame({"id": range(4), "picture": [f"in/{name}" for name in names]})
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    expected = as_scores(predict(saved, shown).rows, saved.labels.names)
    kinds = {"folder": tmp_path / "in", "csv": tmp_path / "a.csv", "jsonl": tmp_path / "a.jsonl"}
    for inputs in kinds.values():
        rows = predict(saved, inputs, batch_size=3).rows
        np.testing.assert_allclose(as_scores(rows, saved.labels.names), expected, rtol=0, atol=1e-6)
    assert [row["file_name"] for row in predict(saved, tmp_path / "in")] == names
    monkeypatch.chdir(tmp_path)
    (one,) = predict(saved, "in/2.png").rows
    np.testing.assert_allclose(as_scores([one], saved.labels.names), expected[2:3], rtol=0, atol=1e-6)


def test_a_table_without_rows_is_a_table_with_the_new_columns(bert: SavedModel, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n")
    done = predict(bert, tmp_path / "in.csv", tmp_path / "o.csv")
    added = "prediction,score_negative,score_neutral,score_positive"
    assert (tmp_path / "o.csv").read_text() == f"id,text,{added}\n"
    assert str(done) == f"0 rows in 0.0 s -> {tmp_path / 'o.csv'}"
    predict(bert, tmp_path / "in.csv", tmp_path / "o.parquet")
    assert pyarrow.parquet.read_schema(tmp_path / "o.parquet").names == ["id", "text", *added.split(",")]
    assert predict(bert, []).rows == []


def test_no_more_than_two_chunks_of_rows_are_held(
    bert: SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows read from an iterator and not yet in the file: bounded, however many there are."""
    monkeypatch.setattr(hf_sft.commands.predict, "BATCHES_SORTED", 2)
    read, most = 0, 0
    out = tmp_path / "o.jsonl.partial"

    def rows() -> Iterator[str]:
        nonlocal read, most
        for _ in range(400):
            read += 1
            written = len(out.read_text().splitlines()) if out.exists() else 0
            most = max(most, read - written)
            yield "good film"

    assert len(predict(bert, rows(), tmp_path / "o.jsonl", batch_size=8)) == 400
    assert 16 <= most <= 17


def test_batches_hold_rows_of_similar_length(bert: SavedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    forward = bert.model.forward

    def spy(input_ids: torch.Tensor, **inputs: Any) -> Any:
        shapes.append(tuple(input_ids.shape))
        assert torch.is_inference_mode_enabled()
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(bert.model, "forward", spy)
    inputs = [" ".join(["good"] * (1 + number % 10)) for number in range(40)]
    predict(bert, inputs, batch_size=4)
    assert shapes == [(4, length + 2) for length in range(10, 0, -1)]


# what is shown


def test_standard_output_holds_rows_alone(bert: SavedModel, capfd: pytest.CaptureFixture[str]) -> None:
    predict(bert, ["good", "bad"], "-")
    captured = capfd.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert rows == predict(bert, ["good", "bad"]).rows
    assert captured.err == ""  # no terminal, no bar


def test_the_bar_counts_rows_as_they_are_predicted(bert: SavedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Bar:
        def __init__(self, **options: Any):
            seen.append((options["total"], options["disable"]))

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: Any) -> None: ...

        def update(self, number: int) -> None:
            seen.append(number)

    monkeypatch.setattr(hf_sft.commands.predict, "tqdm", Bar)
    predict(bert, ragged(10), batch_size=4)
    predict(bert, (text for text in ragged(3)))
    assert seen == [(10, None), 4, 4, 2, (None, None), 3]


def test_predictions_print_as_a_table(bert: SavedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    done = predict(bert, [{"text": "<b>good</b> \x1b[31m" + "film " * 40, "id": number} for number in range(1200)])
    lines = str(done).splitlines()
    assert lines[0].split() == ["text", "id", "prediction", "score_negative", "score_neutral", "score_positive"]
    assert lines[-1].startswith("1,200 rows in ") and lines[-1].endswith(" a second)")
    assert all(len(line) <= 100 for line in lines)
    assert len(lines) < 30 and "\x1b" not in str(done)
    page = done._repr_html_()
    assert "<b>good" not in page and "&lt;b&gt;good" in page and "1,200 rows" in page
    assert done.to_pandas().shape == (1200, 6)
    assert (len(done), done[3]["id"], next(iter(done))["id"]) == (1200, 3, 0)
