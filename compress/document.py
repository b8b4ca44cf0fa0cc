"""YAML text to plain values that remember their places.

YAML 1.2 rules: `no` and `on` are strings, `1e-4` is a number, dates stay strings. A repeated key, a tag, a merge key, a
key that is no string and an alias that refers to itself are problems, collected with file, line and column. Depth, size
and what aliases repeat are bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from compress.errors import Problem

PathKey = tuple[str | int, ...]
SIZE_LIMIT = 200_000
_NODE_LIMIT = 20_000
_DEPTH_LIMIT = 32
_INTEGER_LIMIT = 2**63
_INTEGER_CHARACTERS = 40
_EXCERPT_WIDTH = 110
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_HIDDEN = re.compile("\ue000\ue000(\\w+)\ue001")
_PLAIN_WORDS = {
    "found character '\\t' that cannot start any token": "a tab stands here; YAML takes spaces only",
    "mapping values are not allowed here": "a ':' is not allowed here; look at the indent, or put the text in quotes",
    "but found another document": "a second document starts here; a recipe is one document",
    "second occurrence": "this anchor is there a second time",
}


class _Refused(yaml.MarkedYAMLError):
    """YAML that is well-formed, and still not read."""

    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(problem=problem, problem_mark=mark)
        self.words, self.mark = problem, mark


class _Loader(yaml.SafeLoader):
    """SafeLoader with the core schema of YAML 1.2. Tags are noted and not followed; nesting is bounded."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.tags: list[tuple[str, yaml.Mark]] = []
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if self.depth > _DEPTH_LIMIT:
            raise _Refused(f"nested more than {_DEPTH_LIMIT} deep", event.start_mark)
        if getattr(event, "tag", None) is not None:
            self.tags.append((event.tag.replace("tag:yaml.org,2002:", "!!"), event.start_mark))
            event.tag = None
            if isinstance(event, yaml.ScalarEvent):
                event.implicit = (event.style is None, event.style is not None)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


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

    def problem(self, message: str) -> Problem:
        """Return a problem at this place."""
        return Problem(message, self.file, self.line, self.column, excerpt(self))


