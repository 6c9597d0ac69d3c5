"""The loss: what it is, that its parts add up, and that accumulating changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
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

from hf_sft.data.labels import Labels
from hf_sft.job import Job
from hf_sft.tasks.classification import PROBLEMS, collate_targets, write_rows
from hf_sft.tasks.task import Penalty

NAMES = ("a", "b", "c")
POSED = tuple(PROBLEMS)
LABELS = {problem: Labels(problem=problem, names=NAMES[:1] if problem == "regression" else NAMES) for problem in POSED}


def make_batch(
    problem: str, rows: int = 7, *, seed: int = 0
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(outputs, batch) of random logits in float64 and random targets; row 2 weighs nothing."""
    generator = torch.Generator().manual_seed(seed)
    width = 1 if problem == "regression" else len(NAMES)
    logits = torch.randn(rows, width, generator=generator, dtype=torch.float64) * 2
    targets = {
        "single_label": torch.randint(len(NAMES), (rows,), generator=generator),
        "multi_label": (torch.rand(rows, len(NAMES), generator=generator) < 0.5).float(),
        "regression": torch.randn(rows, generator=generator),
    }[problem]
    weight = torch.ones(rows)
    weight[2] = 0.0
    return {"logits": logits}, {"labels": targets, "weight": weight}


def mean_loss(problem: str, logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """As anyone writes it with torch alone, the mean over rows."""
    if problem == "single_label":
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    if problem == "multi_label":
        smoothed = targets.double() * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, smoothed)
    return functional.mse_loss(logits[:, 0], targets.double())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("problem", POSED)
