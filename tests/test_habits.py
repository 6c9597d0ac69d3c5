"""What surrounds the code: files that are named exist, versions agree, and the wheel works on its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WALKS = ("CONTRIBUTING.md", "README.md", "docs/runs.md", "docs/scaling.md")
NO_BREAK = "\u00a0"
COLAB = re.compile(r"colab\.research\.google\.com/github/([\w-]+)/hf-sft/blob/main/")


@pytest.mark.parametrize("name", WALKS)
def test_files_and_folders_that_are_named_exist(name: str) -> None:
    named = re.findall(r"`((?:hf_sft|tests|docs|recipes|notebooks|benchmarks)/[\w./-]*)`", (ROOT / name).read_text())
    assert named and not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("path", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name)
def test_files_and_headings_that_are_linked_exist(path: Path) -> None:
    for name, _, place in (link.partition("#") for link in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text())):
        file = path.parent / name if name else path
        assert file.exists(), name
        if place:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}
            assert place in anchors, (name, place)


def test_whose_repository_it_is_stands_the_same_everywhere() -> None:
    """`make owner OWNER=name` sets it."""
    files = [ROOT / "README.md", *(ROOT / "notebooks").glob("*.ipynb")]
    owners = [set(COLAB.findall(file.read_text(encoding="utf-8"))) for file in files]
    assert len(set.union(*owners)) == 1 and all(owners)


def test_pictures_of_terminals_show_commands_of_the_readme_and_no_folder_of_a_machine() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = list((ROOT / "docs" / "pictures").glob("*.svg"))
    assert {picture.stem for picture in pictures} == {"check", "run", "entities"}
    for picture in pictures:
        assert f"(docs/pictures/{picture.name})" in readme
        if picture.stem == "entities":  # sentences, not a terminal
            continue
        text = ElementTree.fromstring(picture.read_text(encoding="utf-8")).itertext()
        lines = [line.replace(NO_BREAK, " ") for line in text if line.strip()]
        command = lines[0].removeprefix("$ ")
        assert f"![Terminal: {command}](docs/pictures/{picture.name})" in readme
        assert not re.search(r"(^|[\s\"'(])(/|~/|[A-Z]:\\)\w", "\n".join(lines)), picture


def test_the_walks_name_every_table_that_can_be_added_to() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([A-Z_]{4,})`[^`]*?in\s+`(hf_sft/[\w/]+\.py)`", text)
    assert {table for table, _ in named} >= {"METRICS", "METRIC_NAMES", "AUGMENTATIONS", "AUGMENTATION_KEYS", "TASKS"}
    for table, file in named:
        assert re.search(rf"^{table}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), (table, file)


@pytest.mark.parametrize("word", ["matthews", "top_layers", "_swap_words", "show_course"])
def test_examples_that_the_walks_name_exist(word: str) -> None:
    assert f"`{word}`" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert any(f"def {word}(" in path.read_text(encoding="utf-8") for path in (ROOT / "hf_sft").rglob("*.py"))


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    latest = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert latest and citation["version"] == latest[1] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


@pytest.mark.slow
def test_the_wheel_runs_its_own_recipe_from_outside_the_repository(tmp_path: Path) -> None:
    """Built and installed alone, in an environment that sees this one's packages but not this repository."""
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode and "hatchling" in built.stdout + built.stderr:
        pytest.skip("no index to build from")
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    scripts = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([scripts / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    (site,) = (tmp_path / "env").rglob("site-packages")
    (site / "outside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where = [scripts / "python", "-c", "import hf_sft; print(hf_sft.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(site) and (site / "hf_sft" / "py.typed").exists()
    outside: dict[str, Any] = {"cwd": tmp_path, "env": {**variables, "HF_HUB_OFFLINE": "1"}}
    outside |= {"capture_output": True, "text": True}
    checked = subprocess.run([scripts / "hf-sft", "check", "bundled:bert_sentiment", "--fast"], **outside)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert not (tmp_path / "runs").exists()
    small = ["dataset.max_samples={train: 32, validation: 16, test: 16}", "training.num_train_epochs=1"]
    ran = subprocess.run([scripts / "hf-sft", "run", "bundled:bert_sentiment", *small], **outside)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "runs" / "bert_sentiment" / "model" / "model.safetensors").exists()
