"""Heads that are solved: the solutions of scikit-learn, written as the layers of networks."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import HEADS, load
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_sft.errors import ModelError
from hf_sft.modeling.anatomy import output_layers
from hf_sft.modeling.folds import choose_rows, deal_folds, deal_groups
from hf_sft.modeling.linear_probe import has_bias, new_below_output, num_features, solve, write_head


def features(rows: int = 200, size: int = 12, *, seed: int = 0) -> NDArray:
    """float32 [rows, size], of unlike scales and far from zero."""
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(rows, size)) * np.logspace(-2, 1, size) + np.linspace(-3, 3, size)).astype("float32")


def targets_of(rows: NDArray, problem: str, num_outputs: int, *, seed: int = 1) -> NDArray:
    """Targets that a linear function of the rows gives, with noise."""
    generator = np.random.default_rng(seed)
    scaled = StandardScaler().fit_transform(rows.astype(float))
    scores = scaled @ generator.normal(size=(rows.shape[1], num_outputs)) + generator.normal(
        size=(len(rows), num_outputs)
    )
    if problem == "single_label":
        return scores.argmax(1)
    return (scores > 0).astype(np.float32) if problem == "multi_label" else scores[:, 0].astype(np.float32)


@pytest.mark.parametrize("num_outputs", [2, 3, 5])
def test_one_label_is_solved_as_scikit_learn_s_pipeline_does(num_outputs: int) -> None:
    rows = features()
    targets = targets_of(rows, "single_label", num_outputs)
    solved = solve(rows, targets, "single_label", seed=0, num_outputs=num_outputs)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=solved.regularisation, tol=1e-8, max_iter=10_000))
    expected = pipeline.fit(rows.astype(float), targets).decision_function(rows.astype(float))
    logits = (rows @ solved.weight.astype("float32").T + solved.bias.astype("float32")).astype(float)
    if num_outputs == 2:
        assert solved.weight[0] == pytest.approx(-solved.weight[1])
        assert logits[:, 1] - logits[:, 0] == pytest.approx(expected, abs=1e-4)
    else:
        centred = logits - logits.mean(1, keepdims=True)
        assert centred == pytest.approx(expected - expected.mean(1, keepdims=True), abs=1e-4)


def test_several_labels_are_solved_one_by_one() -> None:
    rows = features()
    targets = targets_of(rows, "multi_label", 4)
    solved = solve(rows, targets, "multi_label", seed=0, num_outputs=4)
    for label in range(4):
        model = LogisticRegression(C=solved.regularisation, tol=1e-8, max_iter=10_000)
        pipeline = make_pipeline(StandardScaler(), model).fit(rows.astype(float), targets[:, label])
        expected = pipeline.decision_function(rows.astype(float))
        assert solved.logits(rows)[:, label] == pytest.approx(expected, abs=1e-4)


def test_numbers_are_solved_by_ridge_regression() -> None:
    rows = features()
    targets = targets_of(rows, "regression", 1)
    solved = solve(rows, targets, "regression", seed=0, num_outputs=1)
    pipeline = make_pipeline(StandardScaler(), Ridge(alpha=solved.regularisation)).fit(rows.astype(float), targets)
    assert solved.logits(rows)[:, 0] == pytest.approx(pipeline.predict(rows.astype(float)), abs=1e-4)
    assert str(solved).startswith("head solved by ridge regression, alpha ") and str(solved).endswith(" of 5 folds")


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("num_outputs", [2, 4])
def test_what_a_plane_separates_is_told_apart_without_a_mistake(num_outputs: int, intercept: bool) -> None:
    generator = np.random.default_rng(0)
    targets = np.arange(120) % num_outputs
    rows = np.eye(num_outputs, 8)[targets] + generator.uniform(-0.3, 0.3, size=(120, 8))
    solved = solve(rows, targets, "single_label", seed=0, num_outputs=num_outputs, intercept=intercept)
    assert (solved.logits(rows).argmax(1) == targets).all()
    assert intercept or not solved.bias.any()


@pytest.mark.parametrize("intercept", [True, False])
def test_a_label_without_rows_is_never_preferred(intercept: bool) -> None:
    rows = features()
    targets = targets_of(rows, "single_label", 3)
    targets[targets == 1] = 3
    solved = solve(rows, targets, "single_label", seed=0, num_outputs=5, intercept=intercept)
    assert set(solved.logits(rows).argmax(1)) <= {0, 2, 3}
    assert np.isfinite(solved.weight).all() and np.isfinite(solved.bias).all()


@pytest.mark.parametrize("intercept", [True, False])
def test_labels_that_all_rows_have_or_none_get_a_constant(intercept: bool) -> None:
    rows = features()
    targets = targets_of(rows, "multi_label", 3)
    targets[:, 0], targets[:, 2] = 1.0, 0.0
    logits = solve(rows, targets, "multi_label", seed=0, num_outputs=3, intercept=intercept).logits(rows)
    assert logits[:, 0].mean() > 1 and logits[:, 2].mean() < -1
    assert not intercept or (np.ptp(logits[:, 0]) == 0 and (logits[:, 2] < 0).all())


def test_one_class_alone_and_classes_of_one_row_are_solved() -> None:
    rows = features(10)
    alone = solve(rows, np.full(10, 1), "single_label", seed=0, num_outputs=3)
    assert (alone.logits(rows).argmax(1) == 1).all()
    each = solve(rows, np.arange(10), "single_label", seed=0, num_outputs=10)
    assert (alone.folds, each.folds) == (0, 0) and "too few rows" in str(each)
    assert (each.logits(rows).argmax(1) == np.arange(10)).all()
    one_row = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 2])
    assert solve(rows, one_row, "single_label", seed=0, num_outputs=3).folds == 4


def test_features_that_never_vary_change_nothing() -> None:
    rows = features()
    targets = targets_of(rows, "single_label", 3)
    plain = solve(rows, targets, "single_label", seed=0, num_outputs=3)
    constant = np.hstack([rows, np.full((200, 2), [0.0, 7.0], dtype="float32")])
    more = solve(constant, targets, "single_label", seed=0, num_outputs=3)
    assert more.logits(constant) == pytest.approx(plain.logits(rows), abs=1e-4)
    constant[:, -1] += np.random.default_rng(0).normal(size=200).astype("float32") * 1e-6
    shaken = solve(constant, targets, "single_label", seed=0, num_outputs=3)
    assert np.abs(shaken.weight[:, -1]).max() < 10  # its noise is not blown up


def test_the_strength_is_that_with_the_least_loss_on_held_out_rows() -> None:
    rows = features(seed=3)
    solved = solve(rows, np.random.default_rng(3).integers(0, 2, 200), "single_label", seed=0, num_outputs=2)
    assert solved.regularisation == min(solved.scores, key=lambda tried: solved.scores[tried])
    assert solved.regularisation < 0.01  # labels at random: nothing is to be learnt
    informative = solve(rows, (rows[:, 0] > rows[:, 0].mean()).astype(int), "single_label", seed=0, num_outputs=2)
    assert informative.regularisation > 1


def test_the_same_call_gives_the_same_layer_without_a_word() -> None:
    rows = features()
    targets = targets_of(rows, "single_label", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, other = (solve(rows, targets, "single_label", seed=7, num_outputs=3) for _ in range(2))
    assert np.array_equal(one.weight, other.weight) and np.array_equal(one.bias, other.bias)
    assert one.scores == other.scores


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_folds_hold_like_shares_of_every_target(problem: str) -> None:
    targets = targets_of(features(103), problem, 3)
    folds = deal_folds(targets, problem, seed=0)
    assert folds is not None and folds.max() == 4
    assert np.ptp(np.bincount(folds)) <= 1
    kinds = {"single_label": targets, "regression": targets > np.median(targets)}.get(problem)
    kinds = kinds if kinds is not None else (targets @ [1, 2, 4]).astype(int)
    for kind in np.unique(kinds):
        counts = np.bincount(folds[kinds == kind], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_of_many_rows_a_stratified_part_is_drawn() -> None:
    targets = np.repeat([0, 1, 2], [600, 300, 100])
    drawn = choose_rows(targets, 250, seed=0)
    assert np.bincount(targets[drawn]).tolist() == [150, 75, 25]
    assert (np.diff(drawn) > 0).all()
    assert choose_rows(targets, 1000, seed=0).tolist() == list(range(1000))


@pytest.mark.parametrize("family", HEADS)
def test_the_solution_becomes_the_model_s_own_layer(family: str, tmp_path: Path) -> None:
    model = load(family, tmp_path, num_labels=3)
    rows = features(60, num_features(model))
    targets = targets_of(rows, "single_label", 3)
    intercept = has_bias(model)
    assert intercept == (family != "gpt2")
    solved = solve(rows, targets, "single_label", seed=0, num_outputs=3, intercept=intercept)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    write_head(model, solved)
    layers = output_layers(model, 3)
    parts = torch.from_numpy(rows).split(num_features(model) // len(layers), dim=1)
    answers = [layer(part) for layer, part in zip(layers.values(), parts, strict=True)]
    answer = torch.stack(answers).mean(0).detach().numpy()
    assert answer == pytest.approx(solved.logits(rows), abs=1e-4 * max(1.0, float(np.abs(answer).max())))
    inside = tuple(f"{name}." for name in layers)
    for name, value in model.state_dict().items():
        assert name.startswith(inside) or torch.equal(value, before[name])


def test_a_solution_of_another_shape_is_refused(tmp_path: Path) -> None:
    solved = solve(features(), targets_of(features(), "single_label", 3), "single_label", seed=0, num_outputs=3)
    with pytest.raises(ModelError, match="3 of 12"):
        write_head(load("bert", tmp_path, num_labels=3), solved)


def test_parameters_below_the_output_layer_that_start_untrained_are_named(tmp_path: Path) -> None:
    model: Any = load("roberta", tmp_path, num_labels=3)
    new = frozenset(name for name, _ in model.named_parameters() if name.startswith("classifier"))
    assert new_below_output(model, new) == ["classifier.dense.weight", "classifier.dense.bias"]


@pytest.mark.slow
def test_77_labels_of_10_003_rows_take_under_a_minute_on_one_core() -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 77, 10_003)
    rows = (generator.normal(size=(77, 384))[targets] * 0.12 + generator.normal(size=(10_003, 384))).astype("float32")
    started = time.process_time()
    solve(rows, targets, "single_label", seed=0, num_outputs=77)
    assert time.process_time() - started < 60


def test_rows_of_a_group_share_a_fold() -> None:
    groups = np.array(["a", "b", "c", "d", "e", "f", "g"])[np.random.default_rng(0).integers(0, 7, 200)]
    folds = deal_groups(groups, seed=3)
    assert folds is not None and set(folds) == {0, 1, 2, 3, 4}
    assert all(len(set(folds[groups == name])) == 1 for name in groups)
    assert deal_groups(["one"] * 9, seed=3) is None


def test_regularisation_is_chosen_on_groups_that_were_not_seen() -> None:
    """Features that name the group tell nothing of another one: only folds of whole groups see that."""
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 8)
    targets = generator.integers(0, 2, 40)[groups]
    features = generator.normal(size=(40, 60))[groups].astype(np.float32)
    alike = solve(features, targets, "single_label", seed=0, num_outputs=2)
    apart = solve(features, targets, "single_label", seed=0, num_outputs=2, groups=groups)
    assert np.abs(apart.weight).max() < np.abs(alike.weight).max() / 2
    assert min(apart.scores.values()) > 2 * min(alike.scores.values())
