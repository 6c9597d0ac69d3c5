"""What recipes mean by YAML: the core schema of version 1.2, with the place of everything."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import yaml

from hf_sft.errors import RecipeError
from hf_sft.yaml12 import dump, parse


def read(text: str) -> Any:
    content, _, findings = parse(text, lambda line, column: f"{line}:{column}")
    assert not findings
    return content


def problem(text: str) -> tuple[str, str, str]:
    """Place, what was found, the fix."""
    with pytest.raises(RecipeError) as caught:
        parse(text, lambda line, column: f"{line}:{column}")
    (finding,) = caught.value.findings
    assert finding.expected == "YAML"
    return finding.place, finding.found, finding.fix


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1E3", 1000.0),
        ("2.", 2.0),
        (".5", 0.5),
        ("-.5e+1", -5.0),
        ("+12", 12),
        ("007", 7),
        ("0o17", 15),
        ("0x1F", 31),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("", None),
        ("~", None),
        ("Null", None),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("tRUE", "tRUE"),
        ("nUll", "nUll"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("017.5.1", "017.5.1"),
        ("0b11", "0b11"),
        ("2026-01-31", "2026-01-31"),
        ("1e", "1e"),
        ("e5", "e5"),
        (".", "."),
        ("-", "-"),
        ("=", "="),
        ("'2e-5'", "2e-5"),
        ('"true"', "true"),
        ("!!str 3", "3"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    found = read(f"key: {text}" if text != "-" else "key: '-'")["key"]
    assert found == value and type(found) is type(value)


def test_not_a_number_is_a_number() -> None:
    assert math.isnan(read("key: .NaN")["key"])


STRANGE = [
    *("2e-5", "1e3", "0o17", "0x1F", "017", "1_000", "12:30", "2026-01-31", ".5", "5.", ".inf", ".nan", "-1", "+1"),
    *("no", "yes", "on", "off", "y", "N", "true", "True", "null", "~", "", " ", "=", "<<", "-", "?", ":"),
    *("#", "!", "&a", "*a", "@", "`", "%", "a: b", "a #b", " lead", "trail ", "two\nlines", "\ttab", "\x07"),
    *("\x85", "\u2028", "é", "日本", "🙂"),
    *("'", '"', "\\", "[a]", "{a}", "a, b", "---", "...", "| x", "> x", "\ufeff", "x" * 300),
]  # fmt: skip


@pytest.mark.parametrize("text", STRANGE)
def test_text_stays_text_for_readers_of_both_versions(text: str) -> None:
    for content in ({"key": text}, {text: "value"}, [text, [text]]):
        assert read(dump(content)) == content
        assert yaml.safe_load(dump(content)) == content


@pytest.mark.parametrize("value", [0, -3, 10**18, 2e-5, 1e300, -0.1, 1.0, True, False, None, [], {}, {1: {2.5: None}}])
def test_values_keep_their_kind(value: Any) -> None:
    for found in (read(dump({"key": value})), yaml.safe_load(dump({"key": value}))):
        assert found == {"key": value} and type(found["key"]) is type(value)


def test_every_key_and_entry_has_its_place() -> None:
    text = "a:\n  b: [1, {c: 2}]\n  1: x\n'true': y\ntrue: z\n"
    _, places, findings = parse(text, lambda line, column: f"{line}:{column}")
    assert places == {
        (): "1:1",
        ("a",): "1:1",
        ("a", "b"): "2:3",
        ("a", "b", "0"): "2:7",
        ("a", "b", "1"): "2:10",
        ("a", "b", "1", "c"): "2:11",
        ("a", "1"): "3:3",
        ("true",): "4:1",
        ("True",): "5:1",
    }
    assert not findings


@pytest.mark.parametrize(
    ("text", "place", "first"),
    [
        ("a: 1\nb: 2\na: 3\n", "3:1 a", "1:1"),
        ("x: {a: 1, a: 1}\n", "1:11 x.a", "1:5"),
        ("x:\n  - {a: 1, 'a': 1}\n", "2:12 x.0.a", "2:6"),
        ("1: x\n0x1: y\n", "2:1 1", "1:1"),
        ("1: x\n'1': y\n", "2:1 1", "1:1"),
        ("'1': x\n1: y\n", "2:1 1", "1:1"),
        ("1: x\ntrue: y\n", "2:1 True", "1:1"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_both_places(text: str, place: str, first: str) -> None:
    _, _, (finding,) = parse(text, lambda line, column: f"{line}:{column}")
    assert finding.place == place
    assert finding.expected == "each key once"
    assert f"at {first} already" in finding.found


@pytest.mark.parametrize(
    ("text", "place", "found", "fix"),
    [
        ("a: 1\n\tb: 2\n", "2:1", "character '\\t'", "spaces, not tabs"),
        ("a: b: c\n", "1:5", "mapping values", "quotes"),
        ("a: [1, 2\nb: 3\n", "2:2", "got ':'", "close the bracket"),
        ("a:\n  b: 1\n   c: 2\n", "3:5", "mapping values", "its own line"),
        ("a: 'x\n", "2:1", "end of stream", ""),
        ("a: 1\n---\nb: 2\n", "2:1", "another document", "one recipe per file"),
        ("a: !!python/object:os.system ls\n", "1:4", "tag", "leave out !"),
        ("a: !!python/object/apply:os.system [ls]\n", "1:4", "tag", "leave out !"),
        ("a: !!binary aGVsbG8=\n", "1:4", "tag", "leave out !"),
        ("a: !!set {b}\n", "1:4", "tag", "leave out !"),
        ("a: !secret b\n", "1:4", "tag", "leave out !"),
        ("a: !!int x\n", "1:1", "invalid literal", ""),
        ("a: !!bool maybe\n", "1:1", "neither true nor false", ""),
        ("a: !!int [1]\n", "1:4", "scalar", ""),
        ("? [a]\n: b\n", "1:3", "unhashable", "one word"),
        ("a: *b\n", "1:4", "undefined alias", ""),
        ("a: &b [1, *b]\n", "1:4", "inside its own anchor", ""),
        ("a: &b {c: *b}\n", "1:4", "inside its own anchor", ""),
        ("a: x\x00y\n", "1:5", "special characters", "cannot be seen"),
        ("a: 1\nb: x\x07y\n", "2:5", "special characters", "cannot be seen"),
        (f"a: {'[' * 60}{']' * 60}\n", "1:53", "50 levels", ""),
        (f"a: {'[' * 5000}{']' * 5000}\n", "1:53", "50 levels", ""),
        (f"a: {'1' * 5000}\n", "1:1", "4300 digits", ""),
    ],
)  # fmt: skip
def test_what_is_no_yaml_is_said_with_its_place_and_a_fix(text: str, place: str, found: str, fix: str) -> None:
    at, what, then = problem(text)
    assert at == place
    assert found in what and not what.startswith("found")
    assert fix in then and bool(fix) == bool(then)


def test_anchors_repeat_what_they_name() -> None:
    assert read("a: &x {b: [1]}\nc: *x\nd: [*x, *x]\n") == {"a": {"b": [1]}, "c": {"b": [1]}, "d": [{"b": [1]}] * 2}


@pytest.mark.parametrize(("levels", "refused"), [(3, False), (5, True), (10, True), (100, True)])
def test_aliases_of_aliases_are_followed_until_they_explode(levels: int, refused: bool) -> None:
    """Ten levels of ten aliases each are ten thousand million entries, once they are written down."""
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels + 1)]
    with pytest.raises(RecipeError, match="more than 100,000 entries") if refused else nullcontext():
        _, places, _ = parse("\n".join(lines), lambda line, column: "")
        assert len(places) < 200


def test_merge_keys_are_keys() -> None:
    assert read("a: &x {b: 1}\nc: {<<: *x}\n")["c"] == {"<<": {"b": 1}}


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "~\n"])
def test_an_empty_document_is_nothing(text: str) -> None:
    assert read(text) is None
