"""Laws of a run with `hub:`: nothing is spent before the push can succeed, and nothing is lost where it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from conftest import READER, WRITER, write_project
from loopback_hub import Fault, LoopbackHub
from tiny_runs import make_data, make_recipe
from transformers import AutoModelForSequenceClassification, TrainerCallback

from hf_sft import RunRecord, check, fine_tune
from hf_sft.cli import run_command
from hf_sft.hub.preflight import MARK
from hf_sft.hub.push import PushError
from hf_sft.launch import launch
from hf_sft.recipe import Recipe

REPO = "me/tiny"
HUB = f"hub: {{repo_id: {REPO}}}\n"


@pytest.fixture
def project(tmp_path: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe that names a repository."""
    monkeypatch.chdir(tmp_path)
    return write_project(tmp_path, HUB)


class GoAway(TrainerCallback):
    """The Hub is gone when training begins."""

    def __init__(self, hub: LoopbackHub):
        self.hub = hub

    def on_train_begin(self, args, state, control, **kwargs):
        self.hub.go_away()


def test_a_run_ends_on_the_hub_and_the_same_command_again_uploads_nothing(
    project: Path, hub: LoopbackHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([str(project)]) == 0
    files = hub.files(REPO)
    assert {"model.safetensors", "README.md", "record.json", "recipe.yaml"} <= set(files) and MARK not in files
    front = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    rows = (project.parent / "rows" / "validation.csv").read_text()
    assert len(front["widget"]) == 3 and all(example["text"] in rows for example in front["widget"])
    assert "it can be written" in capsys.readouterr().out
    hub.log.clear()
    assert run_command([str(project)]) == 0
    assert "nothing to upload" in capsys.readouterr().out
    assert not hub.writes()


NOTHING_SPENT = {
    "no token": ({"HF_TOKEN": ""}, [], "hf auth login"),
    "a token that may only read": ({"HF_TOKEN": READER}, [], "may only read"),
    "401": ({}, [Fault("GET /api/whoami", 401, times=99, message="Invalid credentials")], "401"),
    "403 when the repository is made": ({}, [Fault("POST /api/repos/create", 403, times=99, message="no")], "403: no"),
    "403 when a file is written": ({}, [Fault("POST .*/commit/", 403, times=99, message="quota")], "403: quota"),
}


@pytest.mark.parametrize("case", NOTHING_SPENT)
def test_what_would_keep_the_push_from_succeeding_ends_the_run_before_it_trains(
    case: str,
    project: Path,
    hub: LoopbackHub,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    variables, hub.faults, words = NOTHING_SPENT[case]
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(project.parent / "none"))
    monkeypatch.setattr("hf_sft.training.fit.train", lambda *_, **__: pytest.fail("it trained"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run_command([str(project)]) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said and "hub" in said


def test_no_repository_is_made_for_a_run_that_cannot_begin(project: Path, hub: LoopbackHub) -> None:
    assert run_command([str(project), "dataset.columns.label=labels"]) == 2
    assert not hub.repos


def test_a_hub_that_goes_away_costs_the_push_alone(project: Path, hub: LoopbackHub, waits: list[float]) -> None:
    with pytest.raises(PushError) as caught:
        fine_tune(str(project), callbacks=[GoAway(hub)])
    record = caught.value.record
    assert record is not None and record.metrics == RunRecord.load("runs/tiny").metrics
    assert "hf-sft push runs/tiny" in str(caught.value)
    AutoModelForSequenceClassification.from_pretrained("runs/tiny/model")
    assert not Path("runs/tiny/checkpoints").exists(), "the run is finished: there is nothing to resume"


def test_code_75_and_the_command_that_repeats_the_push(
    project: Path, hub: LoopbackHub, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults = [Fault("POST .*/preupload/", 200, times=0), Fault("GET .*/tree/", 500, times=99)]
    assert run_command([str(project)]) == 75
    said = capsys.readouterr().err
    assert "the run is finished and whole in its folder; the push is not" in said and "hf-sft push runs/tiny" in said
    assert "Traceback" not in said
    written = Path("runs/tiny/model/model.safetensors").stat().st_mtime_ns
    hub.faults = []
    assert run_command([str(project)]) == 0
    assert Path("runs/tiny/model/model.safetensors").stat().st_mtime_ns == written, "nothing is trained anew"
    assert "model.safetensors" in hub.files(REPO)


def test_checkpoints_go_to_a_branch_of_their_own_without_optimizer_and_pickles(project: Path, hub: LoopbackHub) -> None:
    assert run_command([str(project), "hub.every=checkpoint", "hub.private=true"]) == 0
    files = hub.files(REPO, "checkpoints")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert not [name for name in files if name.endswith((".pt", ".bin", ".pth"))] and "record.json" not in files
    AutoModelForSequenceClassification.from_pretrained(REPO, revision="checkpoints")
    assert "record.json" in hub.files(REPO)
    assert not list(Path("runs/tiny").rglob(".push-*"))


def test_a_checkpoint_that_cannot_be_pushed_does_not_end_the_run(
    project: Path, hub: LoopbackHub, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults = [Fault("GET .*/tree/checkpoints|POST .*/preupload/checkpoints", 500, times=99)]
    hub.add(REPO, {}, private=True)
    hub.repos["models", REPO].branches["checkpoints"] = list(hub.repos["models", REPO].branches["main"])
    hub.faults = [Fault("GET .*/tree/checkpoints", 500, times=99)]
    assert run_command([str(project), "hub.every=checkpoint"]) == 0
    assert "training goes on" in capsys.readouterr().out
    assert "record.json" in hub.files(REPO)


def test_check_looks_at_account_and_name_and_changes_nothing(
    project: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = check(project, fast=True)
    assert report.ok and any("me/tiny is not on the Hub yet" in note for note in report.notes)
    assert not [line for line in hub.log if not line.startswith(("GET", "HEAD"))]
    report = check(project, ["hub.repo_id=google/tiny"], fast=True)
    assert [finding.place for finding in report.errors] == ["hub.repo_id"]


def test_pictures_of_validation_are_shown_by_an_image_model(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"hub": {"repo_id": "me/pictures", "examples": 2}, "training": {"num_train_epochs": 1}}
    recipe = make_recipe("vit", tmp_path, tmp_path / "run", **settings)
    record = fine_tune(recipe, data=make_data("vit", train=16, validation=8))
    assert record.examples == [{"src": "examples/1.png"}, {"src": "examples/2.png"}]
    assert {"examples/1.png", "examples/2.png", "preprocessor_config.json"} <= set(hub.files("me/pictures"))
    front = yaml.safe_load(hub.files("me/pictures")["README.md"].decode().split("---\n")[1])
    assert [example["src"] for example in front["widget"]] == ["examples/1.png", "examples/2.png"]


@pytest.mark.slow
@pytest.mark.parametrize(("token", "code"), [(WRITER, 0), (READER, 2)])
def test_processes_agree_on_what_the_main_one_found(
    token: str, code: int, project: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch([str(project), "hub.repo_id=tiny"], 2) == code
    assert ("models", REPO) in hub.repos if code == 0 else not hub.repos
    if code == 0:
        assert len([line for line in hub.log if "/commit/" in line]) == 2, "the small file, and the push, once each"
        assert "record.json" in hub.files(REPO)


def test_changing_where_it_goes_does_not_make_it_another_run(project: Path, hub: LoopbackHub) -> None:
    assert run_command([str(project)]) == 0
    before = json.loads(hub.files(REPO)["record.json"])
    assert run_command([str(project), "hub.repo_id=me/second"]) == 0
    assert json.loads(hub.files("me/second")["record.json"])["metrics"] == before["metrics"]


def test_a_name_without_an_owner_is_that_of_the_account(project: Path, hub: LoopbackHub) -> None:
    assert run_command([str(project), "hub.repo_id=short", "hub.examples=0", "hub.license=mit"]) == 0
    assert "model.safetensors" in hub.files("me/short")
    assert Recipe.load("runs/tiny/recipe.yaml").hub.repo_id == "me/short"
    front = yaml.safe_load(hub.files("me/short")["README.md"].decode().split("---\n")[1])
    assert front["license"] == "mit" and "widget" not in front
