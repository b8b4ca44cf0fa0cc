"""A recipe file as a whole: its lines, ids and needs, and what no text of it may cause."""

# ruff: noqa: E501 - the tables hold whole messages

from __future__ import annotations

import random
from pathlib import Path

import pytest

from compress.check import open_recipe
from compress.errors import Problem, RecipeError
from compress.recipe import read_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
BASE = """recipe: 1
name: tiny
teacher: {builtin: storyteller}
data:
  train: {builtin: stories}
  evaluation: {builtin: stories, seed: 1}
stages:
  - prune: {id: slim, remove: {layers: 1}}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_bytes(text.encode())
    return path


def said(tmp_path: Path, text: str) -> list[str]:
    """Return the problems of a recipe as line:column: message."""
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(tmp_path, text))
    return [f"{found.line}:{found.column}: {found.message}" for found in caught.value.problems]


def steps(tmp_path: Path, lines: str) -> list[tuple[str, str, str]]:
    recipe = read_recipe(write(tmp_path, BASE + lines))
    return [(step.word, step.source, f"{step.gives}/{step.id}") for step in recipe.steps]


def test_a_line_starts_from_the_line_above(tmp_path):
    lines = "  - quantize: {bits: 8}\n  - export:\n  - quantize: {id: four, from: slim, bits: 4}\n  - export: {}\n"
    assert steps(tmp_path, lines) == [
        ("prune", "start", "torch/slim"),
        ("quantize", "slim", "torch/quantize"),
        ("export", "quantize", "onnx/quantize"),
        ("quantize", "slim", "torch/four"),
        ("export", "four", "onnx/four"),
    ]


def test_a_list_runs_the_line_for_each(tmp_path):
    lines = "  - quantize: {id: q, from: [slim, start], bits: 8}\n  - export:\n  - export: {from: [teacher, slim]}\n"
    assert steps(tmp_path, lines)[1:] == [
        ("quantize", "slim", "torch/q-slim"),
        ("quantize", "start", "torch/q-start"),
        ("export", "q-slim", "onnx/q-slim"),
        ("export", "q-start", "onnx/q-start"),
        ("export", "teacher", "onnx/teacher"),
        ("export", "slim", "onnx/slim"),
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("quantize", "5: stages[1] must be one verb with its options, such as `prune: {remove: {layers: 1}}`, got 'quantize'; write 'quantize:' with a colon"),
        ("{}", "5: stages[1] must be one verb with its options, such as `prune: {remove: {layers: 1}}`, got {}"),
        ("exprot: {}", "5: stages[1]: there is no stage 'exprot'. Did you mean 'export'?"),
        ("quantize: 4", "5: stages[1].quantize must be a mapping of options, got 4"),
        ("quantize:", "5: stages[1].quantize: needs exactly one of bits, size_mb"),
        ("quantize: {bits: 4, id: A}", "25: stages[1].quantize.id must be made of a-z, 0-9 and - (at most 64 characters), got 'A'"),
        ("quantize: {bits: 4, id: null}", "25: stages[1].quantize.id must be made of a-z, 0-9 and - (at most 64 characters), got null"),
        ("quantize: {bits: 4, id: start}", "25: stages[1].quantize.id: 'start' is reserved; give another id"),
        ("quantize: {bits: 4, id: slim}", "25: stages[1].quantize: the id 'slim' is used above; give another id"),
        ("quantize: {bits: 4, from: [slim, slm]}", "38: stages[1].quantize.from: there is no 'slm' above. Did you mean 'slim'?"),
        ("quantize: {bits: 4, from: [slim, slim]}", "38: stages[1].quantize.from: 'slim' stands here twice; keep one of them"),
        ("quantize: {bits: 4, from: []}", "25: stages[1].quantize.from must be an id or a list of ids, got []"),
        ("quantize: {bits: 4, from: [1]}", "25: stages[1].quantize.from must be an id or a list of ids, got [1]"),
        ("quantize: {bits: 4, block: 48}", "25: stages[1].quantize.block must be 16, 32, 64, 128 or 256, got 48"),
        ("export: {id: x}", "14: stages[1].export has no option 'id': an ONNX artifact keeps the id of what it is made from"),
        ("prune: {id: p, remove: {layers: 1.5}}", "29: stages[1].prune.remove.layers must be a count such as 1, or a fraction such as 0.25, got 1.5"),
        ("distill: {tokens: 9, batch: 8, accumulate: 3}", "5: stages[1].distill: accumulate (3) must divide batch (8)"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_said_once_with_its_place(tmp_path, line, expected):
    assert said(tmp_path, f"{BASE}  - {line}\n") == [f"9:{expected}"]


def test_an_artifact_is_exported_once(tmp_path):
    assert said(tmp_path, BASE + "  - export:\n  - export: {from: slim}\n") == [
        "10:5: stages[2].export: 'slim' is exported above; export it once"
    ]


def test_an_id_of_a_wrong_line_counts_as_known(tmp_path):
    lines = "  - quantise: {id: a}\n  - quantize: {id: b, from: a, bits: 3}\n  - export: {from: [a, b]}\nlimits: {b: {size_mb: 1}}\n"
    assert said(tmp_path, BASE + lines) == [
        "9:5: stages[1]: there is no stage 'quantise'. Did you mean 'quantize'?",
        "10:32: stages[2].quantize.bits must be 2, 4 or 8, or {budget: …}, got 3",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("recipe: 1", "recipe: true", "1:1: recipe must be 1, got true"),
        ("recipe: 1\n", "", "1:1: the recipe needs 'recipe'"),
        ("name: tiny", "name: ../x", "2:1: name must be made of a-z, 0-9 and - (at most 64 characters), got '../x'"),
        ("name: tiny", "name: tiny\nseed: 4294967296", "3:1: seed must be at most 4294967295, got 4294967296"),
        ("name: tiny", "name: tiny\nsede: 1", "3:1: the recipe has no option 'sede'. Did you mean 'seed'?"),
        ("{builtin: storyteller}", "{}", "3:1: teacher: needs exactly one of model, builtin, got none"),
        ("{builtin: storyteller}", "{model: ''}", "3:11: teacher.model must be text of at least 1 character, got ''"),
        ("teacher: {builtin: storyteller}\n", "", "1:1: the recipe needs 'teacher' (or a student of its own)"),
        ("train: {builtin: stories}", "train: {files: ['']}", "5:19: data.train.files[0] must be text of at least 1 character, got ''"),
        ("train: {builtin: stories}", "train: {files: []}", "5:11: data.train.files must be a list of at least 1, got []"),
        ("train: {builtin: stories}", "train:", "8:5: stages[0].prune needs data.calibration (or data.train, from which it is taken), the recipe has none"),
        ("stages:\n", "stage:\n", "7:1: the recipe has no option 'stage'. Did you mean 'stages'?"),
        ("  - prune: {id: slim, remove: {layers: 1}}\n", "", "7:1: stages must be a list of verbs, such as `prune: {remove: {layers: 1}}`, got null"),
    ],
)  # fmt: skip
def test_a_wrong_head_is_said_with_its_place(tmp_path, old, new, expected):
    found = said(tmp_path, BASE.replace(old, new))
    assert found[-1] == expected
    assert len(found) == (2 if "stage:" in new else 1)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("limits: {slm: {size_mb: 1}}", "10: limits: there is no id 'slm'. Did you mean 'slim'?"),
        ("limits: {slim: {size: 1}}", "17: limits.slim has no option 'size'. Did you mean 'size_mb'?"),
        ("limits: {start: {size_mb: 1}}", "10: limits.start: start is no artifact of its own here; set the limit on a stage's id"),
        ("limits: {slim: {perplexity: 3}}\nbenchmark: false", "17: limits.slim.perplexity can never be met: benchmark is false"),
        ("limits: {slim: {perplexity_increase: 3}}\nbenchmark: {perplexity: false}", "17: limits.slim.perplexity_increase can never be met: benchmark.perplexity is false"),
        ("limits: {slim: {kl_to_teacher: 3}}\nbenchmark: {agreement: false}", "17: limits.slim.kl_to_teacher can never be met: benchmark.agreement is false"),
        ("limits: {slim: {accuracy_drop: 3}}\nbenchmark: {accuracy: false}", "17: limits.slim.accuracy_drop can never be met: benchmark.accuracy is false"),
        ("limits: {slim: {decode_tokens_per_second: 3}}\nbenchmark: {latency: false}", "17: limits.slim.decode_tokens_per_second can never be met: benchmark.latency is false"),
    ],
)  # fmt: skip
def test_a_limit_that_can_never_be_met_is_refused(tmp_path, lines, expected):
    assert said(tmp_path, f"{BASE}{lines}\n") == [f"9:{expected}"]


def test_limits_need_evaluation_data_with_questions(tmp_path):
    limits = "limits: {slim: {perplexity: 3, accuracy_drop: 1, size_mb: 1}}\n"
    without = BASE.replace("  evaluation: {builtin: stories, seed: 1}\n", "")
    why = "can never be met: there is no data.evaluation to measure it on"
    assert [line.split(": ", 1)[1] for line in said(tmp_path, without + limits)] == [
        f"limits.slim.perplexity {why}",
        f"limits.slim.accuracy_drop {why}",
    ]
    text = BASE.replace("evaluation: {builtin: stories, seed: 1}", "evaluation: {files: a.txt}")
    assert said(tmp_path, text + limits) == [
        "9:32: limits.slim.accuracy_drop can never be met: accuracy needs the questions of {builtin: stories}, "
        "or of a classifier a column of labels (label:)"
    ]
    labelled = BASE.replace("evaluation: {builtin: stories, seed: 1}", "evaluation: {files: a.tsv, label: class}")
    assert read_recipe(write(tmp_path, labelled + limits)).head.limits["slim"].accuracy_drop == 1
    assert read_recipe(write(tmp_path, BASE + limits)).head.limits["slim"].size_mb == 1


def test_a_distillation_needs_a_teacher(tmp_path):
    text = BASE.replace("teacher: {builtin: storyteller}\n", "student: {model: ./}\n")
    assert said(tmp_path, text + "  - distill: {tokens: 9}\n  - export: {from: teacher}\n") == [
        "9:5: stages[1].distill needs a teacher, the recipe has none",
        "10:5: stages[2].export from teacher needs a teacher, the recipe has none",
    ]


def test_what_is_no_recipe_at_all_is_said(tmp_path):
    assert said(tmp_path, "") == ["1:1: the file is empty; `compress init` writes a recipe to start from"]
    assert said(tmp_path, "[1]") == ["1:1: a recipe is a mapping with recipe, name, stages; got [1]"]
    assert said(tmp_path, "a" * 900_000) == ["1:1: more than 200000 characters, too long for a recipe"]
    path = tmp_path / "latin.yaml"
    path.write_bytes("recipe: 1\nname: é\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.yaml:2:7: error: not UTF-8 text; save the file as UTF-8"):
        read_recipe(path)
    with pytest.raises(RecipeError, match="this is a folder; give the recipe file in it"):
        read_recipe(tmp_path)
    with pytest.raises(RecipeError, match="there is no such file; `compress init` writes a recipe to start from"):
        read_recipe(tmp_path / "none.yaml")


def test_line_ends_and_byte_order_marks_move_no_place(tmp_path):
    wrong = BASE.replace("layers", "layrs")
    plain = said(tmp_path, wrong)
    assert plain == ["8:32: stages[0].prune.remove has no option 'layrs'. Did you mean 'layers'?"]
    assert said(tmp_path, wrong.replace("\n", "\r\n")) == plain
    assert said(tmp_path, "\ufeff" + wrong) == plain


PIECES = ["{", "}", "[", "]", ":", ": ", ",", "- ", "\n", "  ", "\t", "\0", "&a ", "*a", "!x ", "<<: ", "'", '"', "#", "|\n", "null",
          "true", "no", "-1", "0", "1.5", "1e400", "9" * 50, "0x1", "${NOPE}", "../x", "~", "é", "\ud800", "\x85", "?", "%", "teacher",
          "start", "from: ", "id: ", "stages: ", "x" * 70, "\\u0000"]  # fmt: skip


def mutate(text: str, random_: random.Random) -> str:
    """Return the text with one to three changes: characters cut, doubled or swapped, pieces put in, lines moved."""
    for _ in range(random_.randint(1, 3)):
        start = random_.randrange(len(text) + 1)
        end = min(len(text), start + random_.randint(1, 12))
        match random_.randrange(5):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:start] + random_.choice(PIECES) + text[start:]
            case 2:
                text = text[:start] + random_.choice(PIECES) + text[end:]
            case 3:
                text = text[:end] + text[start:]
            case _:
                lines = text.split("\n")
                random_.shuffle(lines)
                text = "\n".join(lines)
    return text


def check_outcome(path: Path, text: str, overrides: list[str]) -> bool:
    """Assert that a text gives a recipe, or problems that have a place each; return whether it gives a recipe."""
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    problems: tuple[Problem, ...] = ()
    try:
        open_recipe(path, overrides)
    except RecipeError as error:
        problems = error.problems
        assert_places(problems, path)
    return not problems


def assert_places(problems: tuple[Problem, ...], path: Path) -> None:
    assert problems
    for problem in problems:
        assert problem.message
        assert problem.file == str(path) or problem.file.startswith("--set")
        assert problem.line >= 1 or problem.message.startswith("an override is")
        assert problem.excerpt.replace("\n", "").isprintable()


@pytest.mark.parametrize("shipped", RECIPES, ids=lambda path: path.stem)
def test_no_text_causes_anything_but_a_recipe_or_problems_with_places(tmp_path, shipped):
    source, random_ = shipped.read_text(encoding="utf-8"), random.Random(shipped.stem)
    path = tmp_path / "r.yaml"
    assert check_outcome(path, source, [])
    outcomes = [check_outcome(path, mutate(source, random_), []) for _ in range(120)]
    assert not all(outcomes)


def test_no_override_causes_anything_but_a_recipe_or_problems_with_places(tmp_path):
    source, random_ = RECIPES[0].read_text(encoding="utf-8"), random.Random(0)
    path = tmp_path / "r.yaml"
    sane = [
        "seed=1",
        "stages.int4.block=64",
        "data.train={builtin: stories}",
        "limits.int4={size_mb: 3}",
        "stages.int4={from: student, bits: 8}",
    ]
    for override in sane:
        assert check_outcome(path, source, [override])
    for _ in range(200):
        check_outcome(path, source, [mutate(random_.choice(sane), random_) for _ in range(random_.randint(1, 3))])
