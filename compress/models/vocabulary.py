"""vocabulary_map.json: which tokens of the model it was cut from a model still has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.artifact import sha256_of, write_text
from compress.errors import ArtifactError
from compress.models.folder import MAP_FILE, read_config, read_object

_SCHEMA = 1
NONE = -1


@dataclass(frozen=True)
class VocabularyMap:
    """From the ids of a cut vocabulary to those of the one it was cut from.

    tokenizer_sha256  of the tokenizer.json before the first cut
    size              tokens of the model before the first cut
    kept              [V] the id before the first cut of every id now, ascending
    begins            [size] the id now with which the spelling of every token before the first cut begins; NONE where a row
                      had no token
    """

    tokenizer_sha256: str
    size: int
    kept: tuple[int, ...]
    begins: tuple[int, ...]

    def cut(self, kept: Sequence[int], begins: Sequence[int]) -> VocabularyMap:
        """Return the map after another cut; `kept` and `begins` are those of that cut alone."""
        begun = tuple(begins[index] if index != NONE else NONE for index in self.begins)
        return VocabularyMap(self.tokenizer_sha256, self.size, tuple(self.kept[index] for index in kept), begun)

    def write(self, folder: Path) -> None:
        """Write vocabulary_map.json into a model folder."""
        entry = {
            "schema": _SCHEMA,
            "tokenizer_sha256": self.tokenizer_sha256,
            "size": self.size,
            "kept": list(self.kept),
            "begins": list(self.begins),
        }
        write_text(folder / MAP_FILE, json.dumps(entry) + "\n")


def read_map(folder: Path) -> VocabularyMap | None:
    """Return the map of a model folder, None where its vocabulary was not cut.

    Raises ArtifactError where the file does not hold one.
    """
    path = folder / MAP_FILE
    if not path.is_file():
        return None
    entry = read_object(path)
    if entry.get("schema") != _SCHEMA:
        raise ArtifactError(f"{path}: schema {entry.get('schema')!r} is not read, {_SCHEMA} is; cut the model again")
    found = VocabularyMap(
        str(entry.get("tokenizer_sha256")), entry.get("size", 0), _ids(entry.get("kept")), _ids(entry.get("begins"))
    )
    if not _is_good(found):
        raise ArtifactError(
            f"{path}: needs tokenizer_sha256, size, kept (ascending ids below size) and begins (an id for each of size); "
            "cut the model again"
        )
    return found


def _ids(value: object) -> tuple[int, ...]:
    good = isinstance(value, list) and all(isinstance(index, int) for index in value)
    return tuple(value) if good and isinstance(value, list) else ()


def _is_good(found: VocabularyMap) -> bool:
    kept, begins = found.kept, found.begins
    if not kept or not begins or len(begins) != found.size or list(kept) != sorted({*kept}):
        return False
    return 0 <= kept[0] <= kept[-1] < found.size and NONE <= min(begins) <= max(begins) < len(kept)


def map_after(folder: Path, kept: Sequence[int], begins: Sequence[int]) -> VocabularyMap:
    """Return the map of what a cut of a model folder gives: `kept` and `begins` as VocabularyMap has them, from the folder's ids."""
    before = read_map(folder)
    if before is not None:
        return before.cut(kept, begins)
    size = int(read_config(folder)["vocab_size"])
    return VocabularyMap(sha256_of(folder / "tokenizer.json"), size, tuple(kept), tuple(begins))


@dataclass(frozen=True)
class TeacherTokens:
    """How a teacher reads and answers for a student with fewer tokens.

    reads    [V of the student] the teacher's id of each of the student's
    answers  [V of the teacher] the student's id that the teacher's token begins with; NONE where it has none
    """

    reads: list[int]
    answers: list[int]


def teacher_tokens(teacher: Path, student: Path) -> TeacherTokens | None:
    """Return how the teacher's tokens map to a student's; None where both have the same tokenizer and as many tokens.

    Raises ValueError, which says what differs, where the student's tokens are not all the teacher's.
    """
    sizes = [int(read_config(folder)["vocab_size"]) for folder in (teacher, student)]
    digests = [sha256_of(folder / "tokenizer.json") for folder in (teacher, student)]
    if sizes[0] == sizes[1] and digests[0] == digests[1]:
        return None
    own, other = read_map(student), read_map(teacher)
    if own is not None and len(own.kept) == sizes[1]:
        if (own.tokenizer_sha256, own.size) == (digests[0], sizes[0]):
            return TeacherTokens(list(own.kept), list(own.begins))
        if other is not None and (own.tokenizer_sha256, own.size) == (other.tokenizer_sha256, other.size):
            return _between(own, other)
        raise ValueError(
            f"the student's vocabulary was cut from another one than the teacher's ({own.size} tokens, the teacher has "
            f"{sizes[0]}); give the teacher that it was cut from"
        )
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the teacher has {sizes[0]} tokens, the student {sizes[1]}; both must have the same tokenizer. Start from a student "
            "with the teacher's tokenizer"
        )
    raise ValueError("teacher and student have different tokenizer.json; both must have the same tokenizer")


def lost_words(student: VocabularyMap, teacher: VocabularyMap) -> str:
    """Return what to say of a teacher that lost tokens which the student has, both cut from one vocabulary; else nothing."""
    missing = {*student.kept} - {*teacher.kept}
    if not missing:
        return ""
    return (
        f"the teacher's vocabulary was cut, and {len(missing)} of the student's {len(student.kept)} tokens went; give the "
        "teacher as it was before"
    )


def _between(student: VocabularyMap, teacher: VocabularyMap) -> TeacherTokens:
    """Return the map between two cuts of the same vocabulary.

    Raises ValueError where the teacher lost tokens that the student has.
    """
    if said := lost_words(student, teacher):
        raise ValueError(said)
    places = {before: now for now, before in enumerate(teacher.kept)}
    return TeacherTokens([places[index] for index in student.kept], [student.begins[index] for index in teacher.kept])
