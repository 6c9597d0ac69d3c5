"""Evaluating: every row once, in the order of the data, however it is batched and shared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import in_two_processes
from sklearn.metrics import accuracy_score
from tiny_runs import make_data, make_recipe, prepare
from torch.nn import functional

from hf_sft import environment
from hf_sft.evaluation import Evaluator, length_batches
from hf_sft.job import Job
from hf_sft.metrics import METRICS
from hf_sft.record import RunDirectory
from hf_sft.tasks.task import Rows
from hf_sft.training.fit import train

CASES = [("bert", "single_label"), ("bert", "multi_label"), ("vit", "regression"), ("resnet", "single_label")]

SPREAD = {"bert": 15, "vit": 6, "resnet": 1}  # times the first weights: else all rows get nearly the same logits


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def make_job(family: str, problem: str, models: Path, rows: int = 23, **changes: Any) -> Job:
    """A prepared job whose logits spread, with a test split of so many rows."""
    recipe = make_recipe(family, models, models / "unused", **changes)
    work = prepare(recipe, make_data(family, problem, train=20, validation=8, test=rows))
    for parameter in work.built.model.parameters():
        if parameter.ndim > 1:
            parameter.data *= SPREAD[family]
    return work


def predict(work: Job, split: str = "test", **changes: Any) -> Rows:
    inputs = work.inputs[split]
    return replace(work.evaluator, **changes).predict(work.built.model, inputs.rows, inputs.lengths, work.labels)


def plain_loop(work: Job) -> tuple[np.ndarray, np.ndarray]:
    """(scores, losses) of the test split, one row at a time."""
    scores, losses = [], []
    for feature in work.inputs["test"].features(10**6):
        batch = work.collate([feature])
        targets = batch.pop("labels")
        batch.pop("weight")
        with torch.no_grad():
            logits = work.built.model.eval()(**batch).logits
        if work.labels.problem == "single_label":
            scores.append(logits.softmax(-1)[0].numpy())
            losses.append(functional.cross_entropy(logits, targets).item())
        elif work.labels.problem == "multi_label":
            scores.append(logits.sigmoid()[0].numpy())
            losses.append(functional.binary_cross_entropy_with_logits(logits, targets).item())
        else:
            scores.append(logits[0, 0].numpy())
            losses.append(functional.mse_loss(logits[:, 0], targets).item())
    return np.stack(scores), np.array(losses)


@pytest.mark.parametrize("batch_size", [1, 4, 22, 64])
@pytest.mark.parametrize("family, problem", CASES)
def test_predictions_come_in_the_order_of_the_data(family, problem, batch_size, models):
    """And losses are those of the rows, unsmoothed, whatever the recipe smooths."""
    smoothed = {} if problem == "regression" else {"objective": {"label_smoothing": 0.3}}
    work = make_job(family, problem, models, **smoothed)
    scores, losses = plain_loop(work)
    rows = predict(work, batch_size=batch_size)
    np.testing.assert_allclose(rows["scores"], scores, atol=2e-5)
    np.testing.assert_allclose(rows["losses"], losses, rtol=1e-3, atol=1e-5)
    assert len(np.unique(scores.round(4), axis=0)) > 20, "rows differ, so that their order shows"


@pytest.mark.parametrize("rows", [1, 5, 23, 64])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_length_batches_hold_every_row_once_the_longest_first(rows, batch_size):
    lengths = np.random.default_rng(0).integers(1, 9, rows)
    batches = length_batches(lengths, batch_size)
    flat = [row for batch in batches for row in batch]
    assert sorted(flat) == list(range(rows))
    assert (np.diff(lengths[flat]) <= 0).all()
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_the_mode_it_was_in(training, models):
    work = make_job("bert", "single_label", models)
    work.built.model.train(training)
    first, again = predict(work), predict(work)
    assert work.built.model.training is training
    np.testing.assert_array_equal(first["scores"], again["scores"])  # dropout was off


def test_channels_last_changes_no_prediction(models):
    work = make_job("resnet", "single_label", models)
    assert work.evaluator.channels_last, "the family that it is made for"
    np.testing.assert_allclose(predict(work)["scores"], predict(work, channels_last=False)["scores"], atol=1e-6)


def test_loading_in_other_processes_changes_nothing(models):
    work = make_job("vit", "single_label", models)
    np.testing.assert_array_equal(predict(work, workers=1)["scores"], predict(work)["scores"])


def test_evaluation_leaves_the_random_numbers_alone(models):
    work = make_job("bert", "single_label", models)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    predict(work)
    assert torch.equal(torch.rand(4), expected)


def test_the_loss_is_the_mean_of_the_rows_and_metrics_read_the_same_rows(models):
    work = make_job("bert", "single_label", models)
    rows, targets = predict(work), work.inputs["test"].targets
    values = work.evaluator.measure(rows, targets, work.labels)
    assert values["loss"] == pytest.approx(plain_loop(work)[1].mean(), rel=1e-4)
    assert values["accuracy"] == pytest.approx(accuracy_score(targets, plain_loop(work)[0].argmax(1)))
    assert list(values) == ["loss", *(metric.name for metric in work.metrics)]


def test_an_unlabelled_split_has_predictions_without_losses(models):
    data = make_data("bert", train=20, validation=8, test=5)
    data["test"] = data["test"].remove_columns("label")
    work = prepare(make_recipe("bert", models, models / "unused"), data)
    assert set(predict(work)) == {"scores", "predictions"}


# two processes


def predict_shared(models: Path, family: str, problem: str, rows: int, batch_size: int) -> Rows:
    environment.prepare_environment(make_recipe(family, models, models / "unused"))
    return predict(make_job(family, problem, models, rows), batch_size=batch_size)


@pytest.mark.parametrize(
    "rows, batch_size", [(23, 4), (12, 4), (3, 64), (1, 1)], ids=["odd", "even", "one batch", "one row"]
)
def test_two_processes_see_every_row_once_and_both_have_all(rows, batch_size, models):
    """Also where there are fewer batches than processes."""
    alone = predict(make_job("bert", "multi_label", models, rows), batch_size=batch_size)
    for shared in in_two_processes(predict_shared, models, "bert", "multi_label", rows, batch_size):
        assert shared.keys() == alone.keys()
        for name in alone:
            np.testing.assert_allclose(shared[name], alone[name], rtol=1e-5)


@pytest.mark.parametrize("family, problem", CASES)
def test_metrics_that_read_no_scores_are_the_same_without_them(family, problem, models):
    metrics = [metric for metric in METRICS.values() if problem in metric.problems and not metric.reads_scores]
    work = make_job(family, problem, models)
    evaluator, inputs = replace(work.evaluator, metrics=metrics), work.inputs["test"]
    whole, lean = (
        evaluator.predict(work.built.model, inputs.rows, inputs.lengths, work.labels, keep_scores=keep)
        for keep in (True, evaluator.reads_scores)
    )
    if problem == "single_label":
        assert lean["scores"].shape == (23, 0)
    assert metrics and evaluator.measure(lean, inputs.targets, work.labels) == evaluator.measure(
        whole, inputs.targets, work.labels
    )


@pytest.mark.parametrize("metric, kept", [("accuracy", 0), ("auroc", 2)])
def test_while_training_scores_are_kept_where_a_metric_reads_them_alone(metric, kept, models, tmp_path, monkeypatch):
    shapes = []
    measure = Evaluator.measure

    def noted(self: Evaluator, rows: Rows, targets: Any, labels: Any) -> dict[str, float]:
        shapes.append(rows["scores"].shape)
        return measure(self, rows, targets, labels)

    monkeypatch.setattr(Evaluator, "measure", noted)
    recipe = make_recipe("bert", models, tmp_path / "run", metrics=[metric])
    work = prepare(recipe, make_data("bert", "single_label", train=20, validation=8))
    train(work, RunDirectory(tmp_path / "run"))
    assert shapes and set(shapes) == {(8, kept)}
