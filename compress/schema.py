"""The JSON Schema of a recipe, for editors; printed from the options classes."""

from __future__ import annotations

import json
from typing import Any

from compress.recipe import Head
from compress.stages import STAGES, Stage
from compress.steps import ID_PATTERN

FILE = "recipe.schema.json"
_ID = {"type": "string", "pattern": ID_PATTERN}
_REFERENCE = "#/$defs/{model}"


def schema_text() -> str:
    """Return the JSON Schema as it is printed, and as it stands beside the shipped recipes."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a recipe file."""
    schema = Head.model_json_schema(ref_template=_REFERENCE)
    definitions: dict[str, Any] = schema.setdefault("$defs", {})
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "compress recipe"
    schema["properties"]["stages"] = {
        "type": "array",
        "description": "verbs, each from the line above unless it says from",
        "items": {
            "type": "object",
            "properties": {stage.word: _verb(stage, definitions) for stage in STAGES.values()},
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        },
    }
    schema["required"] = [*schema.get("required", []), "stages"]
    return schema


def _verb(stage: Stage, definitions: dict[str, Any]) -> dict[str, Any]:
    options = stage.options.model_json_schema(ref_template=_REFERENCE)
    definitions.update(options.pop("$defs", {}))
    options.pop("description", None)
    identity = {"id": _ID | {"description": f"names the artifact (default {stage.word})"}}
    source = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    options["properties"] = {
        **(identity if stage.gives == "torch" else {}),
        "from": source | {"description": "id or ids to start from (default: the line above)"},
        **options["properties"],
    }
    # a verb without options may stand alone: `- export:`
    return {"description": stage.summary} | (
        options if options.get("required") or options.get("oneOf") else {"anyOf": [options, {"type": "null"}]}
    )
