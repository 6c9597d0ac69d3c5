"""A secret that somebody plants is used where it was meant to be, and stands nowhere afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import StopAfter, make_data, save_model

from hf_sft import fine_tune, secrets
from hf_sft.cli import run_command
from hf_sft.commands.check import check
from hf_sft.commands.env_report import as_text, describe_environment
from hf_sft.commands.evaluate import evaluate
from hf_sft.commands.show import show
from hf_sft.data import load
from hf_sft.errors import EnvironmentProblem, HfSftError, RecipeError
from hf_sft.recipe import Recipe

PLANTED = {  # variable -> what must be seen nowhere
    "HF_TOKEN": "hf_PlantedPlantedPlantedPlanted01",
    "MY_SECRET": "planted-s3cret-of-mine",
    "STORE_PASSWORD": "planted/pa:ss",
    "WANDB_API_KEY": "0123456789abcdefplanted",
}
URL = "https://me:${MY_SECRET}@host.invalid/rows.csv?token=${HF_TOKEN}"
OPTIONS = {"storage_options": {"password": "${STORE_PASSWORD}", "endpoint": "host.invalid"}, "token": "${HF_TOKEN}"}


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{PLANTED['MY_SECRET']}@proxy.invalid:8080")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What the reader of `datasets` is asked for; it finds tiny data at any address."""
    from datasets import DatasetDict

    calls: list[dict[str, Any]] = []

    def read(path: str, name: str | None = None, **arguments: Any) -> DatasetDict:
        calls.append(arguments)
        return DatasetDict(make_data("bert", train=48, validation=16, test=16))

    monkeypatch.setattr(load, "load_dataset", read)
    yield calls


def content(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "task": "text-classification",
        "model": {"name": str(save_model("bert", folder))},
        "dataset": {"path": "csv", "data_files": {"train": URL}, "options": OPTIONS},
        "training": {"num_train_epochs": 2, "per_device_train_batch_size": 8},
        "output_dir": str(folder / "run"),
    } | changes


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.dump(content(folder, **changes)), encoding="utf-8")
    return path


