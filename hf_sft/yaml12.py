"""YAML 1.2 as recipes use it: scalars by the core schema, the place of every key, mistakes as findings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from hf_sft.errors import Finding, RecipeError

Places = dict[tuple[str, ...], str]  # path of keys and positions -> where it stands
MAX_DEPTH = 50  # levels of nesting; a recipe needs five
MAX_ENTRIES = 100_000  # with what aliases repeat; dataset.labels of ImageNet-21k has 22,000
MAX_PROBLEM = 300  # characters of PyYAML's words, which quote the document

_SCALARS = (  # (tag, pattern, first characters); https://yaml.org/spec/1.2.2, section 10.3.2
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+0123456789."),  # noqa: E501
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)  # fmt: skip
_TAG = "tag:yaml.org,2002:"
_FIXES = (  # what PyYAML's words for a problem mean to somebody who wrote a recipe
    (r"'\t'", "use spaces, not tabs"),
    ("mapping values", "put text that holds ': ' in quotes, and begin each key on its own line"),
    ("another document", "one recipe per file: remove the line ---"),
    ("<block mapping start>", "indent the keys of one section alike"),
    ("expected ',' or", "close the bracket; put text that holds one of , : [ ] { } in quotes"),
    ("tag ", "leave out !...; a recipe holds text, numbers, true, false, null, lists and keys"),
    ("special characters", "remove the character that cannot be seen"),
    ("unhashable", "a key is one word"),
)


class _Loader(yaml.SafeLoader):
    """`2e-5` is a number, `no` and `12:30` are words; merge keys, dates and sets are none of YAML 1.2's."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuses deep nesting as it is read: PyYAML would recurse into it, slower with each level."""
        self.depth += 1
        if self.depth > MAX_DEPTH and self.check_event(yaml.CollectionStartEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_DEPTH} levels of nesting", mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Dumper(yaml.SafeDumper):
    """Text that either version of YAML would read as something else is put in quotes."""


def _construct_bool(loader: yaml.SafeLoader, node: yaml.Node) -> bool:
    text = loader.construct_scalar(node).lower()  # type: ignore[arg-type]
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def _construct_int(loader: yaml.SafeLoader, node: yaml.Node) -> int:
    text = loader.construct_scalar(node)  # type: ignore[arg-type]
    number = int(text, 8) if text.startswith("0o") else int(text, 16) if text.startswith("0x") else int(text)
    if problem := unwritable(number):
        raise _unconstructed(problem, node)
    return number


def _construct_text(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    text: str = loader.construct_scalar(node)  # type: ignore[arg-type]
    if problem := unwritable(text):
        raise _unconstructed(problem, node)
    return text


def unwritable(value: Any) -> str:
    r"""Why a value can stand in no recipe ("\ud800" and "\0" make text that no file can hold); empty where it can."""
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a whole number of more than 64 bits"  # which Python itself may refuse to print
    if isinstance(value, str) and "\0" in value:
        return "a zero byte in text"
    lone = isinstance(value, str) and not value.isascii() and re.search("[\ud800-\udfff]", value)
    return "half a character in text" if lone else ""


def _unconstructed(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _construct_float(loader: yaml.SafeLoader, node: yaml.Node) -> float:
    return float(loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))  # type: ignore[arg-type]


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """In double quotes where a character cannot be seen: only there it can be escaped."""
    unseen = not text.isascii() and not text.replace("\n", "").isprintable()
    return dumper.represent_scalar(f"{_TAG}str", text, style='"' if unseen else None)


_Dumper.add_representer(str, _represent_text)
_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {first: [*known] for first, known in yaml.SafeDumper.yaml_implicit_resolvers.items()}
for _name, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), [*_first])
_Loader.yaml_constructors = {
    tag: function
    for tag, function in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag in (_TAG + "null", _TAG + "seq", _TAG + "map")
} | {
    _TAG + "str": _construct_text,
    _TAG + "bool": _construct_bool,
    _TAG + "int": _construct_int,
    _TAG + "float": _construct_float,
}


