"""What a recipe may say, where its mistakes are reported, and that it survives being written down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hf_sft.errors import Finding, RecipeError
from hf_sft.metrics import METRICS
from hf_sft.modeling.tuning import STRATEGIES
from hf_sft.recipe import METRIC_NAMES, PROCESSOR_KEYS, ROLES, ProblemName, Processor, Recipe, TaskName
from hf_sft.recipe_file import bundled_recipes
from hf_sft.recipe_tuning import StrategyName
from hf_sft.tasks import TASKS

BASE = "task: text-classification\nmodel: {name: m}\ndataset: {path: p}\n"  # the smallest recipe; three lines
IMAGES = BASE.replace("text-c", "image-c")


def load(text: str, *overrides: str, folder: Path) -> Recipe:
    (folder / "r.yaml").write_text(text, encoding="utf-8")
    return Recipe.load(folder / "r.yaml", overrides)


def mistakes(text: str, *overrides: str, folder: Path) -> list[Finding]:
    """The findings, with the place of the file written as r."""
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides, folder=folder)
    assert caught.value.exit_code == 2
    return [
        Finding(
            place=finding.place.replace(str(folder / "r.yaml"), "r"),
            expected=finding.expected,
            found=finding.found,
            fix=finding.fix,
        )
        for finding in caught.value.findings
    ]


def literals(name: Any) -> tuple[str, ...]:
    return name.__args__


# --- the literals of the schema are the tables' names


def test_names_in_the_schema_are_those_of_the_tables() -> None:
    assert literals(TaskName) == tuple(TASKS)
    assert literals(StrategyName) == tuple(STRATEGIES)
    assert tuple(METRICS) == METRIC_NAMES
    assert {name for task in TASKS.values() for name in task.problems} == set(literals(ProblemName))


def test_every_task_has_its_roles_and_its_processor_keys() -> None:
    assert {name: set(roles) for name, roles in ROLES.items()} == {name: set(TASKS[name].columns) for name in TASKS}
    assert set(PROCESSOR_KEYS) == set(TASKS)
    assert {key for keys in PROCESSOR_KEYS.values() for key in keys} == set(Processor.model_fields)


# --- mistakes


def test_every_mistake_is_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
task: text-clasification
model:
  nme: x
  head: fresh
datset: {path: p}
processor: {max_length: one}
training:
  learnin_rate: 1e-4
  seed: 3
  num_train_epochs: '3'
  optim: adamm
metrics: [acuracy, 3]
early_stopping: true
seed: 1
seed: 2
sed: 3
"""
    found = mistakes(text, folder=tmp_path)
    assert [finding.place for finding in found] == [
        "r:1:1 task",
        "r:1:1 dataset",
        "r:2:1 model.name",
        "r:3:3 model.nme",
        "r:4:3 model.head",
        "r:5:1 datset",
        "r:6:13 processor.max_length",
        "r:8:3 training.learnin_rate",
        "r:9:3 training.seed",
        "r:10:3 training.num_train_epochs",
        "r:11:3 training.optim",
        "r:12:11 metrics.0",
        "r:12:20 metrics.1",
        "r:13:1 early_stopping",
        "r:15:1 seed",
        "r:16:1 sed",
    ]
    fixes = {finding.place.partition(" ")[2]: finding.fix for finding in found}
    assert fixes["task"] == "did you mean 'text-classification'?"
    assert fixes["model.nme"] == "did you mean 'name'?"
    assert fixes["datset"] == "did you mean 'dataset'?"
    assert fixes["training.learnin_rate"] == "did you mean 'learning_rate'?"
    assert fixes["training.optim"] == "did you mean 'adam'?"
    assert fixes["metrics.0"] == "did you mean 'accuracy'?"
    assert fixes["sed"] == "did you mean 'seed'?"
    assert all(finding.expected and finding.found for finding in found)