def assert_nowhere(*texts: str, folder: Path | None = None) -> None:
    """No secret in the texts, nor in any file below the folder, however it is written there."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} if folder else {}
    assert folder is None or files
    for name, value in PLANTED.items():
        forms = {value.encode(), json.dumps(value).encode(), value.encode("utf-16-le")}
        for form in forms:
            assert not [str(path) for path, inside in files.items() if form in inside], name
            assert not [text for text in texts if form in text.encode("utf-8", "replace")], name


def test_secrets_are_used_and_left_in_no_file_of_a_run(
    tmp_path: Path, asked: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe.load(write(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        fine_tune(recipe, callbacks=[StopAfter(8)])
    assert asked[0]["data_files"] == {"train": URL.replace("${MY_SECRET}", PLANTED["MY_SECRET"]).replace(
        "${HF_TOKEN}", PLANTED["HF_TOKEN"])}  # fmt: skip
    assert asked[0]["token"] == PLANTED["HF_TOKEN"]
    assert asked[0]["storage_options"] == {"password": PLANTED["STORE_PASSWORD"], "endpoint": "host.invalid"}
    run = tmp_path / "run"
    assert list(run.rglob("training_args.bin")) or list(run.rglob("trainer_state.json"))
    assert_nowhere(folder=run)  # with checkpoints
    record = fine_tune(recipe)
    evaluation = evaluate(run)
    evaluation.write_predictions(run / "evaluated.parquet")
    shown = show(run)
    assert_nowhere(str(record), record._repr_html_(), str(evaluation), evaluation._repr_html_(), folder=tmp_path)
    assert_nowhere(str(shown), shown.as_json(), shown._repr_html_(), "".join(capfd.readouterr()))
    assert "${MY_SECRET}" in (run / "recipe.yaml").read_text(encoding="utf-8")  # it can be run again


def test_a_check_shows_no_secret(tmp_path: Path, asked: list[dict[str, Any]]) -> None:
    report = check(write(tmp_path), fast=True)
    assert asked and report.ok
    assert_nowhere(str(report), json.dumps(report.as_dict()), report._repr_html_())


def test_the_report_of_the_environment_shows_no_secret() -> None:
    report = describe_environment()
    assert_nowhere(as_text(report), json.dumps(report))
    assert "HF_TOKEN" in as_text(report)


@pytest.mark.parametrize("kind", [FileNotFoundError, ConnectionError, ValueError, RuntimeError, TypeError])
def test_what_a_reader_says_of_an_address_is_told_without_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: type[Exception]
) -> None:
    def fail(path: str, name: str | None = None, **arguments: Any) -> None:
        raise kind(f"cannot read {arguments['data_files']} with {arguments}")

    monkeypatch.setattr(load, "load_dataset", fail)
    assert run_command([str(write(tmp_path))]) == 2
    printed = capfd.readouterr()
    assert "host.invalid" in printed.err
    report = check(write(tmp_path), fast=True)
    assert not report.ok
    assert_nowhere(printed.out, printed.err, str(report), json.dumps(report.as_dict()), folder=tmp_path)


def test_a_traceback_is_kept_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def break_(path: str, name: str | None = None, **arguments: Any) -> None:
        raise AssertionError(f"a fault at {arguments}")

    monkeypatch.setattr(load, "load_dataset", break_)
    assert run_command([str(write(tmp_path))]) == 1
    printed = capfd.readouterr()
    assert "a fault at" in (tmp_path / "run" / "traceback.txt").read_text(encoding="utf-8")
    assert_nowhere(printed.out, printed.err, folder=tmp_path)


def test_a_variable_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_SECRET")
    with pytest.raises(EnvironmentProblem, match="the environment variable MY_SECRET"):
        load.load_source(Recipe.load(write(tmp_path)))


SECRET = PLANTED["MY_SECRET"]


@pytest.mark.parametrize(
    "override",
    [
        f"dataset.data_files=https://me:{SECRET}@host.invalid/rows.csv",
        f"dataset.data_files={{train: ['https://host.invalid/rows.csv?x=1&token={SECRET}']}}",
        f"dataset.path=s3://key:{SECRET}@bucket/rows",
        f"dataset.options.token={SECRET}",
        f"dataset.options={{storage_options: {{client_secret: {SECRET}}}}}",
        f"model.name={PLANTED['HF_TOKEN']}",
        f"training.hub_token={SECRET}",
        f"training.push_to_hub_token={SECRET}",
        f"seed={SECRET}",
        f"run.precision={SECRET}",
        f"dataset.max_samples={{{SECRET}: 1}}",
        f"{SECRET}=1",
        f"metrics=[{SECRET}]",
        f"seed={{{SECRET}",
        "output_dir=runs/$MY_SECRET",
        "output_dir=runs/${HF_TOKEN}",
        "model.name=$HF_TOKEN",
        "model.weights=./${STORE_PASSWORD}.pt",
        "dataset.path=/data/$MY_SECRET",
        "dataset.data_files={train: 'a.csv', test: ['data/${MY_SECRET}.csv']}",
        "metrics=['evaluate:./$WANDB_API_KEY']",
    ],
)
def test_a_secret_that_would_be_saved_is_refused_and_not_repeated(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(write(tmp_path), [override])
    assert_nowhere(str(caught.value), *map(str, caught.value.findings))
    with pytest.raises(HfSftError):
        Recipe.from_dict(Recipe.load(write(tmp_path)).to_dict() | {"output_dir": "runs/$MY_SECRET"})


@pytest.mark.parametrize(
    "override",
    [
        "dataset.data_files=https://me@host.invalid/rows.csv",
        "dataset.data_files=https://host.invalid/a@b:c/rows.csv?version=2",
        "dataset.options={token: true, sep: '|', na_values: [secret]}",
        "dataset.path=org/secret-tokens",
        "dataset.path=$HOME/keys/rows.csv",
        "dataset.columns={text: password, label: token}",
        "dataset.label_map={'me:you@home': secret}",
        "output_dir=runs/hf_tokenizer",
        "model.name=hf_internal/model",
    ],
)
def test_what_is_no_secret_is_taken(tmp_path: Path, override: str) -> None:
    Recipe.load(write(tmp_path), [override])


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("nothing to hide", "nothing to hide"),
        (f"a {SECRET} b", "a ${MY_SECRET} b"),
        ("https://me:pw@host/x?a=1&api_key=k2&b=2", "https://me:***@host/x?a=1&api_key=***&b=2"),
        ("https://me:${MY_SECRET}@host", "https://me:${MY_SECRET}@host"),
        ("Bearer hf_abcdefghijklmnopqrstuvwxyz", "Bearer ***"),
    ],
)
def test_masked_text_says_which_secret_stood_there(text: str, masked: str) -> None:
    assert secrets.mask(text) == masked


def test_variables_that_a_recipe_names_are_masked_whatever_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "value-of-the-other")
    assert secrets.mask("a value-of-the-other", {"x": ["${OTHER}"]}) == "a ${OTHER}"
    assert secrets.mask("a value-of-the-other") == "a value-of-the-other"
