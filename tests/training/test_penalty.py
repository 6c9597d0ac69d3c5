"""Class weights and focal loss: what they are, that their parts add up, and that evaluation never sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from forked import in_two_processes
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

from hf_sft import check
from hf_sft.data.labels import Labels
from hf_sft.errors import HfSftError
from hf_sft.tasks import TASKS
from hf_sft.tasks.class_weights import MOST, balance_classes, balance_presence
from hf_sft.tasks.classification import PROBLEMS
from hf_sft.tasks.objective import find_penalty
from hf_sft.tasks.task import Penalty

NAMES = ("a", "b", "c")
WEIGHTS = torch.tensor([0.5, 3.0, 1.25])
BOTH = ("single_label", "multi_label")


def make_batch(problem: str, rows: int = 9, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits in float64 and targets; row 2 fills up."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 3, generator=generator, dtype=torch.float64) * 2
    single = torch.randint(3, (rows,), generator=generator)
    labels = single if problem == "single_label" else (torch.rand(rows, 3, generator=generator) < 0.5).double()
    weight = torch.ones(rows, dtype=torch.float64)
    weight[2:3] = 0.0
    return logits, {"labels": labels, "weight": weight}


def mean(problem: str, logits: torch.Tensor, batch: Any, penalty: Penalty) -> torch.Tensor:
    total, items = PROBLEMS[problem].objective({"logits": logits}, batch, penalty)
    assert items == PROBLEMS[problem].count(batch, penalty)
    return total / items


def slope(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits)[0]


def uneven(problem: str = "single_label", rows: int = 75) -> dict[str, Dataset]:
    """Of one label three times as many rows as of the other."""
    data = make_data("bert", problem, train=2 * rows, validation=16)
    kept = [index for index in range(2 * rows) if index % 2 == 0 or index % 6 == 1][:rows]
    return data | {"train": data["train"].select(kept)}


# what they are


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_are_those_of_torch_s_cross_entropy(smoothing: float) -> None:
    logits, batch = make_batch("single_label")
    logits.requires_grad_()
    loss = mean("single_label", logits, batch, Penalty(class_weights=WEIGHTS, label_smoothing=smoothing))
    kept = batch["weight"] > 0
    torch_s = torch.nn.CrossEntropyLoss(WEIGHTS.double(), label_smoothing=smoothing)(
        logits[kept], batch["labels"][kept]
    )
    torch.testing.assert_close(loss, torch_s)
    torch.testing.assert_close(slope(loss, logits), slope(torch_s, logits))


def test_weights_of_several_labels_are_torch_s_pos_weight() -> None:
    logits, batch = make_batch("multi_label")
    kept = batch["weight"] > 0
    torch_s = torch.nn.BCEWithLogitsLoss(pos_weight=WEIGHTS.double())(logits[kept], batch["labels"][kept])
    torch.testing.assert_close(mean("multi_label", logits, batch, Penalty(class_weights=WEIGHTS)), torch_s)


def test_focal_loss_of_one_label_is_that_of_the_paper() -> None:
    """Lin et al. 2017, (5): -alpha (1 - p)^gamma log p, p the probability of the row's label."""
    logits, batch = make_batch("single_label")
    p = logits.softmax(-1).gather(-1, batch["labels"][:, None])[:, 0]
    alpha = WEIGHTS.double()[batch["labels"]]
    expected = (batch["weight"] * -alpha * (1 - p) ** 2 * p.log()).sum() / (batch["weight"] * alpha).sum()
    torch.testing.assert_close(
        mean("single_label", logits, batch, Penalty(class_weights=WEIGHTS, focal_gamma=2.0)), expected
    )


def test_focal_loss_of_several_labels_is_that_of_the_paper() -> None:
    logits, batch = make_batch("multi_label")
    p = torch.where(batch["labels"] > 0, logits.sigmoid(), 1 - logits.sigmoid())
    alpha = torch.where(batch["labels"] > 0, WEIGHTS.double(), torch.ones(3, dtype=torch.float64))
    expected = (-alpha * (1 - p) ** 1.5 * p.log()).mean(-1)[batch["weight"] > 0].mean()
    torch.testing.assert_close(
        mean("multi_label", logits, batch, Penalty(class_weights=WEIGHTS, focal_gamma=1.5)), expected
    )


@pytest.mark.parametrize("weighted", [None, WEIGHTS])
@pytest.mark.parametrize("problem", BOTH)
def test_a_small_gamma_comes_close_to_the_plain_loss_and_none_is_it(problem: str, weighted: Any) -> None:
    logits, batch = make_batch(problem)
    plain = mean(problem, logits, batch, Penalty(class_weights=weighted))
    assert mean(problem, logits, batch, Penalty(class_weights=weighted, focal_gamma=0.0)) == plain
    close = mean(problem, logits, batch, Penalty(class_weights=weighted, focal_gamma=1e-9))
    torch.testing.assert_close(close, plain)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("problem", BOTH)
