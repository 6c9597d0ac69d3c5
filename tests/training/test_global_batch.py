"""One recipe, one optimisation: run.global_batch_size on any number of processes, and when a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import in_two_processes
from tiny_runs import NO_DROPOUT, StopAfter, largest_difference, logged, make_data, make_recipe, prepare, train, weights

from hf_sft import Recipe, fine_tune, job, room, run_directory
from hf_sft.commands.check import check
from hf_sft.errors import RecipeError
from hf_sft.training.global_batch import describe_batch, share_batch


def recipe_of(models: Path, folder: Path, whole: int | None, most: int | None = None, **training: Any) -> Recipe:
    """A tiny BERT without dropout, whose order of rows and weights can be compared."""
    if most is not None:
        training["per_device_train_batch_size"] = most
    training = {"logging_steps": 1, "save_strategy": "epoch", **training}
    made = make_recipe(
        "bert", models, folder, model={"config": NO_DROPOUT}, training=training, run={"global_batch_size": whole}
    )
    return made


def bare(whole: int | None, **training: Any) -> Recipe:
    content = {"task": "text-classification", "model": {"name": "x"}, "dataset": {"path": "memory"}}
    return Recipe.from_dict({**content, "training": training, "run": {"global_batch_size": whole}})


@pytest.mark.parametrize(
    "whole, most, processes, rows, batches",
    [
        (32, 32, 1, 32, 1),
        (32, 8, 1, 8, 4),
        (32, 8, 2, 8, 2),
        (32, 32, 2, 16, 1),
        (32, 32, 32, 1, 1),
        (96, 32, 2, 24, 2),
        (100, 32, 1, 25, 4),
        (3, 64, 1, 3, 1),
    ],
)
def test_each_device_takes_the_largest_part_of_its_share(whole, most, processes, rows, batches):
    shared = share_batch(bare(whole), most, processes)
    assert shared == {"per_device_train_batch_size": rows, "gradient_accumulation_steps": batches}
    assert rows <= most and rows * batches * processes == whole


def test_without_the_key_nothing_is_derived():
    assert share_batch(bare(None), 32, 3) == {} and describe_batch(bare(None), 3) == ""


@pytest.mark.parametrize(
    "whole, most, processes, words",
    [
        (32, 32, 3, ("a multiple of the 3 processes", "32 rows", "set 30 or 33")),
        (2, 32, 4, ("a multiple of the 4 processes", "set 4,")),
        (37, 32, 1, ("at most 32", "37, which split into batches of 1", "set 32 or 64")),
        (74, 32, 2, ("37 of each process", "set 64 or 128")),
    ],
)
def test_a_batch_that_cannot_be_shared_is_an_error_that_names_those_that_can(whole, most, processes, words):
    with pytest.raises(RecipeError) as caught:
        share_batch(bare(whole), most, processes)
    message = str(caught.value)
    assert message.startswith("run.global_batch_size") and all(word in message for word in words), message


def test_a_batch_that_cannot_be_shared_is_found_before_anything_is_read(models, tmp_path):
    recipe = recipe_of(models, tmp_path / "run", 37, 8)
    nowhere = recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"path": "nowhere"})})
    with pytest.raises(RecipeError, match="37, which split"):
        fine_tune(nowhere)
    assert "run.global_batch_size" in [finding.place for finding in check(nowhere).errors]
    report = check(recipe, data=make_data("bert", train=20))
    assert [finding.place for finding in report.errors] == ["run.global_batch_size"]


def test_accumulation_beside_it_is_an_error(models):
    with pytest.raises(RecipeError, match="leave it out: it follows from run"):
        bare(32, gradient_accumulation_steps=2)


def outcome(models: Path, folder: Path, whole: int, most: int) -> dict[str, Any]:
    recipe = recipe_of(models, folder, whole, most)
    work = prepare(recipe, make_data("bert", train=76), double=True)
    found = train(work)
    return {"curve": logged(found, "loss", "grad_norm", "learning_rate", "step"), "weights": weights(work)}


def test_one_recipe_is_one_optimisation_on_one_process_with_accumulation_and_on_two(models, tmp_path):
    whole = outcome(models, tmp_path / "whole", 32, 32)
    accumulated = outcome(models, tmp_path / "parts", 32, 8)
    both = in_two_processes(outcome, models, tmp_path / "two", 32, 8)
    assert len(whole["curve"]) == 6, "two whole steps and a ragged one, twice"
    for other in (accumulated, *both):
        np.testing.assert_allclose(other["curve"], whole["curve"], rtol=1e-6)
        assert largest_difference(other["weights"], whole["weights"]) < 1e-10


def test_the_resolved_recipe_holds_the_batch_and_runs_on_any_number_of_processes(models, tmp_path):
    work = prepare(recipe_of(models, tmp_path / "run", 32, 8), make_data("bert", train=40))
    assert work.recipe.to_dict()["training"]["gradient_accumulation_steps"] == 4
    assert describe_batch(work.recipe, 1) == "a step has 32 rows: 8 rows x 4 batches accumulated"
    (tmp_path / "resolved.yaml").write_text(work.recipe.to_yaml(), encoding="utf-8")
    again = Recipe.load(tmp_path / "resolved.yaml")
    assert again.run.global_batch_size == 32 and "gradient_accumulation_steps" not in again.training
    assert share_batch(again, job.largest_batch(again), 2)["gradient_accumulation_steps"] == 2


def go_on(models: Path, folder: Path, whole: int | None, most: int, *callbacks: Any) -> dict[str, np.ndarray]:
    work = prepare(
        recipe_of(models, folder, whole, most, eval_strategy="no", save_strategy="steps", save_steps=1),
        make_data("bert", train=44, validation=10),
        double=True,
    )
    train(work, callbacks)
    return weights(work)


def test_a_run_begun_on_one_process_ends_on_two_with_the_same_weights(models, tmp_path):
    uninterrupted = go_on(models, tmp_path / "whole", 16, 16)
    with pytest.raises(KeyboardInterrupt):
        go_on(models, tmp_path / "run", 16, 16, StopAfter(4))
    for ended in in_two_processes(go_on, models, tmp_path / "run", 16, 4):
        assert largest_difference(ended, uninterrupted) < 1e-10


def test_steps_of_another_size_are_refused_when_a_run_goes_on(models, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go_on(models, tmp_path / "run", None, 16, StopAfter(2))
    with pytest.raises(AssertionError) as caught:
        in_two_processes(go_on, models, tmp_path / "run", None, 16)
    message = str(caught.value)
    assert "steps of 16 rows, as the run began" in message and "32 rows: 2 processes, where 1 began" in message
    assert "run.global_batch_size: 16" in message


def test_a_device_may_take_fewer_rows_at_once_when_the_run_goes_on(models, tmp_path):
    before, after, other = (recipe_of(models, tmp_path / "run", *sizes) for sizes in ((16, 16), (16, 4), (32, 4)))
    folder = run_directory.open_run(before, run_directory.describe_asked(before, None), overwrite=False)
    (folder.path / "checkpoints").mkdir()
    (folder.path / "checkpoints" / "batch.json").write_text("{}", encoding="utf-8")
    assert run_directory.finished_run(after, run_directory.describe_asked(after, None), overwrite=False) is None
    with pytest.raises(RecipeError, match=r"run.global_batch_size \(was 16, now 32\)"):
        run_directory.finished_run(other, run_directory.describe_asked(other, None), overwrite=False)


def test_where_memory_ran_out_accumulation_is_left_to_the_key():
    said = str(room.out_of_memory(bare(32, per_device_train_batch_size=8)))
    assert "per_device_train_batch_size=4 optimises the same" in said
