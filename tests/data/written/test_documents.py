"""From a written text to documents: pairs of question and answer, ends of turns."""

from __future__ import annotations

import pytest

from compress.data.written.documents import document_from_json, items_of
from tests.data.written.tiny_teacher import make_source, stories

TEXT = "Q: Who ran?\nA: The fox.\n\nQ: Where?\nA: To the\nold barn.\nQ:\nA: nothing"


def text(**changes):
    return {"prompt": "Ask: ", "origin": "4", "text": TEXT, "tokens": 9, "ended": False, "end": ""} | changes


def chat(turns, prompt):
    return f"<{turns[0]['content']}>"


def segments(items):
    return [item.document.segments for item in items]


def test_each_pair_is_a_document(tmp_path):
    source = make_source({"chunks": stories(tmp_path)})
    found = list(items_of(text(origin="4:1"), 7, source, None))
    assert segments(found) == [
        (("Who ran?\n", False), ("The fox.", True)),
        (("Where?\n", False), ("To the\nold barn.", True)),
    ]
    assert [(item.name, item.origin) for item in found] == [("7:0", "4:1"), ("7:1", "4:1")]


def test_the_last_pair_of_a_text_that_was_cut_did_not_end(tmp_path):
    source = make_source({"chunks": stories(tmp_path)})
    cut = TEXT.partition("\nQ:\n")[0]
    assert [item.ended for item in items_of(text(text=cut), 0, source, None)] == [True, False]
    assert [item.ended for item in items_of(text(text=cut, ended=True), 0, source, None)] == [True, True]


def test_a_chat_is_learned_with_the_end_of_its_turn(tmp_path):
    source = make_source({"template": "x"}, documents=1)
    ended = text(text="Hello", ended=True, end="</s>")
    assert segments(items_of(ended, 0, source, chat)) == [(("Ask: ", False), ("Hello</s>", True))]
    assert segments(items_of(ended, 0, source, None)) == [(("Ask: ", False), ("Hello", True))]
    pairs = make_source({"chunks": stories(tmp_path)})
    asked = list(items_of(text(text="Q: a?\nA: b", ended=True, end="</s>"), 0, pairs, chat))
    assert segments(asked) == [(("<a?>", False), ("b</s>", True))]


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_what_has_nothing_to_learn_is_left_out(empty):
    assert list(items_of(text(text=empty), 0, make_source({"template": "x"}, documents=1), None)) == []


def test_documents_are_read_as_they_were_written():
    item = next(items_of(text(), 3, make_source({"template": "x"}, documents=1), None))
    assert document_from_json(item.to_json()) == item.document
