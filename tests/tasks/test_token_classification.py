"""Token classification from end to end: the loss is that of the words, the results are plain Hugging Face."""

from __future__ import annotations

import json
from copy import deepcopy
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset
from forked import in_two_processes
from seqeval import metrics as seqeval
from tiny import TAGS, TEXT_FAMILIES, tagged
from tiny_runs import (
    NO_DROPOUT,
    Spy,
    gradients,
    largest_difference,
    logged,
    make_data,
    make_recipe,
    prepare,
    train,
    weights,
)
from torch.nn import functional
from transformers import AutoModelForTokenClassification, AutoTokenizer, TrainerCallback, pipeline

from hf_sft import evaluate, fine_tune, predict
from hf_sft.commands.check import check
from hf_sft.data.labels import Labels
from hf_sft.errors import DataError, RecipeError
from hf_sft.saved_model import load_saved
from hf_sft.tasks.tagging import PROBLEMS, as_rows, choose_constrained
from hf_sft.tasks.task import Penalty

PROBLEM = PROBLEMS["tags"]
SHORT = {"max_length": 8, "stride": 2}  # windows of six words
LABELS = Labels(problem="tags", names=TAGS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=TEXT_FAMILIES)
def finished(request: pytest.FixtureRequest, models: Path) -> Any:
    """A finished run whose test rows take several windows."""
    data = {"train": tagged(40), "validation": tagged(12, seed=1), "test": tagged(12, seed=2, most=40)}
    name = f"{request.param}_tags"
    changes: dict[str, Any] = {"processor": {"max_length": 16, "stride": 4}, "training": {"num_train_epochs": 6}}
    return fine_tune(make_recipe(name, models, models / f"{name}_run", **changes), data=data), data


def read(record: Any, split: str) -> dict[str, list[Any]]:
    return pyarrow.parquet.read_table(record.directory.predictions(split)).to_pydict()


# what a run leaves


def test_every_word_is_in_the_predictions_in_its_order(finished: Any) -> None:
    record, data = finished
    for split in ("validation", "test"):
        found = read(record, split)
        assert found["row_id"] == list(range(12))
        assert found["words"] == list(data[split]["tokens"])
        assert found["reference"] == list(data[split]["ner_tags"])
        sizes = [len(words) for words in found["words"]]
        assert [len(row) for row in found["prediction"]] == sizes == [len(row) for row in found["scores"]]
        assert list(found) == ["row_id", "words", "reference", "prediction", "scores", "spans", "loss"]


def test_the_numbers_of_the_record_are_those_of_seqeval_on_the_predictions_file(finished: Any) -> None:
    record, _ = finished
    for split in ("validation", "test"):
        found = read(record, split)
        sides = found["reference"], found["prediction"]
        values = record.metrics[split]
        assert values["entity_f1"] == seqeval.f1_score(*sides, zero_division=0)
        assert values["entity_precision"] == seqeval.precision_score(*sides, zero_division=0)
        assert values["entity_recall"] == seqeval.recall_score(*sides, zero_division=0)
        assert values["macro_entity_f1"] == seqeval.f1_score(*sides, average="macro", zero_division=0)
        assert values["token_accuracy"] == seqeval.accuracy_score(*sides)
        words = [len(row) for row in found["reference"]]
        assert values["loss"] == pytest.approx(np.average(found["loss"], weights=words))
        assert set(record.per_class[split]) == {"PLACE", "THING"}
        assert record.baselines[split]["majority"]["entity_f1"] == 0.0
        low, high = record.intervals[split]["entity_f1"]
        assert low <= values["entity_f1"] <= high


def test_it_learns(finished: Any) -> None:
    record, _ = finished
    assert record.metrics["test"]["entity_f1"] > 0.6
    assert record.metrics["test"]["loss"] < 0.5 * record.history["epochs"][0]["train_loss"]


