"""vocabulary_map.json: read as it was written, composed, carried along with the tokenizer, and refused where it is damaged."""

# ruff: noqa: E501 - the tables hold whole messages

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.artifact import sha256_of
from compress.errors import ArtifactError
from compress.models.folder import copy_tokenizer
from compress.models.vocabulary import (
    NONE,
    TeacherTokens,
    VocabularyMap,
    map_after,
    read_map,
    refuse_cut,
    teacher_tokens,
)

BEGINS = [0, 0, 1, 2, 1, 2, 0, 3, 1, -1]


def words(tokenizer: str) -> dict[str, int]:
    """Ten tokens, or for `more` the twelve that begin with them; their names say whose they are, except for `whole` and its kin."""
    name = "w" if tokenizer in ("whole", "more", "other bytes") else tokenizer
    return {f"{name}{index}": index for index in range(12 if tokenizer == "more" else 10)}


def folder(path: Path, size: int = 10, tokenizer: str = "whole", cut: VocabularyMap | None = None) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"vocab_size": size}))
    (path / "tokenizer.json").write_text(json.dumps({"of": tokenizer, "model": {"vocab": words(tokenizer)}}))
    if cut:
        cut.write(path)
    return path


@pytest.fixture
def teacher(tmp_path) -> Path:
    return folder(tmp_path / "teacher")


def test_a_map_is_read_as_it_was_written(teacher, tmp_path):
    found = map_after(teacher, [0, 2, 3, 7], BEGINS)
    assert found == VocabularyMap(sha256_of(teacher / "tokenizer.json"), 10, (0, 2, 3, 7), tuple(BEGINS))
    found.write(tmp_path)
    assert read_map(tmp_path) == found
    assert json.loads((tmp_path / "vocabulary_map.json").read_text()) == {
        "schema": 1, "tokenizer_sha256": found.tokenizer_sha256, "size": 10, "kept": [0, 2, 3, 7], "begins": BEGINS,
    }  # fmt: skip
    assert read_map(teacher) is None


def test_a_cut_of_a_cut_is_a_map_from_the_first(teacher, tmp_path):
    once = folder(tmp_path / "once", 4, "once", map_after(teacher, [0, 2, 3, 7], BEGINS))
    expected = VocabularyMap(sha256_of(teacher / "tokenizer.json"), 10, (2, 7), (0, 0, 0, 0, 0, 0, 0, 1, 0, -1))
    assert map_after(once, [1, 3], [0, 0, 0, 1]) == expected


def test_a_map_goes_where_the_tokenizer_goes(teacher, tmp_path):
    once = folder(tmp_path / "once", 4, "once", map_after(teacher, [0, 2, 3, 7], BEGINS))
    (tmp_path / "next").mkdir()
    copy_tokenizer(once, tmp_path / "next")
    assert read_map(tmp_path / "next") == read_map(once)


def test_a_student_asks_for_the_ids_that_its_tokens_had(teacher, tmp_path):
    first = map_after(teacher, [0, 2, 3, 7], BEGINS)
    once = folder(tmp_path / "once", 4, "once", first)
    twice = folder(tmp_path / "twice", 2, "twice", first.cut([1, 3], [0, 0, 0, 1]))
    assert teacher_tokens(teacher, folder(tmp_path / "same")) is None
    assert teacher_tokens(once, folder(tmp_path / "pruned", 4, "once", first)) is None
    assert teacher_tokens(teacher, once) == TeacherTokens([0, 2, 3, 7], BEGINS)
    assert teacher_tokens(teacher, twice) == TeacherTokens([2, 7], [0, 0, 0, 0, 0, 0, 0, 1, 0, -1])
    assert teacher_tokens(once, twice) == TeacherTokens([1, 3], [0, 0, 0, 1])


OTHER = "'w0' (0) is a token of the teacher alone; 'w1' (1) is a token of the teacher alone; 'w2' (2) is a token of the teacher alone; and 17 more"
REFUSED = [
    (10, "other", None, f"teacher and student have different tokenizers: {OTHER.replace('x', 'other')}. Start from a student with the teacher's tokenizer"),
    (12, "more", None, "teacher and student have different tokenizers: the teacher's has 10 tokens, the student's 12; 'w10' (10) is a token of the student alone; 'w11' (11) is a token of the student alone. Start from a student with the teacher's tokenizer"),
    (2, "x", VocabularyMap("0" * 64, 10, (1, 2), (0, 0, 1, *[0] * 7)), "the student's vocabulary was cut from another one than the teacher's (10 tokens, the teacher has 10); give the teacher that it was cut from"),
    (3, "x", VocabularyMap("", 10, (1, 2), (0, 0, 1, *[0] * 7)), f"teacher and student have different tokenizers: {OTHER}. Start from a student with the teacher's tokenizer"),
]  # fmt: skip


@pytest.mark.parametrize(("size", "tokenizer", "cut", "message"), REFUSED)
def test_tokens_that_are_not_the_teachers_are_refused(teacher, tmp_path, size, tokenizer, cut, message):
    if cut:
        digest = cut.tokenizer_sha256 or sha256_of(teacher / "tokenizer.json")
        cut = VocabularyMap(digest, cut.size, cut.kept, cut.begins)
    student = folder(tmp_path / "student", size, tokenizer, cut)
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
        teacher_tokens(teacher, student)
    assert str(refused.value) == message


def test_a_teacher_that_lost_tokens_of_the_student_is_refused(teacher, tmp_path):
    other = folder(tmp_path / "other", 3, "other", map_after(teacher, [0, 2, 3], [0] * 10))
    student = folder(tmp_path / "student", 4, "student", map_after(teacher, [0, 2, 7, 9], [0] * 10))
    with pytest.raises(ValueError, match="the teacher's vocabulary was cut, and 2 of the student's 4 tokens went"):
        teacher_tokens(other, student)


