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
    if stages is None and "stages" not in document.value:
        document.problems.append(document.problem((), "the recipe needs 'stages', a list of verbs"))
        return []
    if not isinstance(stages, list | None):
        message = "stages must be a list of verbs, such as `- prune: {remove: {layers: 1}}`"
        document.problems.append(document.problem(("stages",), message))
        return []
    reader = _StageReader(document)
    for index, entry in enumerate(stages or []):
        reader.read(("stages", index), entry)
    return reader.steps


class _StageReader:
    """Reads the lines of `stages`. An id of a line that is wrong counts as known, so that one mistake is said once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.steps: list[Step] = []
        self.known: set[str] = set(RESERVED)
        self.before: tuple[str, ...] = ("start",)

    def complain(self, path: PathKey, message: str) -> None:
        self.document.problems.append(self.document.problem(path, message))

    def read(self, path: PathKey, entry: Any) -> None:
        if not isinstance(entry, dict) or len(entry) != 1:
            found = f"{len(entry)} keys ({', '.join(entry)})" if isinstance(entry, dict) else repr(entry)
            self.complain(
                path,
                f"{name_of(path)} must be one verb with its options, such as `prune: {{remove: {{layers: 1}}}}`, found {found}",
            )
            return
        word, given = next(iter(entry.items()))
        place = (*path, word)
        if given is not None and not isinstance(given, dict):
            self.complain(place, f"{name_of(place)} must be a mapping of options, got {given!r}")
            return
        rest = dict(given or {})
        identity, sources = rest.pop("id", word), rest.pop("from", list(self.before))
        if word not in STAGES:
            self.complain(place, f"{name_of(path)}: there is no stage '{word}'.{suggest(word, STAGES)}")
            self._note(identity)
            return
        options = validate(STAGES[word].options, rest, place, self.document, ("id", "from"))
        sources = [sources] if isinstance(sources, str) else sources
        good = self._sources_are_known(place, sources)
        if self._id_is_good(place, identity) and good:
            self._add(place, STAGES[word], identity, sources, options or Options())
        elif STAGES[word].gives == "torch":
            self._note(identity)

    def _note(self, identity: Any) -> None:
        if isinstance(identity, str):
            self.known.add(identity)
            self.before = (identity,)

    def _add(self, place: PathKey, stage: Stage, identity: str, sources: list[str], options: Options) -> None:
        made: list[str] = []
        for source in sources:
            step_id = source if stage.gives == "onnx" else identity if len(sources) == 1 else f"{identity}-{source}"
            if any(step.id == step_id and step.gives == stage.gives for step in self.steps):
                said = "is exported" if stage.gives == "onnx" else "is used"
                self.complain((*place, "id"), f"{name_of(place)}: the id '{step_id}' {said} above; give another id")
            self.steps.append(Step(stage.word, step_id, source, options, name_of(place)))
            made.append(step_id)
        if stage.gives == "torch":
            self.known |= set(made)
            self.before = tuple(made)

    def _id_is_good(self, place: PathKey, identity: Any) -> bool:
        if isinstance(identity, str) and _ID.match(identity) and identity not in RESERVED:
            return True
        why = (
            f"'{identity}' is reserved"
            if identity in RESERVED
            else f"an id is made of a-z, 0-9 and -, got {identity!r}"
        )
        self.complain((*place, "id"), f"{name_of(place)}.id: {why}")
        return False

    def _sources_are_known(self, place: PathKey, sources: Any) -> bool:
        where = (*place, "from")
        if not isinstance(sources, list) or not sources or not all(isinstance(source, str) for source in sources):
            self.complain(where, f"{name_of(where)} must be an id or a list of ids, got {sources!r}")
            return False
        unknown = [(index, source) for index, source in enumerate(sources) if source not in self.known]
        for index, source in unknown:
            self.complain(
                (*where, index), f"{name_of(where)}: there is no '{source}' above.{suggest(source, self.known)}"
            )
        return not unknown


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
