"""Whatever stands in a recipe file, on the command line or in a dict: a recipe comes out, or our error, and soon."""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from generated import ODD_TEXT, ODD_VALUES, bounded, examples
from hypothesis import given
from hypothesis import strategies as st

from hf_sft.errors import RecipeError
from hf_sft.recipe import Recipe
from hf_sft.recipe_file import MAX_FINDINGS, MAX_SIZE, MAX_TEXT
from hf_sft.yaml12 import MAX_DEPTH, MAX_ENTRIES, parse

RECIPES = sorted(Path(__file__).parents[2].glob("recipes/*.yaml"))
EVERY_KEY = """\
# every key of a recipe
task: text-classification
model: {name: ./bert, revision: main, weights: null, config: {hidden_dropout_prob: 0.0, id2label: {0: a}}, head: new}
dataset:
  path: csv
  name: null
  data_files: {train: [a.csv, "b c.csv"], test: 'c.csv'}
  options: &options {sep: ";", encoding: latin-1, na_values: [-1, "n/a"]}
  columns: {text: [subject, body], label: queue}
  splits: {train: "train[:80%]", validation: null}
  validation_fraction: 1e-1
  group_column: author
  labels:
  - negative
  - positive
  label_map: {1: negative, 2.5: positive, false: positive, "3": null}
  problem: single_label
  max_samples: {train: 1_000}
  on_bad_row: skip
  sampling: natural
  streaming: false
processor: {max_length: 128}
tuning: {strategy: head}
objective:
  label_smoothing: 0.1
  class_weights: {negative: 2, 1: 0.5}
  focal_gamma: 0
  mixup: null
training:
  learning_rate: 2e-5
  num_train_epochs: 3
  optim: adamw_torch
  lr_scheduler_kwargs: {power: 2.0}
  warmup_ratio: 0.1
metrics: [macro_f1, "evaluate:./mine", function:mine]
early_stopping: {patience: 2, threshold: 0.0}
run: {precision: fp32, workers: 2}
resume: never
seed: 7
output_dir: runs/$HOME/every key
""".replace("1_000", "1000")


def content_of(text: str) -> Any:
    return parse(text, lambda line, column: "")[0]


WRITTEN = Recipe.from_dict(content_of(EVERY_KEY)).to_yaml()  # with the defaults of keys that came later
TEXTS = [EVERY_KEY, WRITTEN, *(path.read_text(encoding="utf-8") for path in RECIPES)]
LONGEST_ERROR = (MAX_FINDINGS + 1) * 4 * (MAX_TEXT + 20)


def loads(content: bytes, overrides: Sequence[str], folder: Path) -> Recipe | None:
    """The recipe; None where it is refused. Whatever comes out keeps the laws of all recipes."""
    file = folder / "r.yaml"
    file.write_bytes(content)
    with bounded():
        try:
            recipe = Recipe.load(file, overrides)
        except RecipeError as error:
            keeps_laws_of_errors(error)
            return None
        keeps_laws_of_recipes(recipe, folder)
    return recipe


def keeps_laws_of_errors(error: RecipeError) -> None:
    assert len(str(error)) < LONGEST_ERROR
    assert error.findings and all(finding.place for finding in error.findings)
    str(error).encode()  # it can be printed


def keeps_laws_of_recipes(recipe: Recipe, folder: Path) -> None:
    """It can be written down, and means the same when it is read again, from here and from elsewhere."""
    copied = folder / "copy.yaml"
    copied.write_text(recipe.to_yaml(), encoding="utf-8")
    again = Recipe.load(copied)
    assert again.to_yaml() == recipe.to_yaml()
    if not any(map(math.isnan, numbers(recipe.model_dump()))):  # which equal nothing
        assert again.model_dump() == recipe.model_dump()
    copied.write_text(recipe.to_yaml(absolute_paths=True), encoding="utf-8")
    Recipe.load(copied)


def numbers(value: Any) -> list[float]:
    if isinstance(value, (dict, list)):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return [number for part in parts for number in numbers(part)]
    return [value] if isinstance(value, float) else []