def test_rows_of_padding_have_no_answer_and_get_none(tmp_path):
    small, large = folder(tmp_path / "small", 11), folder(tmp_path / "large", 14)
    found = teacher_tokens(large, small)
    assert found == TeacherTokens([*range(10), 0], [*range(10), NONE, NONE, NONE, NONE])
    assert found.shared == 10
    found = teacher_tokens(small, large)
    assert found == TeacherTokens([*range(10), 0, 0, 0, 0], [*range(10), NONE])
    assert found.shared == 10
    # one that has no padding at all
    assert teacher_tokens(folder(tmp_path / "bare"), large) == TeacherTokens([*range(10), 0, 0, 0, 0], [*range(10)])


def test_other_bytes_that_give_the_same_ids_are_the_same_tokenizer(teacher, tmp_path):
    assert teacher_tokens(teacher, folder(tmp_path / "student", tokenizer="other bytes")) is None


def test_tokens_added_in_the_teacher_alone_have_no_answer(tmp_path):
    chat = folder(tmp_path / "chat", 12)
    settings = json.loads((chat / "tokenizer.json").read_text())
    added = {"id": 10, "content": "<|turn|>", "special": True}
    (chat / "tokenizer.json").write_text(json.dumps(settings | {"added_tokens": [added]}))
    plain = folder(tmp_path / "plain", 12)
    assert teacher_tokens(chat, plain) == TeacherTokens([*range(10), 0, 0], [*range(10), NONE, NONE])
    with pytest.raises(
        ValueError, match=r"the student's 11; '<\|turn\|>' \(10\) is a token of the student alone\. Start"
    ):
        teacher_tokens(plain, chat)


def test_a_token_that_the_teacher_has_no_row_for_is_named(teacher, tmp_path):
    (teacher / "config.json").write_text('{"vocab_size": 9}')
    with pytest.raises(ValueError, match=r"^the teacher has 9 rows, and none for the student's token 'w9' \(9\)$"):
        teacher_tokens(teacher, folder(tmp_path / "student"))
    # rows that the student does not have either are nobody's
    assert teacher_tokens(teacher, folder(tmp_path / "short", 9)) is None


def test_a_cut_student_of_a_padded_model_asks_another_one_of_its_family(teacher, tmp_path):
    first = map_after(teacher, [0, 2, 3, 7], BEGINS)
    once = folder(tmp_path / "once", 4, "once", first)
    assert teacher_tokens(folder(tmp_path / "large", 12), once) == TeacherTokens([0, 2, 3, 7], [*BEGINS, NONE, NONE])
    assert teacher_tokens(folder(tmp_path / "bare", 9), once) == TeacherTokens([0, 2, 3, 7], BEGINS[:9])


def test_how_many_first_ids_are_shared():
    assert TeacherTokens([0, 1, 2], [0, 1, 2]).shared == 3
    assert TeacherTokens([0, 1, 2], [0, 1, NONE]).shared == 2
    assert TeacherTokens([0, 2], [0, 0, 1]).shared is None
    assert TeacherTokens([0, 1, 0, 3], [0, 1, NONE, 3]).shared is None


def test_what_a_cut_will_leave_is_refused_where_the_teacher_cannot_know_it(teacher, tmp_path):
    refuse_cut(teacher, folder(tmp_path / "padded", 12))
    first = map_after(teacher, [0, 2, 3, 7], BEGINS)
    once = folder(tmp_path / "once", 4, "once", first)
    refuse_cut(teacher, once)
    refuse_cut(once, teacher)
    with pytest.raises(
        ValueError, match=r"^a cut of the vocabulary is known to the teacher by the same tokenizer\.json"
    ):
        refuse_cut(teacher, folder(tmp_path / "bytes", tokenizer="other bytes"))
    with pytest.raises(ValueError, match=r"^teacher and student have different tokenizers: "):
        refuse_cut(teacher, folder(tmp_path / "other", tokenizer="other"))
    with pytest.raises(ValueError, match=r"^the student's vocabulary was cut from another one than the teacher's"):
        refuse_cut(folder(tmp_path / "third", tokenizer="third"), once)
    assert teacher_tokens(teacher, once).shared is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2 is not read, 1 is; cut the model again"),
        (
            {"kept": [3, 2]},
            "needs tokenizer_sha256, size, kept \\(ascending ids below size\\) and begins \\(an id for each of size\\); cut the model again",
        ),
        ({"kept": [2, 10]}, "ascending ids below size"),
        ({"kept": [-1, 2]}, "ascending ids below size"),
        ({"kept": []}, "ascending ids below size"),
        ({"kept": ["1"]}, "ascending ids below size"),
        ({"size": None}, "ascending ids below size"),
        ({"begins": [0] * 9}, "begins .an id for each of size"),
        ({"begins": [2] * 10}, "begins .an id for each of size"),
        ({"begins": [-2] * 10}, "begins .an id for each of size"),
    ],
)
def test_a_damaged_map_is_named(tmp_path, change, message):
    entry = {"schema": 1, "tokenizer_sha256": "0", "size": 10, "kept": [1, 2], "begins": [0] * 10} | change
    (tmp_path / "vocabulary_map.json").write_text(json.dumps(entry))
    with pytest.raises(ArtifactError, match=message) as refused:
        read_map(tmp_path)
    assert str(tmp_path / "vocabulary_map.json") in str(refused.value)