def test_focal_loss_and_its_slope_are_finite_where_the_model_is_sure(problem: str, gamma: float) -> None:
    labels = torch.tensor([0, 1]) if problem == "single_label" else torch.eye(3)[:2]
    logits = torch.tensor([[200.0, -200.0, -200.0], [200.0, -200.0, -200.0]], requires_grad=True)
    penalty = Penalty(focal_gamma=gamma)
    loss = mean(problem, logits, {"labels": labels, "weight": torch.ones(2)}, penalty)
    assert torch.isfinite(loss) and torch.isfinite(slope(loss, logits)).all() and loss > 10


@pytest.mark.parametrize("penalty", [Penalty(), Penalty(class_weights=WEIGHTS), Penalty(focal_gamma=2.0)])
@pytest.mark.parametrize("problem", BOTH)
def test_shares_of_labels_cost_their_share_of_each_label_s_loss(problem: str, penalty: Penalty) -> None:
    """The loss of mixup (Zhang et al. 2018), and its divisor too: hard labels are shares of 0 and 1."""
    logits, batch = make_batch(problem, rows=1)
    one, other = (torch.tensor([0]), torch.tensor([1])) if problem == "single_label" else torch.eye(3)[:2, None]
    soft = [functional.one_hot(label, 3).double() if label.ndim == 1 else label.double() for label in (one, other)]

    def parts(labels: torch.Tensor) -> torch.Tensor:
        return torch.stack(PROBLEMS[problem].objective({"logits": logits}, {**batch, "labels": labels}, penalty))

    torch.testing.assert_close(parts(soft[0]), parts(one).double())
    torch.testing.assert_close(parts(0.3 * soft[0] + 0.7 * soft[1]), 0.3 * parts(one) + 0.7 * parts(other))


@pytest.mark.parametrize("penalty", [Penalty(class_weights=WEIGHTS), Penalty(class_weights=WEIGHTS, focal_gamma=2.0)])
@pytest.mark.parametrize("problem", BOTH)
def test_the_weighted_objective_of_a_batch_is_the_sum_over_its_parts(problem: str, penalty: Penalty) -> None:
    logits, batch = make_batch(problem)
    whole = PROBLEMS[problem].objective({"logits": logits}, batch, penalty)
    parts = [
        PROBLEMS[problem].objective(
            {"logits": logits[part]}, {name: value[part] for name, value in batch.items()}, penalty
        )
        for part in (slice(0, 4), slice(4, 8), slice(8, 9))
    ]
    for index in range(2):
        torch.testing.assert_close(torch.stack([part[index] for part in parts]).sum(), whole[index])


# balanced


def test_balanced_classes_share_the_weight_of_all_rows() -> None:
    targets = np.array([0] * 6 + [1] * 3 + [3])
    found = balance_classes(targets, 5)
    np.testing.assert_allclose(found, [10 / 18, 10 / 9, 0, 10 / 3, 0])
    assert found[targets].sum() == pytest.approx(10)
    for label in (0, 1, 3):
        assert found[targets[targets == label]].sum() == pytest.approx(10 / 3)


def test_balanced_labels_weigh_their_presence_as_much_as_their_absence_up_to_a_limit() -> None:
    targets = np.zeros((1000, 4), dtype=np.float32)
    targets[:200, 0] = targets[:1, 1] = targets[:, 2] = 1
    assert balance_presence(targets, 4).tolist() == [4.0, MOST, 1.0, 1.0]
    targets[:995, 3] = 1
    assert balance_presence(targets, 4)[3] == 1 / MOST


def test_weights_follow_the_label_map_whatever_its_order(tmp_path: Path) -> None:
    """As it is reordered when the head of another model with the same labels is kept."""
    recipe = make_recipe("bert", tmp_path, tmp_path, objective={"class_weights": {"b": 3, "c": 0.5}})
    for names in (("a", "b", "c"), ("c", "b", "a")):
        labels = Labels(problem="single_label", names=names)
        found = find_penalty(recipe, TASKS["text-classification"], labels, None).class_weights
        assert found is not None
        assert dict(zip(names, found.tolist(), strict=True)) == {"a": 1.0, "b": 3.0, "c": 0.5}


# in training


WEIGHTED: dict[str, Any] = {"class_weights": "balanced", "focal_gamma": 1.5}


@pytest.mark.parametrize("problem", BOTH)
def test_accumulation_changes_nothing_with_weights(problem: str, models: Path, tmp_path: Path) -> None:
    """75 rows in steps of 32: the last of each epoch holds 11, of which the last micro-batch has 3."""
    runs = []
    for batch_size, accumulation in ((32, 1), (8, 4)):
        recipe = make_recipe(
            "bert",
            models,
            tmp_path / str(batch_size),
            model={"config": NO_DROPOUT},
            objective=WEIGHTED,
            training={
                "per_device_train_batch_size": batch_size,
                "gradient_accumulation_steps": accumulation,
                "logging_steps": 1,
                "warmup_steps": 0,
            },
        )
        work, steps = prepare(recipe, uneven(problem), double=True), []
        found = train(work, [Spy(lambda state, model, optimizer, steps=steps: steps.append(gradients(model)))])
        runs.append((logged(found, "loss", "grad_norm"), steps, weights(work)))
    (log_one, steps_one, one), (log_other, steps_other, other) = runs
    assert len(steps_one) == 6 and max(map(largest_difference, steps_one, steps_other)) < 1e-10
    assert largest_difference(one, other) < 1e-10
    np.testing.assert_allclose(log_one, log_other, rtol=1e-6)


