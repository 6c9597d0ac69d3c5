"""The whole flow over every family of models: what a run leaves, that it is plain Hugging Face, and what trains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from datasets import Dataset, Image
from PIL.Image import Exif, Resampling, fromarray
from safetensors.torch import load_file
from tiny import (
    IMAGE_FAMILIES,
    OTHER_IMAGE_FAMILIES,
    TEXT_FAMILIES,
    TIMM_ARCHITECTURES,
    images,
    save_image_model,
    save_text_model,
    texts,
)
from tiny_runs import make_data, make_recipe, prepare, train
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    TrainerCallback,
    pipeline,
)

from hf_sft import Recipe, RunRecord, fine_tune
from hf_sft.errors import ModelError

FAMILIES = (*TEXT_FAMILIES, *IMAGE_FAMILIES, *OTHER_IMAGE_FAMILIES)
MAX_LENGTH = 10  # tokens; the longest texts below have more, and more than the models have positions
MODES = ("RGB", "L", "P", "RGBA", "LA", "1", "I;16")


def text_rows() -> Dataset:
    """Ragged texts, one word to 90."""
    rows = texts(16, seed=1)
    long = " ".join(["the film was not very good"] * 15)
    more = {"text": ["good", long, "bad " + long], "label": ["positive", "positive", "negative"]}
    return Dataset.from_dict({name: list(rows[name]) + more[name] for name in ("text", "label")})


def image_files(folder: Path) -> Dataset:
    """One image file per mode, none square, and photographs that were taken with the camera turned."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    blocks = fromarray(generator.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize((40, 52), Resampling.NEAREST)
    paths = []
    for mode in MODES:
        picture = blocks.convert("L").convert("I;16") if mode == "I;16" else blocks.convert(mode)
        if mode in ("RGBA", "LA"):
            picture.putalpha(fromarray(generator.integers(0, 256, (52, 40), dtype=np.uint8)))
        paths.append(folder / f"{len(paths)}.png")
        picture.save(paths[-1])
    for orientation in (3, 6, 8):
        exif = Exif()
        exif[0x0112] = orientation
        paths.append(folder / f"{len(paths)}.jpg")
        blocks.save(paths[-1], exif=exif)
    rows = {"image": [str(path) for path in paths], "label": [index % 2 for index in range(len(paths))]}
    return Dataset.from_dict(rows, features=images(1).features)


