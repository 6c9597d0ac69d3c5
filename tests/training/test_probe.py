"""Solved heads in a run: in place of training, before it, and as a baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import in_two_processes
from tiny import TEXT_FAMILIES
from tiny_runs import (
    NO_DROPOUT,
    Spy,
    StopAfter,
    largest_difference,
    make_data,
    make_recipe,
    prepare,
    train,
    weights,
)
from transformers import pipeline

from hf_sft import run_directory
from hf_sft.commands.check import check
from hf_sft.errors import RecipeError
from hf_sft.modeling.linear_probe import write_head
from hf_sft.recipe import Recipe
from hf_sft.record import RunRecord
from hf_sft.run import fine_tune
from hf_sft.training import fit, probe

LOGISTIC = {"strategy": "head", "solver": "logistic"}
WARM = {"warm_start": "linear_probe"}
ALONG_STEPS = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
SIZES = {"train": 44, "validation": 16, "test": 16}


def inputs_of(family: str, rows: Any) -> list[Any]:
    return list(rows["text" if family in TEXT_FAMILIES else "image"])


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "resnet", "vit", "timm_resnet", "timm_deit"])
def test_the_saved_model_is_a_plain_one_with_the_predictions_of_the_run(
    family: str, models: Path, tmp_path: Path
) -> None:
    data = make_data(family, **SIZES)
    record = fine_tune(make_recipe(family, models, tmp_path / "run", tuning=LOGISTIC), data=data)
    kind = record.recipe["task"]
    classify = pipeline(kind, str(record.directory.model), device="cpu")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(record.directory.predictions("test"))
    answers = [one[0] if isinstance(one, list) else one for one in classify(inputs_of(family, data["test"]), top_k=1)]
    assert [answer["label"] for answer in answers] == table["prediction"].to_pylist()
    best = [max(row[f"score_{name}"] for name in record.labels["names"]) for row in table.to_pylist()]
    assert [answer["score"] for answer in answers] == pytest.approx(best, abs=1e-3)
    assert record.baselines["test"]["linear_probe"] == record.metrics["test"]
    (entry,) = record.history["epochs"]
    assert entry["accuracy"] == record.metrics["validation"]["accuracy"] and "train_accuracy" in entry
    assert entry["validation_loss"] == pytest.approx(record.metrics["validation"]["loss"], rel=1e-3)
    assert any(note.startswith("head solved by logistic regression, C ") for note in record.notes)
    assert any("classifier.dense" in note for note in record.notes) == (family == "roberta")
    assert not record.directory.checkpoints.exists()


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_several_labels_and_numbers_are_solved_too(problem: str, models: Path, tmp_path: Path) -> None:
    data = make_data("bert", problem, **SIZES)
    recipe = make_recipe("bert", models, tmp_path / "run", tuning=LOGISTIC)
    record = fine_tune(recipe, data=data)
    name = "ridge regression, alpha" if problem == "regression" else "logistic regression, C"
    assert any(note.startswith(f"head solved by {name} ") for note in record.notes)
    assert fine_tune(recipe, data=data).metrics == record.metrics  # finished: its record is read


def test_all_but_the_output_layer_stays_as_it_was_loaded(models: Path, tmp_path: Path) -> None:
    work = prepare(make_recipe("roberta", models, tmp_path / "run", tuning=LOGISTIC), make_data("roberta", **SIZES))
    before = weights(work)
    train(work)
    changed = {name for name, value in weights(work).items() if not np.array_equal(value, before[name])}
    assert changed == {"classifier.out_proj.weight", "classifier.out_proj.bias"}
    assert work.parameters["trainable"] == 34


def test_keys_that_have_no_effect_are_named(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes: dict[str, Any] = {"objective": {"label_smoothing": 0.1}, "early_stopping": {"patience": 2}}
    changes |= {"augment": ["word_swap"], "tuning": {**LOGISTIC, "head_lr_scale": 2.0}}
    changes["training"] = {"per_device_eval_batch_size": 4}
    work = prepare(make_recipe("bert", models, tmp_path / "run", **changes), make_data("bert", **SIZES))
    (line,) = [note for note in work.notes if "without effect" in note]
    for key in ("training.learning_rate", "training.num_train_epochs", "objective.label_smoothing", "early_stopping"):
        assert key in line
    assert "augment" in line and "tuning.head_lr_scale" in line and "eval_batch_size" not in line
    printed = capsys.readouterr().out
    assert line in printed and "learning rate 0" not in printed


def test_augmentation_does_not_reach_a_probe(models: Path, tmp_path: Path) -> None:
    data, found = make_data("bert", **SIZES), []
    for name, augment in (("plain", []), ("augmented", [{"word_dropout": {"p": 0.5}}])):
        work = prepare(make_recipe("bert", models, tmp_path / name, tuning=LOGISTIC, augment=augment), data)
        found.append(probe.probe(work, ())[0])
    assert np.array_equal(found[0].weight, found[1].weight)


def test_a_warm_start_trains_on_from_the_solved_head(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data("bert", **SIZES)
    cold = prepare(make_recipe("bert", models, tmp_path / "cold"), data)
    solved, measured = probe.probe(cold, ("validation", "test"))
    write_head(cold.built.model, solved)
    work, begun = prepare(make_recipe("bert", models, tmp_path / "warm", tuning=WARM), data), []
    spy = Spy(lambda state, model, _: begun.append({n: p.detach().clone() for n, p in model.named_parameters()}))
    capsys.readouterr()
    found = train(work, [spy])
    assert all(torch.equal(value, cold.built.model.get_parameter(name)) for name, value in begun[0].items())
    assert found.probe is not None and found.probe.metrics == measured.metrics
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warm start: ")]
    assert str(solved) in line and "; validation accuracy " in line


def test_a_resumed_warm_start_equals_one_that_was_not_interrupted(models: Path, tmp_path: Path) -> None:
    kept, probes = {}, {}
    for name, callbacks in (("whole", []), ("parts", [StopAfter(5)]), ("parts", [])):
        recipe = make_recipe("bert", models, tmp_path / name, tuning=WARM, training=ALONG_STEPS)
        work = prepare(recipe, make_data("bert", **SIZES))
        if callbacks:
            with pytest.raises(KeyboardInterrupt):
                train(work, callbacks)
        else:
            probes[name] = train(work).probe
            kept[name] = weights(work)
    assert largest_difference(kept["whole"], kept["parts"]) == 0.0
    assert probes["whole"] == probes["parts"] is not None


def warm_started(models: Path, folder: Path, batch: int) -> tuple[dict[str, Any], Any]:
    training = {"per_device_train_batch_size": batch}
    recipe = make_recipe("bert", models, folder, tuning=WARM, training=training, model={"config": NO_DROPOUT})
    work = prepare(recipe, make_data("bert", **SIZES), double=True)
    found = train(work)
    assert found.probe is not None
    return weights(work), found.probe.metrics["test"]


def test_two_processes_begin_with_the_head_of_one_and_end_with_its_weights(models: Path, tmp_path: Path) -> None:
    one, measured = warm_started(models, tmp_path / "one", 16)
    for other, found in in_two_processes(warm_started, models, tmp_path / "two", 8):
        assert largest_difference(one, other) < 1e-6
        assert found == pytest.approx(measured, abs=1e-6)


def test_a_probe_before_training_changes_nothing_and_is_recorded(models: Path, tmp_path: Path) -> None:
    data, kept = make_data("bert", **SIZES), {}
    for name in ("plain", "probed"):
        work = prepare(make_recipe("bert", models, tmp_path / name), data)
        directory = run_directory.open_run(work.recipe, {}, overwrite=False)
        found = fit.train(work, directory, with_probe=name == "probed")
        kept[name] = (weights(work), found.log)
        assert (found.probe is not None) == (name == "probed")
    assert largest_difference(kept["plain"][0], kept["probed"][0]) == 0.0
    assert [entry.get("loss") for entry in kept["plain"][1]] == [entry.get("loss") for entry in kept["probed"][1]]


def test_the_baseline_is_that_of_the_solved_head_and_stands_in_table_and_card(models: Path, tmp_path: Path) -> None:
    data = make_data("bert", **SIZES)
    solved = fine_tune(make_recipe("bert", models, tmp_path / "solved", tuning=LOGISTIC), data=data)
    record = fine_tune(make_recipe("bert", models, tmp_path / "full"), data=data, with_probe=True)
    for split in ("validation", "test"):
        assert record.baselines[split]["linear_probe"] == pytest.approx(solved.metrics[split], abs=1e-3)
    read = RunRecord.load(record.output_dir)
    card = (record.directory.model / "README.md").read_text(encoding="utf-8")
    for text in (str(read), read._repr_html_(), card):
        assert "linear probe" in text
        assert f"{solved.metrics['test']['accuracy']:.4f}" in text
    assert "linear probe" not in str(solved)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"tuning": {"solver": "logistic"}}, "tuning.solver"),
        ({"tuning": {**LOGISTIC, **WARM}}, "tuning.warm_start"),
        ({"tuning": LOGISTIC, "dataset": {"streaming": True}}, "tuning.solver"),
        ({"tuning": WARM, "dataset": {"streaming": True}}, "tuning.warm_start"),
        ({"tuning": LOGISTIC, "model": {"head": "keep"}}, "tuning.solver"),
        ({"tuning": WARM, "model": {"head": "keep"}}, "tuning.warm_start"),
        ({"tuning": {"strategy": "head", "reinit_layers": 1}}, "tuning.reinit_layers"),
        ({"tuning": {"reinit_layers": 1}, "model": {"weights": "random"}}, "tuning.reinit_layers"),
    ],
)
def test_what_contradicts_a_solved_head_is_known_from_the_recipe(changes: dict[str, Any], place: str) -> None:
    least: dict[str, Any] = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "d"}}
    content = {key: {**least.get(key, {}), **changes.get(key, {})} for key in ("model", "dataset", "tuning")}
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict({**least, **content})
    assert [finding.place for finding in caught.value.findings if finding.place.startswith("tuning")] == [place]


def test_a_warm_start_of_a_frozen_head_is_refused(models: Path, tmp_path: Path) -> None:
    rules = {"strategy": "rules", "rules": [{"pattern": "head", "lr_scale": 0}, {"pattern": "*"}], **WARM}
    with pytest.raises(RecipeError, match="classifier frozen"):
        prepare(make_recipe("bert", models, tmp_path / "run", tuning=rules), make_data("bert", **SIZES))


def test_a_stream_cannot_be_probed(models: Path, tmp_path: Path) -> None:
    dataset = {"streaming": True, "splits": {"train": "train"}, "labels": ["a", "b"]}
    recipe = make_recipe("bert", models, tmp_path / "run", dataset=dataset, training={"max_steps": 2})
    with pytest.raises(RecipeError, match="linear probe"):
        fine_tune(recipe, with_probe=True)


def test_a_classifier_that_is_replaced_is_said(tmp_path: Path) -> None:
    from tiny import save_text_model

    model = save_text_model("bert", tmp_path / "model", labels=["negative", "positive"])
    recipe = make_recipe("bert", tmp_path, tmp_path / "run", tuning=WARM, model={"name": str(model)})
    work = prepare(recipe, make_data("bert", **SIZES))
    assert any("is replaced by the solved head" in note for note in work.notes)


@pytest.mark.parametrize("tuning", [LOGISTIC, WARM])
def test_check_rehearses_it(tuning: dict[str, Any], models: Path, tmp_path: Path) -> None:
    recipe = make_recipe("bert", models, tmp_path / "run", tuning=tuning)
    report = check(recipe, data=make_data("bert", **SIZES))
    assert report.ok and report.rehearsal is not None and report.rehearsal.total_seconds > 0, str(report)
    text, content = str(report), json.loads(json.dumps(report.as_dict()))
    assert "solved by logistic regression" in text
    assert (content["rehearsal"]["steps"] == 0) == ("solver" in tuning) == ("none: the head is solved" in text)
    (head,) = [row for row in content["blocks"] if row["block"] == "head"]
    assert head["trains"] == ("solved" if "solver" in tuning else "yes")


def test_groups_of_rows_stay_together_while_a_head_is_solved(models: Path, tmp_path: Path, monkeypatch) -> None:
    seen: list[Any] = []
    solve = probe.solve
    monkeypatch.setattr(probe, "solve", lambda *rows, **settings: seen.append(settings) or solve(*rows, **settings))
    data = make_data("bert", "single_label", **SIZES)
    data = {role: rows.add_column("author", [n // 4 for n in range(len(rows))]) for role, rows in data.items()}
    recipe = make_recipe("bert", models, tmp_path / "run", tuning=LOGISTIC, dataset={"group_column": "author"})
    fine_tune(recipe, data=data)
    assert seen[0]["groups"].tolist() == [str(n // 4) for n in range(44)]
