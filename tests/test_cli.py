"""The command line: exit codes, what is printed, and what never is."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hf_sft.launch
import hf_sft.run
from hf_sft import job
from hf_sft.cli import main, run_command
from hf_sft.errors import DataError, EnvironmentProblem, Finding, MissingExtraError, ModelError, RecipeError
from hf_sft.recipe import Recipe
from hf_sft.run_directory import describe_asked, open_run
from tests.record_fixture import make_record

RECIPE = "task: text-classification\nmodel: {name: m}\ndataset: {path: p}\noutput_dir: run\n"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with a right recipe r.yaml; the handler of SIGTERM as it was."""
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def fine_tune_does(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> list[dict[str, Any]]:
    """fine_tune replaced; what it was called with."""
    calls = []

    def instead(recipe: Recipe, **settings: Any) -> None:
        calls.append({"recipe": recipe, **settings})
        action()

    monkeypatch.setattr(hf_sft.run, "fine_tune", instead)
    return calls


def raises(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def hf_sft_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["hf-sft", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


# --- exit codes


def test_a_run_that_ends_well_exits_0_with_what_it_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fine_tune_does(monkeypatch, lambda: None)
    assert run_command(["r.yaml", "seed=7", "training.learning_rate=1e-3", "--overwrite", "--trust-remote-code"]) == 0
    assert run_command(["r.yaml"]) == 0
    assert (calls[0]["recipe"].seed, calls[0]["recipe"].training) == (7, {"learning_rate": 1e-3})
    assert (calls[0]["overwrite"], calls[0]["trust_remote_code"]) == (True, True)
    assert (calls[1]["overwrite"], calls[1]["trust_remote_code"]) == (False, False)


@pytest.mark.parametrize("kind", [RecipeError, DataError, ModelError, EnvironmentProblem, MissingExtraError])
def test_what_the_user_can_mend_exits_2_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[RecipeError]
) -> None:
    finding = Finding(place="here", expected="this", found="that", fix="do so")
    fine_tune_does(monkeypatch, raises(kind([finding, finding])))
    assert run_command(["r.yaml"]) == 2
    printed = capsys.readouterr()
    one = "here\n    expected this\n    found    that\n    fix      do so"
    assert printed.err == f"hf-sft: 2 things to mend\n{one}\n{one}\n"
    assert printed.out == "" and not Path("run").exists()


def test_a_fault_of_ours_exits_1_and_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fine_tune_does(monkeypatch, raises(ZeroDivisionError("ours")))
    assert run_command(["r.yaml"]) == 1
    kept = Path("run/traceback.txt").read_text()
    assert kept.startswith("Traceback") and kept.rstrip().endswith("ZeroDivisionError: ours")
    assert kept.strip() in capsys.readouterr().err


def test_a_fault_whose_traceback_cannot_be_kept_still_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run").write_text("a file")
    fine_tune_does(monkeypatch, raises(ZeroDivisionError("ours")))
    assert run_command(["r.yaml"]) == 1
    assert "ZeroDivisionError: ours" in capsys.readouterr().err
    assert Path("run").read_text() == "a file"


def test_the_next_run_takes_the_old_traceback_away(monkeypatch: pytest.MonkeyPatch) -> None:
    fine_tune_does(monkeypatch, raises(ZeroDivisionError("ours")))
    run_command(["r.yaml"])
    recipe = Recipe.load("r.yaml")
    open_run(recipe, describe_asked(recipe, None), overwrite=False)
    assert not Path("run/traceback.txt").exists()


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143), (SystemExit("a library's words"), 1)]
)
def test_a_run_that_is_stopped_says_so_in_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    fine_tune_does(monkeypatch, raises(error))
    assert run_command(["r.yaml"]) == code
    assert "stopped; the same command starts again" in capsys.readouterr().err
    assert not Path("run/traceback.txt").exists()
    Path("run/checkpoints/checkpoint-3").mkdir(parents=True)  # not yet written to its end
    assert run_command(["r.yaml"]) == code
    assert "starts again" in capsys.readouterr().err
    Path("run/checkpoints/checkpoint-3/complete").touch()
    assert run_command(["r.yaml"]) == code
    assert "stopped; the same command goes on from the last checkpoint" in capsys.readouterr().err


