"""Laws of the model card."""

from __future__ import annotations

import html
import json
import os
import re
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from record_fixture import (
    HOSTILE,
    make_history,
    make_hostile_record,
    make_image_record,
    make_published_record,
    make_recipe,
    make_record,
)

from hf_sft.card import model_card, publishable
from hf_sft.markdown import cut_folders, without_folders
from hf_sft.record import RunRecord

GOLDEN = Path(__file__).parent / "golden"
CARDS = [("card_text", make_record), ("card_image", make_image_record), ("card_published", make_published_record)]


def _table(card: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, heads first, as a reader sees them."""
    section = card.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[html.unescape(cell.strip()) for cell in line[1:-1].split("|")] for line in (lines[0], *lines[2:])]


def _data(card: str) -> ModelCardData:
    data = ModelCard(card).data
    assert isinstance(data, ModelCardData)
    return data


def _results(card: str) -> list[EvalResult]:
    results = _data(card).eval_results
    assert results is not None
    return results


def _recipe_in(card: str) -> dict[str, Any]:
    found = re.search(r"^(`{3,})yaml\n(.*?)\n {0,3}\1`*$", card, re.DOTALL | re.MULTILINE)  # ends as CommonMark ends it
    assert found is not None
    return yaml.safe_load(found[2])


@pytest.mark.parametrize(("name", "make"), CARDS)
def test_card_is_the_golden_card(name: str, make: Any) -> None:
    """To accept a change: HF_SFT_UPDATE_GOLDEN=1 pytest tests/test_card.py, then read the difference."""
    card, golden = model_card(make()), GOLDEN / f"{name}.md"
    if os.environ.get("HF_SFT_UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(card, encoding="utf-8")
    assert card == golden.read_text(encoding="utf-8")


def test_front_matter_reads_back_with_every_value_of_the_test_split() -> None:
    record = make_record()
    data, results = _data(model_card(record)), _results(model_card(record))
    assert {result.metric_name: result.metric_value for result in results} == record.metrics["test"]
    assert [result.metric_type for result in results] == ["accuracy", "f1", "loss"]
    assert {(result.task_type, result.dataset_split) for result in results} == {("text-classification", "test")}
    assert {(result.dataset_name, result.dataset_type) for result in results} == {("reviews", "bundled:reviews")}
    assert data.metrics == ["accuracy", "f1"]
    assert data.tags == ["hf_sft", "text-classification"]
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")


def test_validation_stands_for_the_model_where_no_test_split_was_evaluated() -> None:
    record = make_image_record()
    card = model_card(record)
    results = _results(card)
    assert {result.metric_name: result.metric_value for result in results} == record.metrics["validation"]
    assert {result.dataset_split for result in results} == {"validation"}
    assert "no test split was evaluated" in card


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"name": "google-bert/bert-base-uncased"}, "google-bert/bert-base-uncased"),
        ({"name": "gpt2"}, "gpt2"),
        ({"name": "package:minilm/model"}, None),
        ({"name": "package:minilm/model", "base_model": "me/minilm"}, "me/minilm"),
        ({"name": "/models/bert"}, None),
        ({"name": "./bert"}, None),
        ({"name": "../bert"}, None),
        ({"name": "a/b/c"}, None),
        ({"name": "timm/lite0", "weights": "package:lite0/lite0.pth"}, None),
        ({"name": "timm/lite0", "weights": "package:lite0/lite0.pth", "base_model": "timm/lite0"}, "timm/lite0"),
        ({"name": "me/bert", "weights": "random", "base_model": "me/bert"}, None),
    ],
)  # fmt: skip
def test_base_model_is_a_hub_id_or_absent(model: dict[str, Any], expected: str | None) -> None:
    data = _data(model_card(make_record(recipe=make_recipe(model=model))))
    assert data.base_model == expected
    assert data.get("base_model_relation") == ("finetune" if expected else None)


@pytest.mark.parametrize(
    ("dataset", "source", "expected"),
    [
        ({"path": "stanfordnlp/sst2"}, None, ["stanfordnlp/sst2"]),
        ({"path": "imdb"}, "imdb train", ["imdb"]),
        ({"path": "me/memory-game"}, "me/memory-game train", ["me/memory-game"]),
        ({"path": "stanfordnlp/sst2"}, "in memory", None),
        ({"path": "data/reviews"}, "/home/me/data/reviews", None),
        ({"path": "bundled:reviews"}, None, None),
        ({"path": "data/reviews.csv"}, None, None),
        ({"path": "./reviews"}, None, None),
        ({"path": "/data/reviews"}, None, None),
        ({"path": "csv", "data_files": "a.csv"}, None, None),
        ({"path": "json", "data_files": {"train": ["a.jsonl"]}}, None, None),
        ({"path": "parquet", "data_files": "a.parquet"}, None, None),
        ({"path": "imagefolder", "data_files": "a.zip"}, None, None),
    ],
)
def test_data_set_is_a_hub_id_or_absent(
    dataset: dict[str, Any], source: str | None, expected: list[str] | None
) -> None:
    record = make_record(recipe=make_recipe(dataset=dataset), data={"train": {"rows": 1, "source": source}})
    assert _data(model_card(record)).datasets == expected


def test_data_of_a_reader_is_named_by_its_files() -> None:
    recipe = make_recipe(dataset={"path": "csv", "data_files": {"train": ["/data/a.csv", "b.csv"], "test": "c.csv"}})
    card = model_card(make_record(recipe=recipe))
    assert "on `a.csv, b.csv, c.csv` with" in card
    assert _results(card)[0].dataset_name == "a.csv, b.csv, c.csv"


def test_values_that_are_not_defined_are_left_out_of_the_model_index() -> None:
    record = make_record(metrics={"test": {"accuracy": float("nan"), "macro_f1": None, "loss": 0.5}})
    card = model_card(record)
    assert [result.metric_name for result in _results(card)] == ["loss"]
    assert _table(card, "Results")[1][2] == "-"
    json.dumps(_data(card).to_dict(), allow_nan=False)


def test_run_without_labelled_splits_still_has_a_card() -> None:
    card = model_card(make_record(metrics={}, intervals={}, baselines={}, per_class={}))
    assert _data(card).eval_results is None
    assert "no split was evaluated" in card


def test_a_cell_says_exactly_the_label_whatever_its_letters() -> None:
    card = model_card(make_hostile_record())
    assert [row[1] for row in _table(card, "Results")[1:]] == ["accuracy", "<i>a|b</i>", "loss"]
    seen = [name.replace("\n", " ") for name in HOSTILE]
    assert [row[1] for row in _table(card, "Labels")[1:]] == seen
    assert [row[0] for row in _table(card, "Results per label")[1:]] == seen


def test_text_from_data_writes_no_html_and_no_markup() -> None:
    card = re.sub(r"^(`{3,})\w+\n.*?\n\1$", "", model_card(make_hostile_record()), flags=re.DOTALL | re.MULTILINE)
    body = card.split("\n---\n", 1)[1]
    assert not re.search(r"<(?!/?(details|summary)>)", body)
    assert "**" not in body
    assert "](" not in re.sub(r"!\[[a-z, ]+\]\(report/\w+\.png\)", "", body)


def test_recipe_in_the_card_is_the_recipe_of_the_record() -> None:
    fenced = make_record(recipe=make_recipe(output_dir="runs/a\n```\n# b"))
    for record in (make_record(), make_image_record(), make_hostile_record(), fenced):
        assert _recipe_in(model_card(record)) == record.recipe


@pytest.mark.parametrize(
    "root", ["/home/secret/", "C:\\Users\\secret\\", "~/secret/", "file:///srv/secret/", "~secret/", "S:/secret/"]
)
def test_absolute_paths_never_appear(root: str) -> None:
    recipe = make_recipe(
        model={"name": f"{root}my bert", "weights": f"{root}weights.bin"},
        dataset={
            "path": f"{root}reviews",
            "data_files": {"train": [f"{root}a.csv", f"{root}b c.csv"], "test": "t.csv"},
        },
        metrics=["accuracy", f"evaluate:{root}mine"],
        training={"deepspeed": f"{root}zero.json"},
        output_dir=f"{root}run",
    )
    record = make_record(
        recipe=recipe,
        metrics={"test": {"accuracy": 0.9, "mine": 0.8}},
        data={"train": {"rows": 3, "source": f"{root}a.csv"}, "notes": [f"read '{root}a.csv' and {root}b.csv."]},
        notes=[f"{root}notes.txt was not read; weights from ({root}weights.bin)"],
        parameters={"total": 2, "trainable": 1, "head": f"taken from {root}head.bin"},
        environment={"device": "cpu", "python": f"{root}bin/python"},
        output_dir=f"{root}run",
    )
    card = model_card(record)
    assert "secret" not in card
    for part in (
        "my bert",
        "weights.bin",
        "b c.csv",
        "t.csv",
        "evaluate:mine",
        "zero.json",
        "# run\n",
        "'a.csv' and b.csv",
    ):
        assert part in card


@pytest.mark.parametrize(
    "text",
    [
        "and/or",
        "https://a.b/c/d",
        "1/2/3",
        "runs/a/b",
        "hf://datasets/a/b",
        "../data/a.csv",
        "/",
        "train[:10%]",
        "~5/10 rows",
    ],
)
def test_what_is_no_absolute_path_stays(text: str) -> None:
    assert without_folders(text) == text
    assert cut_folders(f"see {text} there") == f"see {text} there"


def test_keys_lose_their_folders_and_stay_apart() -> None:
    found = publishable({"/srv/a/run": 1, "/srv/b/run": {"/srv/c": 2}, "run": 3, 4: 5})
    assert found == {"run": 1, "run (2)": {"c": 2}, "run (3)": 3, 4: 5}


def _run_snippet(record: RunRecord, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the card's snippet with a pipeline that gives joy 0.6, anger 0.3, fear 0.9; what it was given."""
    given: dict[str, Any] = {}
    scores = [{"label": "fear", "score": 0.9}, {"label": "joy", "score": 0.6}, {"label": "anger", "score": 0.3}]

    class Classify:
        model = types.SimpleNamespace(
            config=types.SimpleNamespace(
                num_labels=3, label2id={"joy": 0, "anger": 1, "fear": 2}, hf_sft_thresholds=[0.7, 0.2, 0.5]
            )
        )

        def __call__(self, row: Any, **options: Any) -> Any:
            given.update(row=row, call=options)
            return scores

    def pipeline(task: str, **options: Any) -> Classify:
        given.update(task=task, options=options)
        return Classify()

    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(pipeline=pipeline))
    code = model_card(record).split("```python\n")[1].split("\n```")[0]
    (folder / "snippet.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(folder / "snippet.py"))
    return given


def test_snippet_truncates_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = _run_snippet(make_record(), tmp_path, monkeypatch)
    assert given["task"] == "text-classification"
    assert given["options"] == {"model": "path/to/model", "truncation": True}


def test_snippet_passes_pairs_as_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"text": "premise", "text_pair": "hypothesis", "label": "label"}
    recipe = make_recipe(dataset={"path": "nyu-mll/glue", "name": "mnli", "columns": columns})
    given = _run_snippet(make_record(recipe=recipe), tmp_path, monkeypatch)
    assert set(given["row"]) == {"text", "text_pair"}


