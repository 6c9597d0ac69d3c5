"""Text from data is shown as text: it steers no terminal, is no live HTML or Markdown, and hides nothing."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from record_fixture import make_recipe as make_recorded_recipe
from record_fixture import make_record
from tiny_runs import save_model

from hf_sft import RunRecord, curves, fine_tune, summary
from hf_sft.card import model_card
from hf_sft.commands.check import check
from hf_sft.commands.evaluate import evaluate
from hf_sft.commands.predict import predict
from hf_sft.commands.show import show
from hf_sft.errors import DataError, Finding, HfSftError, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.tables import Table, as_html, as_text, escaped, printable, printable_lines
from hf_sft.yaml12 import dump, parse

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a|b",
    "`x` ```",
    "[x](javascript:alert(1))",
    "---\nlicense: mit\n---",
    "# head\n# another",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m red \x85",
    "\u202eevil\u2066 \u200f",
    "two\nlines\r\nand \u2028 more",
    "&lt;b&gt;",
    "${HF_TOKEN} $x$",
    "*[b]_* ~s~",
    "zero\u200bwidth\u00ad",
)
TAGS = {"div", "p", "b", "br", "table", "tr", "th", "td", "img", "pre", "ul", "li"}  # of our own HTML


def assert_steers_nothing(text: str) -> None:
    """Lines of characters that can be seen: no control characters, no marks that turn the direction of writing."""
    odd = {letter for letter in text if not letter.isprintable() and letter != "\n"}
    assert not odd, [f"{ord(letter):#x}" for letter in odd]


def assert_is_dead(page: str) -> None:
    """HTML of ours with nothing of the data's in it but text."""
    found: list[tuple[str, list[str]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, [name for name, _ in attrs]))

    Reader().feed(page)
    assert found and {tag for tag, _ in found} <= TAGS
    assert not [names for _, names in found if not set(names) <= {"style", "src", "alt"}]
    assert_steers_nothing(html.unescape(page.replace("&nbsp;", " ").replace("&emsp;", " ")))


def shown_in_html(text: str) -> str:
    return html.escape(printable(text))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_model("bert", folder)
    return folder


TEXT, LABEL, GROUP = "text <b>|\x1b[1m\u202e", "label `x`\n# h", "by <i>\u2067"


def rows(times: int) -> Dataset:
    texts = [f"{name} good {number}" for number in range(times) for name in HOSTILE]
    groups = [HOSTILE[number % 3] for number in range(len(texts))]
    return Dataset.from_dict({TEXT: texts, LABEL: [*HOSTILE] * times, GROUP: groups})


def recipe(models: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "task": "text-classification",
        "model": {"name": str(models / "bert")},
        "dataset": {"path": "memory", "columns": {"text": TEXT, "label": LABEL}},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 16},
        "output_dir": str(folder / "run <b>|\u202e\x1b[31m\n`"),
    } | changes


