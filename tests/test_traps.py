"""Where the plain libraries go wrong without an error: what no other test holds, and that docs/correctness.md is true.

`docs/correctness.md` lists every trap with the test that fails when our work-around is taken out.
"""

from __future__ import annotations

import ast
import os
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset
from forked import in_two_processes
from safetensors.torch import load_file, save_file
from tiny import IMAGE_FAMILIES, TEXT_FAMILIES, images, save_image_model, texts
from tiny_runs import (
    NO_DROPOUT,
    Spy,
    StopAfter,
    gradients,
    largest_difference,
    logged,
    make_data,
    make_recipe,
    prepare,
    train,
    weights,
)
from tiny_saved import pictures, save
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    TrainerCallback,
    pipeline,
)

from hf_sft import environment, fine_tune
from hf_sft.commands.predict import predict
from hf_sft.errors import EnvironmentProblem, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.saved_model import load_saved

ROOT = Path(__file__).parents[1]
FAMILIES = ("bert", *IMAGE_FAMILIES)
NO_DROP_PATH = {"swin": {"drop_path_rate": 0.0}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


# the page itself

ENTRY = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_that_the_page_names_exists() -> None:
    named = ENTRY.findall((ROOT / "docs" / "correctness.md").read_text(encoding="utf-8"))
    assert len(named) > 40
    for file in sorted({file for file, _ in named}):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        missing = {name for other, name in named if other == file} - there
        assert not missing, f"{file} has no {', '.join(sorted(missing))}"


def test_every_row_of_the_page_names_a_test() -> None:
    lines = (ROOT / "docs" / "correctness.md").read_text(encoding="utf-8").splitlines()
    ruled = [number for number, line in enumerate(lines) if line.startswith("|") and set(line) <= set("|-: ")]
    headings = {number - 1 for number in ruled}
    rows = [
        line
        for number, line in enumerate(lines)
        if line.startswith("|") and number not in headings and number not in ruled
    ]
    assert len(ruled) == 2 and len(rows) > 30
    assert not [row[:80] for row in rows if not ENTRY.search(row)]


# the same optimisation however a batch is cut


def train_in_double(family: str, models: Path, folder: Path, train_rows: int, **training: Any) -> dict[str, Any]:
    """Everything trains, nothing is drawn at random, and statistics of BatchNorm stay as they are."""
    recipe = make_recipe(
        family,
        models,
        folder,
        model={"config": NO_DROP_PATH.get(family, {})},
        training={"logging_steps": 1, "warmup_steps": 0, **training},
    )
    work = prepare(recipe, make_data(family, train=train_rows, validation=16), double=True)
    work = replace(work, frozen=[part for part in work.built.model.modules() if isinstance(part, nn.BatchNorm2d)])
    before, steps = weights(work), []
    found = train(work, [Spy(lambda state, model, optimizer: steps.append(gradients(model)))])
    return {
        "before": before,
        "gradients": steps,
        "after": weights(work),
        "steps": logged(found, "loss", "grad_norm"),
    }


def assert_same_optimisation(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert largest_difference(one["before"], one["after"]) > 1e-3, "it did train"
    assert max(map(largest_difference, one["gradients"], other["gradients"])) < 1e-10
    assert largest_difference(one["after"], other["after"]) < 1e-10
    np.testing.assert_allclose(other["steps"][:, 1], one["steps"][:, 1], rtol=1e-10)
    np.testing.assert_allclose(other["steps"][:, 0], one["steps"][:, 0], rtol=1e-6)  # the Trainer sums in float32


@pytest.mark.parametrize("family", ["resnet", "convnext", "swin", "timm_resnet"])
def test_accumulation_changes_nothing_while_all_of_a_network_trains(family: str, models: Path, tmp_path: Path) -> None:
    """75 rows in steps of 32: the last of each epoch holds 11, of which the last micro-batch has 3."""
    one, other = (
        train_in_double(
            family,
            models,
            tmp_path / str(size),
            75,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
        )
        for size, accumulation in ((32, 1), (8, 4))
    )
    assert len(one["gradients"]) == len(other["gradients"]) == 6
    assert_same_optimisation(one, other)
    statistics = [name for name in one["before"] if "running" in name or "num_batches" in name]
    assert bool(statistics) == ("resnet" in family)
    assert all(np.array_equal(one["before"][name], one["after"][name]) for name in statistics)


@pytest.mark.parametrize("family", ["convnext", "swin", "timm_resnet"])
def test_two_processes_give_one_process_s_gradients_and_weights(family: str, models: Path, tmp_path: Path) -> None:
    """27 rows in steps of 16: the last of each epoch holds 11, which two processes fill up with rows of no weight."""
    one = train_in_double(family, models, tmp_path / "one", 27, per_device_train_batch_size=16)
    for other in in_two_processes(train_in_double, family, models, tmp_path / "two", 27):
        assert_same_optimisation(one, other)


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_the_gradient_of_a_step_is_that_of_the_mean_loss_of_its_rows(
    problem: str, models: Path, tmp_path: Path
) -> None:
    """As PyTorch alone computes it from all rows at once; the step is of two micro-batches of 4 rows and one of 3."""
    training = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "max_grad_norm": 0.0}
    recipe = make_recipe("bert", models, tmp_path, model={"config": NO_DROPOUT}, training={**training, "max_steps": 1})
    work, steps = prepare(recipe, make_data("bert", problem, train=11, validation=8), double=True), []
    plain, batch = deepcopy(work.built.model).train(), work.collate(work.inputs["train"].features(11))
    train(work, [Spy(lambda state, model, optimizer: steps.append(gradients(model)))])
    targets, weight = batch.pop("labels"), batch.pop("weight")
    logits = plain(**batch).logits
    if problem == "single_label":
        loss = functional.cross_entropy(logits, targets)
    elif problem == "multi_label":
        loss = functional.binary_cross_entropy_with_logits(logits, targets)
    else:
        loss = functional.mse_loss(logits[:, 0], targets)
    loss.backward()
    assert len(steps) == 1 and weight.sum() == 11
    assert largest_difference(steps[0], gradients(plain)) < 1e-10


# the weights that were evaluated


class Keep(TrainerCallback):
    """The weights at every evaluation."""

    def __init__(self) -> None:
        self.at_step: dict[int, dict[str, np.ndarray]] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.at_step[state.global_step] = {name: value.numpy().copy() for name, value in model.state_dict().items()}


class Spoil(TrainerCallback):
    """After a step the model is sure of its first label whatever it sees."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step:
            *_, bias = (parameter for parameter in model.parameters() if parameter.shape == (2,))
            bias.data += torch.tensor([50.0, -50.0])


def reload(family: str, folder: Path) -> dict[str, np.ndarray]:
    """What anyone gets from a saved model."""
    auto = AutoModelForSequenceClassification if family in TEXT_FAMILIES else AutoModelForImageClassification
    return {name: value.numpy() for name, value in auto.from_pretrained(folder).state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_model_and_that_of_a_resumed_run_are_the_best_that_was_evaluated(
    family: str, models: Path, tmp_path: Path
) -> None:
    """To the last bit; the last evaluation, of spoilt weights, is not the best."""
    training = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    data, keep = make_data(family, train=44, validation=16), Keep()

    def run(name: str, *callbacks: Any) -> Any:
        recipe = make_recipe(family, models, tmp_path / name, training=training, metrics=["log_loss"])
        return fine_tune(recipe, data=data, callbacks=[Spoil(11), *callbacks])

    record = run("whole", keep)
    best = min(record.history["epochs"], key=lambda entry: entry["log_loss"])["step"]
    assert list(keep.at_step) == [2, 4, 6, 8, 10, 12] and best < 12
    others = [step for step in keep.at_step if step != best]
    assert all(largest_difference(keep.at_step[step], keep.at_step[best]) > 0 for step in others)
    assert largest_difference(reload(family, record.directory.model), keep.at_step[best]) == 0.0
    with pytest.raises(KeyboardInterrupt):
        run("parts", StopAfter(7))
    resumed = run("parts")
    assert largest_difference(reload(family, resumed.directory.model), keep.at_step[best]) == 0.0
    assert resumed.metrics == record.metrics


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_a_seed_gives_the_same_weights_twice_and_another_seed_others(family: str, models: Path, tmp_path: Path) -> None:
    data = make_data(family, train=24, validation=8)

    def run(name: str, seed: int) -> dict[str, np.ndarray]:
        recipe = make_recipe(family, models, tmp_path / name, seed=seed, training={"num_train_epochs": 1})
        work = prepare(recipe, data)
        train(work)
        return weights(work)

    one, again, other = run("one", 1), run("again", 1), run("other", 2)
    assert largest_difference(one, again) == 0.0
    assert largest_difference(one, other) > 1e-3


def classify(family: str, model: Path, inputs: list[Any]) -> list[dict[str, float]]:
    """Label -> score as pipeline gives them, one input at a time."""
    ask: Any
    options: dict[str, Any] = {"top_k": 100}
    if family in TEXT_FAMILIES:
        ask, options["truncation"] = pipeline("text-classification", str(model), device="cpu"), True
    else:
        ask = pipeline("image-classification", str(model), device="cpu")
    return [{answer["label"]: answer["score"] for answer in ask(entry, **options)} for entry in inputs]


# which row is which


def rows_to_choose_from(family: str) -> Dataset:
    """60 rows of three labels; every seventh has no label, every eleventh nothing to read."""
    text = family in TEXT_FAMILIES
    column = "text" if text else "image"
    drawn = texts(60, seed=5) if text else images(60, seed=5)
    inputs: list[Any] = [None if index % 11 == 4 else value for index, value in enumerate(drawn[column])]
    labels = [None if index % 7 == 3 else ("low", "high", "none")[index % 3] for index in range(60)]
    return Dataset.from_dict(
        {column: inputs}, features=None if text else drawn.select_columns(column).features
    ).add_column("label", labels)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_predictions_name_the_rows_of_the_source_whatever_was_left_out(family: str, tmp_path: Path) -> None:
    """Slices, labels and bad rows dropped, a validation split cut, splits sampled: ids lead back to the rows."""
    base = save(family, tmp_path / "base", labels=["low", "high"])
    rows, column = rows_to_choose_from(family), "text" if family == "bert" else "image"
    dataset = {
        "splits": {"train": "train[8:50]", "test": "train[50:]+train[:8]"},
        "validation_fraction": 0.5,
        "label_map": {"none": None},
        "max_samples": {"validation": 9},
        "on_bad_row": "skip",
    }
    changes: dict[str, Any] = {"model": {"name": str(base)}, "dataset": dataset}
    changes["training"] = {"num_train_epochs": 1, "learning_rate": 1e-3, "per_device_eval_batch_size": 3}
    record = fine_tune(make_recipe(family, tmp_path, tmp_path / "run", **changes), data={"train": rows})

    def good(row: int) -> bool:
        return row % 11 != 4 and row % 7 != 3 and row % 3 != 2

    for split in ("validation", "test"):
        found = pyarrow.parquet.read_table(record.directory.predictions(split)).to_pydict()
        ids = found["row_id"]
        if split == "test":
            assert ids == [row for row in [*range(50, 60), *range(8)] if good(row)]
        else:
            assert 3 < len(ids) <= 9 and ids == sorted(ids) and all(8 <= row < 50 and good(row) for row in ids)
        assert found["reference"] == [("low", "high")[row % 3] for row in ids]
        answers = classify(family, record.directory.model, [rows[row][column] for row in ids])
        expected = [answer["low"] for answer in answers]
        assert len(np.unique(np.round(expected, 3))) > len(ids) // 2, "rows differ, so that their order shows"
        np.testing.assert_allclose(found["score_low"], expected, rtol=0, atol=1e-5)


# scores


@pytest.mark.parametrize("family", ["resnet", "convnext", "swin"])
def test_predict_gives_the_labels_and_scores_of_pipeline(family: str, tmp_path: Path) -> None:
    spread = save_image_model if family == "resnet" else save  # its logits differ from picture to picture by themselves
    folder, shown = spread(family, tmp_path / family, labels=["up", "down", "left"]), pictures(6)
    answers, rows = classify(family, folder, shown), predict(folder, shown, batch_size=4).rows
    assert [row["prediction"] for row in rows] == [max(answer, key=lambda name: answer[name]) for answer in answers]
    expected = [[answer[name] for name in ("up", "down", "left")] for answer in answers]
    assert np.std(expected, axis=0).max() > 1e-3, "rows differ"
    found = [[row[f"score_{name}"] for name in ("up", "down", "left")] for row in rows]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["bert", "vit", "timm_resnet"])
def test_a_half_precision_checkpoint_is_asked_in_float32(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = save(family, tmp_path / family, dtype=str(dtype).removeprefix("torch."))
    file = folder / "model.safetensors"
    half = {name: value.to(dtype) if value.is_floating_point() else value for name, value in load_file(file).items()}
    save_file(half, file, metadata={"format": "pt"})
    assert {parameter.dtype for parameter in load_saved(folder).model.parameters()} == {torch.float32}


# settings that would bring a trap back


@pytest.mark.parametrize(
    "training",
    [
        {"train_sampling_strategy": "group_by_length"},
        {"length_column_name": "length"},
        {"remove_unused_columns": True},
        {"label_smoothing_factor": 0.1},
        {"load_best_model_at_end": False},
        {"use_cpu": True},
    ],
    ids=lambda training: next(iter(training)),
)
def test_settings_that_bring_a_trap_back_are_refused(training: dict[str, Any]) -> None:
    content = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "d"}, "training": training}
    with pytest.raises(RecipeError, match=rf"training\.{next(iter(training))}"):
        Recipe.from_dict(content)


# processes and devices


def processes_without_being_told(models: Path) -> int:
    """How many form when nothing says that there is no accelerator."""
    os.environ.pop("ACCELERATE_USE_CPU")
    return environment.prepare_environment(make_recipe("bert", models, models / "unused")).processes


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a machine with an accelerator")
def test_ranks_meet_on_a_machine_without_an_accelerator(models: Path) -> None:
    make_recipe("bert", models, models)
    assert in_two_processes(processes_without_being_told, models) == [2, 2]


def complaint_of_a_rank_alone(models: Path) -> str:
    """What a rank says that is not told to stay on the CPU, as `accelerate launch --multi_gpu` does not."""
    environment.on_cpu = lambda: False  # this rank ends with the test
    with pytest.raises(EnvironmentProblem) as caught:
        environment.prepare_environment(make_recipe("bert", models, models / "unused"))
    return str(caught.value)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a machine with an accelerator")
def test_ranks_that_never_meet_stop_the_run(models: Path) -> None:
    make_recipe("bert", models, models)
    for complaint in in_two_processes(complaint_of_a_rank_alone, models):
        assert "2 processes, as the launcher was asked" in complaint and "found    1" in complaint


def test_gpus_that_stay_idle_are_named_with_the_command_that_uses_them(
    monkeypatch: pytest.MonkeyPatch, models: Path, tmp_path: Path
) -> None:
    state = SimpleNamespace(num_processes=1, device=torch.device("cuda", 0))
    monkeypatch.setattr(environment, "PartialState", lambda **settings: state)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    found = environment.prepare_environment(make_recipe("bert", models, tmp_path))
    assert found.notes == ("3 of 4 GPUs stay idle; hf-sft run --processes 4 RECIPE uses them",)