def test_snippet_for_images_has_no_options_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = _run_snippet(make_image_record(), tmp_path, monkeypatch)
    assert (given["task"], given["options"]) == ("image-classification", {"model": "path/to/model"})


def test_snippet_compares_each_score_with_the_threshold_of_its_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {"problem": "multi_label", "names": ["joy", "anger", "fear"], "thresholds": [0.7, 0.2, 0.5]}
    record = make_record(labels=labels)
    given = _run_snippet(record, tmp_path, monkeypatch)
    assert capsys.readouterr().out == "['fear', 'anger']\n"
    assert given["call"] == {"top_k": 3}
    assert _table(model_card(record), "Labels")[1:] == [
        ["0", "joy", "0.7000"],
        ["1", "anger", "0.2000"],
        ["2", "fear", "0.5000"],
    ]


@pytest.mark.parametrize(("num_labels", "folded"), [(30, False), (31, True)])
def test_many_labels_are_folded_away(num_labels: int, folded: bool) -> None:
    names = [f"intent_{place}" for place in range(num_labels)]
    card = model_card(make_record(labels={"problem": "single_label", "names": names, "thresholds": None}))
    section = card.split("## Labels", 1)[1].split("\n## ", 1)[0]
    assert ("<details><summary>31 rows</summary>" in section) == folded
    assert [row[1] for row in _table(card, "Labels")[1:]] == names