def test_the_saved_model_has_the_tags(finished: Any) -> None:
    record, _ = finished
    config = AutoModelForTokenClassification.from_pretrained(record.directory.model).config
    assert config.id2label == dict(enumerate(TAGS)) and getattr(config, "hf_sft_constrained", None) is None
    card = (record.directory.model / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card and 'aggregation_strategy="first"' in card
    assert "| PLACE" in card and "finds entities in a text" in card
    assert "| type" in card


def test_predict_gives_the_entities_of_pipeline(finished: Any) -> None:
    """On plain text in one window: labels, places and scores."""
    record, data = finished
    texts = [" ".join(words) for words in data["validation"]["tokens"]]
    ask: Any = pipeline("token-classification", str(record.directory.model), aggregation_strategy="first", device="cpu")
    rows = predict(record.directory.path, texts).rows
    count = 0
    for text, row in zip(texts, rows, strict=True):
        expected = ask(text)
        assert [(span["label"], span["start"], span["end"]) for span in row["spans"]] == [
            (answer["entity_group"], answer["start"], answer["end"]) for answer in expected
        ]
        found = [span["score"] for span in row["spans"]]
        np.testing.assert_allclose(found, [answer["score"] for answer in expected], rtol=0, atol=1e-5)
        assert [span["text"] for span in row["spans"]] == [text[s["start"] : s["end"]] for s in row["spans"]]
        count += len(expected)
    assert count > 5


def test_predict_and_evaluate_give_what_the_run_wrote(finished: Any, tmp_path: Path) -> None:
    record, data = finished
    written = read(record, "test")
    rows = predict(record.directory.path, data["test"], batch_size=5).rows
    assert [row["prediction"] for row in rows] == written["prediction"]
    for row, scores in zip(rows, written["scores"], strict=True):
        np.testing.assert_allclose(row["scores"], scores, rtol=0, atol=1e-6)
    predict(record.directory.path, data["test"], tmp_path / "out.parquet", batch_size=5)
    again = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert again["spans"] == [row["spans"] for row in rows] and again["words"] == written["words"]
    predict(record.directory.path, data["test"], tmp_path / "out.jsonl", batch_size=5)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["prediction"] for line in lines] == written["prediction"]
    evaluation = evaluate(record.directory.path, data=data["test"])
    assert evaluation.metrics["entity_f1"] == record.metrics["test"]["entity_f1"]
    assert evaluation.per_class == record.per_class["test"]
    assert "entities" in str(evaluation)


# words that a tokenizer drops, texts


def test_words_that_the_tokenizer_drops_keep_their_place(models: Path, tmp_path: Path) -> None:
    rows = tagged(24)
    words = [[word for pair in zip(row, [""] * len(row), strict=True) for word in pair] for row in rows["tokens"]]
    tags = [[tag for pair in zip(row, ["O"] * len(row), strict=True) for tag in pair] for row in rows["ner_tags"]]
    data = {"train": Dataset.from_dict({"tokens": words, "ner_tags": tags}), "validation": rows}
    data["test"] = data["train"]
    record = fine_tune(make_recipe("bert_tags", models, tmp_path / "run", processor=SHORT), data=data)
    found = read(record, "test")
    assert found["words"] == words and [len(row) for row in found["prediction"]] == [len(row) for row in words]
    assert all(tag == "O" for row in found["prediction"] for tag in row[1::2])
    assert all(score == 1.0 for row in found["scores"] for score in row[1::2])


def test_texts_with_spans_are_the_same_task(models: Path, tmp_path: Path) -> None:
    """The same rows as words with tags and as texts with spans: the same weights, the same entities."""
    made: dict[str, Any] = {}
    data = make_data("bert_tags", train=24, validation=8, test=8)
    for kind in ("tokens", "text"):
        columns = {kind: kind, "label": "ner_tags" if kind == "tokens" else "entities"}
        recipe = make_recipe("bert_tags", models, tmp_path / kind, processor=SHORT)
        recipe = recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"columns": columns})})
        given = data if kind == "tokens" else {role: as_spans(rows) for role, rows in data.items()}
        made[kind] = fine_tune(recipe, data=given)
    assert made["text"].metrics == made["tokens"].metrics
    assert read(made["text"], "test") == read(made["tokens"], "test")
    texts = [" ".join(words) for words in data["test"]["tokens"]]
    rows = [predict(made[one].directory.path, texts).rows for one in made]
    assert rows[0] == rows[1]
    tokens = [
        predict(made[one].directory.path, [{"tokens": words} for words in data["test"]["tokens"]]) for one in made
    ]
    assert [row["spans"] for row in tokens[0].rows] == [row["spans"] for row in tokens[1].rows]
    assert [row["spans"] for row in tokens[0].rows] == [row["spans"] for row in rows[0]]


def as_spans(rows: Dataset) -> Dataset:
    made = []
    for words, tags in zip(rows["tokens"], rows["ner_tags"], strict=True):
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        spans: list[dict[str, Any]] = []
        for word, tag, end in zip(words, tags, ends, strict=True):
            if tag[:1] == "B":
                spans.append({"start": int(end) - len(word), "end": int(end), "label": tag[2:]})
            elif tag[:1] == "I":
                spans[-1]["end"] = int(end)
        made.append({"text": " ".join(words), "entities": spans})
    return Dataset.from_list(made)


# the loss


