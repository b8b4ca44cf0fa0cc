"""vocabulary_map.json: which tokens of the model it was cut from a model still has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.artifact import sha256_of, write_text
from compress.errors import ArtifactError
from compress.models.folder import MAP_FILE, read_config, read_object
from compress.models.tokenizer_ids import difference, ids_of

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
    """How a teacher reads and answers for a student with other rows: fewer tokens, or more or fewer rows of padding.

    reads    [V of the student] the teacher's id of each of the student's; 0 for a row that no token has
    answers  [V of the teacher] the student's id that the teacher's token begins with; NONE where it has none
    """

    reads: list[int]
    answers: list[int]

    @property
    def shared(self) -> int | None:
        """How many first ids mean the same to both, where no other id of the teacher has an answer; None where ids move."""
        count = next((index for index, answer in enumerate(self.answers) if answer != index), len(self.answers))
        good = self.reads[:count] == list(range(count)) and all(answer == NONE for answer in self.answers[count:])
        return count if good else None


def teacher_tokens(teacher: Path, student: Path) -> TeacherTokens | None:
    """Return how the teacher's tokens map to a student's; None where both have the same tokenizer and as many rows.

    Tokenizers are the same that give the same ids for every text, see tokenizer_ids.py. Rows beyond the tokenizer's ids are
    padding, of which models of one family have more or fewer: the teacher's have no answer, the student's get none.

    Raises ValueError, which says what differs, where the student's tokens are not all the teacher's.
    """
    sizes = [int(read_config(folder)["vocab_size"]) for folder in (teacher, student)]
    digests = [sha256_of(folder / "tokenizer.json") for folder in (teacher, student)]
    if sizes[0] == sizes[1] and digests[0] == digests[1]:
        return None
    own, other = read_map(student), read_map(teacher)
    if own is None or len(own.kept) != sizes[1]:
        return tokens_between(teacher, student, sizes[0], sizes[1])
    if own.tokenizer_sha256 == digests[0]:
        return _of_cut(own, sizes[0])
    if other is not None and own.tokenizer_sha256 == other.tokenizer_sha256:
        return _between(own, other)
    raise ValueError(_other_origin(own.size, sizes[0]))


def refuse_cut(teacher: Path, student: Path) -> None:
    """Do nothing where a teacher can answer for what a cut of the student's vocabulary will leave.

    Raises ValueError, which says what differs, where it cannot.
    """
    own, other = read_map(student), read_map(teacher)
    digest = own.tokenizer_sha256 if own else sha256_of(student / "tokenizer.json")
    if digest in {sha256_of(teacher / "tokenizer.json"), other.tokenizer_sha256 if other else ""}:
        return
    sizes = [int(read_config(folder)["vocab_size"]) for folder in (teacher, student)]
    if own is not None:
        raise ValueError(_other_origin(own.size, sizes[0]))
    tokens_between(teacher, student, sizes[0], sizes[1])
    raise ValueError(
        "a cut of the vocabulary is known to the teacher by the same tokenizer.json, and the student's gives the same ids in "
        "other bytes; copy the teacher's tokenizer.json to the student"
    )


def _other_origin(size: int, teacher_size: int) -> str:
    return (
        f"the student's vocabulary was cut from another one than the teacher's ({size} tokens, the teacher has "
        f"{teacher_size}); give the teacher that it was cut from"
    )


def tokens_between(teacher: Path, student: Path, teacher_rows: int, student_rows: int) -> TeacherTokens | None:
    """Return the map between two models of so many rows whose tokenizers give the same ids; None where it would change nothing.

    Raises ValueError with the difference.
    """
    files = [read_object(folder / "tokenizer.json") for folder in (teacher, student)]
    if found := difference(files[0], files[1]):
        raise ValueError(
            f"teacher and student have different tokenizers: {found}. Start from a student with the teacher's tokenizer"
        )
    ids = {index: text for text, index in ids_of(files[1]).items() if index < student_rows}
    if unread := sorted(index for index in ids if index >= teacher_rows):
        raise ValueError(
            f"the teacher has {teacher_rows:,} rows, and none for the student's token {ids[unread[0]]!r} ({unread[0]})"
        )
    alone = [index for index in ids_of(files[0]).values() if index < teacher_rows and index not in ids]
    if teacher_rows == student_rows and not alone:
        return None
    reads = [index if index in ids else 0 for index in range(student_rows)]
    return TeacherTokens(reads, [index if index in ids else NONE for index in range(teacher_rows)])


def _of_cut(own: VocabularyMap, rows: int) -> TeacherTokens:
    """Return the map of a cut student to what it was cut from, which may have other rows of padding now."""
    padding = [NONE] * (rows - own.size)
    return TeacherTokens([index if index < rows else 0 for index in own.kept], [*own.begins[:rows], *padding])


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
    begins = dict(enumerate(student.begins))
    return TeacherTokens([places[index] for index in student.kept], [begins.get(index, NONE) for index in teacher.kept])
