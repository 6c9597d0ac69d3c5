"""Laws of finished runs as tables: one in full, several beside each other."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from record_fixture import HOSTILE, make_history, make_hostile_record, make_image_record, make_recipe, make_record

from hf_sft.commands.run_tables import LOWER_IS_BETTER
from hf_sft.commands.show import OTHER_ROWS, Comparison, shorten, show
from hf_sft.errors import DataError
from hf_sft.metrics import METRICS
from hf_sft.metrics.resolve import LOWER_IS_BETTER as LOWER_IN_EVALUATE
from hf_sft.record import RunRecord
from hf_sft.summary import as_text


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def save(folder: Path, name: str, record: RunRecord | None = None) -> Path:
    path = folder / name
    dataclasses.replace(record or make_record(), output_dir=str(path)).save()
    return path


def scored(accuracy: float | None, rate: float = 1e-4, **changes: Any) -> RunRecord:
    """The text record with another accuracy on test, from another learning rate."""
    recipe = make_recipe(training={"learning_rate": rate}, output_dir=f"runs/{accuracy}")
    record = make_record(recipe=recipe, **changes)
    metrics = {**record.metrics, "test": {**record.metrics["test"], "accuracy": accuracy}}
    return dataclasses.replace(record, metrics=metrics)


def row(text: str, name: str, after: str = "") -> list[str]:
    """The cells of the first row of that name that stands below `after`."""
    lines = text[text.index(f"\n{after}\n") if after else 0 :].splitlines()
    line = next(line for line in lines if re.match(rf" *{re.escape(name)}  +\S", line))
    return re.split(r"  +", line.strip())[1:]


def test_one_run_shows_all_of_its_record(tmp_path: Path) -> None:
    path = save(tmp_path, "bert")
    record, text = RunRecord.load(path), str(show(path))
    assert text.startswith(as_text(record))
    assert re.search(r"\n  train +960 +3f0c9a11 +bundled:reviews train\n", text)
    assert "labels are text: 2 classes" in text
    assert re.search(r"\nlabels in test\n.*\n  negative +0\.9105 +0\.8800 +0\.8950 +100\n", text)
    assert row(text, "trained parameters") == ["22,713,986"]
    assert row(text, "train time") == ["1 min 1 s"]
    assert row(text, "head") == ["classifier 2 new, 101 tensors loaded"]
    assert row(text, "processor.max_length") == ["128"]
    assert row(text, "precision") == ["fp32"]
    assert row(text, "torch") == ["2.15.0"]


def test_what_was_evaluated_since_is_shown(tmp_path: Path) -> None:
    part = {"rows": 7, "metrics": {"accuracy": 0.25}, "intervals": {}}
    entry = {"data": "new.csv", "split": "test", "rows": 1234, "date": "2026-11-22", "by": "domain"}
    entry |= {"metrics": {"accuracy": 0.75}, "intervals": {"accuracy": [0.7, 0.8]}, "baseline": {"accuracy": 0.5}}
    record = make_record(evaluations=[entry | {"slices": {"films": part}, "per_class": {}}])
    text = str(show(save(tmp_path, "bert", record)))
    assert "\nevaluated on new.csv, test: 1,234 rows (2026-11-22)\n" in text
    assert "accuracy  0.7500  0.7000 to 0.8000    0.5000" in text
    assert re.search(r", by domain\n +domain +rows +accuracy\n +films +7 +0\.2500\n", text)


def test_json_holds_the_records(tmp_path: Path) -> None:
    one, two = save(tmp_path, "a"), save(tmp_path, "b")
    assert json.loads(show(one).as_json()) == dataclasses.asdict(RunRecord.load(one))
    assert [entry["output_dir"] for entry in json.loads(show([one, two]).as_json())] == [str(one), str(two)]


def test_settings_of_one_run_are_those_that_were_chosen(tmp_path: Path) -> None:
    text = str(show(save(tmp_path, "bert")))
    settings = text[text.index("\nsettings\n") : text.index("\nmachine\n")]
    assert "training.num_train_epochs" in settings and "model.base_model" in settings
    assert not {"model.revision", "dataset.streaming", "tuning.strategy", "resume", "seed"} & set(settings.split())


def test_epochs_mark_the_best(tmp_path: Path) -> None:
    text = str(show(save(tmp_path, "bert", make_record(history=make_history(3)))))
    epochs = [line.split() for line in text[text.index("\nepochs (* the best)\n") :].splitlines()[3:6]]
    assert [cells[0] for cells in epochs] == ["1", "2", "3"]
    assert [cells[4] for cells in epochs] == ["0.8800", "0.9000*", "0.8800"]  # accuracy
    assert [cells[3].endswith("*") for cells in epochs] == [False, False, True]  # validation loss
    assert not any(cells[2].endswith("*") for cells in epochs)  # training loss


def test_runs_beside_each_other_begin_with_the_settings_that_differ(tmp_path: Path) -> None:
    text = str(show([save(tmp_path, "slow", scored(0.8, 1e-5)), save(tmp_path, "fast", scored(0.9, 1e-3))]))
    assert text.splitlines()[0].split() == ["slow", "fast"]
    assert text.splitlines()[1] == "settings that differ"
    assert row(text, "training.learning_rate") == ["1e-05", "0.001"]
    assert "output_dir" not in text and "seed" not in text
    assert row(text, "accuracy", "test") == ["0.8000", "0.9000*"]
    assert row(text, "95 % interval", "test") == ["0.8500 to 0.9350"] * 2
    assert row(text, "train time") == ["1 min 1 s"] * 2
    assert text.endswith("\n\n* the best")


def test_keys_that_an_earlier_version_did_not_have_are_at_their_default(tmp_path: Path) -> None:
    recipe = make_recipe()
    recipe["dataset"].pop("streaming")
    recipe.pop("resume")
    runs = [save(tmp_path, "old", make_record(recipe=recipe)), save(tmp_path, "new")]
    assert "settings that differ" not in str(show(runs))


def test_least_loss_is_the_best(tmp_path: Path) -> None:
    metrics = {"test": {"accuracy": 0.9, "loss": 0.5}}
    runs = [save(tmp_path, "a"), save(tmp_path, "b", make_record(metrics=metrics))]
    assert row(str(show(runs)), "loss", "test") == ["0.2871*", "0.5000"]


def test_equal_runs_share_the_star_and_no_star_where_all_are_equal(tmp_path: Path) -> None:
    runs = [save(tmp_path, name, scored(value)) for name, value in (("a", 0.9), ("b", 0.8), ("c", 0.90000001))]
    assert row(str(show(runs)), "accuracy", "test") == ["0.9000*", "0.8000", "0.9000*"]
    assert "*" not in str(show([save(tmp_path, "d"), save(tmp_path, "e")]))


def test_directions_are_those_of_the_metrics() -> None:
    lower = {name for name, metric in METRICS.items() if not metric.greater_is_better}
    assert lower | {"loss", *LOWER_IN_EVALUATE} == LOWER_IS_BETTER


def test_no_best_is_marked_where_the_rows_differ(tmp_path: Path) -> None:
    other = make_record().data | {"test": {"rows": 100, "fingerprint": "other", "source": "elsewhere"}}
    text = str(show([save(tmp_path, "a", scored(0.8)), save(tmp_path, "b", scored(0.9, data=other))]))
    assert row(text, "accuracy", "test") == ["0.8000", "0.9000"]
    assert f"\ntest: {OTHER_ROWS}" in text


def test_of_a_function_of_the_users_own_no_best_is_marked(tmp_path: Path) -> None:
    recipe = make_recipe(metrics=["function:mine"])
    runs = [
        save(tmp_path, name, make_record(recipe=recipe, metrics={"test": {"mine": value}}))
        for name, value in (("a", 0.1), ("b", 0.2))
    ]
    assert row(str(show(runs)), "mine", "test") == ["0.1000", "0.2000"]


def test_runs_of_other_problems_have_a_dash(tmp_path: Path) -> None:
    numbers = make_record(labels={"problem": "regression"}, metrics={"test": {"pearson": 0.7}}, per_class={})
    runs = [save(tmp_path, "text"), save(tmp_path, "digits", make_image_record()), save(tmp_path, "n", numbers)]
    text = str(show(runs))
    assert row(text, "task") == ["text-classification", "image-classification", "text-classification"]
    assert row(text, "accuracy", "test") == ["0.8950", "-", "-"]
    assert row(text, "pearson", "test") == ["-", "-", "0.7000"]
    assert row(text, "expected_calibration_", "validation") == ["-", "0.0210", "-"]
    assert "validation: " + OTHER_ROWS in text
    assert "None" not in text


def test_values_that_are_not_defined_are_never_the_best(tmp_path: Path) -> None:
    runs = [save(tmp_path, name, scored(value)) for name, value in (("a", None), ("b", 0.8), ("c", 0.7))]
    assert row(str(show(runs)), "accuracy", "test") == ["-", "0.8000*", "0.7000"]


def test_many_runs_are_rows(tmp_path: Path) -> None:
    runs = [save(tmp_path, f"run{place}", scored(place / 10, 10**-place)) for place in range(1, 6)]
    text = str(show(runs))
    first, second = text.split("\n\n")[:2]
    rows = [line.split()[0] for line in first.splitlines() if line.startswith("run")]
    assert rows == ["run", *(path.name for path in runs)]
    assert "0.5000*" in first and "0.8500 to 0.9350" in first
    assert "learning_rate" in first + second and "1e-05" in first + second


@pytest.mark.parametrize("columns", ["40", "80", "100", "200"])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 12])
def test_tables_fit_the_terminal(number: int, columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    records = [make_image_record(), scored(0.5), make_record(notes=["word " * 40])]
    runs = [save(tmp_path, f"{place}_of_a_sweep_over_learning_rates", records[place % 3]) for place in range(number)]
    text = str(show(runs))
    wide = [line for line in text.splitlines() if "pipeline" not in line and not line.startswith(("model:", "note:"))]
    assert max(map(len, wide)) <= min(100, max(80, int(columns)))
    assert ("0.8950" in text) == (number > 2)


def test_names_are_as_short_as_tells_them_apart() -> None:
    assert shorten(["runs/a", "runs/b"]) == ["a", "b"]
    assert shorten(["one/bert", "two/bert", "two/vit"]) == ["one/bert", "two/bert", "two/vit"]
    assert shorten(["runs/only"]) == ["only"]
    long = shorten([f"runs/{'sweep_' * 9}{rate}" for rate in ("1e-4", "3e-4")])
    assert long == ["…1e-4", "…3e-4"]
    middle = shorten([f"runs/{letter}{'x' * 40}{letter}" for letter in "abc"])
    assert len(set(middle)) == 3 and max(map(len, middle)) <= 22
    hidden = shorten([f"runs/{'a' * 30}{place}{'b' * 30}" for place in "12"] + [f"runs/{'a' * 30}"])
    assert len(set(hidden)) == 3 and max(map(len, hidden)) <= 22


def test_every_folder_without_a_finished_run_is_named(tmp_path: Path) -> None:
    save(tmp_path, "group/good")
    (tmp_path / "stopped" / "checkpoints" / "checkpoint-9").mkdir(parents=True)
    (tmp_path / "stopped" / "checkpoints" / "checkpoint-10").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "asked.yaml").write_text("task: text-classification\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "record.json").write_text('{"recipe": ')
    with pytest.raises(DataError) as caught:
        show([tmp_path / name for name in ("group/good", "stopped", "begun", "broken", "missing", "group")])
    found = {Path(finding.place).relative_to(tmp_path).parts[0]: finding for finding in caught.value.findings}
    assert list(found) == ["stopped", "begun", "broken", "missing", "group"]
    assert "not finished" in found["stopped"].found and "checkpoint-10" in found["stopped"].found
    assert found["stopped"].fix == "the same command goes on"
    assert "no checkpoint" in found["begun"].found
    assert str(tmp_path / "group" / "good") in found["group"].fix
    with pytest.raises(DataError, match="at least one"):
        show([])


def test_record_of_another_form_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="metrics"):
        show(save(tmp_path, "a", make_record(metrics=None)))


def test_model_folder_and_record_name_their_run_and_twice_is_once(tmp_path: Path) -> None:
    path = save(tmp_path, "bert")
    (path / "model").mkdir()
    assert len(show([path, path, path / "model", path / "record.json"]).records) == 1


def hostile(tmp_path: Path, number: int) -> Comparison:
    record = make_hostile_record()
    names = {f"{name}\x1b[2J\x07": scores for name, scores in record.per_class["test"].items()}
    record = dataclasses.replace(record, per_class={"test": names}, notes=["\x1b[31mred"], output_dir="runs/\x1b[0m")
    recipes = [record.recipe | {"dataset": {"path": f"\x1b]0;{place}\x07"}} for place in range(number)]
    records = tuple(dataclasses.replace(record, recipe=recipe) for recipe in recipes)
    return Comparison(records=records, names=tuple(f"\x1b[{place}m" for place in range(number)))


@pytest.mark.parametrize("number", [1, 2, 5])
def test_control_characters_and_markup_of_data_steer_nothing(number: int, tmp_path: Path) -> None:
    comparison = hostile(tmp_path, number)
    assert all(letter == "\n" or letter.isprintable() for letter in str(comparison))
    page = comparison._repr_html_()
    assert set(re.findall(r"<(\w+)", page)) <= {"div", "p", "b", "table", "tr", "th", "td", "img", "pre", "ul", "li"}
    assert not any(name in page for name in HOSTILE if "<" in name)


def test_notebook_shows_the_same_cells(tmp_path: Path) -> None:
    runs = [save(tmp_path, "a", scored(0.8)), save(tmp_path, "b", scored(0.9, notes=["a note"]))]
    page = show(runs)._repr_html_()
    cells = [cell.replace("&nbsp;", " ").replace("\xa0", " ").strip() for cell in re.findall(r"<td[^>]*>([^<]*)", page)]
    place = cells.index("test")
    assert cells[place + 3 : place + 6] == ["accuracy", "0.8000", "0.9000*"]
    assert "<li>b: a note</li>" in page
    one = show(runs[0])._repr_html_()
    assert "<img" in one and "3f0c9a11" in one