@st.composite
def edited_texts(draw: st.DrawFn) -> bytes:
    """A right recipe after some slips of the keyboard, or of what carried it."""
    lines = draw(st.sampled_from(TEXTS)).splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(lines) - 1))
        line = lines[place]
        column = draw(st.integers(0, len(line)))
        kind = draw(st.sampled_from(["insert", "insert", "value", "delete", "cut", "repeat", "move", "indent"]))
        if kind == "insert":
            lines[place] = line[:column] + draw(ODD_TEXT) + line[column:]
        elif kind == "value":
            lines[place] = line.partition(":")[0] + ": " + draw(ODD_TEXT) + "\n"
        elif kind == "delete":
            lines[place] = line[:column] + line[column + draw(st.integers(1, 5)) :]
        elif kind == "cut":
            lines = lines[: place + 1]
        elif kind == "repeat":
            lines.insert(draw(st.integers(0, len(lines))), line)
        elif kind == "move":
            lines[place], other = "", lines[place]
            lines.insert(draw(st.integers(0, len(lines))), other)
        else:
            lines[place] = draw(st.sampled_from([" ", "  ", "\t", "- "])) + line
    content = "".join(lines).encode("utf-8", "replace")
    ending = draw(st.sampled_from([b""] * 12 + [b"\xff", b"\0", b"\xed\xa0\x80", b"\r\n\x1a"]))
    start = draw(st.sampled_from([b""] * 12 + [b"\xef\xbb\xbf", b"\xff\xfe", b"\xef\xbb\xbf\xef\xbb\xbf"]))
    return start + content + ending


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places_in(item, (*path, key)))]


CONTENTS = [content_of(text) for text in TEXTS]
PLACES = [[place for place in places_in(content) if place] for content in CONTENTS]


@st.composite
def edited_contents(draw: st.DrawFn) -> dict[Any, Any]:
    """A right recipe with some values (or sections) replaced, removed, or beside others that do not belong there."""
    number = draw(st.integers(0, len(CONTENTS) - 1))
    content: Any = copy.deepcopy(CONTENTS[number])
    for _ in range(draw(st.integers(1, 3))):
        *parents, key = draw(st.sampled_from(PLACES[number]))
        inside = content
        for parent in parents:
            try:
                inside = inside[parent]
            except (KeyError, IndexError, TypeError):
                break
        if not isinstance(inside, dict):
            continue
        kind = draw(st.sampled_from(["value", "value", "remove", "add"]))
        if kind == "value":
            inside[key] = draw(ODD_VALUES)
        elif kind == "remove":
            inside.pop(key, None)
        else:
            inside[draw(st.one_of(st.text(max_size=8), st.integers(), st.booleans(), st.none()))] = draw(ODD_VALUES)
    return content


@examples(0.45)
@given(edited_texts())
def test_any_edit_of_a_recipe_loads_or_is_refused(tmp_path: Path, content: bytes) -> None:
    loads(content, (), tmp_path)


@examples(0.2)
@given(edited_contents())
def test_any_value_anywhere_loads_or_is_refused(tmp_path: Path, content: dict[Any, Any]) -> None:
    text = yaml.dump(content, allow_unicode=True, sort_keys=False)
    loads(text.encode("utf-8", "surrogatepass"), (), tmp_path)


@examples(0.15)
@given(edited_contents())
def test_any_dict_makes_a_recipe_or_is_refused(tmp_path: Path, content: dict[Any, Any]) -> None:
    with bounded():
        try:
            recipe = Recipe.from_dict(content)
        except RecipeError as error:
            keeps_laws_of_errors(error)
        else:
            keeps_laws_of_recipes(recipe, tmp_path)


@examples(0.1)
@given(st.one_of(st.lists(ODD_TEXT, max_size=30).map(" ".join), st.lists(ODD_TEXT, max_size=30).map("\n".join)))
def test_any_text_loads_or_is_refused(tmp_path: Path, text: str) -> None:
    loads(text.encode("utf-8", "surrogatepass"), (), tmp_path)