def test_the_gradient_of_a_step_is_that_of_torch_s_weighted_mean_over_its_rows(models: Path, tmp_path: Path) -> None:
    """75 rows in micro-batches of 8, the last of 3."""
    recipe = make_recipe(
        "bert",
        models,
        tmp_path,
        model={"config": NO_DROPOUT},
        objective={"class_weights": {"positive": 3}},
        training={"gradient_accumulation_steps": 10, "max_grad_norm": 0, "num_train_epochs": 1},
    )
    work, steps = prepare(recipe, uneven(), double=True), []
    model, batch = work.built.model, work.collate(work.inputs["train"].features(75))
    logits = model.train()(**{name: value for name, value in batch.items() if name not in ("labels", "weight")}).logits
    torch.nn.CrossEntropyLoss(torch.tensor([1.0, 3.0]).double())(logits, batch["labels"]).backward()
    expected = gradients(model)
    model.zero_grad()
    train(work, [Spy(lambda state, model, optimizer: steps.append(gradients(model)))])
    assert len(steps) == 1 and largest_difference(steps[0], expected) < 1e-10


def run(problem: str, models: Path, folder: Path, batch: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    training = {"per_device_train_batch_size": batch, "logging_steps": 1}
    model = {"config": NO_DROPOUT}
    work = prepare(
        make_recipe("bert", models, folder, model=model, objective=WEIGHTED, training=training),
        uneven(problem, 61),
        double=True,
    )
    found = train(work)
    return logged(found, "loss", "grad_norm"), weights(work)


@pytest.mark.parametrize("problem", BOTH)
def test_two_processes_weigh_as_one(problem: str, models: Path, tmp_path: Path) -> None:
    log, one = run(problem, models, tmp_path / "one", 16)
    for other_log, other in in_two_processes(run, problem, models, tmp_path / "two", 8):
        assert largest_difference(one, other) < 1e-10
        np.testing.assert_allclose(other_log, log, rtol=1e-6)


@pytest.mark.parametrize("problem", BOTH)
def test_penalties_reach_the_training_loss_and_no_other(problem: str, models: Path, tmp_path: Path) -> None:
    losses = {}
    for objective in ({}, {"class_weights": "balanced"}, {"focal_gamma": 2}):
        recipe = make_recipe(
            "bert",
            models,
            tmp_path / "".join(objective),
            model={"config": NO_DROPOUT},
            objective=objective,
            training={"learning_rate": 0.0, "num_train_epochs": 1},
        )
        work = prepare(recipe, uneven(problem))
        work.built.model.classifier.weight.data *= 200
        found = train(work)
        evaluated = [entry["eval_loss"] for entry in found.log if "eval_loss" in entry]
        losses["".join(objective)] = (logged(found, "loss").mean(), evaluated)
    plain, *others = losses.values()
    for training, evaluated in others:
        assert training != pytest.approx(plain[0], rel=0.01) and evaluated == plain[1]


# what is said, and what is refused


def said(objective: dict[str, Any], models: Path, folder: Path, problem: str = "single_label", **dataset: Any) -> Any:
    recipe = make_recipe("bert", models, folder, objective=objective, dataset=dataset)
    return check(recipe, data=uneven(problem), fast=True)


def test_check_tells_the_weights(models: Path, tmp_path: Path) -> None:
    found = said({"class_weights": "balanced"}, models, tmp_path)
    assert "class weights: negative 1.97, positive 0.67" in found.notes and "class weights: " in str(found)
    assert "class weights" not in str(said({}, models, tmp_path))


@pytest.mark.parametrize(
    ("objective", "problem", "dataset", "place", "words"),
    [
        ({"class_weights": {"positve": 2}}, "single_label", {}, "objective.class_weights", "did you mean 'positive'"),
        ({"class_weights": {"f": 2}}, "multi_label", {}, "objective.class_weights", "valid here: a, b, c, even"),
        ({"class_weights": "balanced"}, "regression", {}, "objective.class_weights", "a number has no classes"),
        ({"class_weights": {"a": 2}}, "regression", {}, "objective.class_weights", "a number has no classes"),
        ({"focal_gamma": 2}, "regression", {}, "objective.focal_gamma", "a number has no classes"),
        ({}, "multi_label", {"sampling": "balanced"}, "dataset.sampling", "objective.class_weights: balanced"),
        ({}, "regression", {"sampling": "balanced"}, "dataset.sampling", "leave it out"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_weights_are_loaded(
    objective: Any, problem: str, dataset: Any, place: str, words: str, models: Path, tmp_path: Path
) -> None:
    found = said(objective, models, tmp_path, problem, **dataset)
    assert [finding.place for finding in found.errors] == [place] and words in found.errors[0].fix
    recipe = make_recipe("bert", models, tmp_path, objective=objective, dataset=dataset)
    with pytest.raises(HfSftError, match=place.replace(".", r"\.")):
        prepare(recipe, uneven(problem))
