"""A whole run: what it leaves, that its numbers can be computed again, and how it ends."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from sklearn import metrics as reference
from tiny_runs import NO_DROPOUT, StopAfter, largest_difference, make_data, make_recipe
from tiny_runs import prepare as tiny_prepare
from transformers import TrainerCallback, pipeline

from hf_sft import RunRecord, fine_tune, results
from hf_sft.cli import run_command
from hf_sft.errors import EnvironmentProblem, ModelError, RecipeError
from hf_sft.launch import launch
from hf_sft.recipe import Recipe
from hf_sft.training import fit
from hf_sft.training.order import epoch_order
from hf_sft.training.stopping import StopOnRequest

METRICS_OF = {
    "single_label": ["macro_f1", "accuracy", "log_loss", "auroc"],
    "multi_label": ["micro_f1", "macro_f1", "average_precision"],
    "regression": ["mse", "mae", "r2"],
}
CASES = [("bert", "single_label"), ("bert", "multi_label"), ("bert", "regression"), ("vit", "single_label")]
SIZES = {"train": 44, "validation": 20, "test": 17}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def record(request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """Of a finished run with all three splits, read back from its folder."""
    family, problem = request.param
    folder = tmp_path_factory.mktemp("runs") / f"{family}_{problem}"
    recipe = make_recipe(family, models, folder, metrics=METRICS_OF[problem])
    fine_tune(recipe, data=make_data(family, problem, **SIZES))
    return RunRecord.load(folder)


def predictions(record: RunRecord, split: str) -> pd.DataFrame:
    return pd.read_parquet(record.directory.predictions(split))


def saved_weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model" / "model.safetensors")


# what a run leaves


def test_the_record_has_every_key(record):
    content = json.loads(record.directory.record.read_text())
    expected = {"recipe", "labels", "metrics", "intervals", "baselines", "parameters", "timings", "data", "versions"}
    assert expected | {"seed", "history"} <= set(content)
    assert set(content["metrics"]) == set(content["intervals"]) == set(content["baselines"]) == {"validation", "test"}
    assert {split: content["data"][split]["rows"] for split in SIZES} == SIZES
    assert len({content["data"][split]["fingerprint"] for split in SIZES}) == 3
    assert 0 < content["parameters"]["trainable"] <= content["parameters"]["total"]
    assert content["seed"] == 42 and {"torch", "transformers", "hf-sft"} <= set(content["versions"])
    assert all(content["timings"][name] >= 0 for name in ("load", "train", "evaluate", "total"))
    for split in ("validation", "test"):
        names = set(content["recipe"]["metrics"])
        assert set(content["metrics"][split]) == {"loss", *names}
        assert set(content["intervals"][split]) == names
        assert "majority" in content["baselines"][split]


def test_the_history_has_every_step_and_every_epoch(record):
    steps, epochs = record.history["steps"], record.history["epochs"]
    assert [entry["step"] for entry in steps] == list(range(1, 13))
    assert all(set(entry) == {"step", "epoch", "loss", "grad_norm", "learning_rate"} for entry in steps)
    names = set(record.recipe["metrics"])
    assert [set(entry) for entry in epochs] == [{"epoch", "step", "train_loss", "validation_loss"} | names] * 2
    best = max(
        entry["validation_loss"] == pytest.approx(record.metrics["validation"]["loss"], rel=1e-5) for entry in epochs
    )
    assert best, "the metrics of the record are those of one of the epochs"


def test_the_run_directory_is_complete(record):
    folder = record.directory.path
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {"asked.yaml", "recipe.yaml", "record.json", "report/curves.png", "predictions/validation.parquet"}
    expected |= {"predictions/test.parquet", "model/README.md", "model/recipe.yaml", "model/model.safetensors"}
    assert expected <= there
    assert not any("checkpoint" in name or "partial" in name or Path(name).name.startswith(".") for name in there)
    assert (folder / "report" / "curves.png").read_bytes().startswith(b"\x89PNG")
    readable = {file.name: file.stat().st_mode & 0o444 for file in (folder / "model").iterdir()}
    assert set(readable.values()) == {0o444}, readable


@pytest.mark.parametrize("split", ["validation", "test"])
def test_metrics_can_be_computed_again_from_the_predictions_file(record, split):
    rows, values = predictions(record, split), record.metrics[split]
    names, problem = record.labels["names"], record.labels["problem"]
    assert rows["row_id"].tolist() == list(range(SIZES[split]))
    assert rows["loss"].mean() == pytest.approx(values["loss"])
    truth, guess = rows["reference"], rows["prediction"]
    if problem == "regression":
        again = {
            "mse": reference.mean_squared_error(truth, guess),
            "mae": reference.mean_absolute_error(truth, guess),
            "r2": reference.r2_score(truth, guess),
        }
        assert again["mse"] == pytest.approx(rows["loss"].mean(), rel=1e-5)
    elif problem == "single_label":
        scores = rows[[f"score_{name}" for name in names]].to_numpy()
        again = {
            "macro_f1": reference.f1_score(truth, guess, average="macro", labels=names, zero_division=0),
            "accuracy": (truth == guess).mean(),
            "log_loss": reference.log_loss(truth.map(names.index), scores / scores.sum(1, keepdims=True)),
            "auroc": reference.roc_auc_score(truth.map(names.index), scores[:, 1]),
        }
        assert [names[index] for index in scores.argmax(1)] == guess.tolist()
        assert again["log_loss"] == pytest.approx(rows["loss"].mean(), rel=1e-4)
    else:
        scores = rows[[f"score_{name}" for name in names]].to_numpy()
        truth, guess = (np.array([[name in row for name in names] for row in column]) for column in (truth, guess))
        again = {
            "micro_f1": reference.f1_score(truth, guess, average="micro", zero_division=0),
            "macro_f1": reference.f1_score(truth, guess, average="macro", zero_division=0),
            "average_precision": reference.average_precision_score(truth, scores),
        }
        np.testing.assert_array_equal(guess, scores >= np.array(record.labels["thresholds"]))
    assert again == pytest.approx({name: values[name] for name in again}, rel=1e-6)


def test_intervals_hold_what_they_are_intervals_of(record):
    for split in ("validation", "test"):
        for name, (low, high) in record.intervals[split].items():
            assert low <= record.metrics[split][name] <= high


def test_the_baseline_is_what_ignoring_the_input_gives(record):
    truth = predictions(record, "test")["reference"]
    found = record.baselines["test"]["majority"]
    if record.labels["problem"] == "single_label":  # balanced in training, the first name wins
        assert found["accuracy"] == pytest.approx((truth == record.labels["names"][0]).mean())
        assert found["log_loss"] == pytest.approx(np.log(2))
    elif record.labels["problem"] == "regression":
        mean = np.mean(make_data("bert", "regression", train=44)["train"]["label"])
        assert found["mse"] == pytest.approx(((truth - mean) ** 2).mean(), rel=1e-5)
    else:
        assert found["micro_f1"] <= record.metrics["test"]["micro_f1"] + 0.5


def test_the_saved_model_gives_what_the_predictions_file_says(record):
    task = record.recipe["task"]
    column = "text" if task == "text-classification" else "image"
    family = "bert" if column == "text" else "vit"
    data = make_data(family, record.labels["problem"], test=SIZES["test"])["test"]
    settings = {"truncation": True} if column == "text" else {}
    if record.labels["problem"] == "regression":
        settings["function_to_apply"] = "none"
    answers = pipeline(task, str(record.directory.model), device="cpu")(data[column][:6], top_k=None, **settings)
    rows = predictions(record, "test")
    for position, answer in enumerate(answers):
        for entry in answer:
            name = "prediction" if record.labels["problem"] == "regression" else f"score_{entry['label']}"
            assert entry["score"] == pytest.approx(rows[name][position], abs=1e-5)


def test_the_resolved_recipe_repeats_the_run(record, tmp_path):
    again = Recipe.load(record.directory.recipe, [f"output_dir={tmp_path / 'again'}"])
    family = "bert" if record.recipe["task"] == "text-classification" else "vit"
    repeated = fine_tune(again, data=make_data(family, record.labels["problem"], **SIZES))
    assert repeated.metrics == record.metrics and repeated.history == record.history
    assert largest_difference(saved_weights(record.directory.path), saved_weights(tmp_path / "again")) == 0.0


# the same call again


def test_a_finished_run_called_again_returns_its_record_and_trains_nothing(models, tmp_path, monkeypatch, capsys):
    recipe, data = make_recipe("bert", models, tmp_path / "run"), make_data("bert", **SIZES)
    first = fine_tune(recipe, data=data)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    monkeypatch.setattr(fit, "train", lambda *_: pytest.fail("it trained"))
    capsys.readouterr()
    again = fine_tune(recipe, data=make_data("bert", **SIZES))
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [datasets.Dataset, pd.DataFrame])
def test_other_data_in_memory_is_another_run(kind, models, tmp_path):
    def make(seed: int) -> dict[str, Any]:
        data = make_data("bert", train=24)["train"].shuffle(seed=seed).flatten_indices()
        return {"train": data.to_pandas() if kind is pd.DataFrame else datasets.Dataset.from_list(data.to_list())}

    recipe = make_recipe("bert", models, tmp_path / "run", training={"max_steps": 1})
    fine_tune(recipe, data=make(0))
    assert fine_tune(recipe, data=make(0)).history["steps"]
    with pytest.raises(RecipeError, match="data_in_memory"):
        fine_tune(recipe, data=make(1))
    assert fine_tune(recipe, data=make(1), overwrite=True).data["train"]["rows"] > 0


@pytest.mark.parametrize("place", ["training", "evaluation", "saving", "the record"])
def test_an_interrupted_job_goes_on_to_the_same_result(place, models, tmp_path, monkeypatch):
    """Dropout on; checkpoints stay until the record is written, and are gone then."""
    data = make_data("bert", **SIZES)
    whole = fine_tune(make_recipe("bert", models, tmp_path / "whole"), data=data)
    recipe = make_recipe("bert", models, tmp_path / "parts")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    steps = {"evaluation": "evaluate", "saving": "_verify", "the record": "save_curves"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if place in steps:
            patch.setattr(results, steps[place], stop)
        fine_tune(recipe, data=data, callbacks=[StopAfter(9)] if place == "training" else [])
    assert not (tmp_path / "parts" / "record.json").exists()
    assert list((tmp_path / "parts" / "checkpoints").glob("checkpoint-*"))
    resumed = fine_tune(recipe, data=data)
    assert resumed.metrics == whole.metrics and resumed.history == whole.history
    assert largest_difference(saved_weights(tmp_path / "whole"), saved_weights(tmp_path / "parts")) == 0.0
    assert not (tmp_path / "parts" / "checkpoints").exists()
    assert not (tmp_path / "parts" / "model.partial").exists()


# what a notebook has in memory


def share_of_the_first_label(predictions: Any, references: Any) -> float:
    return float(np.mean(predictions == 0))


def test_functions_callbacks_and_data_in_memory_work_and_are_noted(models, tmp_path):
    seen: list[int] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(state.global_step)

    frames = {role: rows.to_pandas() for role, rows in make_data("bert", train=24, validation=10).items()}
    recipe = make_recipe(
        "bert", models, tmp_path, metrics=["function:share", "accuracy"], training={"num_train_epochs": 1}
    )
    found = fine_tune(recipe, data=frames, metrics={"share": share_of_the_first_label}, callbacks=[Watch()])
    assert seen == [1, 2, 3]
    assert found.metrics["validation"]["share"] == (predictions(found, "validation")["prediction"] == "negative").mean()
    notes = "\n".join(RunRecord.load(tmp_path).notes)
    assert "given in memory" in notes and "functions: share" in notes and "Watch" in notes


def test_a_function_beside_the_recipes_metrics_is_computed_too(models, tmp_path):
    recipe = make_recipe("bert", models, tmp_path, metrics=["accuracy"], training={"max_steps": 1})
    found = fine_tune(recipe, data=make_data("bert", train=24), metrics={"share": share_of_the_first_label})
    assert list(found.metrics["validation"]) == ["loss", "accuracy", "share"]


# splits


def test_thresholds_are_chosen_on_validation_alone(models, tmp_path):
    data = make_data("bert", "multi_label", **SIZES)
    other = {**data, "test": data["test"].remove_columns("label").add_column("label", data["test"]["label"][::-1])}
    records = [
        fine_tune(make_recipe("bert", models, tmp_path / str(n)), data=rows) for n, rows in enumerate((data, other))
    ]
    one, two = (record.labels["thresholds"] for record in records)
    assert one == two and records[0].metrics["test"] != records[1].metrics["test"]
    config = transformers.AutoConfig.from_pretrained(records[0].directory.model)
    assert config.hf_sft_thresholds == one and one != [0.5] * 4


def test_no_validation_split_is_cut_where_none_is_wanted(models, tmp_path):
    recipe = make_recipe("bert", models, tmp_path, dataset={"splits": {"validation": None}})
    found = fine_tune(recipe, data=make_data("bert", train=24, test=10))
    assert set(found.metrics) == {"test"} and set(found.data) >= {"train", "test"}
    assert "validation" not in found.data and found.data["train"]["rows"] == 24
    assert [entry["validation_loss"] for entry in found.history["epochs"]] == [None, None]


def test_training_alone_leaves_a_model_and_no_metrics(models, tmp_path):
    recipe = make_recipe("bert", models, tmp_path, dataset={"splits": {"validation": None}})
    found = fine_tune(recipe, data=make_data("bert", train=24))
    assert found.metrics == found.intervals == found.baselines == {}
    assert not (tmp_path / "predictions").exists()
    assert transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").num_labels == 2
    assert str(found) and found._repr_html_()


def test_only_train_is_cut_and_the_rest_is_whole(models, tmp_path):
    found = fine_tune(make_recipe("bert", models, tmp_path), data=make_data("bert", train=40))
    assert (found.data["train"]["rows"], found.data["validation"]["rows"]) == (36, 4)
    assert set(found.metrics) == {"validation"}


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_an_unlabelled_test_split_is_predicted_and_not_evaluated(problem, models, tmp_path):
    data = make_data("bert", problem, train=24, validation=8, test=6)
    data["test"] = data["test"].remove_columns("label")
    found = fine_tune(make_recipe("bert", models, tmp_path), data=data)
    assert set(found.metrics) == {"validation"}
    rows = predictions(found, "test")
    assert len(rows) == 6 and {"reference", "loss"}.isdisjoint(rows.columns)
    scores = rows[[f"score_{name}" for name in found.labels["names"]]].to_numpy()
    if problem == "multi_label":
        chosen = np.array([[name in row for name in found.labels["names"]] for row in rows["prediction"]])
        np.testing.assert_array_equal(chosen, scores >= np.array(found.labels["thresholds"]))


# how a run ends


def test_max_steps_ends_a_run(models, tmp_path):
    found = fine_tune(make_recipe("bert", models, tmp_path, training={"max_steps": 7}), data=make_data("bert", **SIZES))
    assert found.history["steps"][-1]["step"] == 7 and found.metrics["test"]


def test_a_rate_at_which_the_loss_explodes_stops_with_what_to_do(models, tmp_path):
    training = {"learning_rate": 1e30, "max_grad_norm": 0.0, "optim": "sgd", "logging_steps": 1}
    with pytest.raises(EnvironmentProblem, match=r"(?s)finite.*lower training\.learning_rate"):
        fine_tune(make_recipe("bert", models, tmp_path, training=training), data=make_data("bert", **SIZES))


def test_a_saved_model_that_reads_back_as_another_is_an_error(models, tmp_path, monkeypatch):
    load = transformers.AutoModelForSequenceClassification.from_pretrained

    def load_wrong(*arguments: Any, **settings: Any) -> Any:
        found = load(*arguments, **settings)
        model = found[0] if isinstance(found, tuple) else found
        if "partial" in str(arguments[0]):
            torch.nn.init.normal_(model.classifier.weight, std=5.0)
        return found

    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_pretrained", load_wrong)
    with pytest.raises(ModelError, match="trained one when reloaded"):
        fine_tune(make_recipe("bert", models, tmp_path, training={"max_steps": 1}), data=make_data("bert", train=24))
    assert not (tmp_path / "model").exists() and not (tmp_path / "record.json").exists()


@pytest.fixture
def recipe_file(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recipe over a csv file, for the command."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    before = signal.getsignal(signal.SIGTERM)
    make_data("bert", train=40)["train"].to_pandas().to_csv(tmp_path / "train.csv", index=False)
    content = make_recipe("bert", models, tmp_path / "run", model={"config": NO_DROPOUT}).to_dict()
    content["dataset"] |= {"path": "train.csv"}
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))  # JSON is YAML
    yield tmp_path / "recipe.yaml"
    signal.signal(signal.SIGTERM, before)


def test_the_command_ends_with_zero_and_prints_the_table(recipe_file, capsys):
    assert run_command([str(recipe_file), "training.num_train_epochs=1"]) == 0
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "validation" in printed and "majority" in printed
    assert RunRecord.load(recipe_file.parent / "run").recipe["training"]["num_train_epochs"] == 1


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_with_its_own_code_and_the_run_goes_on_later(
    number, code, recipe_file, monkeypatch, capsys
):
    train = fit.train

    class Signal(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(
        fit, "train", lambda work, directory, callbacks, **how: train(work, directory, [*callbacks, Signal()], **how)
    )
    assert run_command([str(recipe_file)]) == code
    captured = capsys.readouterr()
    assert "goes on from the last checkpoint" in captured.err and "Traceback" not in captured.err
    assert [path.name for path in (recipe_file.parent / "run" / "checkpoints").glob("*-7")] == ["checkpoint-7"]
    monkeypatch.setattr(fit, "train", train)
    assert run_command([str(recipe_file)]) == 0
    assert "checkpoint-7" in capsys.readouterr().out
    record = RunRecord.load(recipe_file.parent / "run")
    assert run_command([str(recipe_file), f"output_dir={recipe_file.parent / 'whole'}"]) == 0
    whole = RunRecord.load(recipe_file.parent / "whole")
    assert record.metrics == whole.metrics
    assert record.history["epochs"] == whole.history["epochs"]


def test_a_second_signal_ends_at_once(recipe_file, monkeypatch, capsys):
    train = fit.train

    class Twice(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("hf_sft.training.stopping.TWICE", 0.0)
    monkeypatch.setattr(
        fit, "train", lambda work, directory, callbacks, **how: train(work, directory, [*callbacks, Twice()], **how)
    )
    assert run_command([str(recipe_file)]) == 143
    assert not list((recipe_file.parent / "run" / "checkpoints").glob("*-7"))


def test_a_signal_that_the_launcher_hands_on_beside_the_scheduler_s_is_one_request(capsys):
    """SLURM signals every process of a job, and a launcher its ranks."""
    stop = StopOnRequest(max_hours=None, started=0.0)
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.asked == signal.SIGTERM and capsys.readouterr().out.count("stopping after this step") == 1


def test_a_run_that_has_had_its_hours_saves_and_goes_on_later(models, tmp_path):
    data = make_data("bert", **SIZES)
    whole = fine_tune(make_recipe("bert", models, tmp_path / "whole"), data=data)
    short = make_recipe("bert", models, tmp_path / "parts", run={"max_hours": 1e-9})
    with pytest.raises(SystemExit) as caught:
        fine_tune(short, data=data)
    assert caught.value.code == 143
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").glob("checkpoint-*")] == ["checkpoint-1"]
    found = fine_tune(make_recipe("bert", models, tmp_path / "parts", run={"max_hours": 1.0}), data=data)
    assert found.metrics == whole.metrics


# longer


def test_a_finished_run_is_extended_as_if_it_had_been_longer_but_for_the_schedule(models, tmp_path):
    """With a constant rate there is no difference at all."""
    data, constant = make_data("bert", **SIZES), {"lr_scheduler_type": "constant", "warmup_steps": 0}

    def recipe(name: str, epochs: int, **changes: Any) -> Any:
        training = {**constant, "num_train_epochs": epochs}
        return make_recipe("bert", models, tmp_path / name, training=training, **changes)

    whole = fine_tune(recipe("whole", 3), data=data)
    fine_tune(recipe("parts", 2, run={"keep_checkpoints": True}), data=data)
    with pytest.raises(RecipeError, match="resume=extend trains on"):
        fine_tune(recipe("parts", 3, run={"keep_checkpoints": True}), data=data)
    longer = recipe("parts", 3, resume="extend", run={"keep_checkpoints": True})
    found = fine_tune(longer, data=data)
    assert found.history["epochs"] == whole.history["epochs"] and found.metrics == whole.metrics
    assert fine_tune(longer, data=data) == found


def test_extending_needs_the_checkpoints_and_the_same_recipe(models, tmp_path):
    data = make_data("bert", **SIZES)
    fine_tune(make_recipe("bert", models, tmp_path), data=data)
    with pytest.raises(RecipeError, match=r"run\.keep_checkpoints"):
        fine_tune(make_recipe("bert", models, tmp_path, resume="extend", training={"num_train_epochs": 3}), data=data)
    with pytest.raises(RecipeError, match="seed"):
        fine_tune(make_recipe("bert", models, tmp_path, resume="extend", seed=7), data=data)


def test_extending_counts_patience_anew_and_never_makes_a_run_shorter(models, tmp_path):
    data, kept = make_data("bert", **SIZES), {"keep_checkpoints": True}

    def recipe(epochs: int, patience: int, **changes: Any) -> Any:
        settings = {"training": {"num_train_epochs": epochs, "learning_rate": 1e-9}, "run": kept}
        return make_recipe("bert", models, tmp_path, early_stopping={"patience": patience}, **settings, **changes)

    stopped = fine_tune(recipe(6, 1), data=data)
    assert len(stopped.history["epochs"]) < 6
    longer = fine_tune(recipe(7, 50, resume="extend"), data=data)
    assert len(longer.history["epochs"]) == 7
    with pytest.raises(RecipeError, match="more than the 7"):
        fine_tune(recipe(2, 50, resume="extend"), data=data)


def test_a_run_does_not_go_on_with_other_rows_than_it_began_with(recipe_file, capsys):
    assert run_command([str(recipe_file), "run.max_hours=0.0000001"]) == 143
    csv = recipe_file.parent / "train.csv"
    csv.write_text("\n".join(csv.read_text().splitlines()[:-8]) + "\n")
    capsys.readouterr()
    assert run_command([str(recipe_file)]) == 2
    assert "the rows that the run began with" in capsys.readouterr().err


# what ends a run


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_memory_that_runs_out_names_the_pair_that_optimises_the_same(error, models, tmp_path, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(fit, "train", fail)
    with pytest.raises(EnvironmentProblem) as caught:
        fine_tune(make_recipe("bert", models, tmp_path), data=make_data("bert", **SIZES))
    said = str(caught.value)
    assert "per_device_train_batch_size=4 training.gradient_accumulation_steps=2" in said


def test_a_loss_that_is_no_number_names_step_rate_and_rows_and_leaves_the_last_checkpoint(models, tmp_path):
    recipe = make_recipe("bert", models, tmp_path)
    data = make_data("bert", **SIZES)

    class Spoil(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 8:
                model.classifier.bias.data.fill_(float("nan"))

    with pytest.raises(EnvironmentProblem, match="step 9"):
        fine_tune(recipe, data=data, callbacks=[Spoil()])
    noted = json.loads((tmp_path / "report" / "not_finite.json").read_text())
    work = tiny_prepare(recipe, data)
    size = len(work.inputs["train"].row_ids)
    order = epoch_order(work.inputs["train"].lengths, global_batch_size=8, seed=recipe.seed, epoch=1)
    start = 8 % -(-size // 8) * 8
    assert noted["step"] == 9 and noted["row_ids"] == work.inputs["train"].row_ids[order[start : start + 8]].tolist()
    assert [path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")] == [f"checkpoint-{-(-size // 8)}"]


def test_a_cache_that_cannot_be_written_is_named(recipe_file, monkeypatch, capsys):
    allowed, cache = os.access, recipe_file.parent / "cache"
    cache.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != cache and allowed(path, mode))
    assert run_command([str(recipe_file)]) == 2
    assert "HF_HOME" in capsys.readouterr().err


def test_a_fault_of_ours_ends_the_command_with_one_and_keeps_the_traceback(recipe_file, monkeypatch, capsys):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(fit, "train", fail)
    assert run_command([str(recipe_file)]) == 1
    kept = (recipe_file.parent / "run" / "traceback.txt").read_text()
    assert "a fault of ours" in kept and "a fault of ours" in capsys.readouterr().err


def test_what_the_user_can_mend_ends_the_command_with_two_and_no_traceback(recipe_file, capsys):
    assert run_command([str(recipe_file), "dataset.columns={text: txt, label: label}"]) == 2
    captured = capsys.readouterr()
    assert "txt" in captured.err and "Traceback" not in captured.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "override, code", [("dataset.columns={text: txt, label: label}", 2), ("training.max_steps=2", 0)]
)
def test_launched_ranks_keep_their_exit_code(override, code, recipe_file, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(recipe_file.parent / "cache"))
    assert launch([str(recipe_file), override], 2) == code
    if code == 0:
        assert RunRecord.load(recipe_file.parent / "run").environment["processes"] == 2
