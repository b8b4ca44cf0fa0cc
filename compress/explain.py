"""pydantic's errors in our words: where, what is needed, what was found, the nearest known key."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from compress.document import Document, PathKey
from compress.errors import Problem
from compress.options import Options

_Options = TypeVar("_Options", bound=Options)
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
    "none_required": "null",
    "finite_number": "a finite number",
}


def name_of(path: PathKey) -> str:
    """Return a path as the messages write it: stages[2].quantize.bits."""
    words = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return words.removeprefix(".") or "the recipe"


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ' Did you mean …?' for the nearest known word, or which words there are."""
    listed = sorted(known)
    near = difflib.get_close_matches(word, listed, 1, 0.55)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(listed)}." if listed else ""


def validate(
    kind: type[_Options], value: Any, path: PathKey, document: Document, beside: tuple[str, ...] = ()
) -> _Options | None:
    """Return the options, or None after adding every problem of `value` to the document.

    `beside` are keys that may stand beside the options: suggestions name them too.
    """
    if value is None:
        value = {}
    try:
        return kind.model_validate_json(json.dumps(value))
    except ValidationError as error:
        document.problems += _problems(error, kind, value, path, document, beside)
        return None


def _problems(
    error: ValidationError, kind: type[Options], value: Any, path: PathKey, document: Document, beside: tuple[str, ...]
) -> list[Problem]:
    grouped: dict[PathKey, list[Mapping[str, Any]]] = {}
    for entry in error.errors():
        grouped.setdefault(_data_path(entry["loc"], value), []).append(entry)
    deepest = [
        place for place in grouped if not any(other != place and other[: len(place)] == place for other in grouped)
    ]
    found = []
    for place in deepest:
        names = _names_at(kind, place) | (set(beside) if len(place) == 1 else set())
        found.append(document.problem(path + place, _sentence(path + place, grouped[place], names)))
    return found


def _data_path(location: tuple[int | str, ...], value: Any) -> PathKey:
    """Drop the names of union members from a location: what is left are keys of the data, and at the end one that is missing."""
    path: list[str | int] = []
    for index, step in enumerate(location):
        inside = (isinstance(value, dict) and step in value) or (
            isinstance(value, list) and isinstance(step, int) and step < len(value)
        )
        if inside:
            path.append(step)
            value = value[step]
        elif isinstance(value, dict) and index == len(location) - 1 and str(step).isidentifier():
            path.append(step)
    return tuple(path)


def _names_at(kind: Any, place: PathKey) -> set[str]:
    """Return the option names known where the last step of `place` stands."""
    kinds = {kind}
    for step in place[:-1]:
        kinds = {
            inner
            for outer in kinds
            if step in outer.model_fields
            for inner in _models_in(outer.model_fields[str(step)].annotation)
        }
    return {name for found in kinds for name in found.model_fields}


def _models_in(annotation: Any) -> set[type[Options]]:
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return {annotation}
    return {found for part in getattr(annotation, "__args__", ()) for found in _models_in(part)}


def _sentence(path: PathKey, entries: list[Mapping[str, Any]], names: set[str]) -> str:
    first = entries[0]
    if first["type"] == "extra_forbidden":
        return f"{name_of(path[:-1])} has no option '{path[-1]}'.{suggest(str(path[-1]), names)}"
    if first["type"] == "missing":
        return f"{name_of(path[:-1])} needs '{path[-1]}'"
    if first["type"] == "value_error":
        return f"{name_of(path)}: {first['ctx']['error']}"
    needed = list(dict.fromkeys(_needed(entry) for entry in entries if entry["type"] != "none_required"))
    return f"{name_of(path)} must be {' or '.join(needed)}, got {_shown(first['input'])}"


def _needed(entry: Mapping[str, Any]) -> str:
    kind, context = str(entry["type"]), entry.get("ctx", {})
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"{words} {context[key]}"
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "").replace("False", "false").replace("True", "true")
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        return str(entry["msg"]).lower()
    return _KINDS.get(kind, str(entry["msg"]))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
