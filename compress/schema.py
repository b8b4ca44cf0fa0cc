"""The JSON Schema of a recipe, for editors; printed from the options classes."""

from __future__ import annotations

from typing import Any

from compress.recipe import Head
from compress.stages import STAGES, Stage


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a recipe file."""
    schema = Head.model_json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = schema.setdefault("$defs", {})
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "compress recipe"
    schema["properties"]["stages"] = {
        "type": "array",
        "description": "verbs, each from the line above unless it says from",
        "items": {"oneOf": [_verb(stage, definitions) for stage in STAGES.values()]},
    }
    schema["required"] = [*schema.get("required", []), "stages"]
    return schema


def _verb(stage: Stage, definitions: dict[str, Any]) -> dict[str, Any]:
    options = stage.options.model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(options.pop("$defs", {}))
    identity = {
        "type": "string",
        "pattern": "^[a-z0-9][a-z0-9-]*$",
        "description": f"names the artifact (default {stage.word})",
    }
    source = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    options["properties"] = {
        "id": identity,
        "from": source | {"description": "id or ids to start from (default: the line above)"},
        **options["properties"],
    }
    return {
        "type": "object",
        "description": stage.summary,
        "properties": {stage.word: options if options.get("required") else {"anyOf": [options, {"type": "null"}]}},
        "required": [stage.word],
        "additionalProperties": False,
    }
