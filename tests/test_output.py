"""Laws of what the commands print: wherever it goes, no traceback, and words or an exit code that say what happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_sft.console import escaped_json, hides_bars, overheard
from hf_sft.record import as_json
from tests.record_fixture import make_record

RUN = """
import sys, hf_sft.run
from hf_sft.cli import main
from hf_sft.console import say
def fine_tune(*_, **settings):
    for number in range(20_000):
        say(f"step {number}")
    print("trained", file=sys.stderr)
hf_sft.run.fine_tune = fine_tune
sys.argv = ["hf-sft", "run", "r.yaml"]
main()
"""
PREDICT = """
import sys, types
from hf_sft.cli import main
def predict(*_, **settings):
    from hf_sft.table_files.writing import open_output
    with open_output("-", None) as write:
        for number in range(20_000):
            write([{"row": number, "prediction": "é\\U0001f600"}])
    return "all rows"
sys.modules["hf_sft.commands.predict"] = types.SimpleNamespace(predict=predict)
sys.argv = ["hf-sft", "predict", "model", "rows.csv"]
main()
"""
SHOW = "import sys; from hf_sft.cli import main; sys.argv = ['hf-sft', 'show', 'run', *sys.argv[1:]]; main()"
HELP = "import sys; from hf_sft.cli import main; sys.argv = ['hf-sft', '--help']; main()"
COMMANDS = {"run": RUN, "predict": PREDICT, "show": SHOW, "help": HELP}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a right recipe r.yaml and a finished run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    Path("r.yaml").write_text("task: text-classification\nmodel: {name: m}\ndataset: {path: p}\noutput_dir: o\n")
    Path("run").mkdir()
    make_record(output_dir="run", notes=["naïve"], metrics={"test": {"accuracy": float("nan")}}).save()


def shell(script: str, rest: str, **environment: str) -> tuple[str, str]:
    """What a shell makes of `$COMMAND` and the rest of its line: standard output and standard error."""
    done = subprocess.run(
        ["bash", "-c", f'"$PYTHON" -c "$SCRIPT" {rest}'],
        env=os.environ | {"PYTHON": sys.executable, "SCRIPT": script} | environment,
        capture_output=True,
        timeout=60,
    )
    return done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    ("command", "code", "said"), [("run", "0", "trained\n"), ("predict", "141", ""), ("show", "0", "")]
)
@pytest.mark.parametrize("reader", ["head -1", "true"])  # true is gone before anything is written
def test_a_reader_who_leaves_early_is_no_mistake(command: str, code: str, said: str, reader: str) -> None:
    out, error = shell(COMMANDS[command], f"| {reader}; echo ${{PIPESTATUS[0]}}")
    assert out.splitlines()[-1] == code and error == said


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("target", "said"), [("/dev/full", "cannot be written: No space left on device"), ("&-", "is closed")]
)
def test_an_output_that_takes_nothing_is_said_in_one_line(command: str, target: str, said: str) -> None:
    _, error = shell(COMMANDS[command], f">{target}; echo $? >&2")
    *lines, code = error.splitlines()
    assert code == "2" and len(lines) == 1 and lines[0].startswith("hf-sft: standard output") and said in lines[0]


def test_letters_that_the_terminal_lacks_are_escaped() -> None:
    out, error = shell(SHOW, "", PYTHONIOENCODING="ascii")
    assert "na\\xefve" in out and error == ""
    out, _ = shell(SHOW, "--json", PYTHONIOENCODING="ascii")
    assert json.loads(out)["notes"] == ["naïve"] and out.isascii()
    out, _ = shell(PREDICT, "| head -1", PYTHONIOENCODING="ascii")
    assert json.loads(out) == {"row": 0, "prediction": "é\U0001f600"} and out.isascii()


def test_json_holds_null_where_a_number_is_not_defined() -> None:
    record = Path("run/record.json")
    record.write_text(record.read_text().replace('"accuracy": null', '"accuracy": NaN'))
    out, _ = shell(SHOW, "--json")
    assert json.loads(out, parse_constant=pytest.fail)["metrics"]["test"] == {"accuracy": None}
    content = {"a": [float("nan"), (float("inf"), 1.5)], 3: {"b": -float("inf")}}
    assert json.loads(as_json(content)) == {"a": [None, [None, 1.5]], "3": {"b": None}}


def test_the_json_of_a_check_is_json_alone() -> None:
    script = """
import sys, types
from hf_sft.cli import main
class Report:
    ok = True
    as_dict = lambda self: {"rehearsal": float("nan")}
def check(*_, **settings):
    print("a library's words")
    return Report()
sys.modules["hf_sft.commands.check"] = types.SimpleNamespace(check=check)
sys.argv = ["hf-sft", "check", "r.yaml", "--json"]
main()
"""
    out, error = shell(script, "")
    assert json.loads(out) == {"rehearsal": None} and error == "a library's words\n"


def test_json_is_left_as_it_is_where_the_terminal_speaks_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    text = as_json({"é": "\U0001f600"})
    assert escaped_json(text) == text


def test_bars_are_shown_in_a_notebook_but_for_what_is_kept_back(monkeypatch):
    """None: shown on a terminal alone, as tqdm has it."""
    assert hides_bars() is None
    notebook = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    assert hides_bars() is False
    with overheard():
        assert hides_bars() is True
    monkeypatch.setattr(notebook, "get_ipython", lambda: SimpleNamespace())
    assert hides_bars() is None, "IPython on a terminal"
