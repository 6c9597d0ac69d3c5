"""What goes wrong in prediction: found before anything is predicted where it can be, named, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from datasets import Dataset
from PIL.Image import fromarray
from tiny_saved import load, pictures, ragged
from tokenizers.processors import TemplateProcessing

import hf_sft.commands.predict
from hf_sft.commands.predict import predict
from hf_sft.errors import DataError, EnvironmentProblem, HfSftError, RecipeError
from hf_sft.evaluation import Evaluator
from hf_sft.saved_model import SavedModel
from hf_sft.table_files.reading import open_rows


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def bert(folders: Path) -> SavedModel:
    return load("bert", folders)


class Never(SavedModel):
    """A model that must not be asked."""

    def evaluator(self, *_: Any, **__: Any) -> Evaluator:
        raise AssertionError("rows were predicted")


@pytest.mark.parametrize(
    ("inputs", "options", "expected"),
    [
        ([{"text": "a", "prediction": 1}], {}, r"column prediction.*--prefix new_.*prefix='new_'"),
        ([{"text": "a"}, {"text": "b", "score_neutral": 1}], {}, r"column score_neutral"),
        ([{"text": "a", "score_1": 1}], {"top_k": 1}, r"column score_1"),
        ([{"a": "x", "b": "y"}], {}, r"columns\.text.*columns 'a', 'b'.*--columns text=NAME"),
        ([{"text": "x", "b": "y"}], {"columns": {"text": "c"}}, r"a column 'c'"),
        (["a"], {"columns": {"txt": "text"}}, r"columns\.txt.*text-classification.*did you mean 'text'"),
        (["a"], {"columns": {"image": "text"}}, r"columns\.image.*text-classification"),
        (["a"], {"batch_size": 0}, r"batch_size.*at least 1.*0"),
        (["a"], {"top_k": 0}, r"top_k.*at least 1.*0"),
        ([fromarray(np.zeros((3, 3), np.uint8))], {}, r"input.*a column of text for text-c.*images \(the inputs\)"),
        ([None], {}, r"row 0 of the inputs.*text in 'text'.*nothing"),
        ([{"text": "a"}, {"text": 3}], {}, r"row 1 of the inputs.*text in 'text'.*3 \(a whole number\)"),
        ([{"text": "a"}, {"id": 3}], {}, r"row 1 of the inputs.*text in 'text'.*no 'text'"),
        ([{"text": ["a"]}], {}, r"row 0.*text in 'text'.*\(a list\)"),
        (["a", "\ud800"], {}, r"row 1 of the inputs.*surrogate"),
        ([None] * 9, {}, r"row 0 of.*row 4 of(?!.*row 5 of).*4 more rows"),
        (pandas.DataFrame({"text": ["a", None]}), {}, r"row 1 of the frame.*nothing"),
        (Dataset.from_dict({"text": ["a", None]}), {}, r"row 1 of the data set.*nothing"),
    ],
)  # fmt: skip
def test_what_cannot_be_predicted_is_found_before_anything_is(
    inputs: Any, options: dict[str, Any], expected: str, bert: SavedModel, tmp_path: Path
) -> None:
    with pytest.raises(HfSftError, match=f"(?s){expected}"):
        predict(Never(**vars(bert)), inputs, tmp_path / "o.csv", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"text": null}\n', r"row 1 of a\.jsonl \(line 3\).*text in 'text'.*nothing"),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', r"row 1 of a\.jsonl \(line 2\).*3 \(a whole number\)"),
        ("a.jsonl", '{"text": "a"}\n{"id": 3}\n', r"row 1 of a\.jsonl \(line 2\).*no 'text'"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"line 2 of a\.jsonl.*a JSON object"),
    ],
)
def test_a_bad_row_of_a_file_is_named_with_its_line(
    file: str, content: str, expected: str, bert: SavedModel, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=f"(?s){expected}"):
        predict(Never(**vars(bert)), tmp_path / file)


def test_nothing_is_loaded_for_an_input_or_output_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        predict("no/such/model/here", tmp_path / "nowhere.csv", tmp_path / "o.csv")
    with pytest.raises(EnvironmentProblem, match=r"(?s)no/such/folder"):
        predict("no/such/model/here", ["a"], "no/such/folder/o.csv")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (b"", r"cannot identify"),
        (b"no image", r"cannot identify"),
        ("half", r"truncated"),
        ("nowhere.png", r"no file .*nowhere\.png"),
        (None, r"an image, or the path of one,.*nothing"),
        (3, r"3 \(a whole number\)"),
    ],
)
def test_an_image_that_does_not_decode_is_named(cell: Any, expected: str, folders: Path, tmp_path: Path) -> None:
    pictures(1)[0].save(tmp_path / "good.png")
    content = (tmp_path / "good.png").read_bytes()
    (tmp_path / "half").write_bytes(content[: len(content) // 2])
    cell = str(tmp_path / "half") if cell == "half" else cell
    rows = [{"image": content}, {"image": content}, {"image": cell}]
    with pytest.raises(DataError, match=f"(?s)row 2 of the inputs.*{expected}"):
        predict(load("vit", folders), rows, batch_size=2)


def test_a_text_without_any_token_is_named(folders: Path) -> None:
    saved = load("bert", folders)
    saved.processor.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    with pytest.raises(DataError, match=r"(?s)row 1 of the inputs.*at least one token"):
        predict(saved, ["good", "", "bad"])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_what_was_predicted_before_a_late_fault_is_kept(
    ending: str, bert: SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_sft.commands.predict, "BATCHES_SORTED", 1)
    rows = [{"text": text} for text in ragged(9)] + [{"text": None}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expected = rf"(?s)row 9 of in\.jsonl.*o\.{ending}\.partial.*first 8 rows \(0 to 7\) are kept"
    with pytest.raises(DataError, match=expected):
        predict(bert, tmp_path / "in.jsonl", tmp_path / f"o.{ending}", batch_size=4)
    assert not (tmp_path / f"o.{ending}").exists()
    kept = (tmp_path / f"o.{ending}.partial").rename(tmp_path / f"kept.{ending}")
    assert [row["text"] for row in open_rows(kept).read()] == ragged(9)[:8]


def test_an_existing_file_is_replaced_only_when_asked(bert: SavedModel, tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    out.write_text("earlier")
    with pytest.raises(EnvironmentProblem, match="--overwrite"):
        predict(bert, ["good"], out)
    assert out.read_text() == "earlier"
    predict(bert, ["good"], out, overwrite=True)
    assert out.read_text().startswith("text,prediction,")


def test_a_regression_has_no_best_labels(folders: Path) -> None:
    saved = load("bert", folders, labels=["label"], problem_type="regression")
    with pytest.raises(RecipeError, match=r"(?s)top_k.*regression"):
        predict(saved, ["good"], top_k=1)


def test_a_batch_too_large_for_the_device_says_which_is_smaller(
    bert: SavedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(bert.model, "forward", full)
    with pytest.raises(EnvironmentProblem, match=r"(?s)memory.*--batch-size 8"):
        predict(bert, ["good"], batch_size=32)


def test_a_new_prefix_ends_a_clash_of_names(bert: SavedModel) -> None:
    (row,) = predict(bert, [{"text": "good", "prediction": "x"}], prefix="new_").rows
    assert list(row) == ["text", "prediction", "new_prediction", *(f"new_score_{name}" for name in bert.labels.names)]
    assert row["prediction"] == "x"


def test_types_that_parquet_cannot_hold_are_found_before_anything_is_predicted(
    bert: SavedModel, tmp_path: Path
) -> None:
    rows = [{"text": "a", "x": 1}, {"text": "b", "x": "y"}]
    with pytest.raises(DataError, match=r"(?s)column 'x' of the inputs.*one type.*\.jsonl"):
        predict(Never(**vars(bert)), rows, tmp_path / "o.parquet")
    assert not list(tmp_path.iterdir())
    assert len(predict(bert, rows, tmp_path / "o.csv")) == len(predict(bert, rows, tmp_path / "o.jsonl")) == 2
