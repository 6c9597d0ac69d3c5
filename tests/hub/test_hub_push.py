"""Laws of pushing: what lies on the Hub afterwards, what is never sent, what is sent twice, and what a fault costs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import OTHER, READER
from huggingface_hub import ModelCard
from loopback_hub import Fault, LoopbackHub
from transformers import pipeline

from hf_sft import HfSftError, Recipe, RunRecord, push
from hf_sft.cli import main
from hf_sft.errors import DataError, RecipeError
from hf_sft.hub.connection import HubError
from hf_sft.hub.contents import contents_of
from hf_sft.hub.push import PushError

REPO = "me/tiny"
PUBLISHED = {
    "README.md", "config.json", "model.safetensors", "recipe.yaml", "record.json", "report/confusion.png",
    "report/curves.png", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def test_what_lies_on_the_hub_is_what_the_run_made(hub: LoopbackHub, finished: Path) -> None:
    pushed = push(finished, REPO)
    files = hub.files(REPO)
    assert set(files) == PUBLISHED == set(pushed.uploaded)
    assert hub.repos["models", REPO].private
    assert files["model.safetensors"] == (finished / "model" / "model.safetensors").read_bytes()
    assert len([line for line in hub.log if "/commit/" in line]) == 1, "one commit: no reader sees half a model"


def test_the_pushed_model_is_read_as_any_other(hub: LoopbackHub, finished: Path) -> None:
    push(finished, REPO)
    there = transformers.AutoModelForSequenceClassification.from_pretrained(REPO)
    here = transformers.AutoModelForSequenceClassification.from_pretrained(finished / "model")
    assert all(torch.equal(one, other) for one, other in zip(there.parameters(), here.parameters(), strict=True))
    text = "good film and bad book"
    local = pipeline("text-classification", str(finished / "model"))(text)
    assert pipeline("text-classification", model=REPO)(text) == local


def test_nothing_is_uploaded_twice(hub: LoopbackHub, finished: Path) -> None:
    push(finished, REPO)
    hub.log.clear()
    again = push(finished, REPO)
    assert (again.uploaded, again.removed, again.unchanged) == ((), (), len(PUBLISHED))
    assert "nothing to upload" in str(again)
    assert not hub.writes()


def test_only_what_changed_is_uploaded(hub: LoopbackHub, finished: Path) -> None:
    push(finished, REPO)
    record = json.loads((finished / "record.json").read_text())
    record["notes"].append("seen again")
    (finished / "record.json").write_text(json.dumps(record))
    hub.log.clear()
    again = push(finished, REPO)
    assert set(again.uploaded) == {"README.md", "record.json"}
    assert not [line for line in hub.log if line.startswith("PUT ")], "no weights"


def test_what_an_earlier_run_left_there_goes_and_what_others_put_there_stays(hub: LoopbackHub, finished: Path) -> None:
    extra = finished / "model" / "added_tokens.json"
    extra.write_text("{}")
    push(finished, REPO)
    hub.commit("models", REPO, "main", {**hub.files(REPO), "notes.txt": b"mine"})
    extra.unlink()
    again = push(finished, REPO)
    assert again.removed == ("added_tokens.json",)
    assert set(hub.files(REPO)) == PUBLISHED | {"notes.txt"}


def test_a_card_that_was_edited_on_the_hub_is_left_alone(hub: LoopbackHub, finished: Path) -> None:
    push(finished, REPO)
    hub.commit("models", REPO, "main", {**hub.files(REPO), "README.md": b"---\nlicense: mit\n---\nOur own words\n"})
    again = push(finished, REPO)
    assert again.kept == ("README.md",) and "--overwrite-card" in str(again)
    assert b"Our own words" in hub.files(REPO)["README.md"]
    push(finished, REPO, overwrite_card=True)
    assert b"Our own words" not in hub.files(REPO)["README.md"]


def test_no_pickle_no_secret_no_path_of_this_machine_is_sent(
    hub: LoopbackHub, finished: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "s3cret-of-the-team"
    monkeypatch.setenv("TEAM_TOKEN", secret)
    model = finished / "model"
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "run.log", "weights.pkl", ".env"):
        (model / name).write_bytes(b"x")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"_name_or_path": "/srv/models/base", "note": secret}))
    record = json.loads((finished / "record.json").read_text())
    record["notes"] += [f"read with {secret}", f"listed in {finished}/report/bad_rows.csv"]
    (finished / "record.json").write_text(json.dumps(record))
    pushed = push(finished, REPO)
    assert set(pushed.left_out) == {
        ".env", "optimizer.pt", "run.log", "scheduler.pt", "training_args.bin", "weights.pkl",
    }  # fmt: skip
    assert set(hub.files(REPO)) == PUBLISHED
    for name, content in hub.files(REPO).items():
        for trace in (secret, str(trained), str(finished), str(Path.home()), "/srv/models"):
            assert trace.encode() not in content, (name, trace)


def test_labels_that_look_like_paths_stay_as_they_are(hub: LoopbackHub, finished: Path) -> None:
    model, odd = finished / "model", {"0": "/r/python", "1": "~/home/x"}
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"id2label": odd, "_name_or_path": "/srv/x"}))
    push(finished, REPO)
    there = json.loads(hub.files(REPO)["config.json"])
    assert there["id2label"] == odd and there["_name_or_path"] == "x"


@pytest.mark.parametrize("examples", [0, 2, None])
def test_pictures_of_rows_are_sent_where_examples_are_asked_for_alone(finished: Path, examples: int | None) -> None:
    for folder in (finished / "report", finished / "model" / "report"):
        for name in ("examples", "attribution_maps", "weights_filters", "anything"):
            (folder / f"{name}.png").write_bytes(b"x")
    (finished / "model" / "examples").mkdir()
    (finished / "model" / "examples" / "0.jpg").write_bytes(b"x")
    record = RunRecord.load(finished)
    hub = None if examples is None else {"repo_id": REPO, "examples": examples}
    shown = [{"src": "examples/0.jpg"}]
    record = replace(record, recipe={**record.recipe, "hub": hub}, pictures=["examples.png"], examples=shown)
    files = contents_of(record, REPO).files
    of_rows = {"report/examples.png", "examples/0.jpg"}
    assert set(files) == PUBLISHED | {"report/weights_filters.png"} | (of_rows if examples else set())
    card, told = files["README.md"], files["record.json"]
    assert isinstance(card, bytes) and isinstance(told, bytes)
    assert (b"examples.png" in card) == (b"examples/0.jpg" in card) == bool(examples) == (b"examples.png" in told)


def test_addresses_and_words_are_not_cut_where_they_hold_the_name_of_a_folder(
    hub: LoopbackHub, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/srv/me")
    config = json.loads((finished / "model" / "config.json").read_text())
    notes = {"see": "https://a.b/srv/me/x", "path": "in /srv/me/x", "file": "file:///srv/me/x", "line": "a\n/srv/me/x"}
    odd = {"0": "r/srv/me/x", "1": "b"}
    (finished / "model" / "config.json").write_text(json.dumps(config | {"id2label": odd, "notes": notes}))
    push(finished, REPO)
    there = json.loads(hub.files(REPO)["config.json"])
    assert there["id2label"] == odd
    assert there["notes"] == {"see": notes["see"], "path": "in x", "file": "file://x", "line": "a\nx"}


def test_the_card_on_the_hub_names_its_repository(hub: LoopbackHub, finished: Path) -> None:
    push(finished, REPO)
    card = hub.files(REPO)["README.md"].decode()
    assert f'pipeline("text-classification", model="{REPO}"' in card
    assert f"hf-sft run hub:{REPO}" in card
    assert "![true and predicted labels on validation](report/confusion.png)" in card
    assert ModelCard(card).data.pipeline_tag == "text-classification"  # type: ignore[attr-defined]


def test_the_record_on_the_hub_reads_back_and_the_recipe_too(hub: LoopbackHub, finished: Path, tmp_path: Path) -> None:
    push(finished, REPO)
    for name in ("record.json", "recipe.yaml"):
        (tmp_path / name).write_bytes(hub.files(REPO)[name])
    there, here = RunRecord.load(tmp_path), RunRecord.load(finished)
    assert there.metrics == here.metrics and set(there.published) == PUBLISHED - {"record.json"}
    recipe = Recipe.load(tmp_path / "recipe.yaml")
    assert recipe.model.name == "base", "the last part of its path"
    assert recipe.hub is not None and recipe.hub.repo_id == REPO


def test_public_only_where_it_is_asked_for(hub: LoopbackHub, finished: Path) -> None:
    push(finished, "me/one")
    push(finished, "me/two", private=False)
    assert (hub.repos["models", "me/one"].private, hub.repos["models", "me/two"].private) == (True, False)
    with pytest.raises(RecipeError, match="private"):
        push(finished, "me/two", private=True)


# what is refused

REFUSED: dict[str, tuple[dict[str, Any], type[HfSftError], str]] = {
    "no token": ({"token": None}, HubError, "hf auth login"),
    "a token of nobody": ({"token": "hf_" + "x" * 30}, HubError, "401"),
    "a token that may only read": ({"token": READER}, HubError, "may only read"),
    "a name of somebody else": ({"repo": "google/tiny"}, RecipeError, "me or our-team|me, our-team"),
    "a name that is none": ({"repo": "me/tiny model"}, RecipeError, "name of a repository"),
    "no name": ({"repo": None}, RecipeError, "hf-sft push RUN me/my-model"),
    "a model of another tool": ({"repo": "me/theirs"}, RecipeError, "another model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_pushed_is_said_before_anything_is_sent(
    case: str, hub: LoopbackHub, finished: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    settings, error, words = REFUSED[case]
    hub.add("me/theirs", {"pytorch_model.bin": b"x"})
    if "token" in settings:
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(finished / "none"))
        monkeypatch.setenv("HF_TOKEN", settings["token"] or "")
    with pytest.raises(error, match=words) as caught:
        push(finished, settings.get("repo", REPO))
    assert caught.value.findings and caught.value.exit_code == 2
    assert not hub.writes() and not any("repos/create" in line for line in hub.log)


# what goes wrong on the way

COMMIT = "POST .*/commit/"
PASSING = {
    "409, another commit is being made": Fault(COMMIT, 409, message="A commit is already in progress"),
    "412, the branch has moved on": Fault(COMMIT, 412),
    "500 twice": Fault(COMMIT, 500, times=2),
    "500 half way, while the weights are sent": Fault("PUT /large/", 500, times=2),
    "the connection is cut while the weights are sent": Fault("PUT /large/", cut=True),
    "the connection is cut while it is committed": Fault(COMMIT, cut=True),
    "503 when it asks what is there": Fault("GET .*/tree/", 503),
    "502 before anything is sent": Fault("POST .*/preupload/", 502),
}


@pytest.mark.parametrize("case", PASSING)
def test_a_fault_that_passes_costs_no_more_than_a_wait(
    case: str, hub: LoopbackHub, finished: Path, waits: list[float]
) -> None:
    hub.faults = [replace(PASSING[case])]
    push(finished, REPO)
    assert set(hub.files(REPO)) == PUBLISHED
    assert all(fault.times == 0 for fault in hub.faults)
    assert len(hub.repos["models", REPO].branches["main"]) == 2


def test_the_hub_is_given_the_time_it_asks_for(
    hub: LoopbackHub, finished: Path, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults = [Fault(COMMIT, 429, headers={"Retry-After": "17"}, message="slow down")]
    push(finished, REPO)
    assert waits == [17.0]
    assert "asks for a pause of 17 seconds" in capsys.readouterr().out


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub: LoopbackHub, finished: Path, waits: list[float]) -> None:
    hub.faults = [Fault(COMMIT, 504, after=True)]
    pushed = push(finished, REPO)
    assert len(hub.repos["models", REPO].branches["main"]) == 2
    assert pushed.uploaded == () and set(hub.files(REPO)) == PUBLISHED


STAYING = {
    "403": (Fault(COMMIT, 403, times=99, message="storage limit reached"), "403: storage limit reached", 0),
    "404": (Fault("POST .*/preupload/", 404, times=99), "404", 0),
    "409": (Fault(COMMIT, 409, times=99), "409", 4),
    "429 for an hour": (Fault(COMMIT, 429, times=99, headers={"Retry-After": "3600"}), "in 3600 seconds", 0),
    "500": (Fault(COMMIT, 500, times=99), "500", 4),
    "cut": (Fault(COMMIT, cut=True, times=99), "check the connection", 4),
}


@pytest.mark.parametrize("case", STAYING)
def test_a_fault_that_stays_ends_with_what_the_hub_said_and_code_75(
    case: str, hub: LoopbackHub, finished: Path, waits: list[float]
) -> None:
    fault, words, tries = STAYING[case]
    hub.faults = [replace(fault)]
    with pytest.raises(PushError) as caught:
        push(finished, REPO)
    assert caught.value.exit_code == 75
    assert words in str(caught.value) and len(waits) == tries
    assert not hub.files(REPO), "main stays as it was"
    hub.faults = []
    assert set(push(finished, REPO).uploaded) == PUBLISHED


def test_a_push_of_what_is_no_finished_run_is_refused(hub: LoopbackHub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="finished run"):
        push(tmp_path, REPO)


def test_the_command_pushes_and_tells_what_it_did(
    hub: LoopbackHub, finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in ("9 of 9 files uploaded", "holds this run already"):
        monkeypatch.setattr("sys.argv", ["hf-sft", "push", str(finished / "model"), "tiny"])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 0
        assert re.search(rf"{hub.url}/me/tiny.*{words}", capsys.readouterr().out)


def test_a_hub_that_is_switched_off_is_not_waited_for(
    hub: LoopbackHub, finished: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"(?i)offline"):
        push(finished, REPO)
    assert not waits


def test_a_repository_of_another_account_is_not_written_to(
    hub: LoopbackHub, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(finished, REPO)
    monkeypatch.setenv("HF_TOKEN", OTHER)
    with pytest.raises(RecipeError, match="owner"):
        push(finished, REPO)
