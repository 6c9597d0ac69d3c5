"""The course of a run: what the log becomes, and that it does not depend on how often something was logged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tiny_runs import logged, make_data, make_recipe, prepare, train

from hf_sft.training.history import epoch_entries, mean_loss, step_entries

LOG = [
    {"step": 2, "epoch": 0.5, "loss": 4.0, "items": 16, "grad_norm": 1.0, "learning_rate": 0.1, "total_flos": 1},
    {"step": 4, "epoch": 1.0, "loss": 2.0, "items": 16, "grad_norm": 2.0, "learning_rate": 0.2},
    {"step": 4, "epoch": 1.0, "eval_loss": 0.5, "eval_accuracy": 0.75},
    {"step": 5, "epoch": 1.25, "loss": 1.0, "items": 8, "grad_norm": 3.0, "learning_rate": 0.1},
    {"step": 8, "epoch": 2.0, "loss": 3.0, "items": 24, "grad_norm": 4.0, "learning_rate": 0.0},
    {"step": 8, "epoch": 2.0, "eval_loss": 0.25, "eval_accuracy": 0.5},
    {"step": 8, "epoch": 2.0, "train_loss": 2.0, "train_runtime": 1.0},
]


def test_steps_are_the_optimizer_logs_and_nothing_else():
    entries = step_entries(LOG)
    assert [entry["step"] for entry in entries] == [2, 4, 5, 8]
    assert all(set(entry) == {"step", "epoch", "loss", "grad_norm", "learning_rate"} for entry in entries)


def test_epochs_hold_the_mean_loss_of_their_steps_and_what_validation_said():
    assert epoch_entries(LOG, evaluated=True) == [
        {"epoch": 1.0, "step": 4, "train_loss": 3.0, "validation_loss": 0.5, "accuracy": 0.75},
        {"epoch": 2.0, "step": 8, "train_loss": 2.5, "validation_loss": 0.25, "accuracy": 0.5},
    ]
    assert epoch_entries(LOG, evaluated=False) == [
        {"epoch": 1.0, "step": 4, "train_loss": 3.0, "validation_loss": None},
        {"epoch": 2.0, "step": 8, "train_loss": 2.5, "validation_loss": None},
    ]


def test_a_mean_over_no_steps_is_not_a_number():
    assert math.isnan(mean_loss(LOG, 8, 8)) and math.isnan(mean_loss([], 0, 5))


def test_the_mean_weighs_an_entry_by_the_items_it_stands_for():
    generator = np.random.default_rng(0)
    losses, items = generator.random(20), generator.integers(1, 9, 20)
    ends = [3, 4, 9, 10, 16, 20]
    log = [
        {
            "step": stop,
            "epoch": stop / 10,
            "loss": np.average(losses[start:stop], weights=items[start:stop]),
            "items": items[start:stop].sum(),
        }
        for start, stop in zip([0, *ends], ends, strict=False)
    ]
    assert mean_loss(log, 0, 20) == pytest.approx(np.average(losses, weights=items))
    assert mean_loss(log, 4, 10) == pytest.approx(np.average(losses[4:10], weights=items[4:10]))


def test_the_history_does_not_depend_on_how_often_is_logged(models, tmp_path):
    """6 steps an epoch; what is said per epoch is the same, and each log is the mean of the steps since the last."""
    data, found = make_data("bert", train=44, validation=8), {}
    settings = [{"logging_steps": 1}, {"logging_steps": 4}, {"logging_strategy": "epoch"}, {"logging_strategy": "no"}]
    for number, training in enumerate(settings):
        found[number] = train(prepare(make_recipe("bert", models, tmp_path / str(number), training=training), data))
    every_step = logged(found[0], "loss")[:, 0]
    assert len(every_step) == 12
    epochs = epoch_entries(found[0].log, evaluated=True)
    assert [entry["step"] for entry in epochs] == [6, 12]
    rows = [8, 8, 8, 8, 8, 4] * 2  # the last batch of an epoch is ragged
    assert epochs[1]["train_loss"] == pytest.approx(np.average(every_step[6:], weights=rows[6:]), rel=1e-6)
    for number in (1, 2, 3):
        others = epoch_entries(found[number].log, evaluated=True)
        assert [{**entry, "train_loss": pytest.approx(entry["train_loss"], rel=1e-6)} for entry in epochs] == others
    steps, losses = logged(found[1], "step", "loss").T
    assert steps.tolist() == [4, 6, 8, 12]
    means = [
        np.average(every_step[start:stop], weights=rows[start:stop])
        for start, stop in ((0, 4), (4, 6), (6, 8), (8, 12))
    ]
    np.testing.assert_allclose(losses, means, rtol=1e-6)


def test_one_line_is_said_per_epoch(models, tmp_path, capsys):
    data = make_data("bert", train=20, validation=8)
    train(prepare(make_recipe("bert", models, tmp_path, training={"num_train_epochs": 3}), data))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all("train loss" in line and "validation loss" in line and "accuracy" in line for line in lines)


@pytest.mark.parametrize("training", [{}, {"eval_strategy": "no"}], ids=["no split", "not asked for"])
def test_without_validation_epochs_hold_the_training_loss_alone(models, tmp_path, training, capsys):
    data = make_data("bert", train=20, validation=8)
    splits = {} if training else {"validation": None}
    found = train(prepare(make_recipe("bert", models, tmp_path, training=training, dataset={"splits": splits}), data))
    entries = epoch_entries(found.log, evaluated=False)
    assert [(entry["epoch"], entry["validation_loss"]) for entry in entries] == [(1.0, None), (2.0, None)]
    assert all(entry["train_loss"] > 0 for entry in entries)
    assert sum(line.startswith("epoch") for line in capsys.readouterr().out.splitlines()) == 2
