"""A recipe: YAML text to a frozen Recipe, with every problem at once, by file, line and column."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from compress.benchmark.options import BenchmarkOptions
from compress.data.options import DataOptions
from compress.document import Document, PathKey, parse
from compress.errors import Problem, RecipeError
from compress.explain import name_of, suggest, validate
from compress.models.options import StudentOptions, TeacherOptions
from compress.options import Options
from compress.overrides import apply_override, resolve_paths
from compress.stages import STAGES, Stage

RESERVED = ("teacher", "start")
_ID = re.compile(r"[a-z0-9][a-z0-9-]*\Z")


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

    recipe: Literal[1] = Field(description="version of the recipe format")
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] = Field(description="names the run folder; [a-z0-9-]")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="seed of everything random")
    teacher: TeacherOptions | None = Field(None, description="the model that is compressed, or learned from")
    student: StudentOptions = Field(
        default_factory=lambda: StudentOptions(init="teacher"), description="what the first stage starts from"
    )
    data: DataOptions = Field(default_factory=DataOptions, description="text to learn, score and measure on")
    benchmark: BenchmarkOptions | Literal[False] = Field(
        default_factory=BenchmarkOptions, description="what is measured of every artifact"
    )
    limits: dict[str, Limits] = Field(default_factory=dict, description="per id, what must be kept")


@dataclass(frozen=True)
class Step:
    """One run of a stage: what runs, under which id, from which artifact."""

    word: str
    id: str
    source: str
    options: Options
    where: str

    @property
    def stage(self) -> Stage:
        """The row of the table of verbs."""
        return STAGES[self.word]

    @property
    def gives(self) -> str:
        """`torch` or `onnx`: the folder of the run in which the artifact stands."""
        return self.stage.gives


@dataclass(frozen=True)
class Recipe:
    """A valid recipe. `text` is the file's, `overrides` what --set said."""

    head: Head
    steps: tuple[Step, ...]
    path: Path
    text: str
    overrides: tuple[str, ...]
    document: Document

    def problem(self, where: str, message: str) -> Problem:
        """Return a problem at the place of a step or part, written as the messages write it."""
        for path in self.document.places:
            if name_of(path) == where:
                return self.document.problem(path, message)
        return Problem(message, str(self.path))


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Return the recipe of a file with the --set overrides applied.

    Raises RecipeError with every problem found.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            [Problem("there is no such file; `compress init` writes a recipe to start from", str(path))]
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([Problem(f"cannot be read as UTF-8 text ({error})", str(path))]) from error
    document = parse(text, str(path))
    given = tuple(overrides)
    if not document.problems or document.value is not None:
        resolve_paths(document, path.parent)
        for override in given:
            apply_override(document, override)
    recipe = _build(document, path, text, given) if isinstance(document.value, dict) else None
    if recipe is None and not document.problems:
        document.problems.append(
            document.problem((), "a recipe is a mapping with recipe, name, stages; found something else")
        )
    if document.problems or recipe is None:
        raise RecipeError(_in_order(document.problems))
    return recipe


def _in_order(problems: list[Problem]) -> list[Problem]:
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.file, problem.line, problem.column))


def _build(document: Document, path: Path, text: str, overrides: tuple[str, ...]) -> Recipe | None:
    value = document.value
    head = validate(Head, {key: part for key, part in value.items() if key != "stages"}, (), document)
    steps = _steps(document, value.get("stages"))
    if head is None:
        return None
    _check_limits(document, head, steps)
    _check_needs(document, head, steps)
    return Recipe(head, tuple(steps), path, text, overrides, document)


def _steps(document: Document, stages: Any) -> list[Step]:
    if stages is None and "stages" in (document.value or {}):
        stages = []
    if stages is None:
        document.problems.append(document.problem((), "the recipe needs 'stages', a list of verbs"))
        return []
    if not isinstance(stages, list):
        document.problems.append(
            document.problem(("stages",), "stages must be a list of verbs, such as `- prune: {remove: {layers: 1}}`")
        )
        return []
    steps: list[Step] = []
    before: tuple[str, ...] = ("start",)
    for index, entry in enumerate(stages):
        made = _read_stage(document, index, entry, steps, before)
        steps += made
        if made and made[0].gives == "torch":
            before = tuple(step.id for step in made)
    return steps