@pytest.mark.parametrize(
    ("line", "place", "expected", "found", "fix"),
    [
        ("seed: '42'", "4:1 seed", "a whole number", "'42' (text)", "leave out the quotes"),
        ("seed: 42.0", "4:1 seed", "a whole number", "42.0 (a number)", "write 42"),
        ("seed:", "4:1 seed", "a whole number", "nothing", "its default, 42"),
        ("seed: -1", "4:1 seed", "a number greater than or equal to 0", "-1", ""),
        ("seed: true", "4:1 seed", "a whole number", "true", ""),
        ("output_dir: 3", "4:1 output_dir", "text", "3 (a whole number)", "quotes"),
        ("output_dir: ''", "4:1 output_dir", "not empty", "''", ""),
        ("resume: always", "4:1 resume", "'auto', 'never' or 'extend'", "'always'", "valid here: auto, never"),
        ("run: {workers: two}", "4:7 run.workers", "'auto' or a whole number", "'two'", ""),
        ("run: {workers: '2'}", "4:7 run.workers", "'auto' or a whole number", "'2'", "leave out the quotes"),
        ("run: bf16", "4:1 run", "keys and values", "'bf16'", "write run: {precision: bf16}"),
        ("tuning: head", "4:1 tuning", "keys and values", "'head'", "write tuning: {strategy: head}"),
        ("early_stopping: true", "4:1 early_stopping", "keys and values", "true", "early_stopping: {patience: 3}"),
        ("metrics: accuracy", "4:1 metrics", "a list", "'accuracy'", "write metrics: [accuracy]"),
        ("metrics: [f1]", "4:11 metrics.0", "a metric", "f1", "'macro_f1' or 'micro_f1' or 'weighted_f1'"),
        ("metrics: ['evaluate:']", "4:11 metrics.0", "a metric", "evaluate:", "valid here: accuracy"),
        ("objective: {label_smoothing: 1}", "4:13 objective.label_smoothing", "less than 1", "1", ""),
        ("objective: {label_smoothing: .nan}", "4:13 objective.label_smoothing", "a finite number", "nan", ""),
        ("early_stopping: {threshold: .inf}", "4:18 early_stopping.threshold", "a finite number", "inf", ""),
        ("learning_rate: 1e-4", "4:1 learning_rate", "a key", "learning_rate", "'training.learning_rate'"),
        ("epochs: 3", "4:1 epochs", "a key", "epochs", "'training.num_train_epochs'"),
        ("fp16: true", "4:1 fp16", "a key", "fp16", "run.precision: fp16"),
        ("max_length: 128", "4:1 max_length", "a key", "max_length", "'processor.max_length'"),
        ("text: review", "4:1 text", "a key", "text", "'dataset.columns.text'"),
        ("tuning: {seed: 3}", "4:10 tuning.seed", "a key", "seed", "did you mean 'seed'?"),
        ("training.lr: 1", "4:1 training.lr", "a key", "training.lr", "write training: {lr: ...}"),
        ("3: x", "4:1 3", "a key", "3", "valid here: task"),
        ("~: x", "4:1 None", "a key", "None", "valid here: task"),
        ("<<: {seed: 3}", "4:1 <<", "a key", "<<", "no merge keys"),
        ("training: [a]", "4:1 training", "keys and values", "['a'] (a list)", ""),
        ("processor: {size: 224}", "4:13 processor.size", "text-classification has", "size", "max_length"),
        ("processor: {max_length: 1}", "4:13 processor.max_length", "a number greater than 1", "1", ""),
    ],
)
def test_a_mistake_says_place_expected_found_and_fix(
    tmp_path: Path, line: str, place: str, expected: str, found: str, fix: str
) -> None:
    (finding,) = mistakes(f"{BASE}{line}\n", folder=tmp_path)
    assert finding.place == f"r:{place}"
    assert expected in finding.expected
    assert found in finding.found
    assert fix in finding.fix and bool(fix) == bool(finding.fix)