def test_the_objective_is_the_mean_loss_over_the_rows_that_count(problem, smoothing):
    outputs, batch = make_batch(problem)
    total, items = PROBLEMS[problem].objective(outputs, batch, Penalty(label_smoothing=smoothing))
    counted = batch["weight"] > 0
    expected = mean_loss(problem, outputs["logits"][counted], batch["labels"][counted], smoothing)
    assert items == counted.sum() == PROBLEMS[problem].count(batch, Penalty())
    torch.testing.assert_close(total / items, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("problem", POSED)
def test_the_objective_of_a_batch_is_the_sum_over_its_parts(problem):
    outputs, batch = make_batch(problem, rows=9)
    whole = PROBLEMS[problem].objective(outputs, batch, Penalty(label_smoothing=0.1))
    parts = [
        PROBLEMS[problem].objective(
            {"logits": outputs["logits"][part]},
            {name: value[part] for name, value in batch.items()},
            Penalty(label_smoothing=0.1),
        )
        for part in (slice(0, 4), slice(4, 8), slice(8, 9))
    ]
    for index in range(2):
        torch.testing.assert_close(sum(part[index] for part in parts), whole[index])


@pytest.mark.parametrize("problem", POSED)
def test_losses_of_rows_are_never_smoothed_and_need_targets(problem):
    outputs, batch = make_batch(problem)
    rows = PROBLEMS[problem].decode(outputs, batch, LABELS[problem])
    expected = [
        mean_loss(problem, outputs["logits"][[row]], batch["labels"][[row]]).item()
        for row in range(len(batch["weight"]))
    ]
    np.testing.assert_allclose(rows["losses"], expected, rtol=1e-6)
    without = PROBLEMS[problem].decode(outputs, {"weight": batch["weight"]}, LABELS[problem])
    assert set(without) == {"scores", "predictions"}
    np.testing.assert_array_equal(without["scores"], rows["scores"])


@pytest.mark.parametrize("problem", POSED)
def test_half_precision_logits_are_read_in_float32(problem):
    outputs, batch = make_batch(problem)
    half = {"logits": outputs["logits"].bfloat16()}
    total, _ = PROBLEMS[problem].objective(half, batch, Penalty())
    rows = PROBLEMS[problem].decode(half, batch, LABELS[problem])
    assert total.dtype == torch.float32
    assert rows["scores"].dtype == rows["losses"].dtype == np.float64
    whole = {"logits": half["logits"].float()}
    torch.testing.assert_close(total, PROBLEMS[problem].objective(whole, batch, Penalty())[0])


def test_scores_are_probabilities():
    for problem in ("single_label", "multi_label"):
        outputs, batch = make_batch(problem)
        scores = PROBLEMS[problem].decode(outputs, batch, LABELS[problem])["scores"]
        assert ((scores >= 0) & (scores <= 1)).all()
        if problem == "single_label":
            np.testing.assert_allclose(scores.sum(1), 1)


def test_targets_are_encoded_by_the_label_map():
    single = PROBLEMS["single_label"].encode(["c", "a", "b"], LABELS["single_label"])
    multi = PROBLEMS["multi_label"].encode([["c", "a"], [], ["b"]], LABELS["multi_label"])
    number = PROBLEMS["regression"].encode([1, 2.5], LABELS["regression"])
    assert single.tolist() == [2, 0, 1] and single.dtype == np.int64
    assert multi.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert number.tolist() == [1.0, 2.5]
    batch = collate_targets([{"labels": target, "weight": 1.0} for target in multi])
    assert batch["labels"].shape == (3, 3) and batch["weight"].tolist() == [1, 1, 1]
    assert set(collate_targets([{"weight": 1.0}])) == {"weight"}


@pytest.mark.parametrize("problem", POSED)
def test_predictions_are_written_in_names(problem):
    labels = LABELS[problem]
    outputs, batch = make_batch(problem, rows=4)
    rows = PROBLEMS[problem].decode(outputs, batch, labels)
    columns = write_rows({**rows, "references": batch["labels"].numpy()}, labels)
    if problem == "regression":
        assert set(columns) == {"reference", "prediction", "loss"}
        assert columns["prediction"] == outputs["logits"][:, 0].tolist()
        return
    assert set(columns) == {"reference", "prediction", "loss", *(f"score_{name}" for name in NAMES)}
    for row in range(4):
        logits = outputs["logits"][row]
        if problem == "single_label":
            assert columns["prediction"][row] == NAMES[int(logits.argmax())]
            assert columns["reference"][row] == NAMES[batch["labels"][row]]
        else:
            assert columns["prediction"][row] == [name for name, logit in zip(NAMES, logits, strict=True) if logit >= 0]
            assert columns["reference"][row] == [NAMES[index] for index in batch["labels"][row].nonzero().flatten()]


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_give_each_label_the_best_f1_there_is(seed):
    generator = np.random.default_rng(seed)
    targets = (generator.random((40, 3)) < [0.5, 0.1, 0.0]).astype(np.float32)
    scores = np.round(generator.random((40, 3)), 1 + seed % 2)  # with ties
    calibrate = PROBLEMS["multi_label"].calibrate
    assert calibrate is not None
    thresholds = calibrate(scores, targets, LABELS["multi_label"]).thresholds
    assert thresholds is not None

    def f1(label: int, threshold: float) -> float:
        predicted = scores[:, label] >= threshold
        return 2 * (predicted * targets[:, label]).sum() / (predicted.sum() + targets[:, label].sum())

    for label in range(2):
        best = max(f1(label, score) for score in scores[:, label])
        assert f1(label, thresholds[label]) == pytest.approx(best)
        assert thresholds[label] not in scores[:, label], "half-way between scores"
    assert thresholds[2] == 0.5, "nothing to choose by"


def test_thresholds_decide_the_predictions():
    labels = Labels(problem="multi_label", names=NAMES, thresholds=(0.2, 0.5, 0.9))
    outputs = {"logits": torch.tensor([[0.3, 0.6, 0.8]]).logit()}
    rows = PROBLEMS["multi_label"].decode(outputs, {"weight": torch.ones(1)}, labels)
    assert rows["predictions"].tolist() == [[True, True, False]]
    stale = {**rows, "predictions": ~rows["predictions"]}
    assert PROBLEMS["multi_label"].outcome(stale, np.ones((1, 3)), labels).predictions.tolist() == [[True, True, False]]


@pytest.mark.parametrize("problem", POSED)
def test_the_baseline_knows_the_training_labels_alone(problem):
    targets = {
        "single_label": np.array([0, 1, 1, 2]),
        "multi_label": np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=np.float32),
        "regression": np.array([1.0, 2.0, 6.0], dtype=np.float32),
    }[problem]
    rows = PROBLEMS[problem].baseline(targets, np.zeros(5), LABELS[problem])
    expected = {
        "single_label": ([0.25, 0.5, 0.25], 1),
        "multi_label": ([0.75, 0.25, 0.0], [True, False, False]),
        "regression": (3.0, 3.0),
    }[problem]
    assert rows["scores"].tolist() == [expected[0]] * 5 and rows["predictions"].tolist() == [expected[1]] * 5


