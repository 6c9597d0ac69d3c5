"""Imports point one way, and what answers in a tenth of a second stays light."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hf_sft

ROOT = Path(hf_sft.__file__).parent
# A module imports from its own layer and from those above it in this table, never from those below.
LAYERS = (
    ("errors",),
    ("tracker_names",),
    ("yaml12", "training_keys", "packages", "console", "markdown", "secrets", "tables", "advice"),
    (
        "recipe_section",
        "recipe_tuning",
        "recipe_hub",
        "recipe_inspect",
        "recipe",
        "recipe_file",
        "recipe_mistakes",
        "recipe_sense",
    ),
    ("record",),
    ("environment", "hub_access", "launch", "data", "metrics", "modeling", "table_files"),
    ("tasks",),
    (
        "usage",
        "summary",
        "task_words",
        "evaluation",
        "features",
        "saved_model",
        "training",
        "curves",
        "card",
        "card_metadata",
        "confusion",
    ),
    ("analysis",),
    (
        "ownership",
        "job",
        "job_notes",
        "examples",
        "row_pictures",
        "results",
        "room",
        "run_directory",
        "sense",
        "rehearsal",
    ),
    ("hub",),
    ("run",),
    ("guessing",),
    ("commands",),
    ("__init__", "cli", "cli_action", "cli_cache", "cli_run", "cli_candidates", "cli_push", "cli_values"),
)
# Imports inside a function that point the other way: a record shows itself, a recipe reads itself, and so on.
ALLOWED = {("record", "summary"), ("summary", "curves"), ("recipe", "recipe_file"), ("run", "cli")}
ALLOWED |= {("recipe_file", "hub.fetch")}
LIGHT = ("errors", "yaml12", "training_keys", "packages", "console", "recipe", "recipe_file", "recipe_mistakes")
LIGHT += (
    "recipe_section",
    "recipe_tuning",
    "recipe_hub",
    "recipe_inspect",
    "cli_push",
    "advice",
    "cli_candidates",
    "commands.candidates",
    "commands.ranking",
    "recipe_sense",
    "record",
    "summary",
    "usage",
    "markdown",
    "tables",
    "cli",
    "__init__",
)
LIGHT += ("commands.show", "commands.run_tables", "commands.schema", "commands.env_report", "commands.cache")
LIGHT += (
    "tracker_names",
    "data.recorded",
    "advice",
    "cli_candidates",
    "cli_values",
    "commands.candidates",
    "commands.ranking",
)
HEAVY = {"torch", "transformers", "datasets", "accelerate", "evaluate", "timm", "sklearn", "scipy", "matplotlib"}
HEAVY |= {"pandas", "pyarrow", "numpy", "PIL"}


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


FILES = {module_name(file): file for file in sorted(ROOT.rglob("*.py"))}


def statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that can run, in functions too; those for type checkers alone never do."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        else:
            yield from statements(child)


def imports(name: str) -> set[str]:
    """Modules of hf_sft that the module imports, as they are called in FILES."""
    found = set()
    for node in statements(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"hf_sft.{name} imports relatively; imports here are absolute"
            full = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        else:
            full = [alias.name for alias in node.names]
        inside = [entry.removeprefix("hf_sft.") for entry in full if entry.startswith("hf_sft.")]
        found |= {entry for entry in inside if entry in FILES}
        found |= {f"{entry}.__init__" for entry in inside if f"{entry}.__init__" in FILES}
    return found


def layer(name: str) -> int:
    first = name.partition(".")[0]
    found = [number for number, names in enumerate(LAYERS) if first in names]
    assert found, f"hf_sft.{name} stands in no layer; give it one in LAYERS"
    return found[0]


@pytest.mark.parametrize("name", FILES)
def test_imports_point_one_way(name: str) -> None:
    wrong = [other for other in imports(name) if layer(other) > layer(name) and (name, other) not in ALLOWED]
    assert not wrong, f"hf_sft.{name} imports {', '.join(wrong)}, which stand above it"


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("analysis.")])
def test_what_looks_inside_reads_what_a_run_has_left_and_never_trains(name: str) -> None:
    assert not {other for other in imports(name) if other.partition(".")[0] in ("run", "training", "job")}


def test_no_module_imports_itself_through_others() -> None:
    """Packages count as their __init__: a module of a package may not be imported by it and import it."""
    graph = {name: {other for other in imports(name) if (name, other) not in ALLOWED} for name in FILES}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' -> '.join((*way[way.index(name) :], name))}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_every_exception_is_needed() -> None:
    assert {(name, other) for name, other in ALLOWED if other in imports(name)} == ALLOWED


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_nothing_heavy_at_the_top(name: str) -> None:
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    packages = {
        entry.partition(".")[0]
        for node in top
        for entry in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)])
    }
    assert not packages & HEAVY


SCRIPT = """
import contextlib, io, json, sys
def loaded():
    return sorted({name.partition(".")[0] for name in sys.modules})
def quiet(arguments):
    from hf_sft.cli import run_command
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = run_command(arguments)
    return code, errors.getvalue()
found = {}
import hf_sft
found["import hf_sft"] = loaded()
sys.argv = ["hf-sft", "--help"]
from hf_sft.cli import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main()
found["hf-sft --help"] = loaded()
import hf_sft.run, hf_sft.record, hf_sft.summary, hf_sft.packages
hf_sft.Recipe.load("bundled:bert_sentiment")
found["a good recipe"] = loaded()
found["code"], found["errors"] = quiet(["bundled:bert_sentiment", "training.learnin_rate=1", "seed=x"])
found["several"], _ = quiet(["bundled:bert_sentiment", "seed=x", "--processes", "2"])
found["a wrong recipe"] = loaded()
print(json.dumps(found))
"""


def test_recipes_are_checked_and_help_is_given_before_torch_is_imported() -> None:
    """Holds for `python -m hf_sft.run` and `hf-sft run` alike: both are run_command."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for moment in ("import hf_sft", "hf-sft --help", "a good recipe", "a wrong recipe"):
        assert not HEAVY & set(found[moment]), moment
    assert not {"pydantic", "typer"} & set(found["import hf_sft"])
    assert "pydantic" not in found["hf-sft --help"]
    assert (found["code"], found["several"]) == (2, 2)
    assert "command line training.learnin_rate" in found["errors"] and "command line seed" in found["errors"]
    assert "Traceback" not in found["errors"]


def test_public_names_are_those_of_their_modules() -> None:
    from hf_sft.errors import HfSftError
    from hf_sft.recipe import Recipe
    from hf_sft.record import RunRecord
    from hf_sft.run import fine_tune

    assert (hf_sft.HfSftError, hf_sft.Recipe, hf_sft.RunRecord, hf_sft.fine_tune) == (
        HfSftError,
        Recipe,
        RunRecord,
        fine_tune,
    )
    assert set(hf_sft.__all__) <= set(dir(hf_sft))
    with pytest.raises(AttributeError, match="no attribute 'fine_tun'"):
        hf_sft.fine_tun  # noqa: B018