@pytest.mark.parametrize(
    ("entry", "place", "expected", "fix"),
    [
        ("columns: {txt: a}", "30 dataset.columns.txt", "text-classification has", "'text'"),
        ("columns: {image: a}", "30 dataset.columns.image", "text-classification has", "text, text_pair, label"),
        ("columns: {text: []}", "30 dataset.columns.text", "at least 1 entries", ""),
        ("columns: {text: [1]}", "37 dataset.columns.text.0", "text", "quotes"),
        ("columns: {1: a}", "30 dataset.columns.1", "a key that", ""),
        ("splits: {dev: x}", "29 dataset.splits.dev", "train, validation or test", "valid here"),
        ("max_samples: {train: 0}", "34 dataset.max_samples.train", "a number greater than 0", ""),
        ("validation_fraction: 1.0", "20 dataset.validation_fraction", "a number less than 1", ""),
        ("labels: [0, b]", "29 dataset.labels.0", "text", "quotes"),
        ("data_files: {train: 3}", "33 dataset.data_files.train", "text or a list", "quotes"),
        ("label_map: {1: [a]}", "32 dataset.label_map.1", "text or a whole number", ""),
        ("label_map: {1.5: 2.5}", "32 dataset.label_map.1.5", "text or a whole number", "quotes"),
        ("label_map: {~: a}", "32 dataset.label_map.None", "a key that is text", ""),
        ("problem: binary", "20 dataset.problem", "'single_label'", "valid here"),
        ("label: x", "20 dataset.label", "a key", "'dataset.columns.label'"),
        ("streaming: yes", "20 dataset.streaming", "true or false", "write true"),
    ],
)
def test_a_mistake_in_the_data_set_is_named_where_it_stands(
    tmp_path: Path, entry: str, place: str, expected: str, fix: str
) -> None:
    (finding,) = mistakes(BASE.replace("path: p", f"path: p, {entry}"), folder=tmp_path)
    assert finding.place == f"r:3:{place}"
    assert expected in finding.expected
    assert fix in finding.fix and bool(fix) == bool(finding.fix)


@pytest.mark.parametrize("key", ["model.name", "dataset.path"])
def test_a_missing_key_is_named_in_its_section_with_what_it_takes(tmp_path: Path, key: str) -> None:
    section = key.partition(".")[0]
    for empty in (f"{section}:\n", f"{section}: {{}}\n"):
        lines = [empty if line.startswith(section) else line for line in BASE.splitlines(keepends=True)]
        (finding,) = mistakes("".join(lines), folder=tmp_path)
        assert finding.place == f"r:{2 if section == 'model' else 3}:1 {key}"
        assert finding.expected == "this key, it has no default"
        assert "Hub id" in finding.fix


@pytest.mark.parametrize(
    ("entry", "name"),
    [("image_mean: [0.5]", "image_mean"), ("image_std: [1, 1, 0]", "image_std.2"), ("max_length: 9", "max_length")],
)
def test_images_are_normalised_by_three_numbers_none_of_them_a_division_by_zero(
    tmp_path: Path, entry: str, name: str
) -> None:
    (finding,) = mistakes(f"{IMAGES}processor: {{{entry}}}\n", folder=tmp_path)
    assert finding.place.endswith(f" processor.{name}")


def test_a_wrong_recipe_of_plain_values_names_its_keys() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict({"task": "text-classification", "model": {"name": 3}, "training": {"seed": 1}, "x": {1: 2}})
    places = {finding.place for finding in caught.value.findings}
    assert places == {"model.name", "training.seed", "x", "dataset"}


def test_a_value_of_any_length_is_shown_short(tmp_path: Path) -> None:
    (finding,) = mistakes(f"{BASE}seed: [{', '.join('x' * 200 for _ in range(200))}]\n", folder=tmp_path)
    assert len(finding.found) < 1000


@pytest.mark.parametrize(
    ("training", "streaming", "wrong"),
    [
        ("{}", "false", False),
        ("{eval_strategy: steps, save_strategy: steps}", "false", False),
        ("{save_strategy: best}", "false", False),
        ("{evaluation_strategy: epoch}", "false", False),
        ("{eval_strategy: steps}", "true", False),
        ("{eval_strategy: no, save_strategy: no}", "false", True),
        ("{eval_strategy: no, save_strategy: best}", "false", True),
        ("{eval_strategy: steps}", "false", True),
        ("{save_strategy: no}", "false", True),
        ("{save_strategy: epoch}", "true", True),
    ],
)
def test_early_stopping_needs_a_checkpoint_at_every_evaluation(
    tmp_path: Path, training: str, streaming: str, wrong: bool
) -> None:
    text = BASE.replace("path: p", f"path: p, streaming: {streaming}") + f"training: {training}\n"
    load(text, folder=tmp_path)
    if wrong:
        (finding,) = mistakes(f"{text}early_stopping: {{}}\n", folder=tmp_path)
        assert finding.place == "r:5:1 early_stopping" and finding.fix
    else:
        load(f"{text}early_stopping: {{}}\n", folder=tmp_path)


