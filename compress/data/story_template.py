"""The notation of the built-in stories: templates with alternatives, tables of words, slots; last touches to a text."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random

from . import story_scenes, story_words

_MARKUP = re.compile(r"(\[|\]|\||<\w+>|\{\w+\})")
_POLISH = re.compile(r"\b([Aa])~ ((?:[aeiou]|hones)?)")
# A sentence or a quotation begins; after `," `, `!" ` and `?" ` the sentence around the quotation goes on instead.
_START = re.compile(r"[.!?\n\"] ?\"? ?[a-z]")
_GOES_ON = ('" ', '!" ', '?" ')
_SPARE_SPACE = re.compile(r" +(?=[ .,?!\n])|(?<=\n) +")

Parts = tuple["Node", ...]


class Node:
    """A compiled piece of a template: literal text, a slot, a table, or alternatives."""

    __slots__ = ("kind", "options", "text")

    def __init__(self, kind: str, text: str = "", options: "tuple[Parts, ...]" = ()) -> None:
        self.kind, self.text, self.options = kind, text, options


@cache
def compile_template(template: str) -> Parts:
    """The pieces of a template. Raises: ValueError at brackets which do not match."""
    stack: list[list[list[Node]]] = [[[]]]
    for token in _MARKUP.split(template):
        if token == "[":
            stack.append([[]])
        elif token == "|":
            stack[-1].append([])
        elif token == "]":
            options = tuple(tuple(option) for option in stack.pop())
            if not stack:
                break
            stack[-1][-1].append(Node("any", options=options))
        elif token.startswith(("<", "{")):
            stack[-1][-1].append(Node("table" if token[0] == "<" else "slot", token[1:-1]))
        elif token:
            stack[-1][-1].append(Node("text", token))
    if len(stack) != 1 or len(stack[0]) != 1:
        raise ValueError(f"the brackets of {template!r} do not match")
    return tuple(stack[0][0])


@cache
def table(name: str) -> tuple[str, ...]:
    """The entries of a table of words or phrases."""
    if name in story_scenes.PHRASES:
        return story_scenes.PHRASES[name]
    return tuple(entry.strip() for entry in story_words.WORDS[name].split(","))


@cache
def names(which: str) -> tuple[str, ...]:
    """The entries of one of the constants of `story_words`, e.g. GIRLS."""
    return tuple(entry.strip() for entry in str(getattr(story_words, which)).split(","))


def pick(rng: Random, options: Sequence[str]) -> str:
    """One of the options; by random() alone, whose stream Python keeps from version to version."""
    return options[int(rng.random() * len(options))]


def write(parts: Parts, slots: Mapping[str, str], rng: Random, out: list[str]) -> None:
    """Append the text of compiled pieces to `out`, drawing every alternative from `rng`."""
    for node in parts:
        if node.kind == "text":
            out.append(node.text)
        elif node.kind == "slot":
            out.append(slots[node.text])
        elif node.kind == "any":
            write(node.options[int(rng.random() * len(node.options))], slots, rng, out)
        else:
            entry = pick(rng, table(node.text))
            if "[" in entry or "{" in entry or "<" in entry:
                write(compile_template(entry), slots, rng, out)
            else:
                out.append(entry)


def expand(template: str, slots: Mapping[str, str], rng: Random) -> str:
    """The text of a template."""
    out: list[str] = []
    write(compile_template(template), slots, rng, out)
    return "".join(out)


def finish(text: str) -> str:
    """Settle a and an, and start every sentence with a capital letter."""
    text = _SPARE_SPACE.sub("", text)
    text = _POLISH.sub(lambda found: found[1] + ("n " if found[2] else " ") + found[2], text)
    text = _START.sub(lambda found: found[0] if found[0].startswith(_GOES_ON) else found[0].upper(), text)
    return text[0].upper() + text[1:]
