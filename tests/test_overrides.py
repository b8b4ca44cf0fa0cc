"""--set: what it changes, where its paths start, and where its mistakes are placed."""

# ruff: noqa: E501 - the tables hold whole messages

from __future__ import annotations

from pathlib import Path

import pytest

from compress.errors import RecipeError
from compress.recipe import Recipe, read_recipe

TEXT = """recipe: 1
name: tiny
teacher: {builtin: storyteller}
data:
  train: {builtin: stories}
stages:
  - prune: {id: slim, remove: {layers: 1}}
  - quantize: {id: int4, from: slim, bits: 4, block: 16}
  - quantize: {id: q, from: [slim, start], bits: 8}
  - export:
  - export: {from: slim}
"""


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "recipes" / "r.yaml"
    path.parent.mkdir()
    path.write_text(TEXT, encoding="utf-8")
    return path


def options(recipe: Recipe, identity: str) -> dict[str, object]:
    return next(step.options for step in recipe.steps if step.id == identity).model_dump()


def said(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, overrides)
    return [
        f"{found.file.removeprefix(str(path.parent))}:{found.line}: {found.message}" for found in caught.value.problems
    ]


def test_values_are_yaml_and_the_last_one_counts(path):
    recipe = read_recipe(path, ["seed=1", "name=two", "seed=0x10"])
    assert (recipe.head.seed, recipe.head.name) == (16, "two")
    assert recipe.overrides == ("seed=1", "name=two", "seed=0x10")
    assert recipe.text == TEXT


def test_a_stage_is_named_by_its_id(path):
    recipe = read_recipe(path, ["stages.int4.block=64", "stages.slim.remove.ffn=0.5", "stages.q.bits=4"])
    assert options(recipe, "int4")["block"] == 64
    unset = {"heads": None, "hidden": None, "vocab": None}
    assert options(recipe, "slim")["remove"] == {"layers": 1, "ffn": 0.5, **unset}
    assert [options(recipe, name)["bits"] for name in ("q-slim", "q-start")] == [4, 4]


def test_a_mapping_is_replaced_whole(path):
    recipe = read_recipe(path, ["stages.slim.remove={ffn: 0.5}", "stages.int4={from: start, bits: 8}"])
    unset = dict.fromkeys(("layers", "heads", "hidden", "vocab"))
    assert options(recipe, "slim")["remove"] == {"ffn": 0.5, **unset}
    assert (options(recipe, "int4")["bits"], options(recipe, "int4")["block"]) == (8, 32)
    assert next(step.source for step in recipe.steps if step.id == "int4") == "start"


def test_stages_can_be_replaced_whole(path):
    assert [step.id for step in read_recipe(path, ["stages=[quantize: {id: a, bits: 8}]"]).steps] == ["a"]


def test_what_is_missing_on_the_way_becomes_a_mapping(path):
    recipe = read_recipe(
        path, ["benchmark.perplexity.length=32", "limits.int4.size_mb=3", "stages.slim.calibration.windows=4"]
    )
    assert recipe.head.benchmark.perplexity.length == 32
    assert recipe.head.limits["int4"].size_mb == 3
    assert options(recipe, "slim")["calibration"] == {"windows": 4, "length": 256}


def test_an_override_follows_a_renaming(path):
    assert options(read_recipe(path, ["stages.int4.id=new", "stages.new.block=64"]), "new")["block"] == 64


def test_paths_start_from_the_recipe_and_in_overrides_from_the_current_folder(path, tmp_path, monkeypatch):
    (path.parent / "model").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "other").mkdir()
    path.write_text(
        TEXT.replace("{builtin: storyteller}", "{model: model}").replace("{builtin: stories}", "{files: a.txt}")
    )
    recipe = read_recipe(path)
    assert recipe.head.teacher.model == str(path.parent / "model")
    assert recipe.head.data.train.files == [str(path.parent / "a.txt")]
    recipe = read_recipe(path, ["teacher.model=other", "data.train.files=[b.txt, c.txt]"])
    assert recipe.head.teacher.model == str(tmp_path / "here" / "other")
    assert recipe.head.data.train.files == [str(tmp_path / "here" / name) for name in ("b.txt", "c.txt")]