@pytest.mark.parametrize(
    ("tuning", "augment", "place"),
    [
        ("{cache: off}", "[]", None),
        ("{cache: off, cache_dtype: float32}", "[]", None),
        ("{cache_views: 4}", "[word_swap]", None),
        ("{cache: on, cache_dir: here, cache_dtype: float16}", "[]", None),
        ("{cache_views: 4}", "[]", "cache_views"),
        ("{cache: off, cache_views: 4}", "[word_swap]", "cache_views"),
        ("{cache: off, cache_dir: here}", "[]", "cache_dir"),
        ("{cache: off, cache_dtype: float16}", "[]", "cache_dtype"),
    ],
)
def test_keys_of_the_cache_that_do_nothing_are_errors(
    tmp_path: Path, tuning: str, augment: str, place: str | None
) -> None:
    text = f"{BASE}augment: {augment}\ntuning: {tuning}\n"
    if place is None:
        load(text, folder=tmp_path)
    else:
        (finding,) = mistakes(text, folder=tmp_path)
        assert finding.place.endswith(f"tuning.{place}") and finding.expected and finding.fix


# --- files


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "nothing"),
        (b"# all of it a comment\n", "nothing"),
        (b"- task: x\n", "a list"),
        (b"text-classification\n", "text"),
        (b"task: caf\xe9\n", "byte 9 is not UTF-8"),
        (b"\xff\xfet\x00a\x00", "byte 0 is not UTF-8"),
        (b"task: a\n\tmodel: b\n", "'\\t'"),
        (b"task: a\n---\ntask: b\n", "another document"),
        (b"task: &a [*a]\n", "its own anchor"),
        (b"training: " + b"{a: " * 99 + b"1" + b"}" * 99, "50 levels"),
    ],
)
def test_a_file_that_holds_no_recipe_is_one_mistake(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        Recipe.load(tmp_path / "r.yaml")
    (finding,) = caught.value.findings
    assert finding.place.startswith(str(tmp_path / "r.yaml"))
    assert found in finding.found


@pytest.mark.parametrize("name", ["nope.yaml", ".", "bundled:nope", "bundled:", "bundled:../bert_sentiment"])
def test_a_recipe_that_is_not_there_is_answered_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="bert_sentiment") as caught:
        Recipe.load(name)
    assert caught.value.findings[0].place == name


def test_a_byte_order_mark_and_other_line_ends_change_nothing(tmp_path: Path) -> None:
    text = f"{{seeds: 1, {BASE.splitlines()[0]},\r\n model: {{name: m}}, dataset: {{path: p}},\r\n sed: 3}}\r\n"
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    with pytest.raises(RecipeError) as caught:
        Recipe.load(tmp_path / "r.yaml")
    places = [finding.place.rpartition("r.yaml:")[2] for finding in caught.value.findings]
    assert places == ["1:2 seeds", "3:2 sed"]


def test_bundled_recipes_are_those_of_the_folder_and_load() -> None:
    folder = Path(__file__).parents[1] / "recipes"
    assert bundled_recipes() == sorted(path.stem for path in folder.glob("*.yaml"))
    for name in bundled_recipes():
        assert Recipe.load(f"bundled:{name}") == Recipe.load(folder / f"{name}.yaml")


def test_anchors_share_a_section(tmp_path: Path) -> None:
    recipe = load(f"{BASE}processor: &p {{max_length: 9}}\ntuning: &t {{}}\nrun: *t\n", folder=tmp_path)
    assert recipe.processor.max_length == 9
    (finding,) = mistakes(BASE.replace("{path: p}", "&d {path: p}") + "tuning: *d\n", folder=tmp_path)
    assert finding.place == "r:4:1 tuning.path"


# --- empty sections, overrides