def _read_stage(document: Document, index: int, entry: Any, steps: list[Step], before: tuple[str, ...]) -> list[Step]:
    path = ("stages", index)
    if not isinstance(entry, dict) or len(entry) != 1:
        found = f"{len(entry)} keys ({', '.join(entry)})" if isinstance(entry, dict) else repr(entry)
        message = f"{name_of(path)} must be one verb with its options, such as `prune: {{remove: {{layers: 1}}}}`, found {found}"
        document.problems.append(document.problem(path, message))
        return []
    word, given = next(iter(entry.items()))
    place = (*path, word)
    if word not in STAGES:
        document.problems.append(
            document.problem(place, f"{name_of(path)}: there is no stage '{word}'.{suggest(word, STAGES)}")
        )
        return []
    if given is not None and not isinstance(given, dict):
        document.problems.append(
            document.problem(place, f"{name_of(place)} must be a mapping of options, got {given!r}")
        )
        return []
    options_given = dict(given or {})
    identity, sources = options_given.pop("id", word), options_given.pop("from", list(before))
    options = validate(STAGES[word].options, options_given, place, document, ("id", "from"))
    sources = [sources] if isinstance(sources, str) else sources
    if not _sources_are_known(document, place, sources, steps) or not _id_is_good(document, place, identity):
        return []
    stage = STAGES[word]
    steps_made = []
    for source in sources:
        single = len(sources) == 1
        step_id = source if stage.gives == "onnx" else identity if single else f"{identity}-{source}"
        if any(step.id == step_id and step.gives == stage.gives for step in [*steps, *steps_made]):
            said = "is exported" if stage.gives == "onnx" else "is used"
            document.problems.append(
                document.problem((*place, "id"), f"{name_of(place)}: the id '{step_id}' {said} above; give another id")
            )
        steps_made.append(Step(word, step_id, source, options or Options(), name_of(place)))
    return steps_made


def _id_is_good(document: Document, place: PathKey, identity: Any) -> bool:
    if isinstance(identity, str) and _ID.match(identity) and identity not in RESERVED:
        return True
    why = f"'{identity}' is reserved" if identity in RESERVED else f"an id is made of a-z, 0-9 and -, got {identity!r}"
    document.problems.append(document.problem((*place, "id"), f"{name_of(place)}.id: {why}"))
    return False


def _sources_are_known(document: Document, place: PathKey, sources: Any, steps: list[Step]) -> bool:
    where = (*place, "from")
    if not isinstance(sources, list) or not sources or not all(isinstance(source, str) for source in sources):
        document.problems.append(
            document.problem(where, f"{name_of(where)} must be an id or a list of ids, got {sources!r}")
        )
        return False
    known = {*RESERVED, *(step.id for step in steps if step.gives == "torch")}
    good = True
    for index, source in enumerate(sources):
        if source not in known:
            message = f"{name_of(where)}: there is no '{source}' above.{suggest(source, known)}"
            document.problems.append(document.problem((*where, index), message))
            good = False
    return good


def _check_limits(document: Document, head: Head, steps: list[Step]) -> None:
    known = {*RESERVED, *(step.id for step in steps)}
    for identity in head.limits:
        if identity not in known:
            document.problems.append(
                document.problem(
                    ("limits", identity), f"limits: there is no id '{identity}'.{suggest(identity, known)}"
                )
            )


def _check_needs(document: Document, head: Head, steps: list[Step]) -> None:
    """What the parts of a recipe need of each other."""
    if head.teacher is None:
        if head.student.init == "teacher":
            document.problems.append(
                document.problem(("student",), "the recipe needs 'teacher' (or a student of its own)")
            )
        elif head.student.init == "scratch" and head.student.vocab is None:
            document.problems.append(
                document.problem(
                    ("student",), "student: init: scratch without a teacher needs vocab, for a tokenizer of its own"
                )
            )
    if head.student.vocab and head.data.train is None:
        document.problems.append(
            document.problem(
                ("student", "vocab"), "student.vocab: a tokenizer is trained on data.train, the recipe has none"
            )
        )
    for step in steps:
        place = _place_of(document, step.where)
        if step.stage.teacher and head.teacher is None:
            document.problems.append(document.problem(place, f"{step.where} needs a teacher, the recipe has none"))
        if step.source == "teacher" and head.teacher is None:
            document.problems.append(document.problem(place, f"{step.where}: from teacher, but the recipe has none"))
        for part in step.stage.needs:
            if getattr(head.data, part) is None and head.data.train is None:
                needed = part if part == "train" else f"{part} (or data.train, from which it is taken)"
                document.problems.append(
                    document.problem(place, f"{step.where} needs data.{needed}, the recipe has none")
                )


def _place_of(document: Document, where: str) -> PathKey:
    return next((path for path in document.places if name_of(path) == where), ())