@dataclass
class Document:
    """A value, the place of every part of it, and the problems found so far.

    unread   parts whose text could not be read: that is said once, and nothing else is said of them
    changed  parts in which --set changed something, with that --set
    files    the recipe and every --set, in order
    """

    value: Any = None
    places: dict[PathKey, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unread: set[PathKey] = field(default_factory=set)
    changed: dict[PathKey, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def problem(self, path: PathKey, message: str) -> Problem:
        """Return a problem at the place of `path`, or of the nearest part around it that has a place."""
        known = path
        while known and known not in self.places:
            known = known[:-1]
        place = self.places.get(known)
        if place is None:
            return Problem(message, self.files[0] if self.files else "")
        if path in self.changed and place.file != self.changed[path]:
            message += f" (with {self.changed[path]})"
        return place.problem(message)

    def complain(self, path: PathKey, message: str) -> None:
        """Note a problem at `path`, unless its text, or a part of it, could not be read anyway."""
        inside = any(path[:length] in self.unread for length in range(len(path) + 1))
        if not inside and not (path and any(part[: len(path)] == path for part in self.unread)):
            self.problems.append(self.problem(path, message))

    def in_order(self, problems: list[Problem]) -> list[Problem]:
        """Return the problems, each once, as a reader meets them: down the recipe, then --set by --set."""
        order = {file: index for index, file in enumerate(self.files)}
        unique = dict.fromkeys(problems)
        return sorted(unique, key=lambda found: (order.get(found.file, len(order)), found.line, found.column))

    def replace(self, path: PathKey, part: Document) -> None:
        """Put another document's value in place of the part at `path`; what is missing on the way becomes a mapping."""
        parent, label = self.value, part.files[0]
        for length, step in enumerate(path[:-1], 1):
            if isinstance(parent, dict) and not isinstance(parent.get(step), dict | list):
                parent[step] = {}
                self.places[path[:length]] = part.places[()]
            parent = parent[step]
            self.changed[path[:length]] = label
        parent[path[-1]] = part.value
        for key in [key for key in self.places if key[: len(path)] == path]:
            del self.places[key]
        self.unread -= {key for key in self.unread if key[: len(path)] == path}
        self.places |= {path + key: place for key, place in part.places.items()}
        self.unread |= {path + key for key in part.unread}
        self.problems += part.problems


def excerpt(place: Place) -> str:
    """Return the line of a place with a mark under its column; of a long line the part around it."""
    if not place.text.strip():
        return ""
    start = max(0, place.column - 1 - _EXCERPT_WIDTH // 2) if len(place.text) > _EXCERPT_WIDTH else 0
    # what cannot be printed could steer the terminal
    shown = "".join(character if character.isprintable() else " " for character in place.text)
    shown = shown[start : start + _EXCERPT_WIDTH].rstrip()
    return f"    {shown}\n    {' ' * (place.column - 1 - start)}^"


def parse(text: str, file: str) -> Document:
    """Return the document of a YAML text; problems of the text are in it. An empty text is null."""
    document = Document(files=[file])
    if len(text) > SIZE_LIMIT:
        document.problems.append(Problem(f"more than {SIZE_LIMIT} characters, too long for a recipe", file, 1, 1))
        return document
    lines = text.splitlines()
    try:
        loader = _Loader(_VARIABLE.sub(_hide, text))
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        document.problems.append(_syntax_problem(error, text, file))
        return document
    walk = _Walk(document, file, lines)
    for tag, mark in loader.tags:
        document.problems.append(walk.place(mark).problem(f"the tag {tag} has no meaning in a recipe; remove it"))
    document.places[()] = walk.place(node.start_mark) if node else Place(file, 1, 1, lines[0] if lines else "")
    try:
        document.value = walk.read(node, (), ()) if node else None
    except _Refused as error:
        # one problem for the whole text: what was read of it is a part, and would be wrong in many ways
        document.problems = [walk.place(error.mark).problem(error.words)]
        document.unread.add(())
    return document


def _hide(match: re.Match[str]) -> str:
    """Write ${NAME} with as many characters that YAML takes unquoted inside {…} too."""
    return f"\ue000\ue000{match[1]}\ue001"


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position].splitlines() or [""]
        line = text.splitlines()[len(before) - 1]
        found = f"the character U+{ord(text[error.position]):04X} cannot stand in YAML; remove it"
        return Place(file, len(before), len(before[-1]) + 1, line).problem(found)
    words, mark = getattr(error, "problem", None) or str(error), getattr(error, "problem_mark", None)
    if not isinstance(error, _Refused):
        words = f"not YAML: {_PLAIN_WORDS.get(words, words)}"
    lines = text.splitlines() or [""]
    if mark is None:
        return Problem(words, file, 1, 1)
    return Place(file, mark.line + 1, mark.column + 1, lines[mark.line] if mark.line < len(lines) else "").problem(
        words
    )


class _Walk:
    """Reads nodes into values; what is wrong goes into the document."""

    def __init__(self, document: Document, file: str, lines: list[str]) -> None:
        self.document, self.file, self.lines, self.visited = document, file, lines, 0

    def place(self, mark: yaml.Mark) -> Place:
        return Place(
            self.file, mark.line + 1, mark.column + 1, self.lines[mark.line] if mark.line < len(self.lines) else ""
        )

    def complain(self, node: yaml.Node, message: str, unread: PathKey | None = None) -> None:
        self.document.problems.append(self.place(node.start_mark).problem(message))
        if unread is not None:
            self.document.unread.add(unread)

    def read(self, node: yaml.Node, path: PathKey, around: tuple[int, ...]) -> Any:
        self.visited += 1
        if self.visited > _NODE_LIMIT or len(path) > _DEPTH_LIMIT:
            limit = f"{_NODE_LIMIT} values" if self.visited > _NODE_LIMIT else f"{_DEPTH_LIMIT} levels"
            message = f"more than {limit}, counting what aliases repeat; write a shorter recipe"
            raise _Refused(message, node.start_mark)
        if id(node) in around:
            self.complain(node, "an alias refers to what it stands in", path)
            return None
        self.document.places.setdefault(path, self.place(node.start_mark))
        inside = (*around, id(node))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, inside)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index), inside) for index, item in enumerate(node.value)]
        return self.scalar(node, path)

    def mapping(self, node: yaml.MappingNode, path: PathKey, inside: tuple[int, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            plain, before = isinstance(key_node, yaml.ScalarNode), len(self.document.problems)
            key = self.scalar(key_node, path) if plain else None
            if len(self.document.problems) > before:
                continue
            if not isinstance(key, str):
                found = f"found {key_node.value}; put it in quotes" if plain else "found a list or a mapping"
                self.complain(key_node, f"a key must be a word, {found}")
            elif key == "<<":
                self.complain(key_node, "merge keys (<<) are not read; write the options out")
            elif key in result:
                self.complain(key_node, f"the key '{key}' stands here a second time; keep one of them")
            else:
                self.document.places[(*path, key)] = self.place(key_node.start_mark)
                result[key] = self.read(value_node, (*path, key), inside)
        return result

    def scalar(self, node: yaml.Node, path: PathKey) -> Any:
        text = _HIDDEN.sub(r"${\1}", str(node.value))
        match str(node.tag).rpartition(":")[2]:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return self.integer(node, text, path)
            case "float":
                return float(text)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.complain(node, "half a character (a surrogate) stands here; write the whole one", path)
            return None
        return text

    def integer(self, node: yaml.Node, text: str, path: PathKey) -> int | None:
        if len(text) <= _INTEGER_CHARACTERS:
            value = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            if abs(value) < _INTEGER_LIMIT:
                return value
        self.complain(node, "this number is too large; whole numbers go to 2^63", path)
        return None