@pytest.mark.parametrize("separator", [":", ": null", ": ~"])
def test_a_section_or_list_with_nothing_under_it_is_empty(tmp_path: Path, separator: str) -> None:
    names = ("processor", "tuning", "objective", "training", "metrics", "early_stopping", "run")
    text = BASE + "".join(f"{name}{separator}\n" for name in names)
    assert load(text, folder=tmp_path) == load(BASE, folder=tmp_path)
    inner = ("name", "columns", "splits", "options", "max_samples", "labels", "label_map", "data_files")
    text = BASE.replace("{path: p}", "{path: p, " + ", ".join(f"{name}: null" for name in inner) + "}")
    assert load(text, folder=tmp_path) == load(BASE, folder=tmp_path)


def test_overrides_follow_the_rules_of_the_file(tmp_path: Path) -> None:
    text = f"{BASE}training: {{learning_rate: 1, max_steps: 5}}\nmetrics: [auroc]\n"
    overrides = (
        "training.learning_rate=2e-5",
        "seed=0o17",
        "output_dir=no",
        "metrics=[accuracy, macro_f1]",
        "processor.max_length=64",
        "dataset.label_map={1: a, no: null}",
        "model.config.x.y=a=b",
        "early_stopping={}",
        " tuning.strategy =head",
    )
    recipe = load(text, *overrides, folder=tmp_path)
    assert recipe.training == {"learning_rate": 2e-5, "max_steps": 5}
    assert (recipe.seed, recipe.output_dir, recipe.metrics) == (15, "no", ["accuracy", "macro_f1"])
    assert (recipe.processor.max_length, recipe.tuning.strategy) == (64, "head")
    assert recipe.dataset.label_map == {1: "a", "no": None}
    assert recipe.model.config == {"x": {"y": "a=b"}}
    assert recipe.early_stopping is not None and recipe.early_stopping.patience == 3


def test_the_last_override_of_a_key_holds(tmp_path: Path) -> None:
    assert load(BASE, "seed=1", "seed=2", folder=tmp_path).seed == 2
    recipe = load(BASE, "training.max_steps=1", "training={num_train_epochs: 2}", folder=tmp_path)
    assert recipe.training == {"num_train_epochs": 2}


def test_an_override_reaches_keys_that_are_numbers(tmp_path: Path) -> None:
    text = BASE.replace("path: p", "path: p, label_map: {1: a, 2: b}")
    assert load(text, "dataset.label_map.2=c", folder=tmp_path).dataset.label_map == {1: "a", 2: "c"}


def test_an_override_replaces_the_earlier_name_of_its_key(tmp_path: Path) -> None:
    text = f"{BASE}training: {{warmup_ratio: 0.1, evaluation_strategy: 'no'}}\n"
    recipe = load(text, "training.warmup_steps=50", "training.evaluation_strategy=epoch", folder=tmp_path)
    assert recipe.training == {"warmup_steps": 50, "eval_strategy": "epoch"}
    assert len(recipe.notices) == 1


@pytest.mark.parametrize(
    ("override", "place", "found", "fix"),
    [
        ("seed='3'", "seed", "'3' (text)", "leave out the quotes"),
        ("training.learning_rate='1e-4'", "training.learning_rate", "'1e-4' (text)", "leave out the quotes"),
        ("training.learning_rate=", "training.learning_rate", "nothing", ""),
        ("training.lr=1", "training.lr", "lr", "'learning_rate'"),
        ("lr=1", "lr", "lr", "'training.learning_rate'"),
        ("model=bert", "model", "'bert'", "write model: {name: bert}"),
        ("seed.x=1", "seed", "{'x': 1}", ""),
        ("model={head: new}", "model.name", "nothing", "Hub id"),
        ("training={learnin_rate: 1}", "training.learnin_rate", "learnin_rate", "'learning_rate'"),
        ("training={max_steps: 1, max_steps: 2}", "training", "max_steps twice", ""),
        ("metrics=[accuracy", "metrics", "stream end", "close the bracket"),
        ("metrics=&a [*a]", "metrics", "its own anchor", ""),
        ("seed=" + "[" * 5000, "seed", "50 levels", ""),
        ("seed=\x07", "seed", "special characters", "cannot be seen"),
        ("seed", "", "seed", "no spaces around ="),
        ("=3", "", "=3", ""),
        (".seed=3", "", ".seed=3", ""),
        ("run..workers=3", "", "run..workers=3", ""),
    ],
)
def test_a_wrong_override_is_placed_on_the_command_line(
    tmp_path: Path, override: str, place: str, found: str, fix: str
) -> None:
    text = f"{BASE}training: {{learning_rate: 1, learnin_rate: 1}}\n" if "learnin_" in override else BASE
    (finding,) = mistakes(text, override, folder=tmp_path)
    assert finding.place == f"command line {place}".rstrip()
    assert found in finding.found
    assert fix in finding.fix and bool(fix) == bool(finding.fix)


