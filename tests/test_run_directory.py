"""Whether a run starts, goes on or is finished: decided by its folder, and nothing of anybody else's is lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas
import pytest
from datasets import Dataset

from hf_sft.errors import EnvironmentProblem, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.record import RunRecord
from hf_sft.run_directory import OURS, RESULTS, describe_asked, finished_run, open_run
from tests.record_fixture import make_record

CONTENT: dict[str, Any] = {
    "task": "text-classification",
    "model": {"name": "m"},
    "dataset": {"path": "p", "label_map": {1: "a", "no": None}, "labels": ["2e-5", "no"]},
    "training": {"learning_rate": 1e-4, "max_steps": 5},
    "metrics": ["accuracy"],
}


def make(folder: Path, **changes: Any) -> Recipe:
    return Recipe.from_dict({**CONTENT, "output_dir": str(folder / "run"), **changes}, folder)


def look(recipe: Recipe, *, data: Any = None, overwrite: bool = False) -> RunRecord | None:
    return finished_run(recipe, describe_asked(recipe, data), overwrite=overwrite)


def start(recipe: Recipe, *, data: Any = None, overwrite: bool = False) -> None:
    look(recipe, data=data, overwrite=overwrite)
    open_run(recipe, describe_asked(recipe, data), overwrite=overwrite)


def interrupt(recipe: Recipe) -> None:
    """A run that has a checkpoint."""
    start(recipe)
    (Path(recipe.output_dir) / "checkpoints" / "checkpoint-1").mkdir(parents=True)


def finish(recipe: Recipe, *, data: Any = None) -> RunRecord:
    start(recipe, data=data)
    record = make_record(output_dir=recipe.output_dir)
    record.save()
    return record


def problem(recipe: Recipe, **settings: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        look(recipe, **settings)
    (finding,) = caught.value.findings
    assert finding.place == f"output_dir {recipe.output_dir}" and finding.fix
    return finding.found


def test_a_run_starts_in_a_folder_that_is_not_there_or_is_empty(tmp_path: Path) -> None:
    assert look(make(tmp_path)) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert look(make(tmp_path)) is None
    assert look(make(tmp_path, resume="never")) is None


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    interrupt(make(tmp_path))
    assert look(make(tmp_path)) is None


def test_a_run_that_ended_before_its_first_checkpoint_gives_way_to_the_mended_recipe(tmp_path: Path) -> None:
    start(make(tmp_path))
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("")
    assert look(make(tmp_path, seed=1)) is None
    assert look(make(tmp_path, resume="never")) is None
    start(make(tmp_path, seed=1))
    (tmp_path / "run" / "checkpoints" / "checkpoint-1").mkdir()
    assert "seed (was 1, now 42)" in problem(make(tmp_path))


def test_the_same_recipe_again_gives_the_record_of_the_finished_run(tmp_path: Path) -> None:
    record = finish(make(tmp_path))
    assert look(make(tmp_path)) == record


def test_the_record_is_found_from_another_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = finish(make(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert look(make(tmp_path)) == record


@pytest.mark.parametrize("changes", [{"run": {"workers": 2}}, {"resume": "auto"}])
def test_what_says_nothing_about_the_result_may_differ(tmp_path: Path, changes: dict[str, Any]) -> None:
    record = finish(make(tmp_path))
    assert look(make(tmp_path, **changes)) == record


def test_a_run_may_be_moved(tmp_path: Path) -> None:
    record = finish(make(tmp_path))
    shutil.move(tmp_path / "run", tmp_path / "moved")
    found = look(make(tmp_path, output_dir=str(tmp_path / "moved")))
    assert found is not None and found.metrics == record.metrics


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"seed": 1}, "seed (was 42, now 1)"),
        ({"training": {"learning_rate": 1e-4, "max_steps": 6}}, "training.max_steps (was 5, now 6)"),
        ({"training": {"learning_rate": 1e-4}}, "training.max_steps (was 5, now None)"),
        ({"training": CONTENT["training"] | {"optim": "sgd"}}, "training.optim (was None, now 'sgd')"),
        ({"model": {"name": "n"}}, "model.name (was 'm', now 'n')"),
        ({"metrics": ["macro_f1"]}, "metrics (was ['accuracy'], now ['macro_f1'])"),
        ({"run": {"precision": "bf16"}}, "run.precision (was 'auto', now 'bf16')"),
        ({"dataset": CONTENT["dataset"] | {"label_map": {1: "b"}}}, "dataset.label_map.1 (was 'a', now 'b')"),
        ({"early_stopping": {}}, "early_stopping (was None, now {'patience': 3, 'threshold': 0.0})"),
        ({"tuning": {"strategy": "head"}}, "tuning.strategy (was 'full', now 'head')"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("finished", [True, False])
def test_another_recipe_is_refused_with_the_key_that_differs(
    tmp_path: Path, changes: dict[str, Any], differs: str, finished: bool
) -> None:
    (finish if finished else interrupt)(make(tmp_path))
    found = problem(make(tmp_path, **changes))
    assert found == f"another one; it differs in {differs}"


def test_every_key_that_differs_is_named(tmp_path: Path) -> None:
    finish(make(tmp_path))
    found = problem(make(tmp_path, seed=1, metrics=[], model={"name": "n"}))
    assert all(key in found for key in ("seed", "metrics", "model.name"))


def test_the_same_words_in_another_folder_are_another_recipe(tmp_path: Path) -> None:
    """`p` is then another folder of data."""
    for folder in ("a/p", "b/p"):
        (tmp_path / folder).mkdir(parents=True)
    output = str(tmp_path / "run")
    finish(make(tmp_path / "a", output_dir=output))
    assert "dataset.path" in problem(make(tmp_path / "b", output_dir=output))


def test_data_in_memory_is_part_of_what_was_asked(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["a", "b"]})
    frame = pandas.DataFrame({"text": ["a", "b"]})
    recipe = make(tmp_path)
    record = finish(recipe, data={"train": rows, "test": frame})
    assert look(recipe, data={"train": rows, "test": frame}) == record
    assert "data_in_memory.train" in problem(recipe, data={"train": rows.select([0]), "test": frame})
    assert "data_in_memory.test" in problem(recipe, data={"train": rows, "test": frame.head(1)})
    assert "data_in_memory" in problem(recipe)


@pytest.mark.parametrize("finished", [True, False])
def test_resume_never_takes_no_folder_with_a_run(tmp_path: Path, finished: bool) -> None:
    (finish if finished else interrupt)(make(tmp_path))
    assert problem(make(tmp_path, resume="never")) == "a run"
    assert look(make(tmp_path, resume="never"), overwrite=True) is None


@pytest.mark.parametrize("text", [b"", b"- a\n", b"a: [\n", b"\xff"])
def test_an_unreadable_note_of_what_was_asked_is_no_run_of_this_recipe(tmp_path: Path, text: bytes) -> None:
    finish(make(tmp_path))
    (tmp_path / "run" / "asked.yaml").write_bytes(text)
    assert "cannot be read" in problem(make(tmp_path))


# --- what is deleted, and what never


def fill(folder: Path) -> None:
    """All that runs leave, and something of the user's beside and inside it."""
    for name in OURS:
        path = folder / name
        if "." in name and name != "model.partial":
            path.write_text("ours")
        else:
            path.mkdir()
            (path / "part").write_text("ours")
    (folder / "notes.txt").write_text("mine")
    (folder / "models").mkdir()


