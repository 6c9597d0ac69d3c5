"""Laws of a ranking: features that separate the classes come first, the order is that of the models alone."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tiny import SPECIAL, WORDS, save_image_model, save_text_model, texts
from tiny_runs import make_data
from typer.testing import CliRunner

from hf_sft import check, rank_models
from hf_sft.cli import app
from hf_sft.cli_candidates import spread
from hf_sft.commands.candidates import read_candidates
from hf_sft.commands.ranking import Ranked, Ranking
from hf_sft.errors import DataError, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.training import held_out_probe

ROWS = {"train": texts(60, seed=0)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_text_model("bert", folder / "plain")
    save_text_model("bert", folder / "trained", labels=["negative", "positive"])
    save_text_model("bert", folder / "other_labels", labels=["sport", "politics", "weather"])
    save_image_model("resnet", folder / "images")
    knowing(save_text_model("bert", folder / "knowing"))
    return folder


def knowing(model: Path) -> None:
    """Words look alike, but for "good" and "bad", which are opposites."""
    weights = load_file(model / "model.safetensors")
    words = weights["embeddings.word_embeddings.weight"]
    direction = words.new_tensor([1.0, -1.0] * (words.shape[1] // 2))
    words *= 0
    words[len(SPECIAL) + WORDS.index("good")], words[len(SPECIAL) + WORDS.index("bad")] = direction, -direction
    weights["embeddings.position_embeddings.weight"] *= 0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def recipe(models: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "task": "text-classification",
        "model": {"name": str(models / "plain")},
        "dataset": {"path": "memory", "splits": {"validation": None}},
        "tuning": {"cache_dir": str(folder / "cache")},
        "output_dir": str(folder / "run"),
    }
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    if content["tuning"].get("cache") == "off":
        content["tuning"].pop("cache_dir")
    return content


def named(models: Path, *names: str) -> list[str]:
    return [str(models / name) for name in names]


def without_clock(found: Ranking) -> dict[str, Any]:
    content = found.as_dict()
    content.pop("seconds")
    for one in content["candidates"]:
        assert one.pop("rows_per_second") > 0
    content["suggestion"].pop("reason")
    return content


def test_features_that_separate_the_classes_rank_above_random_ones(models: Path, tmp_path: Path) -> None:
    random = str(models / "knowing") + "@random"
    found = rank_models(recipe(models, tmp_path), [random, *named(models, "knowing")], data=ROWS)
    best, worst = found.ranked
    assert (best.name, worst.name) == (str(models / "knowing"), random)
    assert best.value > 0.95 > worst.value and best.interval[0] > worst.interval[1]
    assert best.gained is not None and best.gained > 0.9 and found.baseline == 0.5
    assert found.suggestion is best and found.recipe_fragment()["model"] == {"name": best.name}
    assert "no other interval overlaps" in found.reason
    assert worst.advice.strategy == "full" and "random weights" in worst.advice.reason
    assert worst.parameters == best.parameters > 0


def test_order_and_numbers_do_not_depend_on_the_order_of_candidates_or_on_the_cache(
    models: Path, tmp_path: Path
) -> None:
    names = [*named(models, "plain", "knowing", "other_labels"), str(models / "plain") + "@random"]
    cached = recipe(models, tmp_path)
    one = rank_models(cached, names, data=ROWS, rows=30)
    assert list((tmp_path / "cache").glob("*/*/complete.json"))
    for other in (
        rank_models(cached, names[::-1], data=ROWS, rows=30),  # read from the cache
        rank_models(recipe(models, tmp_path, tuning={"cache": "off"}), names, data=ROWS, rows=30),
    ):
        assert without_clock(other) == without_clock(one)
    different = rank_models(recipe(models, tmp_path, seed=7), names, data=ROWS, rows=30)
    assert without_clock(different)["candidates"] != without_clock(one)["candidates"]


def test_a_candidate_that_cannot_be_used_is_a_row_with_its_reason(models: Path, tmp_path: Path) -> None:
    wrong = named(models, "images", "absent")
    broken = {"name": str(models / "plain"), "weights": "random", "config": {"num_attention_heads": 7}}
    found = rank_models(recipe(models, tmp_path), [wrong[0], broken, *named(models, "plain"), wrong[1]], data=ROWS)
    assert [one.name for one in found.ranked] == named(models, "plain")
    reasons = {one.name: one.reason for one in found.unusable}
    assert "can do text-classification; found resnet" in reasons[wrong[0]] and "config.json" in reasons[wrong[1]]
    assert "multiple of the number of attention heads" in " ".join(reasons.values())
    assert len(reasons) == 3 and all(name.rsplit("/", 1)[1] in str(found) for name in wrong)
    assert " ".join(str(found).split()).count("is not used: ") == 3
    nothing = rank_models(recipe(models, tmp_path), wrong, data=ROWS)
    assert nothing.suggestion is None and nothing.recipe_fragment() == {} and "not used" in nothing._repr_html_()
    assert json.loads(json.dumps(nothing.as_dict()))["suggestion"] is None


def test_nothing_is_written_but_the_cache(models: Path, tmp_path: Path) -> None:
    asked = recipe(models, tmp_path, tuning={"cache": "off"})
    rank_models(asked, named(models, "plain"), data=ROWS, rows=20)
    assert not list(tmp_path.iterdir())


def test_of_models_that_the_rows_do_not_tell_apart_the_smallest_is_suggested(models: Path, tmp_path: Path) -> None:
    small = {"name": str(models / "knowing"), "config": {"num_hidden_layers": 1}}
    found = rank_models(recipe(models, tmp_path), [*named(models, "knowing"), small], data=ROWS)
    assert len(found.alike) == 2 and found.suggestion is not None
    assert found.recipe_fragment()["model"] == small
    assert found.suggestion.parameters < max(one.parameters for one in found.ranked)
    if found.suggestion is not found.ranked[0]:
        assert "overlaps that of the best" in found.reason
    assert "do not tell" in str(found)


def ranked(name: str, low: float, high: float, parameters: int, speed: float = 1.0) -> Ranked:
    from hf_sft.advice import Evidence, advise

    advice = advise(Evidence(rows_per_class=100))
    return Ranked(
        name=name, model={"name": name}, value=(low + high) / 2, interval=(low, high), gained=None, entropy=None,
        shift=None, parameters=parameters, rows_per_second=speed, advice=advice,
    )  # fmt: skip


def ranking(*found: Ranked) -> Ranking:
    return Ranking(
        recipe="r", metric="accuracy", greater_is_better=True, rows=9, rows_per_class=3.0, folds=2, baseline=0.5,
        ranked=found, unusable=(), seconds=1.0,
    )  # fmt: skip


def test_only_overlapping_intervals_let_a_smaller_model_win() -> None:
    best = ranked("best", 0.8, 0.9, 50_000_000)
    found = ranking(best, ranked("near", 0.75, 0.82, 20_000_000, speed=2.0), ranked("far", 0.5, 0.7, 1_000_000))
    assert found.suggestion is not None and found.suggestion.name == "near"
    assert "20.0M parameters instead of 50.0M and is 2.0 times as fast" in found.reason
    assert ranking(best, ranked("far", 0.5, 0.7, 1_000_000)).suggestion is best
    undefined = ranked("undefined", math.nan, math.nan, 5)
    assert ranking(undefined).suggestion is undefined and ranking(best, undefined).suggestion is best


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_several_labels_and_numbers_are_ranked_too(problem: str, models: Path, tmp_path: Path) -> None:
    data = make_data("bert", problem, train=60)
    metrics = ["mse"] if problem == "regression" else ["macro_f1"]
    found = rank_models(recipe(models, tmp_path, metrics=metrics), named(models, "plain", "knowing"), data=data)
    values = [one.value for one in found.ranked]
    assert values == sorted(values, reverse=problem == "multi_label") and found.baseline is not None
    assert found.greater_is_better == (problem == "multi_label")
    for one in found.ranked:
        assert one.interval[0] <= one.value <= one.interval[1] and one.gained is not None


def test_the_old_head_tells_how_sure_it_is_where_there_is_one(models: Path, tmp_path: Path) -> None:
    found = rank_models(recipe(models, tmp_path), named(models, "plain", "trained", "other_labels"), data=ROWS)
    entropy = {one.name.rsplit("/", 1)[1]: one.entropy for one in found.ranked}
    assert entropy["plain"] is None
    assert all(value is not None and 0 < value <= 1 for value in (entropy["trained"], entropy["other_labels"]))
    assert "unsure" in str(found)


def test_rows_of_a_group_share_a_fold(models: Path, tmp_path: Path) -> None:
    groups = np.arange(60) % 7
    dealt = held_out_probe.deal_rows(np.arange(60) % 2, "single_label", folds=3, seed=0, groups=groups)
    assert set(dealt) == {0, 1, 2} and all(len(set(dealt[groups == group])) == 1 for group in range(7))
    rows = texts(60, seed=0).add_column("group", [f"g{index // 20}" for index in range(60)])
    asked = recipe(models, tmp_path, dataset={"group_column": "group"})
    assert rank_models(asked, named(models, "plain"), data={"train": rows}).folds == 3


def test_too_few_rows_or_candidates_are_said(models: Path, tmp_path: Path) -> None:
    few = {"train": Dataset.from_dict({"text": ["good", "bad"], "label": ["a", "b"]})}
    with pytest.raises(DataError, match="two rows"):
        rank_models(recipe(models, tmp_path), named(models, "plain"), data=few)
    with pytest.raises(RecipeError, match="at least one model"):
        rank_models(recipe(models, tmp_path), [], data=ROWS)


@pytest.mark.parametrize(
    ("word", "name", "section"),
    [
        ("org/name", "org/name", {"name": "org/name"}),
        ("timm/resnet18@random", "timm/resnet18@random", {"name": "timm/resnet18", "weights": "random"}),
        ({"name": "timm/resnet18", "weights": "random"}, "timm/resnet18@random", None),
        ("{name: m, config: {num_hidden_layers: 3}}", None, {"name": "m", "config": {"num_hidden_layers": 3}}),
        ({"name": "m", "config": {"n": 3}}, "{name: m, config: {n: 3}}", None),
    ],
)
def test_candidates_are_spelled_as_words_or_as_sections(word: Any, name: str | None, section: Any) -> None:
    content = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "d"}}
    (one, *others) = read_candidates([word, word], Recipe.from_dict(content))
    assert not others and one.name == (name or word) and one.given == (section or word)


@pytest.mark.parametrize("word", ["{name: m, wieghts: random}", "{name: m", "{weights: random}", ""])
def test_a_candidate_that_is_written_wrongly_is_said_at_once(word: str) -> None:
    content = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "d"}}
    with pytest.raises(RecipeError):
        read_candidates([word], Recipe.from_dict(content))


@pytest.mark.parametrize("word", ["plain", "./plain", "./plain@random"])
def test_a_folder_stands_beside_the_recipe_or_in_the_working_directory(
    word: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "d"}}
    monkeypatch.chdir(models)
    (one,) = read_candidates([word], Recipe.from_dict(content, tmp_path))
    assert one.model.name == str((models / "plain").resolve()) and one.name == word
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text("{}", encoding="utf-8")
    asked = Recipe.from_dict(content, tmp_path)
    (one,) = read_candidates([word], asked)
    assert asked.locate(one.model.name) == str((tmp_path / "plain").resolve())


def test_words_behind_the_flag_are_candidates_up_to_the_next_flag() -> None:
    line = ["r.yaml", "seed=1", "--candidates", "a", "b", "--rows", "5", "--candidates", "c", "--json"]
    spelled = ["r.yaml", "seed=1", "--candidates", "a", "--candidates", "b", "--rows", "5", "--candidates", "c"]
    assert spread(line) == [*spelled, "--json"]
    assert spread(["r.yaml", "--candidates"]) == ["r.yaml", "--candidates"]


def test_the_command_prints_the_table_or_json_and_its_help(models: Path, tmp_path: Path) -> None:
    file, data = tmp_path / "recipe.yaml", tmp_path / "rows.csv"
    ROWS["train"].to_csv(str(data))
    content = recipe(models, tmp_path, dataset={"path": str(data), "splits": {"train": "train", "validation": None}})
    file.write_text(json.dumps(content), encoding="utf-8")
    names = named(models, "plain", "knowing")
    line = ["rank-models", str(file), "--candidates", *names, "--rows", "40", "--folds", "3"]
    shown = CliRunner().invoke(app, line)
    assert shown.exit_code == 0, shown.output
    assert re.search(r"linear probe of \d+ training rows, 3 folds", shown.stdout) and "suggested: " in shown.stdout
    found = json.loads(CliRunner().invoke(app, [*line, "--json"]).stdout)
    assert {one["name"] for one in found["candidates"]} == set(names) and found["folds"] == 3
    assert found["suggestion"]["model"] == {"name": str(models / "knowing")} and found["suggestion"]["tuning"]
    assert {"value", "interval", "gained", "entropy", "parameters", "rows_per_second"} <= set(found["candidates"][0])
    help_text = CliRunner().invoke(app, ["rank-models", "--help"]).stdout
    assert "--candidates" in help_text and "@random" in help_text and "Example:" in help_text
    wrong = CliRunner().invoke(app, ["rank-models", str(file), "--candidates", str(models / "absent")])
    assert wrong.exit_code == 2 and "not used" in wrong.stdout


def advice_of(report: Any) -> str:
    (line,) = [note for note in report.notes if note.startswith("advice: ")]
    return str(line)


def test_check_says_in_one_note_what_would_suit(models: Path, tmp_path: Path) -> None:
    few = {"train": texts(16, seed=0)}
    fast = check(recipe(models, tmp_path, tuning={"warm_start": "none"}), data=few, fast=True)
    assert "tuning: {strategy: full, warm_start: linear_probe} may do better than strategy full" in advice_of(fast)
    assert fast.advice is not None and json.loads(json.dumps(fast.as_dict()))["advice"]["strategy"] == "full"
    agreed = check(recipe(models, tmp_path), data=few, fast=True)
    assert "strategy full suits these data: 8 rows per class" in advice_of(agreed)
    assert " ".join(str(agreed).split()).count(advice_of(agreed)) == 1
    assert not check(recipe(models, tmp_path, dataset={"path": "absent.csv"}), fast=True).ok


def test_check_looks_at_a_probe_only_where_asked_or_where_features_are_recorded(models: Path, tmp_path: Path) -> None:
    solved = recipe(models, tmp_path, tuning={"strategy": "head", "solver": "logistic"})
    assert "a linear probe comes" not in advice_of(check(solved, data=ROWS))
    assert "a linear probe comes" in advice_of(check(solved, data=ROWS, with_probe=True))
    known = recipe(models, tmp_path, model={"name": str(models / "knowing")})
    probed = check(known, data=ROWS, with_probe=True)
    assert probed.ok and "the features are good as they are" in advice_of(probed)
    assert "solver: logistic" in advice_of(probed)
    rank_models(solved, named(models, "plain"), data=ROWS)
    assert "a linear probe comes" in advice_of(check(solved, data=ROWS))
