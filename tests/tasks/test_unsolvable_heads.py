"""Tags, masks and boxes have no head that can be solved: what needs one says so, and nothing advises it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_runs import make_data, make_recipe, prepare
from typer.testing import CliRunner

from hf_sft import check, fine_tune, rank_models
from hf_sft.cli import app
from hf_sft.errors import RecipeError
from hf_sft.recipe import Recipe

FAMILIES = ("bert_tags", "segformer", "rt_detr")
MIXED = {"strategy": "full", "wise_ft": {"alpha": 0.5}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("family", FAMILIES)
def test_ranking_models_is_refused_before_data_are_read(family: str, models: Path, tmp_path: Path) -> None:
    recipe = make_recipe(family, models, tmp_path / "run", dataset={"path": str(tmp_path / "not_there.json")})
    with pytest.raises(RecipeError) as caught:
        rank_models(recipe, [recipe.model.name])
    (finding,) = caught.value.findings
    assert finding.place == "task" and finding.found == recipe.task and "max_steps" in finding.fix
    assert "text-classification" in finding.expected and recipe.task not in finding.expected


def test_ranking_models_is_refused_with_exit_code_2(models: Path, tmp_path: Path) -> None:
    recipe = make_recipe("segformer", models, tmp_path / "run")
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.to_yaml())
    shown = CliRunner().invoke(app, ["rank-models", str(file), "--candidates", recipe.model.name])
    assert shown.exit_code == 2 and "image-segmentation" in shown.output, shown.output


@pytest.mark.parametrize("family", FAMILIES)
def test_check_refuses_a_probe_in_the_words_of_a_run(family: str, models: Path, tmp_path: Path) -> None:
    recipe, data = make_recipe(family, models, tmp_path / "run"), make_data(family, train=8, validation=4)
    with pytest.raises(RecipeError) as caught:
        fine_tune(recipe, data=data, with_probe=True)
    report = check(recipe, data=data, fast=True, with_probe=True)
    assert report.errors == tuple(caught.value.findings)
    (finding,) = report.errors
    assert finding.place == "with_probe" and finding.fix == "leave out --with-probe (with_probe)"
    assert check(recipe, data=data, fast=True).ok


@pytest.mark.parametrize("family", [*FAMILIES, "bert"])
def test_a_warm_start_is_advised_beside_wise_ft_where_there_can_be_one(
    family: str, models: Path, tmp_path: Path
) -> None:
    content: dict[str, Any] = {**MIXED, "warm_start": "none"}
    recipe: Recipe = make_recipe(family, models, tmp_path / "run", tuning=content)
    work = prepare(recipe, make_data(family, train=8, validation=4))
    (note,) = [note for note in work.notes if note.startswith("wise_ft")]
    assert ("tuning.warm_start" in note) == (family == "bert")
    assert ("no head can be solved" in note) == (family != "bert")