def test_variables_stand_in_paths(path, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESS_ASSETS", str(tmp_path))
    recipe = read_recipe(
        path, ["teacher={model: ${COMPRESS_ASSETS}/recipes}", "data.train={files: [${COMPRESS_ASSETS}/a.txt]}"]
    )
    assert recipe.head.teacher.model == str(tmp_path / "recipes")
    assert recipe.head.data.train.files == [str(tmp_path / "a.txt")]


def test_a_name_that_is_no_folder_is_a_hub_id(path):
    assert read_recipe(path, ["teacher={model: some/model}"]).head.teacher.model == "some/model"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "--set 'seed':0: an override is path=value, such as --set seed=1"),
        ("=1", "--set '=1':0: an override is path=value, such as --set seed=1"),
        ("a..b=1", "--set 'a..b=1':0: an override is path=value, such as --set seed=1"),
        ("seed=", "--set 'seed=':1: seed must be a whole number, got null"),
        ("seed=[", "--set 'seed=[':1: not YAML: expected the node content, but found '<stream end>'"),
        ("seed=!x 1", "--set 'seed=!x 1':1: the tag !x has no meaning in a recipe; remove it"),
        ("seed=&a [*a]", "--set 'seed=&a [*a]':1: an alias refers to what it stands in"),
        ("sede=1", "--set 'sede=1':1: the recipe has no option 'sede'. Did you mean 'seed'?"),
        ("stages.int4.blok=64", "--set 'stages.int4.blok=64':1: stages[1].quantize has no option 'blok'. Did you mean 'block'?"),
        ("stages.int4.block=63", "--set 'stages.int4.block=63':1: stages[1].quantize.block must be 16, 32, 64, 128 or 256, got 63"),
        ("stages.int5.block=1", "--set 'stages.int5.block=1':1: stages are set as stages.<id>.<option>; there is no id 'int5'. Did you mean 'int4'?"),
        ("stages.q-slim.bits=4", "--set 'stages.q-slim.bits=4':1: stages are set as stages.<id>.<option>; 'q-slim' is made by the line 'q'; set stages.q.<option>"),
        ("stages.export.tolerance=1", "--set 'stages.export.tolerance=1':1: stages are set as stages.<id>.<option>; 2 lines are called 'export'; change them in the recipe"),
        ("student={init: scratch, vocab: 300}", "--set 'student={init: scratch, vocab: 300}':1: student: init: scratch with vocab needs ffn, heads, hidden, layers"),
        ("limits.nope.size_mb=3", "--set 'limits.nope.size_mb=3':1: limits: there is no id 'nope'. Known: int4, q-slim, q-start, slim, start, teacher."),
        ("name.x=1", "--set 'name.x=1':1: name must be made of a-z, 0-9 and - (at most 64 characters), got {\"x\": 1}"),
        ("teacher.model=a/b", "/r.yaml:3: teacher: needs exactly one of model, builtin, got both (with --set 'teacher.model=a/b')"),
        ("teacher={model: ${NO_SUCH}/x}", "--set 'teacher={model: ${NO_SUCH}/x}':1: teacher.model: the environment variable NO_SUCH is not set"),
        ("teacher={model: /no/such}", "--set 'teacher={model: /no/such}':1: teacher.model: there is no folder /no/such"),
        ("data.train={files: ['~nobodyhere/x']}", "--set \"data.train={files: ['~nobodyhere/x']}\":1: data.train.files[0]: there is no such user's folder: ~nobodyhere/x"),
    ],
)  # fmt: skip
def test_a_mistake_is_placed_at_the_override(path, override, expected):
    text = TEXT.replace("  - export: {from: slim}\n", "") if "limits" in override else TEXT
    path.write_text(text, encoding="utf-8")
    assert said(path, override) == [expected]


def test_mistakes_are_said_in_the_order_of_recipe_and_overrides(path):
    path.write_text(TEXT.replace("bits: 8", "bits: 5"), encoding="utf-8")
    assert [line.rpartition("/")[2].split(":")[0] for line in said(path, "seed=x", "name=A", "foo=1")] == [
        "r.yaml",
        "--set 'seed=x'",
        "--set 'name=A'",
        "--set 'foo=1'",
    ]
