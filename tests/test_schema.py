"""The JSON Schema says what the parser takes; checked with a small validator of our own."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.document import parse
from compress.errors import RecipeError
from compress.recipe import read_recipe
from compress.schema import FILE, recipe_schema, schema_text

RECIPES = Path(__file__).parents[1] / "recipes"
SCHEMA = recipe_schema()
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
KNOWN = {"$ref", "$defs", "$schema", "title", "description", "default", "type", "properties", "required", "additionalProperties",
         "anyOf", "oneOf", "enum", "const", "items", "minItems", "maxItems",
        "minLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
         "pattern", "minProperties", "maxProperties", "propertyNames"}  # fmt: skip


def has_type(value: Any, name: str) -> bool:
    if name in ("integer", "number"):
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return (whole if name == "integer" else isinstance(value, int | float)) and not isinstance(value, bool)
    return isinstance(value, TYPES[name])


def fits(value: Any, schema: Any) -> bool:
    """Say whether a value is valid; of JSON Schema the keywords in KNOWN."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        return fits(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema and not any(fits(value, part) for part in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(fits(value, part) for part in schema["oneOf"]) != 1:
        return False
    if "const" in schema and (value != schema["const"] or type(value) is not type(schema["const"])):
        return False
    if "enum" in schema and (value not in schema["enum"] or isinstance(value, bool)):
        return False
    if "type" in schema and not has_type(value, schema["type"]):
        return False
    if isinstance(value, str):
        return len(value) >= schema.get("minLength", 0) and bool(re.search(schema.get("pattern", ""), value))
    if isinstance(value, list):
        many = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return many and all(fits(item, schema.get("items", True)) for item in value)
    if isinstance(value, dict):
        return fits_mapping(value, schema)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return schema.get("minimum", value) <= value <= schema.get("maximum", value) and schema.get(
            "exclusiveMinimum", value - 1
        ) < value < schema.get("exclusiveMaximum", value + 1)
    return True


def fits_mapping(value: dict[str, Any], schema: dict[str, Any]) -> bool:
    listed = schema.get("properties", {})
    return (
        set(schema.get("required", [])) <= value.keys()
        and schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value))
        and all(fits(key, schema.get("propertyNames", True)) for key in value)
        and all(fits(part, listed.get(key, schema.get("additionalProperties", True))) for key, part in value.items())
    )


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema inside a schema, itself first."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key in ("properties", "$defs"):
        for part in schema.get(key, {}).values():
            yield from parts(part)
    for key in ("items", "additionalProperties", "propertyNames"):
        yield from parts(schema.get(key))
    for part in schema.get("anyOf", []):
        yield from parts(part)


def test_the_file_beside_the_shipped_recipes_is_what_is_printed():
    assert (RECIPES / FILE).read_text(encoding="utf-8") == schema_text(), (
        "run: compress schema > recipes/recipe.schema.json"
    )


def test_every_shipped_recipe_names_it_for_editors():
    paths = sorted(RECIPES.rglob("*.yaml"))
    assert len(paths) >= 3
    for path in paths:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first == f"# yaml-language-server: $schema={FILE}", path


def test_it_is_json_schema_that_refers_to_what_it_defines():
    found = list(parts(SCHEMA))
    assert len(found) > 100
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for part in found:
        assert part.keys() <= KNOWN, part
        assert part.get("type", "null") in {*TYPES, "integer", "number"}
        assert set(part.get("required", [])) <= part.get("properties", {}).keys()
        if "$ref" in part:
            assert part["$ref"].removeprefix("#/$defs/") in SCHEMA["$defs"]
        if "pattern" in part:
            assert re.compile(part["pattern"])


def test_every_option_is_described_and_no_mapping_takes_unknown_keys():
    for part in parts(SCHEMA):
        for name, option in part.get("properties", {}).items():
            assert option.get("description"), name
        if "properties" in part:
            assert part["additionalProperties"] is False


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path):
    assert fits(parse(path.read_text(encoding="utf-8"), "r.yaml").value, SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        "teacher: {builtin: storyteller, model: 1}",
        "stages: [{prune: {}}]",
        "stages: [{prune: null}]",
        "stages: [{prune: {remove: {ffn: 1}, keep: {parameters: 0.5}}}]",
        "stages: [{quantize: {bits: 3}}]",
        "stages: [{export: {id: a}}]",
        "stages: [{export: null, prune: {remove: {layers: 1}}}]",
        "stages: [{}]",
        "stages: null",
        "name: A",
        "seed: true",
        "sede: 1",
        "benchmark: true",
        "limits: {a: {size: 1}}",
    ],
)
def test_mistakes_are_no_valid_recipes(text):
    good = {"recipe": 1, "name": "a", "stages": [{"export": None}, {"quantize": {"bits": 4, "from": ["start"]}}]}
    assert fits(good, SCHEMA)
    assert not fits(good | parse(text, "r.yaml").value, SCHEMA)


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    4,
    8,
    32,
    0.25,
    1e-4,
    2.0,
    "a",
    "",
    "no",
    [],
    ["a"],
    {},
    {"a": 1},
    [1],
    "teacher",
    2**40,
]


def changed(value: Any, random_: random.Random) -> Any:
    """Return the value with one of its parts, at any depth, replaced, removed or added."""
    if isinstance(value, dict) and value and random_.random() < 0.85:
        key = random_.choice(sorted(value))
        if random_.random() < 0.1:
            return {name: part for name, part in value.items() if name != key}
        return value | {key: changed(value[key], random_)}
    if isinstance(value, list) and value and random_.random() < 0.85:
        index = random_.randrange(len(value))
        return [*value[:index], changed(value[index], random_), *value[index + 1 :]]
    return random_.choice(VALUES)


def test_what_the_parser_takes_is_valid(tmp_path):
    path, random_ = tmp_path / "r.yaml", random.Random(0)
    taken = refused = 0
    for source in sorted(RECIPES.rglob("*.yaml")):
        value = parse(source.read_text(encoding="utf-8"), "r.yaml").value
        for _ in range(150):
            new = changed(value, random_)
            path.write_text(yaml.safe_dump(new), encoding="utf-8")
            try:
                read_recipe(path)
            except RecipeError:
                refused += 1
                continue
            taken += 1
            assert fits(parse(path.read_text(encoding="utf-8"), "r.yaml").value, SCHEMA), new
    assert taken > 20
    assert refused > 20
