"""Laws of what is printed and shown at the end of a run."""

from __future__ import annotations

import base64
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from record_fixture import make_hostile_record, make_image_record, make_recipe, make_record

from hf_sft.recipe import Recipe
from hf_sft.summary import as_html, as_text, gap_note, number, results
from hf_sft.training_keys import training_fields


def test_text_has_value_interval_and_baseline_of_every_metric() -> None:
    text = as_text(make_record())
    assert re.search(r"test +accuracy +0\.8950 +0\.8500 to 0\.9350 +0\.5050\n", text)
    assert re.search(r"\n +macro_f1 +0\.8948 +0\.8482 to 0\.9349 +0\.3355\n", text)
    assert re.search(r"validation +accuracy +0\.9000 +0\.8600 to 0\.9400 +0\.5000\n", text)
    assert re.search(r"\n +loss +0\.2871 +0\.2205 to 0\.3617 +-\n", text)


def test_table_is_aligned() -> None:
    for record in (make_record(), make_image_record()):
        table = as_text(record).split("\n\n")[1].splitlines()
        assert len({len(line) for line in table}) == 1
        assert len(table) == 1 + sum(map(len, record.metrics.values()))


@pytest.mark.parametrize("folder", ["runs/bert", "/tmp/a run/bert", 'runs/quote"d'])
def test_text_says_where_the_model_lies_and_the_lines_that_load_it(folder: str, tmp_path: Path) -> None:
    text = as_text(make_record(output_dir=folder))
    assert f"model: {folder}/model\n" in text
    code = [line.strip() for line in text.splitlines() if "pipeline" in line]
    assert code[0] == "from transformers import pipeline"
    (tmp_path / "load.py").write_text(code[1], encoding="utf-8")
    pipeline = {"pipeline": lambda task, model, truncation: (task, model, truncation)}
    assert runpy.run_path(str(tmp_path / "load.py"), pipeline)["classify"] == (
        "text-classification",
        f"{folder}/model",
        True,
    )


def test_images_are_not_truncated() -> None:
    assert "truncation" not in as_text(make_image_record())


def test_text_has_every_note() -> None:
    notes = ["the data was in memory: the file alone does not reproduce this run", "word " * 60]
    lines = as_text(make_record(notes=notes)).splitlines()
    assert f"note: {notes[0]}" in lines
    assert " ".join(" ".join(lines).split()).count("word") == 60
    assert max(map(len, lines)) <= 110


def test_control_characters_do_not_reach_the_terminal() -> None:
    text = as_text(make_record(notes=["label \x1b[2J\x07 is rare"], output_dir="runs/\x1b[31m"))
    assert all(letter == "\n" or letter.isprintable() for letter in text)


