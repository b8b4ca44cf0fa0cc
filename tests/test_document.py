"""YAML text to values with places: the traps of YAML, one by one."""

from __future__ import annotations

import pytest

from compress.document import parse

FILE = "r.yaml"


def said(text: str) -> list[str]:
    return [f"{found.line}:{found.column}: {found.message}" for found in parse(text, FILE).problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2e3", 2000.0),
        (".5", 0.5),
        ("-1.5", -1.5),
        ("1_000_000", 1_000_000),
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("+3", 3),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("off", "off"),
        ("y", "y"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("2026-01-01", "2026-01-01"),
        ("12:30:45", "12:30:45"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("|\n  1\n", "1\n"),
        ("{a: ${X}/b}", {"a": "${X}/b"}),
        ("\ufeffa", "a"),
        ("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
        ("---\na: 1\n...\n", {"a": 1}),
        ("a: &x [1]\nb: *x\n", {"a": [1], "b": [1]}),
        ("'1': 2", {"1": 2}),
    ],
)
def test_values_follow_yaml_1_2(text, value):
    document = parse(text, FILE)
    assert document.problems == []
    assert document.value == value
    assert type(document.value) is type(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "2:1: the key 'a' stands here a second time; keep one of them"),
        ("1: 2\n", "1:1: a key must be a word, found 1; put it in quotes"),
        ("null: 2\n", "1:1: a key must be a word, found null; put it in quotes"),
        ("? [a]\n: 1\n", "1:3: a key must be a word, found a list or a mapping"),
        ("<<: {a: 1}\n", "1:1: merge keys (<<) are not read; write the options out"),
        ("a: !!str 1\n", "1:4: the tag !!str has no meaning in a recipe; remove it"),
        ("a: ! 1\n", "1:4: the tag ! has no meaning in a recipe; remove it"),
        ("a: !!int foo\n", "1:4: the tag !!int has no meaning in a recipe; remove it"),
        ("a: !!set {b}\n", "1:4: the tag !!set has no meaning in a recipe; remove it"),
        (
            "!!python/object:os.system x\n",
            "1:1: the tag !!python/object:os.system has no meaning in a recipe; remove it",
        ),
        ("a: &x [*x]\n", "1:4: an alias refers to what it stands in"),
        ("a: *x\n", "1:4: not YAML: found undefined alias 'x'"),
        ("a: &x 1\nb: &x 2\n", "2:4: not YAML: this anchor is there a second time"),
        ("a: 1\n---\nb: 2\n", "2:1: not YAML: a second document starts here; a recipe is one document"),
        ("a:\n\tb: 1\n", "2:1: not YAML: a tab stands here; YAML takes spaces only"),
        ("a: 1\n b: 2\n", "2:3: not YAML: a ':' is not allowed here; look at the indent, or put the text in quotes"),
        ("a: 1\nb: \0\n", "2:4: the character U+0000 cannot stand in YAML; remove it"),
        ("a: 1\r\nb: \x07\r\n", "2:4: the character U+0007 cannot stand in YAML; remove it"),
        ('a: "\\ud800"\n', "1:4: half a character (a surrogate) stands here; write the whole one"),
        ("a: 9223372036854775808\n", "1:4: this number is too large; whole numbers go to 2^63"),
        ("a: 0x" + "f" * 5000, "1:4: this number is too large; whole numbers go to 2^63"),
        ("a: " + "9" * 5000, "1:4: this number is too large; whole numbers go to 2^63"),
        ("a: " + "[" * 5000, "1:36: nested more than 32 deep"),
        ("a: " + "{b: " * 3000 + "1" + "}" * 3000, "1:129: nested more than 32 deep"),
        ("a" * 200_001, "1:1: more than 200000 characters, too long for a recipe"),
    ],
)
def test_a_trap_is_one_problem_with_its_place(text, expected):
    assert said(text) == [expected]


def test_a_tag_changes_nothing_of_the_value():
    assert parse("{a: !!str 1, b: !!int '2', c: !!set {d: 1}}", FILE).value == {"a": 1, "b": "2", "c": {"d": 1}}


def test_every_problem_is_collected():
    assert said("a: 1\na: 2\nb: !x 3\n4: 5\n") == [
        "3:4: the tag !x has no meaning in a recipe; remove it",
        "2:1: the key 'a' stands here a second time; keep one of them",
        "4:1: a key must be a word, found 4; put it in quotes",
    ]


def test_aliases_cannot_grow_without_bound():
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [
        f"{name}: &{name} [{','.join(['*' + before] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    document = parse("\n".join(lines), FILE)
    assert [found.message for found in document.problems] == [
        "more than 20000 values, counting what aliases repeat; write a shorter recipe"
    ]
    assert document.value is None


def test_aliases_cannot_nest_without_bound():
    lines = ["a0: &a0 [x]"] + [f"a{index}: &a{index} [*a{index - 1}]" for index in range(1, 60)]
    assert [found.message for found in parse("\n".join(lines), FILE).problems] == [
        "more than 32 levels, counting what aliases repeat; write a shorter recipe"
    ]


def test_places_are_those_of_keys_and_of_list_items():
    places = parse("a:\n  - b: 1\n  - {c: [2, 3]}\n", FILE).places
    assert {key: (place.line, place.column) for key, place in places.items()} == {
        (): (1, 1),
        ("a",): (1, 1),
        ("a", 0): (2, 5),
        ("a", 0, "b"): (2, 5),
        ("a", 1): (3, 5),
        ("a", 1, "c"): (3, 6),
        ("a", 1, "c", 0): (3, 10),
        ("a", 1, "c", 1): (3, 13),
    }


def test_the_excerpt_shows_the_part_around_the_column_and_steers_no_terminal():
    document = parse("a: {" + "x: 1, " * 40 + "b: '\x85[31m'}", FILE)
    problem = document.problem(("a", "b"), "wrong")
    line, mark = problem.excerpt.split("\n")
    assert line.index("b: ") == mark.index("^")
    assert len(line) <= 114
    assert line.isprintable()


def test_a_problem_without_a_place_of_its_own_stands_at_what_is_around_it():
    document = parse("a: {b: 1}\n", FILE)
    assert str(document.problem(("a", "c", "d"), "is missing")) == "r.yaml:1:1: error: is missing\n    a: {b: 1}\n    ^"


def test_of_what_could_not_be_read_nothing_else_is_said():
    document = parse("a: {b: 99999999999999999999, c: 1}\n", FILE)
    document.complain(("a", "b"), "must be small")
    document.complain(("a",), "needs b")
    assert len(document.problems) == 1
    document.complain(("a", "c"), "is another matter")
    assert len(document.problems) == 2
