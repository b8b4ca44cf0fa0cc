"""pydantic's errors in our words: where, what is needed, what was found, the nearest known key."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError

from compress.document import Document, PathKey
from compress.options import NEEDED, Options

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


def shown(value: Any) -> str:
    """Return a value as messages write it: as YAML has it, not too long."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def validate(
    kind: type[_Options], value: Any, path: PathKey, document: Document, beside: tuple[str, ...] = ()
) -> _Options | None:
    """Return the options, or None after adding every problem of `value` to the document.

    `beside` are keys that may stand beside the options: suggestions name them too.
    """
    try:
        return kind.model_validate_json(json.dumps(value))
    except ValidationError as error:
        grouped: dict[PathKey, list[Mapping[str, Any]]] = {}
        for entry in error.errors():
            grouped.setdefault(_data_path(entry["loc"], value), []).append(entry)
    for place, entries in grouped.items():
        # of a union, the member that got furthest is what was meant
        if not any(other != place and other[: len(place)] == place for other in grouped):
            names = _names_at(kind, place) | (set(beside) if len(place) == 1 else set())
            document.complain(path + place, _sentence(path + place, entries, names))
    return None


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
    kinds = [kind]
    for step in place[:-1]:
        kinds = [inner for outer in kinds for inner in _inside(outer, step)]
    models = {found for outer in kinds for found in _models_in(outer)}
    return {field.alias or name for found in models for name, field in found.model_fields.items()}


def _inside(annotation: Any, step: str | int) -> list[Any]:
    """Return the annotations of what stands under `step` in a value of this annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return [annotation.model_fields[str(step)].annotation] if step in annotation.model_fields else []
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return [arguments[1]]
    if origin is Literal:
        return []
    if origin is list:
        return list(arguments)
    return [inner for part in arguments for inner in _inside(part, step)]


def _models_in(annotation: Any) -> set[type[Options]]:
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return {annotation}
    if get_origin(annotation) in (dict, Literal):
        return set()
    return {found for part in get_args(annotation) for found in _models_in(part)}


def _sentence(path: PathKey, entries: list[Mapping[str, Any]], names: set[str]) -> str:
    first = entries[0]
    if first["type"] == "extra_forbidden":
        # a word that stands for a mapping has no place of its own in the text
        word = str(first["loc"][-1])
        holder = path[:-1] if str(path[-1]) == word else path
        return f"{name_of(holder)} has no option '{word}'.{suggest(word, names)}"
    if first["loc"][-1:] == ("[key]",):
        known = re.findall(r"'(\w+)'", first.get("ctx", {}).get("expected", ""))
        return f"{name_of(path[:-1])} has no option '{path[-1]}'.{suggest(str(path[-1]), known)}"
    if first["type"] == "missing":
        return f"{name_of(path[:-1])} needs '{path[-1]}'"
    if first["type"] == "value_error":
        return f"{name_of(path)}: {first['ctx']['error']}"
    needed = list(dict.fromkeys(_needed(entry) for entry in entries))
    value = first["input"]
    hint = f"; write {value:.0f}" if first["type"].startswith("int_") and _is_whole(value) else ""
    return f"{name_of(path)} must be {' or '.join(needed)}, got {shown(value)}{hint}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer() and abs(value) < 1e15


def _needed(entry: Mapping[str, Any]) -> str:
    kind, context = str(entry["type"]), entry.get("ctx", {})
    if kind == NEEDED:
        return str(context["words"])
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"{words} {context[key]:.12g}"
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "").replace("False", "false").replace("True", "true")
    if kind == "too_short":
        return f"a list of at least {context['min_length']}"
    if kind == "string_too_short":
        return f"text of at least {_count(context['min_length'], 'character')}"
    return _KINDS.get(kind, str(entry["msg"]).lower())


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