def test_nothing_that_a_run_shows_is_steered_by_its_data(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = fine_tune(recipe(models, tmp_path), data={"train": rows(4), "validation": rows(2), "test": rows(2)})
    said = capfd.readouterr()
    assert_steers_nothing(str(record))
    assert_is_dead(record._repr_html_())
    keeps_laws_of_cards((record.directory.model / "README.md").read_text(encoding="utf-8"), record)
    shown = show(record.output_dir)
    assert_steers_nothing(str(shown))
    assert_is_dead(shown._repr_html_())
    evaluation = evaluate(record.output_dir, data=rows(2), by=GROUP)
    assert set(evaluation.slices) == set(HOSTILE[:3]) and set(evaluation.per_class) == set(HOSTILE)
    assert_steers_nothing(str(evaluation))
    assert_is_dead("".join(as_html(table) for table in evaluation.tables()))
    found = predict(record.output_dir, list(HOSTILE), top_k=2)
    assert_steers_nothing(str(found))
    assert_is_dead(found._repr_html_())
    assert_steers_nothing(re.sub("[\r\x1b].*?\n?", "", said.err) + said.out)
    assert_is_dead(evaluation._repr_html_())


def keeps_laws_of_cards(card: str, record: RunRecord) -> None:
    """Its header holds what the record says; below it no HTML, heading, link or fence is the data's."""
    assert_steers_nothing(card)
    _, header, body = re.split(r"^---\n", card, maxsplit=2, flags=re.MULTILINE)
    data = yaml.safe_load(header)
    assert data["model-index"][0]["name"] == summary.run_name(record)
    assert "license" not in data
    fence = re.search(r"^(`{3,})yaml\n(.*?)\n\1$", body, re.DOTALL | re.MULTILINE)
    assert fence is not None
    assert yaml.safe_load(fence[2])["dataset"].get("columns") == record.recipe["dataset"].get("columns")
    plain = re.sub(r"^(`{3,})\w+\n.*?\n\1$|`[^`\n]*`", "", body, flags=re.DOTALL | re.MULTILINE)  # without code
    assert set(re.findall(r"<[^>]*>", plain)) <= {"<details>", "<summary>", "</summary>", "</details>"}
    headings = re.findall(r"^#+ .*$", plain, re.MULTILINE)
    ours = {"Results", "How to use", "Labels", "Training data", "Training", "Recipe", "Environment", "Limitations"}
    ours |= {"Citation"}
    assert all(line[3:] in ours or line.startswith(("## Results per label", "## Confusion (")) for line in headings[1:])
    assert "](" not in re.sub(r"!\[[^\]\n]*\]\(report/\w+\.png\)", "", plain)  # but for our own pictures
    section = plain.partition("\n## Labels\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| \d+ \| (.*) \|$", section, re.MULTILINE)
    named = [html.unescape(line) for line in lines]
    assert named == [printable(name) for name in record.labels["names"]]


def test_a_check_shows_hostile_data_as_text(models: Path, tmp_path: Path) -> None:
    report = check(recipe(models, tmp_path), data={"train": rows(4), "test": rows(1)}, fast=True)
    assert report.data and report.warnings
    assert_steers_nothing(str(report))
    assert_is_dead(report._repr_html_())
    broken = recipe(models, tmp_path, metrics=["\x1b[2J<b>\u202e"])
    for report in (check(broken), check(recipe(models, tmp_path), data={"\x1b[1m<b>": rows(1)}, fast=True)):
        assert not report.ok
        assert_steers_nothing(str(report))
        assert_is_dead(report._repr_html_())


@pytest.mark.parametrize("name", HOSTILE)
def test_an_error_shows_what_it_found_as_one_line_of_text(tmp_path: Path, name: str) -> None:
    finding = Finding(place=name, expected=name, found=name, fix=name)
    assert_steers_nothing(str(finding))
    assert len(str(finding).splitlines()) == 4
    content = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "p", name: 1}, name: {}}
    for wrong in (content, {**content, "training": {name: name}, "metrics": [name]}):
        with pytest.raises(RecipeError) as caught:
            Recipe.from_dict(wrong)
        assert_steers_nothing(str(caught.value))
    hostile = Dataset.from_dict({name: ["a", "b"], "label": [name, None]})
    with pytest.raises(DataError) as error:
        fine_tune(Recipe.from_dict(recipe(tmp_path, tmp_path, dataset={"path": "p"})), data={name: hostile})
    assert_steers_nothing(str(error.value))


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_of_hostile_words_are_tables(name: str) -> None:
    table = Table(title=name, heads=("a", name), rows=[(name, name), (name, "")], left=1)
    text = as_text(table, 60)
    assert_steers_nothing(text)
    page = as_html(table)
    assert_is_dead(page)
    assert page.count("<tr") == 3 and page.count("<td") == 4
    assert html.unescape(escaped(name)) == printable(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_of_hostile_words_shows_them_as_text(name: str) -> None:
    scores, folder = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 10}, f"runs/{re.sub('[/$]', '', name)}"
    epochs = [{"epoch": place, "train_loss": 1.0, "validation_loss": 1.0, name: 0.5} for place in (1.0, 2.0)]
    record = make_record(
        recipe=make_recorded_recipe(
            dataset={"path": "bundled:reviews", "labels": [name, "b"], "columns": {"text": name}, "name": name},
            output_dir=folder,
        ),
        labels={"problem": "single_label", "names": [name, "b"], "thresholds": None},
        metrics={name: {name: 0.5, "loss": 1.0}, "test": {name: 0.5}},
        per_class={"test": {name: scores}},
        data={name: {"rows": 1, "fingerprint": name, "source": name}, "notes": [name]},
        environment={"device": name},
        versions={name: name},
        history={"steps": [], "epochs": epochs},
        notes=[name],
        output_dir=folder,
    )
    assert_steers_nothing(str(record))
    assert_is_dead(record._repr_html_())
    assert shown_in_html(name) in record._repr_html_()
    keeps_laws_of_cards(model_card(record), record)
    assert curves.as_png(record).startswith(b"\x89PNG")
    legend = curves.draw_curves(record).axes[1].get_legend()
    assert legend is not None
    for text in legend.get_texts():
        assert_steers_nothing(text.get_text())
        assert "\n" not in text.get_text()


def test_the_lines_that_load_a_model_name_its_folder_whatever_it_is_called() -> None:
    for name in HOSTILE:
        folder = f"runs/{name.replace('/', '')}"
        line = str(make_record(output_dir=folder)).split("classify = ", 1)[1].splitlines()[0]
        read = eval(line, {"pipeline": lambda task, model, truncation: model})
        assert read == f"{folder}/model"


@pytest.mark.parametrize("text", [*HOSTILE, "ä😀 漢字", "a\u00a0b", "é\n\n é", "\ufeff", "👩\u200d👧", "\U000e0041"])
def test_yaml_of_any_text_can_be_seen_and_reads_back(text: str) -> None:
    for content in ({text: [text]}, {"a": {text: text * 40}}, [text + " " * 200 + text]):
        written = dump(content)
        assert_steers_nothing(written)
        assert parse(written, lambda line, column: "")[0] == content == yaml.safe_load(written)


def test_lines_stay_lines() -> None:
    assert printable_lines("a\x1b[1m\nb\r\u202e") == "a [1m\nb  "


def test_errors_of_evaluation_and_prediction_show_text(models: Path, tmp_path: Path) -> None:
    for action in (lambda: evaluate(str(tmp_path / "\x1b[1m")), lambda: predict(str(tmp_path / "\u202e"), ["a"])):
        with pytest.raises(HfSftError) as caught:
            action()
        assert_steers_nothing(str(caught.value))