def test_mistakes_of_file_and_command_line_make_one_report(tmp_path: Path) -> None:
    found = mistakes(f"{BASE}seeds: 1\n", "modle.name=x", "training.max_steps=many", "=", folder=tmp_path)
    assert [finding.place for finding in found] == [
        "command line",
        "command line training.max_steps",
        "command line modle",
        "r:4:1 seeds",
    ]


# --- paths and variables


def test_paths_start_from_the_folder_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("recipes", "recipes/model", "elsewhere", "elsewhere/rows.csv"):
        (tmp_path / name).mkdir()
    recipe = load(BASE, "output_dir=run", folder=tmp_path / "recipes")
    monkeypatch.chdir(tmp_path / "elsewhere")
    here = tmp_path / "recipes"
    assert recipe.folder == here
    assert recipe.locate("model") == str(here / "model")
    assert recipe.locate("rows.csv") == "rows.csv", "what lies in the working directory alone is no path of the recipe"
    assert recipe.locate("./rows.csv") == str(here / "rows.csv")
    assert recipe.locate("../elsewhere/rows.csv") == str(tmp_path / "elsewhere" / "rows.csv")
    assert recipe.locate("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    assert recipe.locate("package:a/model") == "package:a/model"
    assert recipe.locate_file("rows.csv") == str(here / "rows.csv")
    assert recipe.locate_file("https://x.org/rows.csv") == "https://x.org/rows.csv"
    assert recipe.locate_file(str(tmp_path / "x.csv")) == str(tmp_path / "x.csv")
    assert recipe.output_dir == "run", "output_dir starts from the working directory"


def test_a_recipe_named_relatively_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.load("r.yaml")
    monkeypatch.chdir("/")
    assert recipe.locate_file("x.csv") == str(tmp_path / "x.csv")


def test_variables_are_replaced_in_paths_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    text = """\
task: text-classification
model: {name: $WHERE/model, revision: $WHERE, config: {x: $WHERE}}
dataset: {path: "${WHERE}/rows.csv", columns: {text: $WHERE}, labels: [$WHERE, ~/b], data_files: {train: $WHERE/a.csv}}
training: {run_name: $WHERE}
output_dir: $WHERE/run
"""
    recipe = load(text, folder=tmp_path)
    assert recipe.locate(recipe.model.name) == str(tmp_path / "data" / "model")
    assert recipe.locate(recipe.dataset.path) == str(tmp_path / "data" / "rows.csv")
    assert recipe.located_data_files() == {"train": str(tmp_path / "data" / "a.csv")}
    assert recipe.output_dir == str(tmp_path / "data" / "run")
    assert recipe.model.revision == recipe.model.config["x"] == recipe.training["run_name"] == "$WHERE"
    assert recipe.dataset.columns == {"text": "$WHERE"} and recipe.dataset.labels == ["$WHERE", "~/b"]
    assert load(BASE, "output_dir=~/run", folder=tmp_path).output_dir == os.path.join(str(tmp_path / "home"), "run")


# --- written down


RECIPES: dict[str, dict[str, Any]] = {
    "smallest": {},
    "label map": {"dataset": {"path": "p", "label_map": {1: "a", 2: None, 2.5: 3, "no": "yes", "~": "1"}}},
    "label map of truths": {"dataset": {"path": "p", "label_map": {True: "yes", False: "no"}}},
    "text like numbers": {
        "model": {"name": "2e-5", "revision": "1e3", "weights": "0o17", "base_model": "null", "config": {"1": "0x1F"}},
        "dataset": {"path": ".5", "name": "12:30", "labels": ["no", "1_000", "", "~", "2026-01-01", "\x85", "a: b"]},
    },
    "numbers": {
        "training": {"learning_rate": 2e-5, "weight_decay": 1e-300, "num_train_epochs": 3, "report_to": ["none"]},
        "objective": {"label_smoothing": 0.1},
        "early_stopping": {"patience": 1, "threshold": 0},
    },
    "images": {
        "task": "image-classification",
        "processor": {"size": 64, "image_mean": [0, 0.5, 1], "image_std": [1, 1, 1e-3], "do_normalize": False},
        "dataset": {
            "path": "imagefolder",
            "data_files": {"train": ["a/*.png", "b"], "test": "c"},
            "options": {"sep": "\t", "drop": None, "n": [1, {"x": 2.0}]},
            "columns": {"image": "image", "label": ["a", "b"]},
            "splits": {"train": "train[:80%]", "test": None},
            "max_samples": {"train": 10},
            "streaming": True,
        },
        "run": {"precision": "fp32", "workers": 0},
        "metrics": ["evaluate:accuracy", "function:mine", "log_loss"],
    },
}  # fmt: skip


def make(changes: dict[str, Any], folder: Path) -> Recipe:
    content = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "p"}, **changes}
    return Recipe.from_dict(content, folder)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("absolute_paths", [False, True])
