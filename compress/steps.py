"""The lines of `stages`, read into steps: one step for each artifact that is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from compress.document import Document, PathKey
from compress.explain import name_of, shown, suggest, validate
from compress.options import Options
from compress.stages import STAGES, Stage

RESERVED = ("teacher", "start")
ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,63}$"
ID_WORDS = "made of a-z, 0-9 and - (at most 64 characters)"
_ID = re.compile(ID_PATTERN.replace("$", r"\Z"))
_EXAMPLE = "such as `prune: {remove: {layers: 1}}`"


@dataclass(frozen=True)
class Step:
    """One run of a stage: what runs, under which id, from which artifact. Not `valid`: its options are wrong."""

    word: str
    id: str
    source: str
    options: Options
    path: PathKey = ()
    valid: bool = True

    @property
    def stage(self) -> Stage:
        """The row of the table of verbs."""
        return STAGES[self.word]

    @property
    def gives(self) -> str:
        """`torch` or `onnx`: the folder of the run in which the artifact stands."""
        return self.stage.gives

    @property
    def where(self) -> str:
        """Its line as the messages write it: stages[2].quantize."""
        return name_of(self.path)


def read_steps(document: Document, stages: Any) -> tuple[list[Step], set[str]]:
    """Return the steps of the list under `stages`, and every id, those of wrong lines too; what is wrong goes into the document."""
    if not isinstance(stages, list):
        document.complain(("stages",), f"stages must be a list of verbs, {_EXAMPLE}, got {shown(stages)}")
        return [], set()
    reader = _Reader(document)
    for index, entry in enumerate(stages):
        reader.read(("stages", index), entry)
    return reader.steps, reader.known


def ids_of(word: str, given: Any) -> tuple[str, list[str]]:
    """Return the id of a line of `stages`, and the ids that it makes where `from` is a list of several."""
    options = given if isinstance(given, dict) else {}
    identity, sources = str(options.get("id", word)), options.get("from")
    several = sources if isinstance(sources, list) and len(sources) > 1 else []
    return identity, [f"{identity}-{source}" for source in several if word in STAGES and STAGES[word].gives == "torch"]


class _Reader:
    """Reads line by line. An id of a line that is wrong counts as known, so that one mistake is said once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.steps: list[Step] = []
        self.known: set[str] = set(RESERVED)
        self.before: tuple[str, ...] = ("start",)

    def read(self, path: PathKey, entry: Any) -> None:
        if not isinstance(entry, dict) or len(entry) != 1:
            advice = f"; write '{entry}:' with a colon" if isinstance(entry, str) and entry in STAGES else ""
            message = f"{name_of(path)} must be one verb with its options, {_EXAMPLE}, got {shown(entry)}{advice}"
            self.document.complain(path, message)
            return
        word, given = next(iter(entry.items()))
        place = (*path, word)
        given = {} if given is None else given
        if word not in STAGES:
            self.document.complain(place, f"{name_of(path)}: there is no stage '{word}'.{suggest(word, STAGES)}")
            self.guess(word, given)
        elif not isinstance(given, dict):
            self.document.complain(place, f"{name_of(place)} must be a mapping of options, got {shown(given)}")
            self.guess(word, given)
        else:
            self.line(place, STAGES[word], given)

    def line(self, place: PathKey, stage: Stage, given: dict[str, Any]) -> None:
        rest = {key: value for key, value in given.items() if key not in ("id", "from")}
        beside = ("from",) if stage.gives == "onnx" else ("id", "from")
        options = validate(stage.options, rest, place, self.document, beside)
        sources = given.get("from", list(self.before))
        sources = [sources] if isinstance(sources, str) else sources
        good = self.sources_are_good((*place, "from"), sources)
        if self.id_is_good(place, stage, given) and good:
            self.add(place, stage, sources, (given.get("id", stage.word), options))
        else:
            self.guess(stage.word, given)

    def guess(self, word: str, given: Any) -> None:
        """Take the ids of a wrong line for known."""
        if word in STAGES and STAGES[word].gives == "onnx":
            return
        identity, several = ids_of(word, given)
        self.before = tuple(several) or (identity,)
        self.known |= {identity, *several}

    def add(self, place: PathKey, stage: Stage, sources: list[str], made: tuple[str, Options | None]) -> None:
        identity, options = made
        ids = []
        for source in sources:
            name = source if stage.gives == "onnx" else identity if len(sources) == 1 else f"{identity}-{source}"
            if any(step.id == name and step.gives == stage.gives for step in self.steps):
                message = (
                    f"'{name}' is exported above; export it once"
                    if stage.gives == "onnx"
                    else f"the id '{name}' is used above; give another id"
                )
                self.document.complain((*place, "id"), f"{name_of(place)}: {message}")
            self.steps.append(Step(stage.word, name, source, options or Options(), place, options is not None))
            ids.append(name)
        if stage.gives == "torch":
            self.known |= set(ids)
            self.before = tuple(ids)

    def id_is_good(self, place: PathKey, stage: Stage, given: dict[str, Any]) -> bool:
        if "id" not in given:
            return True
        path, identity = (*place, "id"), given["id"]
        if stage.gives == "onnx":
            message = f"{name_of(place)} has no option 'id': an ONNX artifact keeps the id of what it is made from"
        elif identity in RESERVED:
            message = f"{name_of(path)}: '{identity}' is reserved; give another id"
        elif isinstance(identity, str) and _ID.match(identity):
            return True
        else:
            message = f"{name_of(path)} must be {ID_WORDS}, got {shown(identity)}"
        self.document.complain(path, message)
        return False

    def sources_are_good(self, path: PathKey, sources: Any) -> bool:
        if not isinstance(sources, list) or not sources or not all(isinstance(source, str) for source in sources):
            self.document.complain(path, f"{name_of(path)} must be an id or a list of ids, got {shown(sources)}")
            return False
        good = True
        for index, source in enumerate(sources):
            message = ""
            if source not in self.known:
                message = f"there is no '{source}' above.{suggest(source, self.known)}"
            elif source in sources[:index]:
                message = f"'{source}' stands here twice; keep one of them"
            if message:
                self.document.complain((*path, index), f"{name_of(path)}: {message}")
                good = False
        return good
