"""Every mistake a user can mend ends with exit code 2 and what to do, in `run` and in `check`, and leaves nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image as pil
from tiny import save_image_model, save_text_model, save_tokenizer

from hf_sft.cli import app, run_command
from hf_sft.training import fit

ROWS = [{"text": f"good film {index}" if index % 2 else f"bad meal {index}", "label": index % 2} for index in range(24)]
Spoil = Callable[[Path, dict[str, Any]], None]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_text_model("bert", folder / "bert")
    save_image_model("resnet", folder / "resnet")
    return folder


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def text_recipe(models: Path) -> dict[str, Any]:
    """A right recipe over rows.csv, which it writes; a mistake is put into either."""
    pd.DataFrame(ROWS).to_csv("rows.csv", index=False)
    return {
        "task": "text-classification",
        "model": {"name": str(models / "bert")},
        "dataset": {"path": "rows.csv"},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 8},
        "output_dir": "out",
    }


def image_recipe(models: Path) -> dict[str, Any]:
    """A right recipe over the folders pictures/a and pictures/b, which it fills."""
    generator = np.random.default_rng(0)
    for index in range(12):
        path = Path("pictures") / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pil.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    return text_recipe(models) | {
        "task": "image-classification",
        "model": {"name": str(models / "resnet")},
        "dataset": {"path": "pictures"},
    }


def put(key: str, value: Any) -> Spoil:
    """The recipe with another value at a dotted key."""

    def spoil(models: Path, recipe: dict[str, Any]) -> None:
        *sections, last = key.split(".")
        for section in sections:
            recipe = recipe.setdefault(section, {})
        recipe[last] = value

    return spoil


def data(name: str, content: str | bytes, **dataset: Any) -> Spoil:
    """Another file as the data."""

    def spoil(models: Path, recipe: dict[str, Any]) -> None:
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
        recipe["dataset"] = {"path": name, **dataset}

    return spoil


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def picture(content: Callable[[bytes], bytes]) -> Spoil:
    """One picture of the folder spoilt."""

    def spoil(models: Path, recipe: dict[str, Any]) -> None:
        path = Path("pictures/a/4.png")
        path.write_bytes(content(path.read_bytes()))

    return spoil


def model(change: Callable[[Path], None]) -> Spoil:
    """A copy of the model, changed."""

    def spoil(models: Path, recipe: dict[str, Any]) -> None:
        shutil.copytree(recipe["model"]["name"], "model")
        change(Path("model"))
        recipe["model"]["name"] = "model"

    return spoil


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")


def _smaller_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 5}))
    save_tokenizer(folder)


def _tiny_picture(content: bytes) -> bytes:
    pil.new("RGB", (1, 1)).save("one.png")
    return Path("one.png").read_bytes()


def _one_class(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"label": 1} for row in rows]


def _other_run(models: Path, recipe: dict[str, Any]) -> None:
    out = Path("out")
    out.mkdir()
    (out / "asked.yaml").write_text("task: text-classification\nseed: 1\n")
    (out / "record.json").write_text("{}")


NULL = [*ROWS[:3], {"text": None, "label": 1}, *ROWS[3:]]
UNLABELLED = [*ROWS[:3], {"text": "good", "label": None}, *ROWS[3:]]
TEXT: dict[str, tuple[Spoil, str, str]] = {  # what is wrong -> (how it comes about, the place named, other words)
    "unknown key": (put("dataset.colums", {}), "dataset.colums", "did you mean 'columns'"),
    "wrong type": (put("training.num_train_epochs", [1]), "training.num_train_epochs", "expected"),
    "number as text": (put("seed", "42"), "seed", "leave out the quotes"),
    "missing file": (put("dataset.path", "nothing.csv"), "dataset.path", "nothing.csv"),
    "missing data files": (put("dataset", {"path": "csv", "data_files": "no.csv"}), "dataset.path", "no.csv"),
    "empty file": (data("e.csv", ""), "dataset.path", "e.csv"),
    "header alone": (data("e.csv", "text,label\n"), "dataset.path", "without rows"),
    "malformed csv": (data("m.csv", 'text,label\n"good,1\nbad,0,0,0\nx,1\n'), "dataset.path", "m.csv"),
    "malformed jsonl": (data("m.jsonl", lines(ROWS) + '{"text": "go\n'), "dataset.path", "m.jsonl"),
    "malformed parquet": (data("m.parquet", b"PAR1 this is none"), "dataset.path", "m.parquet"),
    "no such column": (put("dataset.columns", {"text": "txt"}), "dataset.columns.text", "did you mean 'text'"),
    "no such split": (put("dataset.splits", {"test": "tests"}), "dataset.splits.test", "'train'"),
    "label missing": (data("l.jsonl", lines(UNLABELLED)), "dataset.columns.label", "1 row of train: 3"),
    "one class": (data("o.jsonl", lines(_one_class(ROWS))), "dataset.columns.label", "two classes"),
    "text with nulls": (data("n.jsonl", lines(NULL)), "dataset.columns.text", "1 row of train: 3"),
    "text of numbers": (
        data("n.jsonl", lines([{"text": index, "label": index % 2} for index in range(9)])),
        "dataset.columns.text",
        "int64",
    ),
    "no weights": (model(lambda folder: (folder / "model.safetensors").unlink()), "model.name", "no weights in"),
    "weights that are a pickle": (model(_pickled), "model.name", "a pickle, which runs code"),
    "tokenizer of another model": (model(_smaller_vocabulary), "model.name", ""),
    "no tokenizer": (
        model(lambda folder: [file.unlink() for file in folder.glob("token*")] and None),
        "model.name",
        "tokenizer",
    ),
    "no model folder": (put("model.name", "./nowhere"), "model.name", "nowhere"),
    "model of another task": (
        lambda models, recipe: recipe["model"].update(name=str(models / "resnet")),
        "model.name",
        "text-classification",
    ),
    "unknown metric": (put("metrics", ["acuracy"]), "metrics", "did you mean 'accuracy'"),
    "metric of another problem": (put("metrics", ["pearson"]), "metrics", "fits single_label"),
    "folder of another recipe": (_other_run, "output_dir", "--overwrite"),
    "output_dir is a file": (
        lambda models, recipe: Path("out").write_text("mine") and None,
        "output_dir",
        "is a file",
    ),
    "stops early without validation": (
        lambda models, recipe: recipe.update(
            early_stopping={}, dataset=recipe["dataset"] | {"splits": {"validation": None}}
        ),
        "early_stopping",
        "validation",
    ),
    "longer than the model": (put("processor", {"max_length": 5000}), "processor.max_length", "at most 64"),
}
IMAGES: dict[str, tuple[Spoil, str, str]] = {
    "broken image": (picture(lambda content: content[:50]), "dataset.columns.image", "does not decode"),
    "not an image": (picture(lambda content: b"hello"), "dataset.columns.image", "does not decode"),
    "zero-byte image": (picture(lambda content: b""), "dataset.columns.image", "no byte"),
    "image too small": (picture(_tiny_picture), "dataset.columns.image", "4 x 4 pixels"),
    "model of another task": (
        lambda models, recipe: recipe["model"].update(name=str(models / "bert")),
        "model.name",
        "image-classification",
    ),
}
CASES = [("text", name) for name in TEXT] + [("image", name) for name in IMAGES]


def command(name: str, *arguments: str) -> int:
    if name == "run":
        return run_command(list(arguments))
    with pytest.raises(SystemExit) as caught:
        app([name, *arguments], prog_name="hf-sft")
    return int(caught.value.code or 0)


@pytest.mark.parametrize("name", ["run", "check"])
@pytest.mark.parametrize(("kind", "case"), CASES)
def test_a_mistake_ends_with_code_2_its_place_and_what_to_do_and_leaves_nothing(
    name: str, kind: str, case: str, models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = text_recipe(models) if kind == "text" else image_recipe(models)
    spoil, place, words = (TEXT if kind == "text" else IMAGES)[case]
    spoil(models, recipe)
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    before = sorted(Path("out").rglob("*")) if Path("out").exists() else None
    assert command(name, "r.yaml") == 2
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    assert place in said and words in said
    assert "expected" in said and "found" in said
    assert (sorted(Path("out").rglob("*")) if Path("out").exists() else None) == before


@pytest.mark.parametrize("kind", ["text", "image"])
def test_the_recipe_without_a_mistake_passes(kind: str, models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = text_recipe(models) if kind == "text" else image_recipe(models)
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    assert command("check", "r.yaml") == 0
    assert "0 errors" in capfd.readouterr().out
    assert not Path("out").exists()
    assert command("run", "r.yaml") == 0 and Path("out/model/config.json").is_file()


@pytest.mark.parametrize("name", ["run", "check"])
def test_bad_rows_that_may_be_skipped_stop_nothing_and_are_listed(
    name: str, models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = text_recipe(models)
    data("n.jsonl", lines(NULL), on_bad_row="skip")(models, recipe)
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    assert command(name, "r.yaml") == 0
    assert "1 bad row skipped" in capfd.readouterr().out.replace("\n      ", " ")
    if name == "run":
        assert Path("out/report/bad_rows.csv").read_text().splitlines()[1] == "train,train,3,text,is empty (null)"


@pytest.mark.parametrize("name", ["run", "check"])
def test_a_folder_that_cannot_be_written_is_found_before_anything_is_read(
    name: str, models: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("r.yaml").write_text(yaml.safe_dump(text_recipe(models)))
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and allowed(path, mode))
    assert command(name, "r.yaml") == 2
    assert "no permission to write" in "".join(capfd.readouterr())


def test_a_disk_that_fills_up_is_no_fault_of_ours_and_the_run_can_go_on(
    models: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("r.yaml").write_text(yaml.safe_dump(text_recipe(models)))

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fit, "train", full)
        assert command("run", "r.yaml") == 2
    said = capfd.readouterr().err
    assert "GB free in out" in said and "goes on" in said and "Traceback" not in said
    assert command("run", "r.yaml") == 0


def test_a_disk_that_is_too_small_is_found_by_check(
    models: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("r.yaml").write_text(yaml.safe_dump(text_recipe(models)))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    assert command("check", "r.yaml") == 2
    assert "GB free in out" in capfd.readouterr().out
