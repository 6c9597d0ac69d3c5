"""Two processes give what one gives; a launcher that lost some is found out."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import notebook_launcher
from accelerate.state import AcceleratorState
from forked import in_two_processes
from tiny_runs import NO_DROPOUT, StopAfter, largest_difference, logged, make_data, make_recipe, prepare, train, weights

from hf_sft import environment, fine_tune
from hf_sft.errors import EnvironmentProblem
from hf_sft.record import RunRecord
from hf_sft.training.fit import Trained
from hf_sft.training.history import epoch_entries, step_entries
from hf_sft.training.trainer import SftTrainer

FROZEN_STATISTICS: dict[str, Any] = {  # a batch's own are those of its process
    "resnet": {"strategy": "head"},
    "segformer": {
        "strategy": "rules",
        "rules": [{"pattern": "decode_head.batch_norm.*", "lr_scale": 0}, {"pattern": "*"}],
    },
    "rt_detr": {
        "strategy": "rules",
        "rules": [
            {"pattern": "model.encoder.*.norm.*", "lr_scale": 0},
            {"pattern": "model.*coder_input_proj.?.1.*", "lr_scale": 0},
            {"pattern": "*"},
        ],
    },
}


def run(family: str, problem: str, models: Path, folder: Path, training: dict[str, Any]) -> dict[str, Any]:
    """76 rows, of which 15 are cut for validation, in float64 and without anything drawn at random."""
    recipe = make_recipe(
        family,
        models,
        folder,
        model={"config": NO_DROPOUT if family.startswith("bert") else {}},
        dataset={"validation_fraction": 0.2},
        tuning=FROZEN_STATISTICS.get(family, {"strategy": "full"}),
        training={"logging_steps": 1, "per_device_eval_batch_size": 4, **training},
    )
    work = prepare(recipe, make_data(family, problem, train=76), double=True)
    found = train(work)
    return {
        "split": [work.inputs[role].row_ids.tolist() for role in ("train", "validation")],
        "steps": logged(found, "loss", "grad_norm", "learning_rate"),
        "epochs": epoch_entries(found.log, evaluated=True),
        "best": found.best_step,
        "weights": weights(work),
    }


@pytest.mark.parametrize(
    "family, problem, shared",
    [
        ("bert", "single_label", {"per_device_train_batch_size": 8}),
        ("bert", "regression", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
        ("vit", "multi_label", {"per_device_train_batch_size": 8}),
        ("bert_tags", "tags", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
        ("segformer", "pixels", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
        ("rt_detr", "boxes", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
        ("resnet", "single_label", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}),
    ],
)
def test_two_processes_give_the_loss_split_metrics_and_weights_of_one(family, problem, shared, models, tmp_path):
    one = run(family, problem, models, tmp_path / "one", {"per_device_train_batch_size": 16})
    both = in_two_processes(run, family, problem, models, tmp_path / "two", shared)
    assert one["steps"].shape == (8, 3), "61 rows: three whole steps and a ragged one, twice"
    for other in both:
        assert other["split"] == one["split"]
        np.testing.assert_allclose(other["steps"], one["steps"], rtol=1e-6)  # the Trainer sums losses in float32
        np.testing.assert_allclose(other["steps"][:, 1:], one["steps"][:, 1:], rtol=1e-10)
        assert other["best"] == one["best"]
        assert largest_difference(other["weights"], one["weights"]) < 1e-10
        for mine, theirs in zip(one["epochs"], other["epochs"], strict=True):
            assert theirs == pytest.approx(mine, rel=1e-6)
    assert largest_difference(both[0]["weights"], both[1]["weights"]) == 0.0


def interrupted_and_resumed(models: Path, folder: Path) -> tuple[Any, Any]:
    """What a whole run and one that stopped and went on tell of themselves, dropout on."""
    training = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    training |= {"per_device_train_batch_size": 4}

    def go_on(name: str, *callbacks: Any) -> tuple[Trained, dict[str, np.ndarray]]:
        work = prepare(
            make_recipe("bert", models, folder / name, training=training), make_data("bert", train=44, validation=10)
        )
        return train(work, callbacks), weights(work)

    whole, kept = go_on("whole")
    try:
        go_on("parts", StopAfter(5))
    except KeyboardInterrupt:
        resumed, kept_too = go_on("parts")
    difference = largest_difference(kept, kept_too)
    return difference, [
        (step_entries(found.log), epoch_entries(found.log, evaluated=True)) for found in (whole, resumed)
    ]


def test_two_processes_resume_as_if_never_interrupted(models, tmp_path):
    make_recipe("bert", models, tmp_path)
    for difference, (whole, resumed) in in_two_processes(interrupted_and_resumed, models, tmp_path):
        assert difference == 0.0 and whole == resumed


def train_with_a_late_rank(models: Path, folder: Path, late: int) -> float:
    """The last training loss when one rank comes half a second after the other everywhere."""
    start: Callable[..., None] = SftTrainer.__init__

    def start_late(self: SftTrainer, **settings: Any) -> None:
        time.sleep(0.5 if int(os.environ["RANK"]) == late else 0)
        start(self, **settings)

    SftTrainer.__init__ = start_late  # type: ignore[method-assign]  # this rank ends with the test
    work = prepare(make_recipe("bert", models, folder), make_data("bert", train=32, validation=8))
    return float(logged(train(work), "loss")[-1, 0])


@pytest.mark.parametrize("late", [0, 1])
def test_a_rank_may_be_late(late, models, tmp_path):
    make_recipe("bert", models, tmp_path)
    losses = in_two_processes(train_with_a_late_rank, models, tmp_path / "run", late)
    assert losses[0] == losses[1] > 0


def whole_job(models: Path, folder: Path, batch_size: int) -> RunRecord:
    """fine_tune twice over: the second call deletes what the first left."""
    recipe = make_recipe(
        "bert",
        models,
        folder,
        model={"config": NO_DROPOUT},
        training={"per_device_train_batch_size": batch_size, "per_device_eval_batch_size": 64},
    )
    data = make_data("bert", train=40, test=13)
    fine_tune(recipe, data=data)
    return fine_tune(recipe, data=data, overwrite=True)


def test_the_whole_job_in_two_processes_leaves_one_run(models, tmp_path):
    """Also where a split has fewer batches than there are processes."""
    one = whole_job(models, tmp_path / "one", 8)
    both = in_two_processes(whole_job, models, tmp_path / "two", 4)
    read = RunRecord.load(tmp_path / "two")
    assert one.environment["processes"] == 1 and read.environment["processes"] == 2
    for record in (*both, read):
        for split in ("validation", "test"):
            assert record.metrics[split] == pytest.approx(one.metrics[split], rel=1e-4)
            assert record.data[split] == one.data[split]
    files = [
        sorted(path.relative_to(folder) for path in folder.rglob("*"))
        for folder in (tmp_path / "one", tmp_path / "two")
    ]
    assert files[0] == files[1]


# launchers that lose processes


@pytest.fixture
def forgotten_state():
    """As a fresh process knows it: nothing of the processes there are."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "variables",
    [pytest.param(LAUNCHED, id="accelerate launch --cpu"), pytest.param({"WORLD_SIZE": "2"}, id="two that never met")],
)
def test_processes_that_were_asked_for_and_did_not_form_stop_the_run_with_the_fix(
    variables, forgotten_state, monkeypatch, models, tmp_path
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EnvironmentProblem) as caught:
        fine_tune(make_recipe("bert", models, tmp_path / "run"), data=make_data("bert", train=16))
    message = str(caught.value)
    assert "hf-sft run --processes 2 RECIPE" in message and "--multi_gpu --num_processes 2" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="python"),
        pytest.param({"ACCELERATE_MIXED_PRECISION": "no"}, id="accelerate launch with one process"),
        pytest.param({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}, id="a cluster's shell"),
        pytest.param({"WORLD_SIZE": "1", "RANK": "0"}, id="a world of one"),
    ],
)
def test_one_process_that_was_asked_for_is_no_loss(variables, forgotten_state, monkeypatch, models, tmp_path):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment.prepare_environment(make_recipe("bert", models, tmp_path)).processes == 1


def test_ranks_forked_from_a_notebook_that_looked_at_the_machine_before_meet(forgotten_state, models, tmp_path):
    """`notebook_launcher` refuses a notebook that has trained, but not one that has only called `check`."""
    recipe = make_recipe("bert", models, tmp_path / "run", training={"num_train_epochs": 1})
    assert environment.prepare_environment(recipe).processes == 1
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])

    def train() -> None:
        fine_tune(recipe, data=make_data("bert", train=16, validation=8))

    notebook_launcher(train, num_processes=2, use_port=port)
    assert RunRecord.load(tmp_path / "run").environment["processes"] == 2


@pytest.mark.parametrize("cores, local, threads", [(8, 1, 8), (8, 2, 4), (2, 4, 1)])
def test_the_cores_are_shared_among_the_processes_of_a_machine(cores, local, threads, monkeypatch, models, tmp_path):
    chosen: list[int] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    found = environment.prepare_environment(make_recipe("bert", models, tmp_path))
    assert chosen == [threads] and found.threads == threads
    assert str(found).startswith("1 process on cpu")
