"""What `compress stages` prints, from the table of verbs and the options classes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from compress.errors import CommandError
from compress.explain import suggest
from compress.stages import STAGES

_WIDTH = 80


def all_stages() -> str:
    """Return a line for each verb."""
    lines = [f"{word:9} {stage.summary}" for word, stage in STAGES.items()]
    return "\n".join([*lines, "", "compress stages WORD lists the options of one."])


def one_stage(word: str) -> str:
    """Return the options of a verb with their kinds, defaults and meanings.

    Raises CommandError for a word that is no verb.
    """
    if word not in STAGES:
        raise CommandError(f"there is no stage '{word}'.{suggest(word, STAGES)}")
    stage = STAGES[word]
    lines = [f"{word}: {stage.summary}", ""]
    if stage.gives == "torch":
        lines += ["  id: text", f"      names the artifact (default {word})"]
    lines += ["  from: text or list", "      id or ids to start from (default: the line above)"]
    schema = stage.options.model_json_schema()
    lines += _options(schema, schema.get("$defs", {}), "  ")
    where = "" if stage.reads_text is None else " where its options read text"
    uses = [f"data.{part}{where}" for part in stage.needs] + (["teacher"] if stage.teacher else [])
    return "\n".join(
        [
            *lines,
            "",
            f"needs {', '.join(uses) or 'nothing else'}; gives {'an ONNX' if stage.gives == 'onnx' else 'a torch'} folder",
        ]
    )


def _options(schema: dict[str, Any], definitions: dict[str, Any], indent: str) -> Iterator[str]:
    required = set(schema.get("required", []))
    for name, entry in schema.get("properties", {}).items():
        default = (
            "required"
            if name in required
            else f"default {_yaml(entry['default'])}"
            if entry.get("default") is not None
            else ""
        )
        head = f"{indent}{name}: {_kind(entry, definitions)}" + (f"  ({default})" if default else "")
        yield from textwrap.wrap(head, _WIDTH, subsequent_indent=indent + "    ")
        description = entry.get("description", "")
        yield from textwrap.wrap(description, _WIDTH, initial_indent=indent + "    ", subsequent_indent=indent + "    ")
        for inner in _inner(entry, definitions):
            yield from _options(inner, definitions, indent + "    ")


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _kind(entry: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in entry:
        return "mapping"
    if "anyOf" in entry:
        return " or ".join(
            dict.fromkeys(_kind(part, definitions) for part in entry["anyOf"] if part.get("type") != "null")
        )
    if "enum" in entry or "const" in entry:
        return " | ".join(_yaml(value) for value in entry.get("enum", [entry.get("const")]))
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true | false",
        "array": "list",
        "object": "mapping",
    }
    kind = words.get(str(entry.get("type")), str(entry.get("type")))
    bounds = [
        f"{sign} {entry[key]:g}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in entry
    ]
    return f"{kind} {', '.join(bounds)}".strip()


def _inner(entry: dict[str, Any], definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in [entry, *entry.get("anyOf", [])]:
        if "$ref" in part:
            yield definitions[part["$ref"].rpartition("/")[2]]
