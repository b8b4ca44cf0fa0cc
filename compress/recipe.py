"""A recipe: YAML text to a frozen Recipe, with every problem at once, by file, line and column."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from compress.benchmark.options import BenchmarkOptions, Off
from compress.data.options import DataOptions
from compress.document import SIZE_LIMIT, Document, PathKey, Place, parse
from compress.errors import Problem, RecipeError
from compress.explain import shown, validate
from compress.models.options import StudentOptions, TeacherOptions
from compress.needs import check_limits, find_needs
from compress.options import Options, must_be
from compress.overrides import apply_override, resolve_paths
from compress.steps import ID_PATTERN, ID_WORDS, read_steps
from compress.steps import Step as Step

_START = "`compress init` writes a recipe to start from"


class Limits(Options):
    """What an artifact must keep, on the shipped file where it was exported; missed, the exit code is 3."""

    size_mb: Annotated[float, Field(gt=0)] | None = Field(None, description="largest size, 10^6 bytes")
    perplexity: Annotated[float, Field(gt=0)] | None = Field(None, description="largest perplexity")
    perplexity_increase: float | None = Field(
        None, description="largest rise against the teacher, as a fraction (0.05 is 5 %)"
    )
    kl_to_teacher: Annotated[float, Field(ge=0)] | None = Field(
        None, description="largest KL to the teacher, nats a token"
    )
    accuracy_drop: float | None = Field(
        None, description="largest loss of accuracy against the teacher, as a difference"
    )
    decode_tokens_per_second: Annotated[float, Field(gt=0)] | None = Field(None, description="least speed of decoding")


class Head(Options):
    """A recipe without its stages."""

    recipe: Annotated[int, Field(ge=1, le=1), must_be("1")] = Field(description="version of the recipe format: 1")
    name: Annotated[str, Field(pattern=ID_PATTERN), must_be(ID_WORDS)] = Field(
        description=f"names the run folder; {ID_WORDS}"
    )
    # numpy's global generator, which the training loop seeds, takes 32 bits
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(0, description="seed of everything random")
    teacher: TeacherOptions | None = Field(None, description="the model that is compressed, or learned from")
    student: StudentOptions = Field(
        default_factory=lambda: StudentOptions(init="teacher"), description="what the first stage starts from"
    )
    data: DataOptions = Field(default_factory=DataOptions, description="text to learn, score and measure on")
    benchmark: BenchmarkOptions | Off = Field(
        default_factory=BenchmarkOptions, description="what is measured of every artifact; false: nothing"
    )
    limits: dict[str, Limits] = Field(default_factory=dict, description="per id, what must be kept")


@dataclass(frozen=True)
class Recipe:
    """A recipe. `text` is the file's, `overrides` what --set said.

    A draft may have problems, in its document; of its head the parts named in `broken` are then defaults.
    """

    head: Head
    steps: tuple[Step, ...]
    path: Path
    text: str
    overrides: tuple[str, ...]
    document: Document
    broken: frozenset[str] = frozenset()

    def problem(self, path: PathKey, message: str) -> Problem:
        """Return a problem at the place of a part."""
        return self.document.problem(path, message)


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Return the recipe of a file with the --set overrides applied.

    Raises RecipeError with every problem found.
    """
    draft = read_draft(path, overrides)
    if problems := draft.document.problems:
        raise RecipeError(draft.document.in_order(problems))
    return draft


def read_draft(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Return what can be read of a recipe, with the problems in its document.

    Raises RecipeError where there is nothing to read: no file, no YAML, no mapping.
    """
    text = _text_of(path)
    document = parse(text, str(path))
    if not document.problems and not isinstance(document.value, dict):
        message = f"a recipe is a mapping with recipe, name, stages; got {shown(document.value)}"
        empty = document.value is None
        document.problems.append(document.problem((), f"the file is empty; {_START}" if empty else message))
    if not isinstance(document.value, dict):
        raise RecipeError(document.in_order(document.problems))
    resolve_paths(document, path.parent)
    given = tuple(overrides)
    for override in given:
        apply_override(document, override)
    return _build(document, path, text, given)


def _text_of(path: Path) -> str:
    file = str(path)
    try:
        with path.open("rb") as stream:
            # a character takes at most 4 bytes; what is longer is refused by the parser, whatever it holds
            raw = stream.read(4 * SIZE_LIMIT)
        return raw.decode("utf-8-sig", "strict" if len(raw) < 4 * SIZE_LIMIT else "replace")
    except FileNotFoundError:
        problem = Problem(f"there is no such file; {_START}", file)
    except IsADirectoryError:
        problem = Problem("this is a folder; give the recipe file in it", file)
    except OSError as error:
        problem = Problem(f"cannot be read: {error.strerror}", file)
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        problem = Place(file, before.count(b"\n") + 1, column).problem("not UTF-8 text; save the file as UTF-8")
    raise RecipeError([problem]) from None


def _build(document: Document, path: Path, text: str, overrides: tuple[str, ...]) -> Recipe:
    head, broken = _head(document, {key: part for key, part in document.value.items() if key != "stages"})
    if "stages" in document.value:
        steps, known = read_steps(document, document.value["stages"])
    else:
        document.complain((), "the recipe needs 'stages', a list of verbs")
        steps, known = [], set()
    find_needs(document, head, steps, broken)
    if known:
        check_limits(document, head, known, broken)
    return Recipe(head, tuple(steps), path, text, overrides, document, broken)


def _head(document: Document, value: dict[str, Any]) -> tuple[Head, frozenset[str]]:
    """Return the head, and which parts of it are wrong; they have their defaults, so that the others can be checked."""
    head = validate(Head, value, (), document, ("stages",))
    if head is not None:
        return head, frozenset()
    broken = set()
    try:
        Head.model_validate_json(json.dumps(value))
    except ValidationError as error:
        broken = {str(entry["loc"][0]) for entry in error.errors()}
    good = {key: part for key, part in value.items() if key not in broken}
    return Head.model_validate_json(json.dumps({"recipe": 1, "name": "unnamed"} | good)), frozenset(broken)