@examples(0.1)
@given(
    st.lists(
        st.one_of(
            st.builds("{}={}".format, st.lists(ODD_TEXT, min_size=1, max_size=4).map(".".join), ODD_TEXT),
            st.builds(
                "{}={}".format,
                st.sampled_from([".".join(map(str, place)) for place in itertools.chain(*PLACES)]),
                ODD_TEXT,
            ),
            ODD_TEXT,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_override_is_taken_or_refused(tmp_path: Path, overrides: list[str]) -> None:
    loads(EVERY_KEY.encode(), overrides, tmp_path)


# --- what random search seldom comes upon


@pytest.mark.parametrize("odd", [2**64, "a\0b", "\udc80", -(2**70)])
def test_a_dict_holds_what_a_file_can_hold(odd: Any) -> None:
    right = content_of(EVERY_KEY)
    for inside in ({"x": odd}, {odd: 1}, {"x": [{"y": odd}]}):
        with pytest.raises(RecipeError, match=r"model\.config"):
            Recipe.from_dict({**right, "model": {"name": "m", "config": inside}})
    cycle: dict[str, Any] = {}
    cycle["x"] = cycle
    with pytest.raises(RecipeError, match="levels"):
        Recipe.from_dict({**right, "model": {"name": "m", "config": cycle}})


def test_what_is_edited_is_right(tmp_path: Path) -> None:
    for text in TEXTS:
        assert loads(text.encode(), (), tmp_path) is not None
    assert content_of(WRITTEN).keys() == Recipe.model_fields.keys()


def test_keys_that_are_numbers_stay_numbers_when_written_down(tmp_path: Path) -> None:
    recipe = loads(
        b"task: text-classification\nmodel: {name: m, config: {a: {0: x}}}\ndataset: {path: d}\n", (), tmp_path
    )
    assert recipe is not None
    (tmp_path / "again.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(tmp_path / "again.yaml").model.config == {"a": {0: "x"}}


def bomb(levels: int) -> str:
    entries = ["k0: &a0 [x, x]"]
    entries += [f"k{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return (
        "task: text-classification\ndataset: {path: d}\nmodel:\n  name: m\n  config:\n    "
        + "\n    ".join(entries)
        + "\n"
    )


@pytest.mark.parametrize("end", ["", "metrics: *a7\n", "seed: *a7\n", "*a7: 1\n"])
def test_aliases_of_aliases_do_not_explode(tmp_path: Path, end: str) -> None:
    assert loads((bomb(30) + end).encode(), (), tmp_path) is None


def test_aliases_that_stay_small_are_followed(tmp_path: Path) -> None:
    recipe = loads(bomb(4).encode(), (), tmp_path)
    assert recipe is not None and len(recipe.model.config["k3"]) == 9
    assert str(recipe.model.config).count("x") < MAX_ENTRIES


@pytest.mark.parametrize("value", ["[" * 500, "{a: " * 500, "[" * 5000, "- " * 2000, "&a [*a]"])
def test_nesting_without_end_is_refused(tmp_path: Path, value: str) -> None:
    assert loads(f"{EVERY_KEY}x: {value}\n".encode(), (), tmp_path) is None
    assert loads(EVERY_KEY.encode(), [f"model.config.x={value}"], tmp_path) is None


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 5000])
def test_keys_below_keys_without_end_are_refused(tmp_path: Path, depth: int) -> None:
    assert loads(EVERY_KEY.encode(), ["model.config" + ".a" * depth + "=1"], tmp_path) is None


@pytest.mark.parametrize("number", ["0x" + "f" * 5000, "9" * 5000, str(2**64), "0o" + "7" * 5000])
@pytest.mark.parametrize("key", ["seed", "model.config.x", "training.num_train_epochs", "dataset.max_samples.train"])
def test_numbers_beyond_64_bits_are_refused(tmp_path: Path, key: str, number: str) -> None:
    assert loads(EVERY_KEY.encode(), [f"{key}={number}"], tmp_path) is None


@pytest.mark.parametrize("text", ['"\\ud800"', '"a\\udfff"', '"a\\0b"'])
@pytest.mark.parametrize("key", ["model.config.x", "output_dir", "dataset.path"])
def test_text_that_no_file_can_hold_is_refused(tmp_path: Path, key: str, text: str) -> None:
    assert loads(EVERY_KEY.encode(), [f"{key}={text}"], tmp_path) is None


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody_of_that_name/x", "a/" * 3000 + "x", "/" + "b" * 400])
def test_names_that_no_file_can_have_are_names(tmp_path: Path, name: str) -> None:
    overrides = [f"{key}={name}" for key in ("model.name", "dataset.path", "dataset.data_files", "output_dir")]
    assert loads(EVERY_KEY.encode(), overrides, tmp_path) is not None


def test_a_thousand_mistakes_are_told_in_short(tmp_path: Path) -> None:
    text = EVERY_KEY + "".join(f"key_{number}: {'x' * 2000}\n" for number in range(300))
    text += "".join(f"? {'y' * 1000}{number}\n: 1\n" for number in range(100))
    assert loads(text.encode(), (), tmp_path) is None


@pytest.mark.parametrize("size", [MAX_SIZE + 1, 300_000_000])
def test_a_file_too_large_for_a_recipe_is_not_read(tmp_path: Path, size: int) -> None:
    file = tmp_path / "data.csv"
    with file.open("wb") as stream:
        stream.truncate(size)
    with bounded(0.5), pytest.raises(RecipeError, match="more than 1,000,000 bytes"):
        Recipe.load(file)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_a_device_without_end_is_not_read() -> None:
    with bounded(0.5), pytest.raises(RecipeError):
        Recipe.load("/dev/zero")


@pytest.mark.parametrize("name", ["a\0b", "", ".", os.sep, "x" * 5000])
def test_names_of_no_recipe_are_refused(name: str) -> None:
    with pytest.raises(RecipeError):
        Recipe.load(name)