def test_the_gradient_of_a_step_is_that_of_the_mean_loss_of_its_words(models: Path, tmp_path: Path) -> None:
    """As PyTorch alone computes it from each row by itself; the step is of three micro-batches, rows are ragged."""
    training = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "max_grad_norm": 0.0}
    changes: dict[str, Any] = {"model": {"config": NO_DROPOUT}, "training": {**training, "max_steps": 1}}
    recipe = make_recipe("bert_tags", models, tmp_path, **changes)
    data = make_data("bert_tags", train=11, validation=4)
    work, steps = prepare(recipe, data, double=True), []
    plain = deepcopy(work.built.model).train()
    train(work, [Spy(lambda state, model, optimizer: steps.append(gradients(model)))])
    tokenizer, total, words = AutoTokenizer.from_pretrained(recipe.model.name), torch.zeros(()).double(), 0
    for tokens, tags in zip(data["train"]["tokens"], data["train"]["ner_tags"], strict=True):
        inputs = tokenizer(tokens, is_split_into_words=True, return_tensors="pt")
        logits = plain(**inputs).logits[0]
        first = [inputs.word_ids().index(word) for word in range(len(tokens))]
        targets = torch.tensor([TAGS.index(tag) for tag in tags])
        total = total + functional.cross_entropy(logits[first], targets, reduction="sum")
        words += len(tokens)
    (total / words).backward()
    assert len(steps) == 1
    assert largest_difference(steps[0], gradients(plain)) < 1e-10


