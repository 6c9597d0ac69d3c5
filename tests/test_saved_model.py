"""Laws of saved models: what a folder is, is read from itself; what is none says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import IMAGE_FAMILIES, TEXT_FAMILIES, save_image_model, save_text_model
from transformers import AutoTokenizer

from hf_sft.errors import DataError, ModelError
from hf_sft.recipe import Recipe
from hf_sft.record import RunDirectory
from hf_sft.saved_model import load_saved, name_columns


@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *IMAGE_FAMILIES])
def test_task_labels_and_problem_are_read_from_the_folder(family: str, tmp_path: Path) -> None:
    text = family in TEXT_FAMILIES
    (save_text_model if text else save_image_model)(family, tmp_path, labels=["no", "yes", "maybe"])
    saved = load_saved(tmp_path)
    assert saved.task.name == ("text-classification" if text else "image-classification")
    assert saved.labels.names == ("no", "yes", "maybe") and saved.labels.problem == "single_label"
    assert not saved.model.training and next(saved.model.parameters()).dtype == torch.float32
    assert saved.run is None


@pytest.mark.parametrize(
    ("changes", "problem", "thresholds"),
    [
        ({"problem_type": "multi_label_classification", "hf_sft_thresholds": [0.2, 0.7]}, "multi_label", (0.2, 0.7)),
        ({"problem_type": "single_label_classification"}, "single_label", None),
    ],
)
def test_problem_and_thresholds_are_those_of_the_config(
    changes: dict[str, object], problem: str, thresholds: tuple[float, ...] | None, tmp_path: Path
) -> None:
    save_text_model("bert", tmp_path, labels=["a", "b"])
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    labels = load_saved(tmp_path).labels
    assert (labels.problem, labels.thresholds) == (problem, thresholds)


@pytest.mark.parametrize("length", [16, 48])
def test_texts_are_cut_where_the_tokenizer_was_saved_to_cut_them(length: int, tmp_path: Path) -> None:
    save_text_model("bert", tmp_path, labels=["a", "b"])
    AutoTokenizer.from_pretrained(tmp_path, model_max_length=length).save_pretrained(tmp_path)
    assert load_saved(tmp_path).processor.model_max_length == length


def test_a_run_and_its_model_folder_are_one(tmp_path: Path) -> None:
    (tmp_path / "data.csv").touch()
    save_text_model("bert", tmp_path / "run" / "model", labels=["a", "b"])
    run = RunDirectory(tmp_path / "run")
    recipe = Recipe.from_dict(
        {
            "task": "text-classification",
            "model": {"name": "x"},
            "dataset": {"path": "data.csv", "columns": {"text": "body"}},
        },
        folder=tmp_path,
    )
    run.recipe.write_text(recipe.to_yaml(absolute_paths=True))
    run.record.write_text("{}")
    for named in (tmp_path / "run", tmp_path / "run" / "model"):
        saved = load_saved(named)
        assert saved.run == run and saved.recipe.dataset.columns == {"text": "body"}
        assert saved.recipe.dataset.path == str(tmp_path / "data.csv")


def _without_head(folder: Path) -> None:
    shutil.rmtree(folder)
    save_text_model("bert", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "a folder that exists"),
        (lambda folder: (folder / "config.json").unlink(), "without config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights in that folder"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "the file is damaged"),
        (_without_head, "fine-tune it first"),
        (lambda folder: [file.unlink() for file in folder.glob("token*")], "a tokenizer with a vocabulary"),
        (lambda folder: (shutil.rmtree(folder), save_text_model("bert", folder)), "a model with a classifier"),
    ],
)
def test_what_is_no_trained_model_says_why(spoil: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    folder = save_text_model("bert", tmp_path / "model", labels=["a", "b"])
    spoil(folder)
    with pytest.raises(ModelError, match=words):
        load_saved(folder)


def test_a_mistyped_run_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "plain").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="did you mean 'plain'"):
        load_saved("runs/plian")


def test_a_run_that_has_not_finished_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "asked.yaml").write_text("task: text-classification")
    with pytest.raises(ModelError, match="has not finished"):
        load_saved(tmp_path)


def test_columns_are_those_given_else_the_runs_else_the_usual_ones(tmp_path: Path) -> None:
    saved = load_saved(save_text_model("bert", tmp_path, labels=["a", "b"]))

    def columns(available: list[str], **given: str) -> dict[str, str | list[str]]:
        return name_columns(saved, available, given, "the file").dataset.columns

    assert columns(["text", "review"]) == {}
    assert columns(["id", "review", "body"]) == {"text": "review"}
    assert columns(["anything"]) == {"text": "anything"}
    assert columns(["a", "b"], text="b", label="x") == {"text": "b", "label": "x"}
    for available, given in ((["a", "b"], {}), (["text", "b"], {"text": "c"})):
        with pytest.raises(DataError, match="the file"):
            columns(available, **given)