def dump(content: Any) -> str:
    """Plain data as YAML that `parse` and readers of YAML 1.1 read alike; what cannot be seen in text is escaped."""
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text if text.isascii() else "".join(map(_escape_unseen, text))


def _escape_unseen(letter: str) -> str:
    """U+202E, say, which PyYAML leaves as it is and which turns the line around for who reads it."""
    return letter if letter.isprintable() or letter == "\n" else f"\\U{ord(letter):08X}"


def parse(text: str, place: Callable[[int, int], str]) -> tuple[Any, Places, list[Finding]]:
    """One document -> (its content, the place of every key and list entry, keys that stand twice).

    place: (line, column), from 1 -> how that place is written. Raises RecipeError where the text is no YAML.
    """

    def where(mark: yaml.Mark) -> str:
        return place(mark.line + 1, mark.column + 1)

    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, {(): place(1, 1)}, []
        noted = _Noted(loader, where)
        noted.walk(root, (), frozenset())
        return loader.construct_document(root), {(): place(1, 1), **noted.places}, noted.findings
    except yaml.reader.ReaderError as error:
        before = text[: error.position].splitlines() or [""]
        raise _no_yaml(place(len(before), len(before[-1]) + 1), error.reason) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _no_yaml(where(mark) if mark else place(1, 1), error.problem or str(error)) from None
    except (yaml.YAMLError, ValueError) as error:
        raise _no_yaml(place(1, 1), str(error)) from None
    finally:
        if loader is not None:
            loader.dispose()


def _no_yaml(place: str, problem: str) -> RecipeError:
    fix = next((fix for words, fix in _FIXES if words in problem), "")
    found = re.sub("^(found|but found) ", "", problem)[:MAX_PROBLEM]
    return RecipeError(Finding(place=place, expected="YAML", found=found, fix=fix))


class _Noted:
    """The places found while walking a document. What an alias repeats is walked once, at its anchor."""

    def __init__(self, loader: _Loader, where: Callable[[yaml.Mark], str]):
        self.loader, self.where = loader, where
        self.places: Places = {}
        self.findings: list[Finding] = []
        self.walked: dict[int, int] = {}  # node -> its entries, with what aliases repeat

    def walk(self, node: yaml.Node, path: tuple[str, ...], within: frozenset[int]) -> int:
        """The number of entries below the node, 1 for a scalar."""
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if id(node) in within or len(within) >= MAX_DEPTH:
            problem = "an alias inside its own anchor" if id(node) in within else f"more than {MAX_DEPTH} levels"
            raise _unconstructed(problem, node)
        if id(node) in self.walked:
            return self.walked[id(node)]
        if isinstance(node, yaml.MappingNode):
            entries = self._walk_keys(node, path, within | {id(node)})
        else:
            entries = 1
            for position, entry in enumerate(node.value):
                self.places[(*path, str(position))] = self.where(entry.start_mark)
                entries += self.walk(entry, (*path, str(position)), within | {id(node)})
        if entries > MAX_ENTRIES:
            raise _unconstructed(f"more than {MAX_ENTRIES:,} entries, with what aliases repeat", node)
        self.walked[id(node)] = entries
        return entries

    def _walk_keys(self, node: yaml.MappingNode, path: tuple[str, ...], within: frozenset[int]) -> int:
        entries = 1
        seen: dict[Any, str] = {}
        for key_node, value in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # refused when the content is made
            key = self.loader.construct_object(key_node)
            here = (*path, str(key))
            place = self.where(key_node.start_mark)
            earlier = seen.get(key) or seen.get(str(key))  # 1 and "1" name the same label, 1 and true the same entry
            if earlier:
                found = f"{key} twice" if earlier == place else f"{key} again; it stands at {earlier} already"
                self.findings.append(Finding(place=f"{place} {'.'.join(here)}", expected="each key once", found=found))
            seen[key] = seen[str(key)] = place
            self.places[here] = place
            entries += self.walk(value, here, within)
        return entries
