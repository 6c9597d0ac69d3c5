"""training.report_to: what trackers are told, and that none of them costs a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import StopAfter, make_data, make_recipe
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from hf_sft import RunRecord, fine_tune
from hf_sft.errors import EnvironmentProblem, MissingExtraError, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.tracker_names import OURS, PACKAGES
from hf_sft.training import tracking
from hf_sft.training.logged_config import _portable
from hf_sft.training.trackers import TRACKERS

WANDB = """
import json, pathlib
CALLS = pathlib.Path(__file__).with_name("calls.jsonl")
run = None
def note(*call):
    with CALLS.open("a") as file:
        file.write(json.dumps(call) + "\\n")
class Named(dict):
    def __init__(self, name):
        self.name = name
    def update(self, values, **options):
        note(self.name, values)
class Run:
    def __init__(self, id):
        self.id, self.config, self.summary = id, Named("config"), Named("summary")
    def define_metric(self, *names, **options):
        note("define_metric", names, options)
    def log(self, values):
        if FAILS_AT is not None and values["train/global_step"] >= FAILS_AT:
            raise ConnectionError("the server went away")
        note("log", values)
    def finish(self, exit_code):
        note("finish", exit_code)
class Settings:
    model_fields = {"x_disable_meta": None, "console": None, "disable_git": None}
FAILS_AT = None
def init(*, project, name, settings, id="new", resume=None):
    note("init", project, name, settings, id, resume)
    return Run(id)
"""
MLFLOW = """
import json, pathlib, types
CALLS = pathlib.Path(__file__).with_name("calls.jsonl")
def note(*call):
    with CALLS.open("a") as file:
        file.write(json.dumps(call) + "\\n")
class MlflowException(Exception):
    pass
exceptions = types.SimpleNamespace(MlflowException=MlflowException)
active = None
def active_run():
    return active
def start_run(run_id=None, run_name=None, tags=None):
    global active
    note("start_run", run_id, run_name, tags)
    active = types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "new"))
    return active
def log_params(values):
    assert len(values) <= 100 and all(isinstance(value, str) for value in values.values())
    note("log_params", values)
def log_metrics(values, step):
    note("log_metrics", values, step)