def run_in_windows(models: Path, folder: Path, **training: Any) -> dict[str, Any]:
    """Rows of up to 30 words in windows of six, in float64 and without anything drawn at random."""
    recipe = make_recipe(
        "bert_tags",
        models,
        folder,
        model={"config": NO_DROPOUT},
        processor=SHORT,
        training={"logging_steps": 1, "per_device_eval_batch_size": 3, **training},
    )
    data = {"train": tagged(19, most=30), "validation": tagged(9, seed=1, most=30)}
    work = prepare(recipe, data, double=True)
    assert work.inputs["train"].size is not None and work.inputs["train"].size > 19
    before = weights(work)
    found = train(work)
    evaluations = [entry["eval_loss"] for entry in found.log if "eval_loss" in entry]
    return {
        "before": before,
        "after": weights(work),
        "steps": logged(found, "loss", "grad_norm"),
        "evaluations": evaluations,
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert largest_difference(one["before"], one["after"]) > 1e-3, "it did train"
    assert largest_difference(one["after"], other["after"]) < 1e-10
    np.testing.assert_allclose(other["steps"], one["steps"], rtol=1e-6)
    np.testing.assert_allclose(other["evaluations"], one["evaluations"], rtol=1e-6)


def test_accumulation_and_processes_change_nothing(models: Path, tmp_path: Path) -> None:
    """16 windows at once, 2 x 8 and two processes of 8: words weigh the same wherever they stand."""
    one = run_in_windows(models, tmp_path / "one", per_device_train_batch_size=16)
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    assert_same(one, run_in_windows(models, tmp_path / "parts", **settings))
    for other in in_two_processes(run_rank, models, tmp_path / "two"):
        assert_same(one, other)


def run_rank(models: Path, folder: Path) -> dict[str, Any]:
    return run_in_windows(models, folder, per_device_train_batch_size=8)


def test_the_weights_kept_are_those_of_the_best_evaluation(models: Path, tmp_path: Path) -> None:
    at_step: dict[int, dict[str, np.ndarray]] = {}

    class Keep(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            at_step[state.global_step] = {name: value.numpy().copy() for name, value in model.state_dict().items()}

    training = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    training |= {"learning_rate": 0.1, "lr_scheduler_type": "constant", "num_train_epochs": 3}
    recipe = make_recipe("bert_tags", models, tmp_path / "run", training=training, metrics=["token_accuracy"])
    record = fine_tune(recipe, data=make_data("bert_tags", train=40, validation=16), callbacks=[Keep()])
    best = max(record.history["epochs"], key=lambda entry: (entry["token_accuracy"], -entry["validation_loss"]))
    saved = AutoModelForTokenClassification.from_pretrained(record.directory.model).state_dict()
    assert largest_difference({name: value.numpy() for name, value in saved.items()}, at_step[best["step"]]) == 0.0
    assert len({entry["validation_loss"] for entry in record.history["epochs"]}) > 3


# one problem


def decoded(labels: Labels = LABELS) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Two windows of four tokens; row 0 has three words, one without a token, row 1 has two and weighs nothing."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, len(TAGS), generator=generator, dtype=torch.float64) * 3
    batch = {
        "places": torch.tensor([1, -1, 6, 5, 2]),
        "counts": torch.tensor([3, 2]),
        "weight": torch.tensor([1.0, 0.0]),
        "labels": torch.tensor([0, -100, 3, 1, 2]),
    }
    return PROBLEM.decode({"logits": logits}, batch, labels), {**batch, "logits": logits}


def test_rows_are_read_word_by_word() -> None:
    rows, batch = decoded()
    flat = batch["logits"].reshape(-1, len(TAGS))
    assert [len(row) for row in rows["scores"]] == [3, 2] and rows["items"].tolist() == [2, 2]
    np.testing.assert_allclose(rows["scores"][0][2], flat[6].softmax(-1))
    assert rows["scores"][0][1].tolist() == [1.0, 0.0, 0.0, 0.0]
    expected = functional.cross_entropy(flat[[5, 2]], torch.tensor([1, 2]))
    assert rows["losses"][1] == pytest.approx(expected.item())


def test_the_objective_counts_labelled_words_of_rows_that_count() -> None:
    _, batch = decoded()
    flat = batch["logits"].reshape(-1, len(TAGS))
    total, items = PROBLEM.objective({"logits": batch["logits"]}, batch, Penalty())
    assert items == PROBLEM.count(batch, Penalty()) == 2
    expected = functional.cross_entropy(flat[[1, 6]], torch.tensor([0, 3]), reduction="sum")
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("seed", range(8))
def test_constrained_decoding_finds_the_likeliest_sequence_that_keeps_to_iob2(seed: int) -> None:
    """Against all sequences of five words."""
    names = ("O", "B-X", "I-X", "I-Y", "B-Y")
    labels = Labels(problem="tags", names=names, constrained=True)
    scores = np.random.default_rng(seed).dirichlet([0.5] * 5, size=5)
    found = choose_constrained(scores, labels)

    def legal(path: tuple[int, ...]) -> bool:
        tags = ["O", *(names[tag] for tag in path)]
        return all(tag[0] != "I" or before[1:] == tag[1:] for before, tag in pairwise(tags))

    best = max(filter(legal, product(range(5), repeat=5)), key=lambda path: np.log(scores[range(5), path]).sum())
    assert tuple(found.tolist()) == best
    assert choose_constrained(np.zeros((0, 5)), labels).tolist() == []


def test_constrained_decoding_goes_with_the_model(models: Path, tmp_path: Path) -> None:
    """A model that has learnt nothing breaks IOB2 unless it is held to it, in the run, in predict, in evaluate."""
    data = {"train": tagged(16), "validation": tagged(40, seed=1)}
    for constrained in (False, True):
        processor = {"constrained_decoding": constrained}
        training = {"learning_rate": 1e-6, "num_train_epochs": 1}
        folder = tmp_path / str(constrained)
        recipe = make_recipe("bert_tags", models, folder, training=training, processor=processor, seed=3)
        work = prepare(recipe, data)
        work.built.model.classifier.bias.data = torch.tensor([0.0, 0.0, 0.3, 0.0])  # fond of I-PLACE
        work.built.model.save_pretrained(tmp_path / f"base{constrained}")
        work.built.processor.save_pretrained(tmp_path / f"base{constrained}")
        recipe = make_recipe(
            "bert_tags", models, folder, training=training, processor=processor,
            model={"name": str(tmp_path / f"base{constrained}")},
        )  # fmt: skip
        record = fine_tune(recipe, data=data)
        assert (record.metrics["validation"]["invalid_sequences"] > 0) != constrained
        assert load_saved(folder).labels.constrained == constrained
        moved = folder / "model" / "recipe.yaml"
        moved.unlink()
        rows = predict(folder / "model", data["validation"], columns={"tokens": "tokens"}).rows
        assert [row["prediction"] for row in rows] == read(record, "validation")["prediction"]


def test_the_baseline_is_the_most_frequent_tag() -> None:
    targets = as_rows([np.array([0, 0, 1, -100]), np.array([0, 2])])
    rows = PROBLEM.baseline(targets, as_rows([np.array([1, 1]), np.array([3])]), LABELS)
    assert [row.tolist() for row in rows["predictions"]] == [[0, 0], [0]]
    assert rows["scores"][0].tolist() == [[0.6, 0.2, 0.2, 0.0]] * 2


def test_words_tagged_minus_100_are_read_and_count_nowhere(models: Path, tmp_path: Path) -> None:
    """In loss, metrics, class weights, baselines and counts of check alike; rows of such words alone as well."""
    ids, data = list(TAGS), {}
    for seed, (role, number) in enumerate((("train", 20), ("validation", 10), ("test", 10))):
        rows = tagged(number, seed=seed)
        tags = [
            [-100 if place % 3 == 1 else ids.index(tag) for place, tag in enumerate(row)] for row in rows["ner_tags"]
        ]
        tags[4] = [-100] * len(tags[4])
        data[role] = Dataset.from_dict({"tokens": list(rows["tokens"]), "ner_tags": tags})
    changes: Any = {"dataset": {"labels": ids}, "objective": {"class_weights": "balanced"}}
    recipe = make_recipe("bert_tags", models, tmp_path / "run", **changes)
    report = check(recipe, data=data)
    assert report.ok and report.data["train"]["uncounted_words"] == sum(
        row.count(-100) for row in data["train"]["ner_tags"]
    )
    assert set(report.data["train"]["labels"]) == set(TAGS)
    record = fine_tune(recipe, data=data)
    found = read(record, "test")
    assert [[tag is None for tag in row] for row in found["reference"]] == [
        [tag == -100 for tag in row] for row in data["test"]["ner_tags"]
    ]
    assert [len(row) for row in found["prediction"]] == [len(row) for row in found["words"]]
    kept = [[place for place, tag in enumerate(row) if tag is not None] for row in found["reference"]]
    sides = [
        [[row[place] for place in places] for row, places in zip(found[name], kept, strict=True)]
        for name in ("reference", "prediction")
    ]
    assert record.metrics["test"]["entity_f1"] == seqeval.f1_score(*sides, zero_division=0)
    assert record.metrics["test"]["token_accuracy"] == seqeval.accuracy_score(*sides)
    again = evaluate(record.directory.path, data=data["test"]).metrics
    assert again["entity_f1"] == record.metrics["test"]["entity_f1"]


# before a run


def test_check_speaks_of_words_tags_and_entities(models: Path, tmp_path: Path) -> None:
    rows = tagged(20, most=30)
    tags = [list(row) for row in rows["ner_tags"]]
    tags[7][0] = "I-PLACE"
    data = {"train": Dataset.from_dict({"tokens": list(rows["tokens"]), "ner_tags": tags}), "validation": tagged(8)}
    report = check(make_recipe("bert_tags", models, tmp_path / "run", processor=SHORT), data=data)
    assert report.ok, str(report)
    facts = report.data["train"]
    flat = [tag for row in tags for tag in row]
    assert facts["labels"] == {tag: flat.count(tag) for tag in TAGS}
    entities = seqeval.classification_report(tags, tags, output_dict=True, zero_division=0)
    assert facts["entities"] == {name: entities[name]["support"] for name in ("PLACE", "THING")}
    assert facts["illegal_tags"] == 1 and facts["windowed_rows"] > 0.5
    longest = max(range(20), key=lambda row: len(tags[row]))
    assert len(tags[facts["longest_rows"][0]]) == len(tags[longest])
    text = str(report)
    assert "words per tag" in text and "entities per type" in text and "read in windows of 8 tokens" in text
    assert "1 I- tags in train that go on with nothing, in 1 rows: 7" in " ".join(text.split())


def test_what_predict_cannot_use_is_named(models: Path, tmp_path: Path) -> None:
    data = make_data("bert_tags", train=16, validation=8)
    path = fine_tune(make_recipe("bert_tags", models, tmp_path / "run"), data=data).directory.path
    with pytest.raises(DataError, match=r"(?s)row 1 of the inputs.*a list of words in 'tokens'"):
        predict(path, [{"tokens": ["a"]}, {"tokens": "a b"}])
    with pytest.raises(DataError, match=r"(?s)row 0 of the inputs.*a list of words.*in the list"):
        predict(path, [{"tokens": ["a", None]}])
    with pytest.raises(RecipeError, match=r"(?s)top_k.*a model with labels of rows"):
        predict(path, ["a"], top_k=2)
    with pytest.raises(RecipeError, match="tokens and text"):
        predict(path, [{"tokens": ["a"], "text": "a"}], columns={"tokens": "tokens", "text": "text"})
    assert predict(path, [{"tokens": []}, {"tokens": ["good"]}]).rows[0]["prediction"] == []


def test_another_task_s_keys_are_refused(models: Path, tmp_path: Path) -> None:
    for changes in ({"processor": {"size": 32}}, {"augment": ["word_dropout"]}, {"metrics": ["accuracy"]}):
        with pytest.raises(RecipeError):
            recipe = make_recipe("bert_tags", models, tmp_path / "run", **changes)
            prepare(recipe, make_data("bert_tags", train=16, validation=8))