@pytest.mark.parametrize("problem", POSED)
@pytest.mark.parametrize("family", ["bert", "vit", "resnet"])
def test_accumulation_changes_nothing(family, problem, models, tmp_path):
    """75 rows in steps of 32: the last of each epoch holds 11, of which the last micro-batch has 3."""
    data, runs = make_data(family, problem, train=75, validation=16), []
    for batch_size, accumulation in ((32, 1), (8, 4)):
        recipe = make_recipe(
            family,
            models,
            tmp_path / str(batch_size),
            model={"config": NO_DROPOUT if family == "bert" else {}},
            tuning={"strategy": "head" if family == "resnet" else "full"},
            training={
                "per_device_train_batch_size": batch_size,
                "gradient_accumulation_steps": accumulation,
                "logging_steps": 1,
                "warmup_steps": 0,
            },
        )
        work = prepare(recipe, data, double=True)
        before, steps = weights(work), []
        found = train(work, [Spy(lambda state, model, optimizer, steps=steps: steps.append(gradients(model)))])
        runs.append((found, before, steps, weights(work)))
    (one, before, steps_one, after_one), (other, _, steps_other, after_other) = runs
    assert len(steps_one) == len(steps_other) == 6
    assert max(map(largest_difference, steps_one, steps_other)) < 1e-10
    assert largest_difference(after_one, after_other) < 1e-10
    np.testing.assert_allclose(logged(one, "grad_norm"), logged(other, "grad_norm"), rtol=1e-10)
    np.testing.assert_allclose(logged(one, "loss"), logged(other, "loss"), rtol=1e-6)  # the Trainer sums in float32
    assert largest_difference(before, after_one) > 1e-3, "it did train"


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_smoothing_reaches_the_training_loss_and_no_other(problem, models, tmp_path):
    data, losses = make_data("bert", problem, train=48, validation=16), {}
    data["train"] = data["train"].select([*range(0, 48, 2), *range(1, 16, 2)])  # more of one class than the other
    for smoothing in (0.0, 0.5):
        recipe = make_recipe(
            "bert",
            models,
            tmp_path / str(smoothing),
            model={"config": NO_DROPOUT},
            objective={"label_smoothing": smoothing},
            training={"learning_rate": 0.0, "num_train_epochs": 1},
        )
        work = prepare(recipe, data)
        work.built.model.classifier.weight.data *= 200  # confident, so that smoothing matters
        (logits, targets) = forward_all(work)
        found = train(work)
        expected = mean_loss(problem, logits.double(), targets, smoothing).item()
        assert logged(found, "loss").mean() == pytest.approx(expected, rel=1e-5)
        losses[smoothing] = (expected, [entry["eval_loss"] for entry in found.log if "eval_loss" in entry])
    assert losses[0.5][0] != pytest.approx(losses[0.0][0], abs=0.01)
    assert losses[0.5][1] == losses[0.0][1]


def forward_all(work: Job) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, targets) of all training rows, as they are before training."""
    batch = work.collate(work.inputs["train"].features(32))
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "weight")}
    with torch.no_grad():
        return work.built.model.eval()(**inputs).logits, batch["labels"]


def test_frozen_batch_statistics_stay_as_they_are(models, tmp_path):
    data = make_data("resnet", train=16, validation=8)
    for strategy, moved in (("head", False), ("full", True)):
        work = prepare(make_recipe("resnet", models, tmp_path / strategy, tuning={"strategy": strategy}), data)
        before = weights(work)
        train(work)
        after = weights(work)
        statistics = [name for name in before if "running" in name or "num_batches" in name]
        assert len(statistics) > 3
        assert all(np.array_equal(before[name], after[name]) != moved for name in statistics)