def end_run(status):
    global active
    active = None
    note("end_run", status)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Callable[[], list[Any]]]:
    """Puts a package of that name and text in the way of the real one -> a function that reads the calls it got."""

    def install(name: str, source: str) -> Callable[[], list[Any]]:
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(folder.parent)
        monkeypatch.delitem(sys.modules, name, raising=False)
        calls = folder / "calls.jsonl"
        return lambda: [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    yield install  # type: ignore[misc]
    for name in ("wandb", "mlflow"):
        sys.modules.pop(name, None)


def recipe_for(models: Path, folder: Path, *trackers: str, **changes: Any) -> Recipe:
    training = {"num_train_epochs": 2, "logging_steps": 1, "report_to": list(trackers), **changes.pop("training", {})}
    return make_recipe("bert", models, folder, training=training, **changes)


def run(recipe: Recipe, *callbacks: Any) -> RunRecord:
    return fine_tune(recipe, data=make_data("bert", train=32, validation=16, test=16), callbacks=callbacks)


def shown(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], Any]:
    """What TensorBoard shows: name -> [(step, value)]; and the other tags."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}, events


# names


def test_every_tracker_of_the_trainer_is_known_and_ours_have_a_class():
    assert set(PACKAGES) == set(INTEGRATION_TO_CALLBACK)
    assert set(TRACKERS) == set(OURS) <= set(PACKAGES)


@pytest.mark.parametrize("value", ["tensorbord", ["wandb", "tensorbord"]])
def test_a_tracker_that_does_not_exist_is_a_mistake_of_the_recipe(value, models, tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'tensorboard'"):
        make_recipe("bert", models, tmp_path, training={"report_to": value})


@pytest.mark.parametrize("name", ["wandb", "mlflow", "comet_ml"])
def test_a_tracker_that_is_not_installed_is_an_error_before_anything_is_read(name, models, tmp_path):
    recipe = recipe_for(models, tmp_path / "run", name)
    with pytest.raises(MissingExtraError) as caught:
        fine_tune(recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"path": "nowhere"})}))
    (finding,) = caught.value.findings
    assert finding.place == "training.report_to" and name in finding.expected
    assert name == "comet_ml" or finding.fix == f"pip install 'hf-sft[{name}]'"


@pytest.mark.parametrize("value, left", [(None, []), ("none", []), ("wandb", []), (["mlflow", "clearml"], ["clearml"])])
def test_the_trainer_is_left_what_we_do_not_write_to(value, left):
    assert tracking.left_to_trainer(value) == left


def test_all_means_the_trackers_that_are_installed(monkeypatch):
    monkeypatch.setattr(tracking, "get_available_reporting_integrations", lambda: ["tensorboard", "clearml"])
    assert tracking.left_to_trainer("all") == ["clearml"] and tracking._named("all") == ["tensorboard", "clearml"]


# tensorboard, for real


def test_tensorboard_shows_losses_metrics_recipe_and_final_metrics(models, tmp_path, monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    record = run(recipe_for(models, tmp_path / "run", "tensorboard"))
    found, others = shown(tmp_path / "run" / "tensorboard")
    losses = [entry["loss"] for entry in record.history["steps"]]
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [value for _, value in found["train/loss"]] == pytest.approx(losses, rel=1e-6)
    accuracies = [entry["accuracy"] for entry in record.history["epochs"]]
    assert [value for _, value in found["eval/accuracy"]] == pytest.approx(accuracies)
    assert found["test/accuracy"][0][1] == pytest.approx(record.metrics["test"]["accuracy"])
    assert "recipe/text_summary" in others.Tags()["tensors"]
    assert {"_hparams_/experiment", "_hparams_/session_end_info"} <= set(others.PluginTagToContent("hparams"))
    assert not list((tmp_path / "run").rglob("runs")), "the Trainer's own writer is not at work"


def test_tensorboard_writes_where_its_variable_says(models, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    run(recipe_for(models, tmp_path / "run", "tensorboard", tuning={"strategy": "head", "solver": "logistic"}))
    assert "test/accuracy" in shown(tmp_path / "board")[0] and not (tmp_path / "run" / "tensorboard").exists()


def test_a_run_that_goes_on_shows_each_step_once(models, tmp_path, monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    recipe = recipe_for(models, tmp_path / "run", "tensorboard")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, StopAfter(6))
    assert [step for step, _ in shown(tmp_path / "run" / "tensorboard")[0]["train/loss"]] == [1, 2, 3, 4, 5]
    run(recipe)
    assert [step for step, _ in shown(tmp_path / "run" / "tensorboard")[0]["train/loss"]] == [1, 2, 3, 4, 5, 6, 7, 8]


# wandb and mlflow, as they are called


def test_wandb_is_told_the_recipe_as_config_and_the_final_metrics_as_summary(models, tmp_path, installed):
    calls = installed("wandb", WANDB)
    record = run(recipe_for(models, tmp_path / "run", "wandb", training={"run_name": "mine"}))
    told = calls()
    off = {"x_disable_meta": True, "disable_git": True, "console": "off"}
    assert told[0] == ["init", "hf-sft", "mine", off, "new", None] and told[-1] == ["finish", 0]
    (config,) = [call[1] for call in told if call[0] == "config"]
    assert config["training"]["learning_rate"] == 1e-2 and config["training"]["weight_decay"] == 0.01
    assert config["rows"] == {"train": 32, "validation": 16, "test": 16} and config["machine"]["processes"] == 1
    logged = [call[1] for call in told if call[0] == "log"]
    assert [values["train/global_step"] for values in logged if "train/loss" in values] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [values["eval/accuracy"] for values in logged if "eval/accuracy" in values] == [
        entry["accuracy"] for entry in record.history["epochs"]
    ]
    (summary,) = [call[1] for call in told if call[0] == "summary"]
    assert summary["test/accuracy"] == record.metrics["test"]["accuracy"]
    assert str(tmp_path) not in json.dumps(told) and str(models) not in json.dumps(told)


def test_a_run_that_goes_on_is_the_same_run_for_wandb_and_mlflow(models, tmp_path, installed):
    calls, others = installed("wandb", WANDB.replace('id="new"', 'id="first"')), installed("mlflow", MLFLOW)
    recipe = recipe_for(models, tmp_path / "run", "wandb", "mlflow")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, StopAfter(5))
    assert calls()[-1] == ["finish", 1] and others()[-1] == ["end_run", "FAILED"]
    run(recipe)
    assert [call[4:] for call in calls() if call[0] == "init"] == [["first", None], ["first", "allow"]]
    assert [call[1] for call in others() if call[0] == "start_run"] == [None, "new"]
    parameters = [call for call in others() if call[0] == "log_params"]
    assert len({json.dumps(call) for call in parameters}) == len(parameters), "what is told once cannot be changed"


def test_mlflow_is_told_the_recipe_as_parameters_and_the_final_metrics(models, tmp_path, installed):
    calls = installed("mlflow", MLFLOW)
    record = run(recipe_for(models, tmp_path / "run", "mlflow"))
    told = calls()
    assert told[0] == ["start_run", None, "run", {"mlflow.source.name": "hf-sft"}] and told[-1] == [
        "end_run",
        "FINISHED",
    ]
    parameters = {key: value for call in told if call[0] == "log_params" for key, value in call[1].items()}
    assert parameters["training.learning_rate"] == "0.01" and parameters["tuning.strategy"] == "full"
    metrics = [call for call in told if call[0] == "log_metrics"]
    assert [step for _, values, step in metrics if "train/loss" in values] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert metrics[-1][1]["test/accuracy"] == record.metrics["test"]["accuracy"] and metrics[-1][2] == 8
    assert str(tmp_path) not in json.dumps(told) and str(models) not in json.dumps(told)


def test_an_open_run_of_wandb_is_used_and_left_open(models, tmp_path, installed):
    calls = installed("wandb", WANDB + '\nrun = Run("theirs")\n')
    run(recipe_for(models, tmp_path / "run", "wandb"))
    assert not {"init", "finish"} & {call[0] for call in calls()} and "summary" in {call[0] for call in calls()}


def test_a_tracker_that_cannot_be_opened_is_an_error_before_training(models, tmp_path, installed):
    installed("wandb", "run = None\nclass Settings: ...\ndef init(**all):\n    raise ValueError('no API key\\nmore')\n")
    with pytest.raises(EnvironmentProblem) as caught:
        run(recipe_for(models, tmp_path / "run", "wandb"))
    (finding,) = caught.value.findings
    assert (finding.place, finding.found) == ("training.report_to", "no API key")
    assert not list((tmp_path / "run").rglob("checkpoint-*"))


def test_a_tracker_that_goes_away_costs_no_run(models, tmp_path, installed, capsys):
    calls = installed("wandb", WANDB.replace("FAILS_AT = None", "FAILS_AT = 3"))
    record = run(recipe_for(models, tmp_path / "run", "wandb"))
    assert record.metrics["test"] and len([call for call in calls() if call[0] == "log"]) == 2
    assert capsys.readouterr().out.count("wandb is told nothing more: the server went away") == 1


# what is kept back


@pytest.mark.parametrize(
    "value, told",
    [
        ("/home/ann/models/bert/", "bert"),
        ("~/data/a.csv", "a.csv"),
        ("../secret place/a.csv", "a.csv"),
        (r"C:\Users\ann\a.csv", "a.csv"),
        ("file:///srv/a.csv", "a.csv"),
        ("evaluate:/home/ann/mine.py", "evaluate:mine.py"),
        ("google-bert/bert-base-uncased", "google-bert/bert-base-uncased"),
        ("data/a.csv", "data/a.csv"),
        ("https://host/a.csv?token=abcdef", "https://host/a.csv?token=***"),
        ("/", "/"),
        (3, 3),
    ],
)
def test_trackers_are_told_no_folders_of_the_machine_and_no_secrets(value, told, monkeypatch):
    assert _portable({"a": [value]}) == {"a": [told]}


def test_a_variable_that_holds_a_secret_is_told_by_name(models, tmp_path, installed, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "correct-horse")
    calls = installed("wandb", WANDB)
    run(recipe_for(models, tmp_path / "run", "wandb", training={"run_name": "with correct-horse in it"}))
    assert "correct-horse" not in json.dumps(calls()) and "${MY_TOKEN}" in json.dumps(calls())