def test_a_written_recipe_loads_back_equal(tmp_path: Path, name: str, absolute_paths: bool) -> None:
    recipe = make(RECIPES[name], tmp_path)
    back = load(recipe.to_yaml(absolute_paths=absolute_paths), folder=tmp_path)
    if absolute_paths:
        assert back.to_yaml(absolute_paths=True) == recipe.to_yaml(absolute_paths=True)
        return
    assert back == recipe
    old, new = recipe.dataset.label_map or {}, back.dataset.label_map or {}
    assert [(key, type(key)) for key in old] == [(key, type(key)) for key in new]


@pytest.mark.parametrize("name", RECIPES)
def test_plain_data_of_a_recipe_makes_it_again(tmp_path: Path, name: str) -> None:
    """But for keys of label_map that are no text: JSON has none, and labels are compared as text."""
    recipe = make(RECIPES[name], tmp_path)
    back = Recipe.from_dict(recipe.to_dict(), tmp_path)
    assert back.to_dict() == recipe.to_dict()


def test_absolute_paths_let_a_recipe_run_from_anywhere(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here / "model", here / "data", here / "mine", there):
        folder.mkdir(parents=True)
    changes = {
        "model": {"name": "model"},
        "dataset": {"path": "data", "data_files": {"train": ["a.csv"]}, "options": {"data_dir": "pictures"}},
        "metrics": ["accuracy", "evaluate:mine", "evaluate:exact_match"],
    }
    recipe = make(changes, here)
    moved = load(recipe.to_yaml(absolute_paths=True), folder=there)
    assert moved.locate(moved.model.name) == str(here / "model")
    assert moved.locate(moved.dataset.path) == str(here / "data")
    assert moved.located_data_files() == {"train": [str(here / "a.csv")]}
    assert moved.dataset.options["data_dir"] == str(here / "pictures")
    assert moved.metrics == ["accuracy", f"evaluate:{here / 'mine'}", "evaluate:exact_match"]


def test_a_recipe_does_not_change(tmp_path: Path) -> None:
    content = {
        "task": "text-classification",
        "model": {"name": "m"},
        "dataset": {"path": "p"},
        "training": {"seed_": 1},
    }
    with pytest.raises(RecipeError):
        Recipe.from_dict(content)
    assert content["training"] == {"seed_": 1}
    recipe = make({}, tmp_path)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        recipe.model.name = "x"  # type: ignore[misc]


def test_null_where_none_is_a_word_means_it() -> None:
    content = {"task": "text-classification", "model": {"name": "m"}, "dataset": {"path": "p"}}
    assert Recipe.from_dict(content | {"tuning": {"warm_start": None}}).tuning.warm_start == "none"
    assert Recipe.from_dict(content).tuning.warm_start == "auto"
