"""Laws of recipes that lie on the Hub: they are run as they were, and trusted with nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import write_project
from loopback_hub import LoopbackHub

from hf_sft import Recipe, RunRecord
from hf_sft.cli import run_command
from hf_sft.errors import HfSftError, RecipeError
from hf_sft.hub import pins
from hf_sft.hub.connection import HubError

PLAIN = "task: text-classification\nmodel: {name: me/base}\ndataset: {path: me/rows}\n"


def upload_base(hub: LoopbackHub, folder: Path) -> tuple[str, str]:
    """A pretrained model and its rows, as public repositories -> their commits."""
    card = b"---\nlicense: apache-2.0\nlanguage: en\n---\n\n```bibtex\n@misc{base, title={The base}}\n```\n"
    model = {file.name: file.read_bytes() for file in (folder / "base").iterdir()} | {"README.md": card}
    rows = {f"{file.stem}.csv": file.read_bytes() for file in (folder / "rows").iterdir()}
    rows["README.md"] = b"---\nlanguage:\n- en\n---\nRows\n"
    return hub.add("me/base", model), hub.add("me/rows", rows, kind="datasets")


def test_a_recipe_from_the_hub_repeats_its_run_whatever_was_pushed_to_its_sources_since(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_project(tmp_path, "hub: {repo_id: me/tiny}\n")
    base, rows = upload_base(hub, tmp_path)
    given = [str(recipe), "model.name=me/base", "dataset.path=me/rows", "dataset.data_files=null"]
    assert run_command(given) == 0
    first = RunRecord.load("runs/tiny")
    assert (first.recipe["model"]["revision"], first.recipe["dataset"]["revision"]) == (base, rows)
    assert first.origins["model"] == {
        "commit": base, "license": "apache-2.0", "language": ["en"], "citation": "@misc{base, title={The base}}",
    }  # fmt: skip
    card = hub.files("me/tiny")["README.md"].decode()
    for line in ("license: apache-2.0", "base_model: me/base", "- me/rows", "- en", "@misc{base", f"`{base}`"):
        assert line in card, line
    for kind, repo in (("models", "me/base"), ("datasets", "me/rows")):  # both are something else today
        hub.commit(kind, repo, "main", {"README.md": b"nothing is left"})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run_command(["hub:me/tiny"]) == 0
    again = RunRecord.load(elsewhere / "runs" / "tiny")
    assert again.metrics == first.metrics and again.history["steps"] == first.history["steps"]
    assert again.recipe["hub"] is None, "nothing is pushed to where the first author pushed"


STRANGE = {
    "a folder to write that is absolute": ("output_dir: /tmp/x\n", "output_dir"),
    "a folder to write that goes up": ("output_dir: runs/../../x\n", "output_dir"),
    "a folder to write in a home": ("output_dir: ~/x\n", "output_dir"),
    "a cache elsewhere": ("tuning: {strategy: head, cache_dir: /srv/cache}\n", "tuning.cache_dir"),
    "data of this machine": ("dataset: {path: /etc/passwd}\n", "dataset.path"),
    "files that go up": ("dataset: {path: csv, data_files: {train: ../x.csv}}\n", "dataset.data_files.train"),
    "a token in an address": (
        "dataset: {path: csv, data_files: {train: 'https://a.b/x?y=${HF_TOKEN}'}}\n",
        "dataset.data_files.train",
    ),
    "a token in a reader's options": (
        "dataset: {path: x, options: {storage_options: {auth: '${HF_TOKEN}'}}}\n",
        "dataset.options.storage_options.auth",
    ),
    "weights of this machine": ("model: {name: timm/resnet18, weights: /srv/w.safetensors}\n", "model.weights"),
    "a metric of this machine": ("metrics: ['evaluate:/srv/mine']\n", "metrics"),
    "a variable in a folder": ("output_dir: runs/$USER\n", "output_dir"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_recipe_of_a_stranger_names_nothing_outside_the_working_directory(
    case: str, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, place = STRANGE[case]
    kept = [line for line in PLAIN.splitlines(keepends=True) if not text.startswith(line.partition(":")[0] + ":")]
    hub.add("them/bad", {"recipe.yaml": "".join([*kept, text]).encode()})
    with pytest.raises(RecipeError) as caught:
        Recipe.load("hub:them/bad")
    assert any(finding.place.endswith(f" {place}") for finding in caught.value.findings), caught.value
    assert all(finding.fix for finding in caught.value.findings)


def test_what_the_user_sets_is_the_users_own(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hub.add("them/bad", {"recipe.yaml": f"{PLAIN}output_dir: /srv/x\nhub: {{repo_id: them/bad}}\n".encode()})
    recipe = Recipe.load("hub:them/bad", [f"output_dir={tmp_path}/mine", "hub.repo_id=me/mine"])
    assert recipe.output_dir == f"{tmp_path}/mine" and recipe.folder == tmp_path
    assert recipe.hub is not None and recipe.hub.repo_id == "me/mine"


def test_a_commit_can_be_named(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = hub.add("me/model", {"recipe.yaml": f"{PLAIN}seed: 1\n".encode()})
    hub.commit("models", "me/model", "main", {"recipe.yaml": f"{PLAIN}seed: 2\n".encode()})
    assert (Recipe.load("hub:me/model").seed, Recipe.load(f"hub:me/model@{first}").seed) == (2, 1)


ABSENT = {
    "hub:me/nothing": (HubError, "404"),
    "hub:me/other": (RecipeError, "without it"),
    "hub:": (RecipeError, "nothing"),
    "hub:a b": (RecipeError, "a b"),
    "hub:me/large": (RecipeError, "1,000,100 bytes"),
    "hub:me/odd": (RecipeError, "not UTF-8"),
}


@pytest.mark.parametrize("name", ABSENT)
def test_a_recipe_that_is_not_there_is_said(name: str, hub: LoopbackHub) -> None:
    hub.add("me/other", {"config.json": b"{}"})
    hub.add("me/large", {"recipe.yaml": b"x" * 1_000_100})
    hub.add("me/odd", {"recipe.yaml": b"\xff\xfe\x00"})
    kind, words = ABSENT[name]
    with pytest.raises(kind, match=words) as caught:
        Recipe.load(name)
    assert isinstance(caught.value, HfSftError) and caught.value.findings


def test_a_run_that_goes_on_keeps_the_commits_it_began_with(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    base, rows = upload_base(hub, tmp_path)
    content = {"task": "text-classification", "model": {"name": "me/base"}, "dataset": {"path": "me/rows"}}
    recipe = Recipe.from_dict(content | {"output_dir": "runs/x"})
    begun, _ = pins.pin(recipe)
    assert (begun.model.revision, begun.dataset.revision) == (base, rows)
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/recipe.yaml").write_text(begun.to_yaml())
    later = hub.commit("models", "me/base", "main", hub.files("me/base"))
    assert pins.pin(recipe)[0].model.revision == base
    assert pins.pin(recipe, overwrite=True)[0].model.revision == later


def test_without_a_hub_nothing_is_pinned_and_nothing_is_asked(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(
        {"task": "text-classification", "model": {"name": "me/base"}, "dataset": {"path": "me/rows"}}
    )
    assert pins.pin(recipe) == (recipe, {"model": {"commit": None}, "dataset": {"commit": None}})