@pytest.mark.parametrize(
    ("metric", "interval", "baseline", "said"),
    [
        ("accuracy", [0.45, 0.6], 0.5, True),
        ("accuracy", [0.55, 0.6], 0.5, False),
        ("mse", [3.0, 4.0], 3.5, True),
        ("mse", [3.0, 4.0], 5.0, False),
        ("accuracy", [0.55, 0.6], None, False),
    ],
)
def test_card_says_where_the_baseline_is_not_beaten(
    metric: str, interval: list[float], baseline: float | None, said: bool
) -> None:
    record = make_record(
        recipe=make_recipe(metrics=[metric]),
        metrics={"test": {metric: sum(interval) / 2}},
        intervals={"test": {metric: interval}},
        baselines={"test": {"majority": {} if baseline is None else {metric: baseline}}},
    )
    assert ("reaches the majority baseline" in model_card(record)) == said


def test_card_names_the_weakest_labels_and_those_without_rows() -> None:
    scores = {"good": 0.9, "fair": 0.8, "poor": 0.3, "bad": 0.1, "fine": 0.7}
    classes = {name: {"precision": 1.0, "recall": 1.0, "f1": f1, "support": 7} for name, f1 in scores.items()}
    classes["never"] = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    card = model_card(make_record(per_class={"test": classes}))
    assert "weakest labels by F1 on test: bad (0.1000, 7 rows), poor (0.3000, 7 rows)\n" in card
    assert "1 of 6 labels have no row in test" in card


