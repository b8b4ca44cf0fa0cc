"""Which sources a teacher can write, and what is said of the others."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from compress.data.options import Source
from compress.data.written.options import fields_of

OPENINGS = {"files": "a.txt", "separator": "--", "tokens": 8}
WRITTEN = {"from": "teacher", "prompts": {"openings": OPENINGS}}
WORDS = {"template": "A {noun}.", "words": {"noun": ["cat"]}}


def read(**given):
    return Source.model_validate_json(json.dumps(given))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"from": "teacher"}, "from teacher needs prompts"),
        (WRITTEN | {"files": "b.txt"}, "needs exactly one of files, dataset, builtin, from, got files and from"),
        ({"files": "b.txt", "new_tokens": 5}, "new_tokens cannot stand beside files; with files use"),
        (WRITTEN | {"text": "story"}, "text cannot stand beside from; with from use attempts, chat, documents,"),
        (WRITTEN | {"attempts": 3}, "attempts stands beside documents: without it each prompt is answered once"),
        ({"from": "teacher", "prompts": {}}, "needs exactly one of openings, template, instructions, chunks, got none"),
        ({"from": "teacher", "prompts": WORDS}, "needs documents: templates give prompts without end"),
        ({"from": "teacher", "prompts": {"openings": "bos"}}, "needs documents: bos gives prompts without end"),
        ({"from": "teacher", "prompts": {"template": "A {noun}."}}, "template names {noun}, and words has no 'noun'"),
        ({"from": "teacher", "prompts": {"template": "A.", "words": {"x": ["y"]}}}, "words.x stands in no template"),
        ({"from": "teacher", "prompts": {"openings": OPENINGS | {"words": 2}}}, "needs tokens or words, not both"),
        ({"from": "teacher", "prompts": {"openings": OPENINGS | {"label": "x"}}}, "label cannot stand beside files"),
        ({"from": "teacher", "prompts": {"chunks": {"files": "a", "ask": "{text}"}}}, "needs {chunk}, and no other name"),
        ({"from": "teacher", "prompts": {"chunks": {"files": "a", "pairs": "(?P<answer>.)"}}}, "needs the group (?P<question>"),
        ({"from": "teacher", "prompts": {"chunks": {"files": "a", "pairs": "("}}}, "no regular expression: "),
        ({"from": "teacher", "prompts": {"chunks": {"files": "a"}}, "prompt_is": "learned"}, "prompt_is: the questions"),
        ({"from": "teacher", "prompts": {"instructions": {"files": "a", "template": "x"}}}, "needs {instruction}"),
        (WRITTEN | {"filters": [{}]}, "needs exactly one of length, finished, repetition,"),
        (WRITTEN | {"filters": [{"perplexity": {}}]}, "needs min or max"),
        (WRITTEN | {"filters": [{"length": {"min": 3, "max": 2}}]}, "min (3) is more than max (2)"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(given, expected):
    with pytest.raises(ValidationError) as caught:
        read(**given)
    assert expected in str(caught.value)


def test_a_route_is_a_few_lines():
    stories = read(**WRITTEN)
    assert stories.prompts.kind == "openings"
    assert (stories.prompt_role, [each.name for each in stories.kept_filters]) == (
        "learned",
        ["length", "repetition", "exact_duplicates", "near_duplicates"],
    )
    alpaca = read(**{"from": "teacher", "prompts": {"instructions": {"files": "alpaca.jsonl"}}})
    assert (alpaca.prompt_role, [each.name for each in alpaca.kept_filters]) == (
        "read",
        ["repetition", "exact_duplicates", "near_duplicates"],
    )
    drawn = read(**{"from": "teacher", "prompts": WORDS, "documents": 9, "prompt_is": "dropped"})
    assert (drawn.prompt_role, drawn.prompts.kind) == ("dropped", "template")
    assert read(**WRITTEN, filters=[]).kept_filters == ()


def test_a_filter_may_stand_by_its_name():
    source = read(**WRITTEN, filters=["repetition", {"finished": None}, {"near_duplicates": {"words": 3}}])
    assert [each.name for each in source.kept_filters] == ["repetition", "finished", "near_duplicates"]
    assert source.kept_filters[0].repetition.scale == 1.0


def test_names_in_braces_are_told_from_braces():
    assert fields_of("{a} {{b}} {c}") == {"a", "c"}
    with pytest.raises(ValueError, match="is no name"):
        fields_of("{a b}")


def test_other_sources_are_what_they_were():
    source = read(files="a.txt")
    assert source.writer is None
    assert source.model_dump(exclude_none=True) == {"files": ["a.txt"]}