class Finished:
    """One finished run of a family, and the raw inputs of its validation split."""

    def __init__(self, family: str, folder: Path, **changes: Any):
        self.text = family in TEXT_FAMILIES
        self.task = "text-classification" if self.text else "image-classification"
        self.family = family
        self.prefix = {"gpt2": "transformer", "modernbert": "model"}.get(family, family)
        self.base = folder / "base"
        (save_text_model if self.text else save_image_model)(family, self.base)
        validation = text_rows() if self.text else image_files(folder / "images")
        train_rows, test = (texts(24), texts(8, seed=2)) if self.text else (images(16), images(8, seed=2))
        recipe: dict[str, Any] = {
            "task": self.task,
            "model": {"name": str(self.base)},
            "dataset": {"path": "memory"},
            "training": {"num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-2},
            "processor": {"max_length": MAX_LENGTH} if self.text else {},
            "output_dir": str(folder / "run"),
        }
        data = {"train": train_rows, "validation": validation, "test": test}
        self.record = fine_tune(recipe | changes, data=data)
        self.directory = self.record.directory
        column = "text" if self.text else "image"
        self.raw = list(
            validation[column] if self.text else validation.cast_column(column, Image(decode=False))[column]
        )
        self.raw = self.raw if self.text else [image["path"] for image in self.raw]


@pytest.fixture(scope="module", params=FAMILIES)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(request.param, tmp_path_factory.mktemp(request.param))


def read_predictions(directory: Any, split: str) -> dict[str, list[Any]]:
    return pyarrow.parquet.read_table(directory.predictions(split)).to_pydict()


def classify(task: str, model: Path, inputs: list[Any]) -> list[dict[str, float]]:
    """Label -> score as a user of the Hub gets them, one input at a time."""
    options: dict[str, Any] = {"truncation": True} if task == "text-classification" else {}
    ask = pipeline(task, str(model), device="cpu")
    answers = [ask(entry, top_k=100, **options) for entry in inputs]
    return [{answer["label"]: answer["score"] for answer in answered} for answered in answers]


def assert_same_scores(predictions: Mapping[str, list[Any]], answers: list[dict[str, float]], names: list[str]) -> None:
    assert [set(answer) for answer in answers] == [set(names)] * len(answers)
    for name in names:
        np.testing.assert_allclose(
            [answer[name] for answer in answers], predictions[f"score_{name}"], rtol=0, atol=1e-5
        )


# what a run leaves


def test_a_run_leaves_the_whole_run_directory_and_nothing_to_resume(finished: Finished) -> None:
    path = finished.directory.path
    found = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    inputs = {"tokenizer.json", "tokenizer_config.json"} if finished.text else {"preprocessor_config.json"}
    model = {"config.json", "model.safetensors", "README.md", "recipe.yaml"}
    model |= set() if finished.family in TIMM_ARCHITECTURES else inputs
    expected = {"recipe.yaml", "record.json", "predictions/validation.parquet", "predictions/test.parquet"}
    pictures = {"report/curves.png", "report/confusion.png"}  # and beside the card, which shows them
    assert found - {"asked.yaml"} == expected | pictures | {f"model/{name}" for name in model | pictures}
    assert RunRecord.load(path).metrics == json.loads(json.dumps(finished.record.metrics))
    assert Recipe.load(finished.directory.recipe).training["num_train_epochs"] == 1
    assert yaml.safe_load((finished.directory.model / "recipe.yaml").read_text())["task"] == finished.task


def test_pipeline_gives_the_labels_and_scores_of_the_predictions_file(finished: Finished) -> None:
    predictions = read_predictions(finished.directory, "validation")
    assert predictions["row_id"] == list(range(len(finished.raw)))
    answers = classify(finished.task, finished.directory.model, finished.raw)
    assert_same_scores(predictions, answers, finished.record.labels["names"])
    assert [max(answer, key=lambda name: answer[name]) for answer in answers] == predictions["prediction"]


def test_the_saved_model_has_the_labels_and_float32_weights(finished: Finished) -> None:
    auto = AutoModelForSequenceClassification if finished.text else AutoModelForImageClassification
    model = auto.from_pretrained(finished.directory.model)
    names = ["negative", "positive"] if finished.text else ["up", "down"]
    assert finished.record.labels["names"] == names
    assert model.config.id2label == dict(enumerate(names))
    assert model.config.label2id == {name: index for index, name in enumerate(names)}
    assert model.config.problem_type == "single_label_classification"
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    saved = load_file(finished.directory.model / "model.safetensors")
    assert {value.dtype for value in saved.values() if value.is_floating_point()} == {torch.float32}


def test_full_training_changes_every_weight(finished: Finished) -> None:
    files = (folder / "model.safetensors" for folder in (finished.base, finished.directory.model))
    before, backbone = (
        {name.removeprefix(f"{finished.prefix}."): value for name, value in load_file(file).items()} for file in files
    )
    shared = [name for name in backbone if name in before and before[name].shape == backbone[name].shape]
    assert len(shared) > 0.5 * len(before)
    # of biases, those that a softmax or a following norm takes out have no gradient but rounding errors
    assert not [name for name in shared if name.endswith("weight") and torch.equal(before[name], backbone[name])]


@pytest.mark.parametrize("family", ["bert", "resnet"])
def test_what_is_reported_after_training_in_half_precision_is_what_the_saved_weights_give(
    family: str, tmp_path: Path
) -> None:
    finished = Finished(family, tmp_path, run={"precision": "bf16"})
    answers = classify(finished.task, finished.directory.model, finished.raw)
    assert_same_scores(read_predictions(finished.directory, "validation"), answers, finished.record.labels["names"])


@pytest.mark.parametrize("family", ["bert", "timm_resnet"])
def test_a_kept_head_goes_on_with_its_own_ids_and_what_it_knows(family: str, tmp_path: Path) -> None:
    names = ("positive", "negative") if family in TEXT_FAMILIES else ("up", "down")
    order = names if sorted(names) != list(names) else names[::-1]
    save = save_text_model if family in TEXT_FAMILIES else save_image_model
    save(family, tmp_path / family, labels=order)
    data = make_data(family, train=8, validation=8)
    recipe = make_recipe(family, tmp_path, tmp_path / "run", training={"learning_rate": 1e-12, "max_steps": 1})
    record = fine_tune(recipe, data=data)
    assert record.labels["names"] == list(order)
    predictions = read_predictions(record.directory, "validation")
    features = data["validation"].features["label"]
    labels = data["validation"]["label"]
    assert predictions["reference"] == [
        label if isinstance(label, str) else features.int2str(label) for label in labels
    ]
    if family in TEXT_FAMILIES:
        inputs = list(data["validation"]["text"])
        assert_same_scores(predictions, classify("text-classification", tmp_path / family, inputs), list(order))
    assert "kept" in record.parameters["head"]


def test_images_that_the_model_cannot_take_are_found_before_training(tmp_path: Path) -> None:
    recipe = make_recipe("vit", tmp_path, tmp_path / "run", processor={"size": 48})
    with pytest.raises(ModelError, match=r"(?s)forward pass of one row.*48, 48.*processor\.size"):
        fine_tune(recipe, data=make_data("vit", train=8, validation=8))
    assert not (tmp_path / "run").exists()


# strategies


class SeeModules(TrainerCallback):
    """Which modules are in training mode while gradients are computed."""

    def __init__(self) -> None:
        self.training: dict[str, bool] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training = {name: module.training for name, module in kwargs["model"].named_modules()}


@pytest.mark.parametrize("family", FAMILIES)
def test_head_alone_trains_and_the_rest_stays_bit_identical(family: str, tmp_path: Path) -> None:
    recipe = make_recipe(family, tmp_path, tmp_path / "run", tuning={"strategy": "head"})
    work = prepare(recipe, make_data(family, train=16, validation=8))
    model = work.built.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    head = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert 0 < len(head) <= 10
    see = SeeModules()
    train(work, [see])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert changed == head
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name not in head)
    for name, module in model.named_modules():
        trained = [parameter.requires_grad for parameter in module.parameters()]
        assert not trained or see.training[name] == any(trained)


