"""What check says of a cut vocabulary: the tokenizer, the teacher, limits by token."""

# ruff: noqa: E501 - the lines hold whole messages

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from compress.models.vocabulary import VocabularyMap, map_after
from tests.tiny_check import BPE, TEXT, model, notes, said


@pytest.fixture
def place(tmp_path) -> Path:
    model(tmp_path / "model")
    return tmp_path


def test_distill_may_follow_a_cut_of_the_vocabulary(place):
    cut = TEXT + "  - prune: {id: a, remove: {vocab: 8}}\n"
    text = (
        cut
        + "  - prune: {id: b, remove: {vocab: 8}}\n  - distill: {id: c, from: b, tokens: 9}\n  - distill: {id: d, from: c, tokens: 9}\n"
    )
    assert notes(place, text) == []
    model(place / "other", vocab_size=65)
    assert said(place, text + "student: {model: other}\n") == [
        f"{line}:5: stages[{line - 8}].distill: a cut of the vocabulary is known to the teacher by the same tokenizer.json, and the student's gives the same ids in other bytes; copy the teacher's tokenizer.json to the student"
        for line in (10, 11)
    ]
    # the same tokenizer, and a row of padding more
    shutil.copyfile(place / "model" / "tokenizer.json", place / "other" / "tokenizer.json")
    assert notes(place, cut + "  - distill: {tokens: 9}\nstudent: {model: other}\n") == []
    (place / "other" / "tokenizer.json").write_text(json.dumps({"model": {**BPE, "vocab": {"a": 0}, "merges": []}}))
    assert said(place, cut + "  - distill: {tokens: 9}\nstudent: {model: other}\n") == [
        "9:5: stages[1].distill: teacher and student have different tokenizers: the teacher's has 40 tokens, the student's 1; 'b' (1) is a token of the teacher alone; 'c' (2) is a token of the teacher alone; 'd' (3) is a token of the teacher alone; and 36 more. Start from a student with the teacher's tokenizer"
    ]


def test_limits_by_token_are_not_for_a_cut_vocabulary(place):
    text = TEXT + "  - prune: {id: a, remove: {vocab: 8}}\n"
    assert notes(place, text + "limits: {a: {size_mb: 9, perplexity: 9}}\n") == []
    whole = "limits: {a: {perplexity_increase: 0.1, kl_to_teacher: 1}}\n"
    assert notes(place, text.replace("vocab: 8", "ffn: 8") + whole) == []
    why = "'a' has 56 tokens, the teacher 64, and it is measured by token; leave it out"
    assert [one.partition(" ")[2] for one in said(place, text + whole)] == [
        f"limits.a.{name} can never be met: {why}" for name in ("perplexity_increase", "kl_to_teacher")
    ]


def test_a_cut_of_the_vocabulary_that_the_tokenizer_does_not_allow_is_refused(place):
    cut = TEXT + "  - prune: {id: a, remove: {vocab: 56}}\n"
    assert notes(place, cut) == []
    assert said(place, cut.replace("56", "57")) == [
        "8:5: stages[0].prune: remove.vocab would leave 7 of 64 tokens, and 8 must stay for any text to be encoded (special tokens, bytes, characters); remove at most 56"
    ]
    (place / "model" / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram"}}))
    assert said(place, cut) == [
        "8:5: stages[0].prune: the tokenizer is Unigram, and only BPE and WordPiece tokenizers can be cut; leave remove.vocab out"
    ]


def test_a_folder_whose_vocabulary_was_cut_has_the_teachers_tokens(place):
    student = model(place / "cut", vocab_size=48)
    map_after(place / "model", range(48), [0] * 64).write(student)
    text = TEXT + "  - distill: {tokens: 9}\nstudent: {model: cut}\n"
    assert notes(place, text) == []
    assert notes(place, text.replace("- distill: {t", "- prune: {remove: {vocab: 8}}\n  - distill: {t")) == []
    model(place / "more", vocab_size=40)
    map_after(place / "model", range(40), [0] * 64).write(place / "more")
    assert (
        notes(
            place,
            text.replace("{model: model}", "{model: cut}").replace("student: {model: cut}", "student: {model: more}"),
        )
        == []
    )
    map_after(place / "model", range(1, 49), [0] * 64).write(student)
    other = text.replace("{model: model}", "{model: more}")
    assert said(place, other) == [
        "8:5: stages[0].distill: the teacher's vocabulary was cut, and 9 of the student's 48 tokens went; give the teacher as it was before"
    ]
    assert notes(place, other.replace("- distill: {t", "- prune: {remove: {vocab: 8}}\n  - distill: {t")) == []
    VocabularyMap("0" * 64, 64, tuple(range(48)), (0,) * 64).write(student)
    assert said(place, text) == [
        "8:5: stages[0].distill: the student's vocabulary was cut from another one than the teacher's (64 tokens, the teacher has 64); give the teacher that it was cut from"
    ]
    VocabularyMap("0" * 64, 66, tuple(range(48)), (0,) * 66).write(student)
    assert said(place, text) == [
        "8:5: stages[0].distill: the student's vocabulary was cut from another one than the teacher's (66 tokens, the teacher has 64); give the teacher that it was cut from"
    ]
    (student / "vocabulary_map.json").write_text("{}")
    assert said(place, text) == [
        "9:11: student.model: ./cut/vocabulary_map.json: schema None is not read, 1 is; cut the model again"
    ]