def test_overwrite_deletes_what_runs_leave_and_nothing_else(tmp_path: Path) -> None:
    recipe = make(tmp_path)
    (tmp_path / "run").mkdir()
    fill(tmp_path / "run")
    start(recipe, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["asked.yaml", "models", "notes.txt"]
    assert look(recipe) is None


def test_without_overwrite_nothing_of_a_run_is_deleted_but_its_traceback_and_that_it_was_finished(
    tmp_path: Path,
) -> None:
    recipe = make(tmp_path)
    start(recipe)
    (tmp_path / "run" / "asked.yaml").unlink()
    fill(tmp_path / "run")
    open_run(recipe, describe_asked(recipe, None), overwrite=False)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {*OURS, "notes.txt", "models"} - {"traceback.txt", "record.json"}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_that_no_run_has_made_is_not_written_into_where_a_run_would_replace_files(
    tmp_path: Path, name: str, overwrite: bool
) -> None:
    """output_dir: . in somebody's project, with a folder model/ or a recipe.yaml of its own."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    assert problem(make(tmp_path), overwrite=overwrite) == name


def test_overwrite_interrupted_while_it_deletes_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make(tmp_path)
    start(recipe)
    for name in ("checkpoints", "report"):
        (tmp_path / "run" / name).mkdir()
    finish_rmtree = shutil.rmtree

    def stop_at_report(path: Path) -> None:
        if path.name == "report":
            raise KeyboardInterrupt
        finish_rmtree(path)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop_at_report)
        with pytest.raises(KeyboardInterrupt):
            start(recipe, overwrite=True)
    start(recipe, overwrite=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["asked.yaml"]


def test_overwrite_unlinks_a_linked_folder_and_leaves_what_it_links_to(tmp_path: Path) -> None:
    recipe = make(tmp_path)
    start(recipe)
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "weights").write_text("mine")
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    start(recipe, overwrite=True)
    assert (tmp_path / "disk" / "weights").is_file() and not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("output", ["file", "file/run", "file/a/b"])
def test_a_folder_that_cannot_be_made_is_reported_before_anything_is_loaded(tmp_path: Path, output: str) -> None:
    (tmp_path / "file").write_text("")
    recipe = make(tmp_path, output_dir=str(tmp_path / output))
    with pytest.raises(EnvironmentProblem) as caught:
        look(recipe)
    assert caught.value.findings[0].found == f"{tmp_path / 'file'} is a file"
    with pytest.raises(EnvironmentProblem):
        open_run(recipe, {}, overwrite=False)