DROPOUT: dict[str, dict[str, Any]] = {  # settings under which both the backbone and the head drop
    "bert": {"hidden_dropout_prob": 0.5, "classifier_dropout": 0.5},
    "distilbert": {"dropout": 0.5, "seq_classif_dropout": 0.5},
    "modernbert": {"embedding_dropout": 0.5, "mlp_dropout": 0.5, "classifier_dropout": 0.5},
    "timm_vit": {"model_args": {"img_size": 32, "pos_drop_rate": 0.5, "proj_drop_rate": 0.5, "drop_rate": 0.5}},
    "timm_efficientnet": {"model_args": {"drop_rate": 0.5, "drop_path_rate": 0.5}},
}


@pytest.mark.parametrize("family", DROPOUT)
def test_dropout_of_the_frozen_part_is_off_and_that_of_the_head_on(family: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"tuning": {"strategy": "head"}, "model": {"config": DROPOUT[family]}}
    work = prepare(make_recipe(family, tmp_path, tmp_path / "run", **changes), make_data(family, train=8, validation=8))
    model, see = work.built.model, SeeModules()
    train(work, [see])
    modules = dict(model.named_modules())
    for name, training in see.training.items():
        modules[name].training = training
    outputs: dict[str, list[torch.Tensor]] = {}
    for name, module in modules.items():
        if not any(parameter.requires_grad for parameter in module.parameters()):
            module.register_forward_hook(lambda _, __, output, name=name: outputs.setdefault(name, []).append(output))
    batch = work.collate(work.inputs["train"].features(4))
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "weight")}
    first, second = (model(**inputs).logits for _ in range(2))
    dropped = {name for name, seen in outputs.items() if not same(seen[: len(seen) // 2], seen[len(seen) // 2 :])}
    assert not torch.equal(first, second)
    with_weights = {name for name in outputs if any(True for _ in modules[name].parameters())}
    assert with_weights
    assert not dropped & with_weights


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    parts = zip(one.values(), other.values(), strict=True) if isinstance(one, dict) else zip(one, other, strict=True)
    return all(same(*pair) for pair in parts if pair[0] is not None)


# problems


@pytest.mark.parametrize("family", ["gpt2", "timm_resnet"])
def test_several_labels_are_chosen_by_thresholds_that_validation_alone_decides(family: str, tmp_path: Path) -> None:
    data = make_data(family, "multi_label", train=24, validation=24, test=16)
    records = []
    for name in ("one", "other"):
        recipe = make_recipe(family, tmp_path, tmp_path / name, training={"num_train_epochs": 1})
        records.append(fine_tune(recipe, data=data))
        rows = data["test"]
        data = data | {"test": rows.remove_columns("label").add_column("label", list(rows["label"])[::-1])}
    thresholds, names = records[0].labels["thresholds"], records[0].labels["names"]
    assert thresholds == records[1].labels["thresholds"]
    config = json.loads((records[0].directory.model / "config.json").read_text())
    assert config["hf_sft_thresholds"] == thresholds
    assert config["problem_type"] == "multi_label_classification"
    for split in ("validation", "test"):
        rows = read_predictions(records[0].directory, split)
        scores = np.array([rows[f"score_{name}"] for name in names])
        hits = np.array([thresholds]) <= scores.T
        expected = [[name for name, hit in zip(names, row, strict=True) if hit] for row in hits]
        assert rows["prediction"] == expected
    rows = read_predictions(records[0].directory, "validation")
    for name, threshold in zip(names, thresholds, strict=True):
        truth = np.array([name in labels for labels in rows["reference"]])
        scores = np.array(rows[f"score_{name}"])
        best = max(f1(truth, scores >= candidate) for candidate in scores)
        assert f1(truth, scores >= threshold) == pytest.approx(best)


def f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    return 2 * (truth & predicted).sum() / max(1, truth.sum() + predicted.sum())


def test_without_validation_every_threshold_is_a_half(tmp_path: Path) -> None:
    recipe = make_recipe(
        "bert", tmp_path, tmp_path / "run", training={"num_train_epochs": 1}, dataset={"splits": {"validation": None}}
    )
    record = fine_tune(recipe, data=make_data("bert", "multi_label", train=16, test=8))
    assert record.labels["thresholds"] is None
    assert json.loads((record.directory.model / "config.json").read_text())["hf_sft_thresholds"] is None
    rows = read_predictions(record.directory, "test")
    scores = np.array([rows[f"score_{name}"] for name in record.labels["names"]])
    assert [len(labels) for labels in rows["prediction"]] == (scores >= 0.5).sum(0).tolist()


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
@pytest.mark.parametrize("family", ["bert", "vit", "timm_resnet"])
def test_pipeline_gives_the_scores_of_every_problem(family: str, problem: str, tmp_path: Path) -> None:
    data = make_data(family, problem, train=16, validation=8)
    record = fine_tune(make_recipe(family, tmp_path, tmp_path / "run", training={"num_train_epochs": 1}), data=data)
    column = "text" if family in TEXT_FAMILIES else "image"
    answers = classify(record.recipe["task"], record.directory.model, list(data["validation"][column]))
    predictions = read_predictions(record.directory, "validation")
    if problem == "regression":
        predictions = {"score_label": predictions["prediction"]}
    assert_same_scores(predictions, answers, record.labels["names"])


# columns of text


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_a_pair_of_texts_is_read_as_the_pipeline_reads_a_pair(family: str, tmp_path: Path) -> None:
    first = make_data(family, train=16, validation=12)
    second = {role: texts(len(rows), seed=7) for role, rows in first.items()}
    data = {role: rows.add_column("other", list(second[role]["text"])) for role, rows in first.items()}
    columns = {"text": "text", "text_pair": "other"}
    changes: dict[str, Any] = {"dataset": {"columns": columns}, "processor": {"max_length": 20}}
    recipe = make_recipe(family, tmp_path, tmp_path / "run", training={"num_train_epochs": 1}, **changes)
    work = prepare(recipe, data)
    features = work.inputs["validation"].features(12)
    tokenizer = work.built.processor
    for feature, row in zip(features, data["validation"], strict=True):
        expected = tokenizer(row["text"], row["other"], truncation=True, max_length=20)
        for name in tokenizer.model_input_names:
            assert name == "attention_mask" or feature[name] == expected[name]
        if family == "bert":
            assert set(feature["token_type_ids"]) == {0, 1}
    batch = work.collate(features)
    assert set(batch) == {*tokenizer.model_input_names, "labels", "weight"}
    assert batch["attention_mask"].sum(-1).tolist() == [len(feature["input_ids"]) for feature in features]
    record = fine_tune(recipe, data=data)
    pairs = [{"text": row["text"], "text_pair": row["other"]} for row in data["validation"]]
    answers = classify(record.recipe["task"], record.directory.model, pairs)
    assert_same_scores(read_predictions(record.directory, "validation"), answers, record.labels["names"])


def test_several_text_columns_are_read_as_lines_of_one_text(tmp_path: Path) -> None:
    data = make_data("bert", train=16, validation=12)
    data = {role: rows.add_column("title", list(texts(len(rows), seed=7)["text"])) for role, rows in data.items()}
    columns = {"text": ["title", "text"]}
    recipe = make_recipe("bert", tmp_path, tmp_path / "run", dataset={"columns": columns})
    record = fine_tune(recipe, data=data)
    joined = [f"{row['title']}\n{row['text']}" for row in data["validation"]]
    answers = classify(record.recipe["task"], record.directory.model, joined)
    assert_same_scores(read_predictions(record.directory, "validation"), answers, record.labels["names"])
