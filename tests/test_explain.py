"""The words of a wrong option."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from compress.benchmark.options import Off
from compress.document import Document, parse
from compress.explain import name_of, shown, suggest, validate
from compress.options import Options, must_be


class Inner(Options):
    size: Annotated[int, Field(ge=1)] = 4
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Outer(Options):
    bits: Literal[4, 8] = 4
    fast: bool = False
    names: tuple[str, ...] = ()
    inner: Inner | Off = Field(default_factory=Inner)
    by_id: dict[str, Inner] = Field(default_factory=dict)
    mix: Literal["kl"] | dict[Literal["kl", "ce"], float] = "kl"
    word: Annotated[str, Field(pattern="^[a-z]+$"), must_be("small letters")] = "a"
    texts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None


class Needy(Options):
    must: int


def said(text: str, kind: type[Options] = Outer) -> list[str]:
    document = parse(text, "r.yaml")
    options: Any = validate(kind, document.value, (), document, ("id",))
    assert (options is None) == bool(document.problems)
    return [problem.message for problem in document.problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bits: 3", "bits must be 4 or 8, got 3"),
        ("bits: '4'", "bits must be 4 or 8, got '4'"),
        ("bits: true", "bits must be 4 or 8, got true"),
        ("bits: null", "bits must be 4 or 8, got null"),
        ("fast: 1", "fast must be true or false, got 1"),
        ("fast: yes", "fast must be true or false, got 'yes'"),
        ("names: a", "names must be a list, got 'a'"),
        ("names: [a, 1]", "names[1] must be text, got 1"),
        ("inner: true", "inner must be a mapping or false, got true"),
        ("inner: 0", "inner must be a mapping or false, got 0"),
        ("inner: null", "inner must be a mapping or false, got null"),
        ("inner: {size: 0}", "inner.size must be at least 1, got 0"),
        ("inner: {size: true}", "inner.size must be a whole number, got true"),
        ("inner: {size: '1'}", "inner.size must be a whole number, got '1'"),
        ("inner: {size: 1e6}", "inner.size must be a whole number, got 1000000.0; write 1000000"),
        ("inner: {size: 1.5}", "inner.size must be a whole number, got 1.5"),
        ("inner: {share: true}", "inner.share must be a number, got true"),
        ("inner: {share: 1}", "inner.share must be less than 1, got 1"),
        ("inner: {share: 1e999}", "inner.share must be a finite number, got Infinity"),
        ("inner: {share: .nan}", "inner.share must be a number, got '.nan'"),
        ("inner: {sise: 1}", "inner has no option 'sise'. Did you mean 'size'?"),
        ("inner: {zzz: 1}", "inner has no option 'zzz'. Known: share, size."),
        ("by_id: {a: {sise: 1}}", "by_id.a has no option 'sise'. Did you mean 'size'?"),
        ("by_id: {a: 3}", "by_id.a must be a mapping, got 3"),
        ("mix: ke", "mix must be kl or a mapping, got 'ke'"),
        ("mix: {ke: 1}", "mix has no option 'ke'. Known: ce, kl."),
        ("mix: {kl: a}", "mix.kl must be a number, got 'a'"),
        ("word: A b", "word must be small letters, got 'A b'"),
        ("word: 3", "word must be small letters, got 3"),
        ("texts: []", "texts must be a list of at least 1, got []"),
        ("texts: ['']", "texts[0] must be text of at least 1 character, got ''"),
        ("bist: 4", "the recipe has no option 'bist'. Did you mean 'bits'?"),
        ("idd: 4", "the recipe has no option 'idd'. Did you mean 'id'?"),
        ("3", "the recipe must be a mapping, got 3"),
    ],
)
def test_a_mistake_is_said_in_plain_words(text, expected):
    assert said(text) == [expected]


def test_a_missing_option_is_named():
    assert said("{}", Needy) == ["the recipe needs 'must'"]


def test_a_whole_number_is_taken_where_a_number_is_asked():
    assert validate(Outer, {"mix": {"kl": 1}}, (), Document()) == Outer(mix={"kl": 1.0})


def test_every_mistake_is_said_once():
    assert said("bits: 3\nfast: 1\ninner: {size: 0, sise: 1, share: 2}\n") == [
        "bits must be 4 or 8, got 3",
        "fast must be true or false, got 1",
        "inner.size must be at least 1, got 0",
        "inner.share must be less than 1, got 2",
        "inner has no option 'sise'. Did you mean 'size'?",
    ]


def test_names_and_values_are_written_as_in_yaml():
    assert name_of(("stages", 2, "quantize", "bits")) == "stages[2].quantize.bits"
    assert name_of(()) == "the recipe"
    assert [shown(value) for value in (None, True, "a", [1, "b"])] == ["null", "true", "'a'", '[1, "b"]']
    assert len(shown("x" * 1000)) == 60
    assert suggest("blok", ["block", "bits"]) == " Did you mean 'block'?"
    assert suggest("zzz", ["block", "bits"]) == " Known: bits, block."
    assert suggest("zzz", []) == ""