def test_values_that_are_not_defined_print_as_a_dash() -> None:
    record = make_record(metrics={"test": {"accuracy": None, "macro_f1": float("nan")}}, intervals={}, baselines={})
    assert re.search(r"test +accuracy +- +- +-\n +macro_f1 +- +- +-\n", as_text(record))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "0.5000"),
        (0.0, "0.0000"),
        (12.34567, "12.3457"),
        (123456.0, "1.235e+05"),
        (0.00012, "0.00012"),
        (None, "-"),
    ],
)
def test_numbers_are_readable(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_metrics_of_the_recipe_come_first_and_the_loss_last() -> None:
    record = make_record(
        recipe=make_recipe(metrics=["function:mine", "evaluate:metrics/theirs.py", "macro_f1"]),
        metrics={"test": {"loss": 0.1, "accuracy": 0.2, "macro_f1": 0.3, "theirs": 0.4, "mine": 0.5}},
    )
    assert [result.metric for result in results(record, "test")] == ["mine", "theirs", "macro_f1", "accuracy", "loss"]


def test_record_prints_and_shows_itself() -> None:
    record = make_record(history={"steps": [], "epochs": []})
    assert str(record) == as_text(record)
    assert record._repr_html_() == as_html(record)


class _Reader(HTMLParser):
    """Tags with their attributes, open tags, and the text of the cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_html_holds_the_same_numbers_and_the_curves() -> None:
    page = _Reader(as_html(make_record()))
    assert page.open == []
    row = page.cells.index("test")
    assert page.cells[row : row + 5] == ["test", "accuracy", "0.8950", "0.8500 to 0.9350", "0.5050"]
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    kind, _, content = str(image["src"]).partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content).startswith(b"\x89PNG")


def test_html_from_hostile_data_has_no_tags_but_ours() -> None:
    page = _Reader(as_html(make_hostile_record()))
    assert page.open == []
    assert {tag for tag, _ in page.tags} == {"div", "p", "b", "table", "tr", "th", "td", "img", "pre", "ul", "li"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_html_takes_the_colours_of_the_notebook() -> None:
    styles = ";".join(str(attributes.get("style")) for _, attributes in _Reader(as_html(make_record())).tags)
    assert set(re.findall(r"(?<!-)\bcolor:([^;]+)", styles)) == {"inherit"}
    assert set(re.findall(r"background:([^;]+)", styles)) == {"transparent"}


def test_html_without_history_has_no_picture() -> None:
    assert "<img" not in as_html(make_record(history={"steps": [], "epochs": []}))


def _history(training: list[Any], validation: list[Any]) -> dict[str, list[dict[str, Any]]]:
    epochs = [
        {"epoch": place + 1, "train_loss": train, "validation_loss": held_out}
        for place, (train, held_out) in enumerate(zip(training, validation, strict=True))
    ]
    return {"steps": [], "epochs": epochs}


def test_widening_gap_is_named_with_its_numbers_and_keys_that_exist() -> None:
    note = gap_note(_history([0.6, 0.4, 0.3, 0.2, 0.1], [0.6, 0.5, 0.4, 0.5, 0.6]))
    assert note is not None
    assert "from 0.4000 (epoch 3) to 0.6000 (epoch 5, +50%)" in note
    assert "from 0.3000 to 0.1000" in note
    recipe = Recipe.from_dict(make_recipe()).to_dict()
    assert "early_stopping" in note and "early_stopping" in recipe
    for section, key in re.findall(r"\b(training|objective|tuning)\.(\w+)", note):
        assert key in (training_fields() if section == "training" else recipe[section])


@pytest.mark.parametrize(
    ("training", "validation"),
    [
        pytest.param([0.6, 0.4, 0.2], [0.6, 0.5, 0.4], id="validation falls"),
        pytest.param([0.6, 0.4, 0.2], [0.6, 0.4, 0.6], id="one epoch up"),
        pytest.param([0.6, 0.4, 0.2], [0.40, 0.41, 0.42], id="5 percent up"),
        pytest.param([0.6, 0.6, 0.6], [0.4, 0.5, 0.6], id="training does not fall"),
        pytest.param([0.6, 0.4, 0.3, 0.2], [0.4, 0.6, 0.8, 0.7], id="coming down again"),
        pytest.param([0.6, 0.4, 0.2], [None, None, None], id="no validation"),
        pytest.param([0.6, 0.4, 0.2], [-0.4, -0.3, -0.2], id="no ratio below zero"),
        pytest.param([0.6], [0.4], id="one epoch"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_what_is_no_widening_gap_is_not_named(training: list[Any], validation: list[Any]) -> None:
    assert gap_note(_history(training, validation)) is None


def test_epochs_without_validation_do_not_hide_a_gap() -> None:
    training = [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert gap_note(_history(training, [None, 0.4, None, 0.5, None, 0.6])) is not None


def test_the_baseline_is_named_for_what_it_answers() -> None:
    text, page = str(make_record()), make_record()._repr_html_()
    assert "majority" in text and "majority baseline" in page
    labels = {"problem": "regression", "names": ["score"], "thresholds": None}
    text, page = str(make_record(labels=labels)), make_record(labels=labels)._repr_html_()
    assert "majority" not in text + page and " mean" in text and "mean baseline" in page
