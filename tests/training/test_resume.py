"""A run that was interrupted goes on as if it never had been; a run repeats to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import (
    StopAfter,
    largest_difference,
    make_data,
    make_recipe,
    prepare,
    train,
    weights,
)
from transformers import TrainerCallback

from hf_sft.training.fit import Trained
from hf_sft.training.history import epoch_entries, step_entries

EACH_TWO_STEPS = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
ENDED = "on_train_end"


def run(family: str, models: Path, folder: Path, *callbacks: Any, **changes: Any) -> tuple[Trained, dict[str, Any]]:
    """Train (or go on) in a folder; 44 rows in batches of 8 make 6 steps an epoch -> (how it went, final weights)."""
    recipe = make_recipe(family, models, folder, **changes)
    work = prepare(recipe, make_data(family, train=44, validation=16))
    return train(work, callbacks), weights(work)


def course(found: Trained) -> tuple[Any, ...]:
    """All that a record tells of training but the time it took."""
    return step_entries(found.log), epoch_entries(found.log, evaluated=True), found.best_step


@pytest.mark.parametrize("family", ["bert", "vit", "bert_tags"])
@pytest.mark.parametrize(
    "stops, training",
    [
        pytest.param([("on_step_end", 5)], EACH_TWO_STEPS, id="inside an epoch"),
        pytest.param([("on_step_end", 6)], EACH_TWO_STEPS, id="before the checkpoint at an epoch's end"),
        pytest.param([("on_save", 6)], EACH_TWO_STEPS, id="after the checkpoint at an epoch's end"),
        pytest.param([("on_step_end", 3), ("on_step_end", 9)], EACH_TWO_STEPS, id="twice"),
        pytest.param([("on_step_end", 8)], {}, id="saving each epoch"),
        pytest.param([(ENDED, 12)], {}, id="after the last step"),
        pytest.param(
            [("on_step_end", 7)], {"save_strategy": "steps", "save_steps": 3}, id="saving more than evaluating"
        ),
        pytest.param([("on_step_end", 5)], {**EACH_TWO_STEPS, "logging_steps": 5}, id="between two logs"),
        pytest.param(
            [("on_step_end", 4)],
            {**EACH_TWO_STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
            id="accumulating",
        ),
        pytest.param([(ENDED, 8)], {**EACH_TWO_STEPS, "max_steps": 8}, id="after max_steps inside an epoch"),
    ],
)
def test_resumed_run_equals_uninterrupted_run(family, stops, training, models, tmp_path):
    """To the last bit, with dropout on in BERT: weights, every log, every evaluation, the best step."""
    whole, kept = run(family, models, tmp_path / "whole", training=training)
    for event, step in stops:
        with pytest.raises(KeyboardInterrupt):
            run(family, models, tmp_path / "parts", StopAfter(step, event), training=training)
    resumed, kept_too = run(family, models, tmp_path / "parts", training=training)
    assert course(resumed) == course(whole)
    assert largest_difference(kept, kept_too) == 0.0
    assert resumed.rows < whole.rows


@pytest.mark.parametrize("event", ["on_step_end", "on_save", ENDED])
def test_patience_survives_an_interruption(event, models, tmp_path):
    """Nothing improves by half, so patience 3 ends training at the fourth evaluation: step 8 of 36."""
    settings = {
        "training": {**EACH_TWO_STEPS, "num_train_epochs": 6},
        "early_stopping": {"patience": 3, "threshold": 0.5},
    }
    whole, kept = run("bert", models, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run("bert", models, tmp_path / "parts", StopAfter(7, event), **settings)
    resumed, kept_too = run("bert", models, tmp_path / "parts", **settings)
    assert [entry["step"] for entry in epoch_entries(whole.log, evaluated=True)] == [2, 4, 6, 8]
    assert course(resumed) == course(whole)
    assert largest_difference(kept, kept_too) == 0.0


def test_rows_seen_before_and_after_an_interruption_are_an_epoch(models, tmp_path):
    seen: list[str] = []
    data = make_data("bert", train=44, validation=16)
    training = {**EACH_TWO_STEPS, "num_train_epochs": 1, "eval_strategy": "no"}
    for callbacks in ([StopAfter(4, "on_save")], []):
        work = prepare(make_recipe("bert", models, tmp_path, training=training), data)
        rows = [str(row["input_ids"]) for row in work.inputs["train"].features(44)]
        before = len(seen)

        def note(features: Any, collate: Any = work.collate) -> Any:
            seen.extend(str(feature["input_ids"]) for feature in features)
            return collate(features)

        try:
            train(replace(work, collate=note), callbacks)
        except KeyboardInterrupt:
            del seen[32:]  # a batch may have been read ahead
    assert len(seen) - before >= 12
    assert sorted(seen[:32] + seen[-12:]) == sorted(rows)


def test_a_checkpoint_that_was_not_written_to_its_end_is_left_out(models, tmp_path):
    whole, kept = run("bert", models, tmp_path / "whole", training=EACH_TWO_STEPS)
    with pytest.raises(KeyboardInterrupt):
        run("bert", models, tmp_path / "parts", StopAfter(5), training=EACH_TWO_STEPS)
    checkpoints = tmp_path / "parts" / "checkpoints"
    (checkpoints / "checkpoint-4" / "complete").unlink()
    (checkpoints / "checkpoint-6").mkdir()
    resumed, kept_too = run("bert", models, tmp_path / "parts", training=EACH_TWO_STEPS)
    assert course(resumed) == course(whole)
    assert largest_difference(kept, kept_too) == 0.0


@pytest.mark.parametrize(
    "family, metric, rate",
    [
        *((family, metric, 0.3) for family in ("bert", "vit", "swin", "resnet") for metric in ("macro_f1", "log_loss")),
        ("bert_tags", "token_accuracy", 0.3),
        ("segformer", "mean_iou", 0.1),
        ("rt_detr", "map", 0.02),
    ],
)
def test_the_weights_kept_are_those_of_the_best_evaluation(family, metric, rate, models, tmp_path):
    """By the first metric, whichever way is better, then by the loss; for models saved under other key names too.

    The learning rate is far too high, so that the last evaluation is not the best. Every second evaluation is saved.
    """
    at_step: dict[int, dict[str, np.ndarray]] = {}

    class Keep(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            at_step[state.global_step] = {name: value.numpy().copy() for name, value in model.state_dict().items()}

    training = {**EACH_TWO_STEPS, "save_steps": 4, "learning_rate": rate, "lr_scheduler_type": "constant"}
    found, kept = run(family, models, tmp_path, Keep(), training=training, metrics=[metric])
    sign = -1 if metric == "log_loss" else 1
    values = {
        entry["step"]: (sign * entry[metric], -entry["validation_loss"])
        for entry in epoch_entries(found.log, evaluated=True)
    }
    best = max(values, key=lambda step: values[step])
    assert found.best_step == best
    assert largest_difference(kept, at_step[best]) == 0.0
    others = [step for step in values if values[step] != values[best]]
    assert others and all(largest_difference(kept, at_step[step]) > 0 for step in others)


def test_early_stopping_stops(models, tmp_path):
    settings = {"training": {**EACH_TWO_STEPS, "learning_rate": 0.0, "num_train_epochs": 6}}
    found, _ = run("bert", models, tmp_path, early_stopping={"patience": 2}, **settings)
    assert [entry["step"] for entry in epoch_entries(found.log, evaluated=True)] == [2, 4, 6]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(models, tmp_path):
    found = {
        name: run("bert", models, tmp_path / name, seed=seed, training={"num_train_epochs": 1})
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    }
    assert course(found["one"][0]) == course(found["again"][0])
    assert largest_difference(found["one"][1], found["again"][1]) == 0.0
    assert largest_difference(found["one"][1], found["other"][1]) > 1e-3


def test_the_first_weights_of_a_head_depend_on_the_seed(models, tmp_path):
    data = make_data("bert", train=16, validation=8)
    first = [
        prepare(make_recipe("bert", models, tmp_path, seed=seed), data).built.model.classifier.weight.tolist()
        for seed in (1, 1, 2)
    ]
    assert first[0] == first[1] != first[2]


def test_evaluating_more_often_does_not_change_what_is_learned(models, tmp_path):
    """Dropout on: evaluation leaves the random numbers of training alone."""
    _, seldom = run("bert", models, tmp_path / "seldom", training={"eval_strategy": "no"})
    _, often = run(
        "bert", models, tmp_path / "often", training={"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no"}
    )
    assert largest_difference(seldom, often) == 0.0


def test_going_on_asks_for_no_second_evaluation_at_the_start(models, tmp_path):
    training = {**EACH_TWO_STEPS, "eval_on_start": True}
    whole, _ = run("bert", models, tmp_path / "whole", training=training)
    with pytest.raises(KeyboardInterrupt):
        run("bert", models, tmp_path / "parts", StopAfter(5), training=training)
    resumed, _ = run("bert", models, tmp_path / "parts", training=training)
    assert course(resumed) == course(whole)
    assert [entry["step"] for entry in epoch_entries(whole.log, evaluated=True)] == [0, 2, 4, 6, 8, 10, 12]
