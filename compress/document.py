"""YAML text to plain values that remember their places.

YAML 1.2 rules: `no` and `on` are strings, `1e-4` is a number. A repeated key, a tag, a key that is no string and an alias that
refers to itself or grows without bound are problems, collected with file, line and column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from compress.errors import Problem

PathKey = tuple[str | int, ...]
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_HIDDEN = re.compile("\ue000\ue000(\\w+)\ue001")
_NODE_LIMIT = 20_000
_SIZE_LIMIT = 1_000_000


class _Loader(yaml.SafeLoader):
    """SafeLoader with the core schema of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^(?:[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


@dataclass(frozen=True)
class Place:
    """Where a value stands: line and column count from 1."""

    file: str
    line: int
    column: int
    text: str = ""


@dataclass
class Document:
    """A value, the place of every part of it, and the problems of the text itself."""

    value: Any = None
    places: dict[PathKey, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, path: PathKey, message: str) -> Problem:
        """Return a problem at the place of `path`, or of the nearest part around it that has a place."""
        known = path
        while known and known not in self.places:
            known = known[:-1]
        place = self.places.get(known)
        if place is None:
            return Problem(message)
        return Problem(message, place.file, place.line, place.column, excerpt(place))

    def replace(self, path: PathKey, part: Document) -> None:
        """Put another document's value in place of the part at `path`; what is missing on the way becomes a mapping."""
        for key in [key for key in self.places if key[: len(path)] == path]:
            del self.places[key]
        for key, place in part.places.items():
            self.places[path + key] = place
        self.problems += part.problems
        parent = self.value
        for step in path[:-1]:
            if isinstance(parent, dict) and not isinstance(parent.get(step), dict | list):
                parent[step] = {}
            parent = parent[step]
        parent[path[-1]] = part.value


def excerpt(place: Place) -> str:
    """Return the line of a place with a mark under its column."""
    if not place.text.strip():
        return ""
    return f"    {place.text}\n    {' ' * (place.column - 1)}^"


def parse(text: str, file: str) -> Document:
    """Return the document of a YAML text; problems of the text are in it."""
    document = Document()
    if len(text) > _SIZE_LIMIT:
        document.problems.append(
            Problem(f"the file has {len(text)} characters; a recipe has at most {_SIZE_LIMIT}", file)
        )
        return document
    try:
        node = yaml.compose(_VARIABLE.sub(_hide, text), Loader=_Loader)
    except yaml.YAMLError as error:
        document.problems.append(_syntax_problem(error, text, file))
        return document
    except RecursionError:
        document.problems.append(Problem("the YAML is nested too deeply", file))
        return document
    if node is None:
        document.problems.append(Problem("the file is empty; `compress init` writes a recipe to start from", file))
        return document
    walk = _Walk(document, file, text.splitlines())
    document.value = walk.read(node, (), ())
    return document


def _hide(match: re.Match[str]) -> str:
    """Write ${NAME} with as many characters that YAML takes unquoted inside {…} too."""
    return f"\ue000\ue000{match[1]}\ue001"


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    words = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return Problem(f"not YAML: {words}", file)
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    place = Place(file, mark.line + 1, mark.column + 1, line)
    return Problem(f"not YAML: {words}", file, place.line, place.column, excerpt(place))


class _Walk:
    def __init__(self, document: Document, file: str, lines: list[str]) -> None:
        self.document, self.file, self.lines, self.visited = document, file, lines, 0

    def place(self, node: yaml.Node) -> Place:
        line = node.start_mark.line
        return Place(
            self.file, line + 1, node.start_mark.column + 1, self.lines[line] if line < len(self.lines) else ""
        )

    def complain(self, node: yaml.Node, message: str) -> None:
        place = self.place(node)
        self.document.problems.append(Problem(message, place.file, place.line, place.column, excerpt(place)))

    def read(self, node: yaml.Node, path: PathKey, around: tuple[int, ...]) -> Any:
        self.visited += 1
        if self.visited == _NODE_LIMIT:
            self.complain(node, f"more than {_NODE_LIMIT} values, counting what aliases repeat; write a shorter recipe")
        if self.visited >= _NODE_LIMIT:
            return None
        if id(node) in around:
            self.complain(node, "an alias refers to what it stands in")
            return None
        self.document.places.setdefault(path, self.place(node))
        inside = (*around, id(node))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, inside)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index), inside) for index, item in enumerate(node.value)]
        return self.scalar(node)

    def mapping(self, node: yaml.MappingNode, path: PathKey, inside: tuple[int, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                self.complain(
                    key_node,
                    f"a key must be a word, found {getattr(key_node, 'value', 'a list or mapping')!r}; put it in quotes",
                )
                continue
            if key in result:
                self.complain(key_node, f"the key '{key}' stands here a second time; keep one of them")
                continue
            self.document.places[(*path, key)] = self.place(key_node)
            result[key] = self.read(value_node, (*path, key), inside)
        return result

    def scalar(self, node: yaml.Node) -> Any:
        kind = str(node.tag).rpartition(":")[2]
        text = _HIDDEN.sub(r"${\1}", str(node.value))
        match kind:
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            case "float":
                return float(text)
        self.complain(node, f"tags such as {node.tag} have no meaning in a recipe; remove it")
        return None