def test_a_request_to_end_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("the signal is not handled"))
    fine_tune_does(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
    assert run_command(["r.yaml"]) == 143


def test_other_ranks_are_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run_command(["r.yaml", "seed=x"]) == 2
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


# --- wrong commands


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rum", "r.yaml"], "Did you mean 'run'?"),
        (["--verison"], "--version"),
        (["run", "r.yaml", "--overwite"], "--overwrite"),
        (["run", "r.yaml", "--trust_remote_code"], "--trust-remote-code"),
        (["run", "r.yaml", "--proceses", "2"], "--processes"),
        (["run", "r.yaml", "--seed"], "set without dashes: seed=VALUE"),
        (["run", "r.yaml", "--seed=3"], "set without dashes: seed=3"),
        (["run", "r.yaml", "--seed", "3"], "set without dashes: seed=3"),
        (["run", "--seed", "r.yaml"], "set without dashes: seed=VALUE"),
        (["run", "r.yaml", "--learning-rate", "1e-4"], "set without dashes: training.learning_rate=1e-4"),
        (["run", "r.yaml", "--training.warmup_steps=3"], "set without dashes: training.warmup_steps=3"),
        (["run", "r.yaml", "--fp16"], "set run.precision: fp16"),
        (["run", "r.yaml", "--processes", "0"], "--processes"),
        (["run", "r.yaml", "--processes", "two"], "--processes"),
        (["run", "r.yaml", "seed"], "key=value"),
        (["run", "r.yml"], "bundled:bert_sentiment"),
        (["run", "bundled:bert_sentimet"], "did you mean 'bert_sentiment'?"),
        (["run", "r.yaml", "sed=3"], "did you mean 'seed'?"),
    ],
)
def test_a_wrong_command_exits_2_with_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    fine_tune_does(monkeypatch, raises(AssertionError("nothing runs")))
    assert hf_sft_command(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_both_entry_points_judge_alike(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for command in (lambda *a: hf_sft_command(monkeypatch, "run", *a), lambda *a: hf_sft.run.main(a)):
        assert command("r.yaml", "modle=x", "training.lr=1") == 2
        printed.append(capsys.readouterr())
    assert printed[0] == printed[1] and printed[0].err.startswith("hf-sft: 2 things to mend\n")


def test_help_lists_the_commands_and_version_is_the_installed_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from importlib.metadata import version

    assert hf_sft_command(monkeypatch, "--help") == 0
    assert "run" in capsys.readouterr().out
    assert hf_sft_command(monkeypatch, "run", "--help") == 0
    assert "KEY=VALUE" in capsys.readouterr().out
    assert hf_sft_command(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == version("hf-sft")


# --- several processes


def test_processes_are_started_with_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(hf_sft.launch, "launch", lambda *words: started.append(words) or 5)
    assert run_command(["r.yaml", "seed=3", "--processes", "4", "--overwrite", "--trust-remote-code"]) == 5
    assert started == [(["r.yaml", "seed=3", "--overwrite", "--trust-remote-code"], 4)]


def test_a_wrong_recipe_starts_no_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(hf_sft.launch, "launch", raises(AssertionError("nothing starts")))
    assert run_command(["r.yaml", "seed=x", "--processes", "2"]) == 2
    assert "command line seed" in capsys.readouterr().err


# --- a run that is finished


def test_the_command_of_a_finished_run_prints_its_table_and_reads_no_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "prepare", raises(AssertionError("nothing is loaded")))
    recipe = Recipe.load("r.yaml")
    open_run(recipe, describe_asked(recipe, None), overwrite=False)
    make_record(output_dir="run").save()
    assert run_command(["r.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "--overwrite" in printed and "accuracy" in printed
    assert run_command(["r.yaml", "seed=1"]) == 2
    assert "seed (was 42, now 1)" in capsys.readouterr().err
    assert run_command(["r.yaml", "resume=never"]) == 2
    assert "resume: never" in capsys.readouterr().err