def test_regression_has_a_card_without_labels() -> None:
    record = make_record(
        recipe=make_recipe(metrics=["pearson", "mse"]),
        labels={"problem": "regression", "names": [], "thresholds": None},
        metrics={"test": {"pearson": 0.8, "mse": 4000.0, "loss": 4000.0}},
        per_class={},
    )
    card = model_card(record)
    assert "gives a text a number" in card
    assert "## Labels" not in card
    assert [result.metric_type for result in _results(card)] == ["pearsonr", "mse", "loss"]


def test_epochs_table_marks_the_best_epoch_of_the_first_metric() -> None:
    history = make_history(4)
    history["epochs"][3]["accuracy"] = None
    rows = _table(model_card(make_record(history=history)), "Training\n")
    assert [row[0] for row in rows[1:]] == ["1", "2", "3 (best)", "4"]
    assert rows[4][3] == "-"


def test_front_matter_says_what_the_hub_asks_for() -> None:
    data = _data(model_card(make_published_record()))
    assert (data.license, data.language, data.base_model) == ("apache-2.0", ["en"], "google-bert/bert-base-uncased")
    assert data.get("base_model_relation") == "finetune" and data.datasets == ["stanfordnlp/sst2"]
    assert [example["text"] for example in data.get("widget")] == [
        "Slow start, wonderful end.", "I asked for my money back: twice.",
    ]  # fmt: skip
    assert {result.dataset_revision for result in _results(model_card(make_published_record()))} == {
        "dec0de" * 6 + "feed"
    }


@pytest.mark.parametrize(
    ("model", "hub", "expected"),
    [
        ({"license": "mit"}, None, "mit"),
        ({"license": "mit"}, {"repo_id": "me/x", "license": "cc0-1.0"}, "cc0-1.0"),
        ({}, None, None),
    ],
)
def test_license_is_the_recipes_or_that_of_the_pretrained_model(
    model: dict[str, Any], hub: dict[str, Any] | None, expected: str | None
) -> None:
    record = make_record(recipe=make_recipe(hub=hub), origins={"model": model})
    assert _data(model_card(record)).license == expected


def test_what_was_drawn_at_random_owes_no_license_and_no_citation() -> None:
    recipe = make_recipe(model={"name": "me/base", "weights": "random"})
    card = model_card(make_record(recipe=recipe, origins={"model": {"license": "mit", "citation": "@misc{x}"}}))
    assert _data(card).license is None and "## Citation" not in card


@pytest.mark.parametrize(
    ("of_data", "of_model", "expected"),
    [(["de"], ["en"], ["de"]), ([], ["en"], ["en"]), ([], ["en", "de"], None), ([], [], None)],
)
def test_language_is_that_of_the_data_or_the_only_one_of_the_model(
    of_data: list[str], of_model: list[str], expected: list[str] | None
) -> None:
    origins = {"model": {"language": of_model}, "dataset": {"language": of_data}}
    assert _data(model_card(make_record(origins=origins))).language == expected
    assert _data(model_card(make_image_record(origins=origins))).language is None


def test_sections_come_in_the_order_of_what_readers_ask() -> None:
    heads = re.findall(r"^## (.*?)(?: \(\w+\))?$", model_card(make_published_record()), re.MULTILINE)
    assert heads == [
        "How to use", "Labels", "Results", "Results per label", "Confusion", "Training", "Recipe", "Training data",
        "Limitations", "Environment", "Citation",
    ]  # fmt: skip


def test_limitations_name_the_worst_slice_that_is_large_enough() -> None:
    card = model_card(make_published_record())
    assert "accuracy is worst where topic is meals: 0.8100 on 74 rows, 95 % interval from 0.7200 to 0.8900" in card
    assert "rooms" not in card


def test_limitations_name_the_worst_group_of_rows_that_inspect_has_found() -> None:
    found = {"split": "test", "worst_slice": "text has a negation", "worst_slice_rows": 260}
    found |= {"worst_slice_right": 0.65, "worst_slice_right_elsewhere": 0.78}
    card = model_card(make_record(inspection={"errors": found}))
    told = "on the rows of test where text has a negation: 0.6500 of 260 rows are right, 0.7800 of the others"
    assert f"worse by more than chance {told}" in card
    assert "more than chance" not in model_card(make_record(inspection={"errors": {"worse_slices": 0}}))


def test_confusion_names_what_is_mistaken_most() -> None:
    card = model_card(make_published_record())
    assert "- negative taken for positive: 12 of 100 rows\n- positive taken for negative: 9 of 100 rows" in card
    assert "Confusion" not in model_card(make_record())
