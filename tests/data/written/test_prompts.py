"""Each kind of prompt: what the teacher reads, what a student reads, and that number and seed alone decide."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from compress.data.written.prompts import PromptList, fingerprint_prompts, pick
from compress.errors import StageError
from tests.data.written.tiny_teacher import make_source, make_teacher, stories
from tests.models.tiny_decoder import BOS

WORDS = {"template": ["A {noun} and a {verb}.", "The {noun}!"], "words": {"noun": ["cat", "dog", "fox"], "verb": ["run", "sit"]}}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return make_teacher(tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    return make_teacher(tmp_path_factory.mktemp("model") / "chat", chat=True)


def prompts(teacher, given, **options):
    return PromptList(make_source(given, **options), teacher.folder)


def texts(teacher, given, count, **options):
    listed = prompts(teacher, given, **options)
    return [listed[number].text for number in range(count)]


def test_openings_are_first_tokens_of_documents_with_bos(teacher, tmp_path):
    listed = prompts(teacher, {"openings": stories(tmp_path) | {"tokens": 3}})
    assert listed.count == 3
    found = [listed[number] for number in range(3)]
    assert sorted(one.origin for one in found) == ["0", "1", "2"]
    assert all(one.ids[0] == BOS and len(one.ids) == 4 for one in found)
    assert {"The red fox ran to the barn.".startswith(one.text) for one in found} == {True, False}
    assert listed[3] == found[0]
    assert sorted(listed.seeds()) == ["A blue bird sang in the tree.", "The red fox ran to the barn.", "Tom gave the ball to Mia."]  # fmt: skip


def test_openings_may_be_words_lines_or_nothing(teacher, tmp_path):
    assert set(texts(teacher, {"openings": stories(tmp_path) | {"words": 2}}, 3)) == {"The red", "A blue", "Tom gave"}
    assert set(texts(teacher, {"openings": stories(tmp_path)}, 3)) == set(prompts(teacher, {"openings": stories(tmp_path)}).seeds())  # fmt: skip
    bare = prompts(teacher, {"openings": "bos"}, documents=2)
    assert (bare[0].ids, bare[0].text, bare[5]) == ((BOS,), "", bare[0])


def test_templates_are_filled_at_random(teacher):
    found = texts(teacher, WORDS, 300, documents=1)
    counts = Counter(found)
    assert len(counts) == 9
    assert sum(count for text, count in counts.items() if text.startswith("The")) / 300 == pytest.approx(0.5, abs=0.1)
    assert found == texts(teacher, WORDS, 300, documents=1)
    assert found != texts(teacher, WORDS, 300, documents=1, seed=1)


def test_words_may_stand_in_a_file(teacher, tmp_path):
    (tmp_path / "nouns.txt").write_text("red fox\n\n owl \n")
    given = {"template": "The {noun}", "words": {"noun": str(tmp_path / "nouns.txt")}}
    assert set(texts(teacher, given, 20, documents=1)) == {"The red fox", "The owl"}
    (tmp_path / "nouns.txt").write_text("\n")
    with pytest.raises(StageError, match=r"words\.noun: .*nouns\.txt holds no words"):
        prompts(teacher, given, documents=1)
    with pytest.raises(StageError, match=r"words\.noun: there is no file .*gone\.txt; give a text file"):
        prompts(teacher, given | {"words": {"noun": str(tmp_path / "gone.txt")}}, documents=1)


def test_instructions_come_from_tables_and_lines(teacher, chatty, tmp_path):
    rows = [{"instruction": "Add.", "input": "1 and 2"}, {"instruction": "Sing.", "input": ""}, {"instruction": " "}]
    file = tmp_path / "alpaca.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"instructions": {"files": str(file)}}
    alpaca = "### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n"
    assert set(texts(teacher, given, 2)) == {alpaca, "### Instruction:\nSing.\n\n### Response:\n"}
    assert set(texts(chatty, given, 2)) == {"[user] Add.\n\n1 and 2</s>[assistant] ", "[user] Sing.</s>[assistant] "}
    assert set(texts(chatty, given, 2, chat=False)) == {alpaca, "### Instruction:\nSing.\n\n### Response:\n"}
    own = {"instructions": {"files": str(file), "template": "Do: {instruction} {input}="}}
    assert "Do: Add. 1 and 2=" in texts(teacher, own, 2)
    (tmp_path / "lines.txt").write_text("Add.\nSing.\n")
    lines = {"instructions": {"files": str(tmp_path / "lines.txt"), "template": "{instruction}"}}
    assert set(texts(teacher, lines, 2)) == {"Add.", "Sing."}
    with pytest.raises(
        StageError, match=r"row 1 has no column 'ask'; the columns are 'instruction', 'input'\. Name it"
    ):
        prompts(teacher, {"instructions": {"files": str(file), "instruction": "ask"}})


def test_chunks_cut_documents_evenly(teacher, tmp_path):
    listed = prompts(teacher, {"chunks": stories(tmp_path) | {"tokens": 6, "ask": "<{chunk}>"}})
    assert listed.count > 3
    whole = {}
    for number in range(listed.count):
        document, piece = listed[number].origin.split(":")
        whole.setdefault(document, {})[int(piece)] = listed[number].text[1:-1]
    joined = {"".join(pieces[piece] for piece in sorted(pieces)).replace(" ", "") for pieces in whole.values()}
    assert joined == {text.replace(" ", "") for text in listed.seeds()}


def test_a_chat_begins_as_its_template_says(chatty):
    listed = prompts(chatty, WORDS, documents=1)
    assert listed[0].ids[0] != BOS
    assert listed[0].text.endswith("[assistant] ")


def test_chat_needs_a_template(teacher):
    with pytest.raises(StageError, match=r"chat is true, but the teacher \(.*\) has no chat template; leave chat out"):
        prompts(teacher, WORDS, documents=1, chat=True)


def test_an_empty_source_is_refused(teacher, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(StageError, match=r"prompts\.openings: there is no text in it"):
        prompts(teacher, {"openings": {"files": str(tmp_path / "empty.txt")}})


def test_the_fingerprint_follows_contents_not_names(tmp_path):
    (tmp_path / "a.txt").write_text("cat\n")
    (tmp_path / "b.txt").write_text("cat\n")
    names = [make_source({"template": "{x}", "words": {"x": str(tmp_path / name)}}, documents=1).prompts for name in ("a.txt", "b.txt")]  # fmt: skip
    listed = make_source({"template": "{x}", "words": {"x": ["cat"]}}, documents=1).prompts
    assert len({fingerprint_prompts(each) for each in (*names, listed)}) == 1
    (tmp_path / "b.txt").write_text("dog\n")
    assert fingerprint_prompts(names[1]) != fingerprint_prompts(listed)
    openings = [make_source({"openings": stories(tmp_path) | {"tokens": count}}).prompts for count in (3, 4)]
    assert len(set(map(fingerprint_prompts, openings))) == 2


def test_picks_are_even_and_the_same_everywhere():
    counts = Counter(pick(0, number, "noun", 3) for number in range(3000))
    assert all(900 < count < 1100 for count in counts.values())
    assert [pick(7, number, "x", 10) for number in range(5)] == [3, 6, 2, 9, 7]
