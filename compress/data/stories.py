"""`{builtin: stories}`: short children's stories from a seed, each closing with a question which the story settles.

A story is an opening, perhaps a scene of `story_scenes`, a plot of `story_plots` or `story_journeys` with one of its
endings, a closing and a question; the last sentence ends in the answer. The wrong choices are of the answer's kind and
occur in the story as well.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from . import story_journeys, story_plots, story_scenes, story_words
from .story_template import expand, finish, names, pick, table

REVISION: int = 1

NUMBERS = "two, three, four, five, six, seven, eight, nine, ten, eleven, twelve"
# After these kinds the answer follows "the", so that a reminder of the choices needs it as well.
WITH_ARTICLE = frozenset({"animal", "belief", "container", "flower", "land", "person", "place", "thing"})
SHORT_WORDS = 100
LONG_WORDS = 150

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


@dataclass(frozen=True)
class Story:
    """One story: `text` is `context + " " + answer + "."`; the place of the answer among `choices` is uniform."""

    text: str
    context: str
    question: str
    answer: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Ask:
    """A question; `text` ends in the lead of the answering sentence; `options` are slots, the answer first."""

    kind: str
    text: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Plot:
    """A plot or scene: `people` of its cast, `draws` of (slots, table), `body`, and endings of (text, questions)."""

    name: str
    people: int
    child: bool
    draws: tuple[tuple[tuple[str, ...], str], ...]
    body: str
    ends: tuple[tuple[str, tuple[Ask, ...]], ...]


def parse_ask(line: str) -> Ask:
    """Read `KIND: question and lead > answer other other`."""
    kind, rest = line.split(":", 1)
    text, options = rest.rsplit(" > ", 1)
    return Ask(kind.strip(), text.strip(), tuple(options.split()))


def parse_plot(block: str) -> Plot:
    """Read one block in the notation of `story_scenes`; a line that starts with a space continues the one before."""
    head: dict[str, str] = {"draw": ""}
    body: list[str] = []
    common: list[Ask] = []
    ends: list[tuple[str, list[Ask]]] = []
    for line in block.replace("\n  ", " ").splitlines():
        key, _, value = line.partition(" ")
        if key == "tell":
            body.append(value)
        elif key == "end":
            ends.append((value, []))
        elif key == "ask":
            (ends[-1][1] if ends else common).append(parse_ask(value))
        else:
            head[key] = value
    draws = tuple(
        (tuple(slot_names.split()), name.strip())
        for slot_names, name in (draw.split(":") for draw in head["draw"].split(";") if draw.strip())
    )
    people, *flags = head["cast"].split()
    endings = tuple((text, tuple(common + asks)) for text, asks in ends) or (("", tuple(common)),)
    return Plot(head["plot"], len(people), "child" in flags, draws, " ".join(body), endings)


@cache
def parse_plots(source: str) -> tuple[Plot, ...]:
    """The plots of a source: "plots", "scenes", or "pair scenes", which need two people only."""
    if source == "pair scenes":
        return tuple(scene for scene in parse_plots("scenes") if scene.people == 2)
    text = story_scenes.SCENES if source == "scenes" else story_plots.PLOTS + "\n\n" + story_journeys.PLOTS
    return tuple(parse_plot(block) for block in re.split(r"\n\s*\n", text.strip()))


def bind_person(slots: dict[str, str], role: str, name: str, kind: str, she: bool) -> None:
    """Bind the slots of a person: name, kind and pronouns."""
    he, him, his = ("she", "her", "her") if she else ("he", "him", "his")
    slots[role] = name
    slots[role + "kind"] = kind
    slots[role + "he"], slots[role + "him"], slots[role + "his"] = he, him, his
    slots[role + "He"] = slots[role + "HE"] = he.capitalize()


def bind_cast(plot: Plot, rng: Random, taken: set[str]) -> dict[str, str]:
    """Slots of the people A to D, their home and an onlooker. A and B differ in gender."""
    slots: dict[str, str] = {}
    animals = not plot.child and rng.random() < 0.35
    a_is_she = rng.random() < 0.5
    for role, she in zip("ABCD", (a_is_she, not a_is_she, rng.random() < 0.5, rng.random() < 0.5), strict=True):
        pool = names(("SHE_ANIMALS" if she else "HE_ANIMALS") if animals else ("GIRLS" if she else "BOYS"))
        kind = pick(rng, names("KINDS")) if animals else "girl" if she else "boy"
        taken.add(kind)
        bind_person(slots, role, draw_new(rng, pool, taken), kind, she)
    slots["home"] = pick(rng, table("den" if animals else "home"))
    slots["seen"] = draw_new(rng, table("seen"), taken)
    return slots


def draw_new(rng: Random, pool: Sequence[str], taken: set[str]) -> str:
    """One of the pool whose first word is not taken yet: the choices of a question differ in their first words."""
    while True:
        value = pick(rng, pool)
        first = value.split(" ", 1)[0]
        if first not in taken:
            taken.add(first)
            return value


def bind_draws(plot: Plot, slots: dict[str, str], rng: Random, taken: set[str]) -> None:
    """Bind what a plot or scene draws; a `split` is three different numbers, the first the sum of the others."""
    for slot_names, tables in plot.draws:
        name = pick(rng, tables.split("|"))
        if name == "split":
            numbers = names_of_numbers()
            given = 2 + int(rng.random() * 5)
            left = 2 + (given - 2 + 1 + int(rng.random() * 4)) % 5
            slots.update(zip(slot_names, (numbers[given + left], numbers[given], numbers[left]), strict=True))
        elif name == "elder":
            she = rng.random() < 0.5
            pool = names("SHE_ELDERS" if she else "HE_ELDERS")
            bind_person(slots, slot_names[0], pick(rng, pool), "", she)
        else:
            for slot in slot_names:
                slots[slot] = draw_new(rng, table(name), taken)


@cache
def names_of_numbers() -> tuple[str, ...]:
    """The word of each number, by the number; zero and one are not used."""
    return ("", "", *(word.strip() for word in NUMBERS.split(",")))


def ask_question(ask: Ask, slots: Mapping[str, str], rng: Random) -> tuple[str, str, tuple[str, ...]]:
    """The closing question with the lead of its answer, the answer, and the shuffled choices."""
    options = [slots[option] for option in ask.options]
    choices = list(options)
    for last in range(len(choices) - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        choices[last], choices[other] = choices[other], choices[last]
    text = expand(ask.text, slots, rng)
    if rng.random() < 0.3:
        order = sorted(options, key=lambda _: rng.random())
        listed = ", ".join(order[:-1]) + " or " + order[-1]
        reminder = f"was it the {listed}?" if ask.kind in WITH_ARTICLE else f"{listed}?"
        text = text.replace("? ", f"? {reminder} ", 1)
    return text, options[0], tuple(choices)


def compose(rng: Random) -> tuple[list[str], list[Ask], list[Ask], dict[str, str]]:
    """The paragraphs of one story before its question, the questions of the plot and of the scene, and the slots."""
    plot = pick_plot(rng, parse_plots("plots"))
    taken: set[str] = set()
    slots = bind_cast(plot, rng, taken)
    bind_draws(plot, slots, rng, taken)
    ending, asks = plot.ends[int(rng.random() * len(plot.ends))]
    body = expand(plot.body, slots, rng)
    close = " ".join((expand(ending, slots, rng), expand("<moral>", slots, rng))).strip()
    scene_asks: list[Ask] = []
    early = ""
    if len((body + close).split()) < SHORT_WORDS and rng.random() < 0.6:
        # With four people about, "the tallest of the three" would be wrong.
        scene = pick_plot(rng, parse_plots("pair scenes" if plot.people > 3 else "scenes"))
        bind_draws(scene, slots, rng, taken)
        early, scene_asks = expand(scene.body, slots, rng), list(scene.ends[0][1])
        people = max(plot.people, scene.people)
    else:
        people = plot.people
    opening = expand(pick(rng, story_scenes.OPENINGS), slots, rng)
    if people > 2:
        opening += " " + expand(pick(rng, story_scenes.FRIENDS[people]), slots, rng)
    if early:
        opening += " " + early
    words = len((opening + body + close).split())
    if '"' not in opening and words < LONG_WORDS - 30 and rng.random() < 0.4:
        opening += " " + expand("<greet>", slots, rng)
    if words < LONG_WORDS - 20 and rng.random() < 0.5:
        body += " " + expand("<aside>", slots, rng)
    return [opening, body, close], list(asks), scene_asks, slots


def pick_plot(rng: Random, plots: Sequence[Plot]) -> Plot:
    """One of the plots."""
    return plots[int(rng.random() * len(plots))]


def story(seed: int, index: int) -> Story:
    """Story `index` of a seed."""
    digest = hashlib.sha256(f"compress stories {REVISION} {seed} {index}".encode()).digest()
    rng = Random(int.from_bytes(digest[:16], "big"))
    paragraphs, asks, scene_asks, slots = compose(rng)
    pool = scene_asks if scene_asks and rng.random() < 0.25 else asks
    ask = pool[int(rng.random() * len(pool))]
    question, answer, choices = ask_question(ask, slots, rng)
    context = finish("\n".join((*paragraphs, question)))
    return Story(f"{context} {answer}.", context, ask.kind, answer, choices)


def stories(seed: int, count: int, start: int = 0) -> Iterator[Story]:
    """Stories `start` to `start + count - 1` of a seed.

    A story depends on its seed and index only, so that ranges of indices are pieces of one stream. Stories are drawn
    independently from a space so large that no two equal ones are to be expected; this was checked for the first
    100,000 of seed 0 and between seeds 0 and 1, it is not enforced.
    """
    for index in range(start, start + count):
        yield story(seed, index)


@cache
def vocabulary() -> frozenset[str]:
    """Every word that a story can hold, in lower case: all the words of the tables and templates."""
    sources = [
        story_plots.PLOTS,
        story_journeys.PLOTS,
        story_scenes.SCENES,
        *story_scenes.OPENINGS,
        *story_words.WORDS.values(),
    ]
    for phrases in (*story_scenes.PHRASES.values(), *story_scenes.FRIENDS.values()):
        sources.extend(phrases)
    for constant in ("GIRLS", "BOYS", "SHE_ANIMALS", "HE_ANIMALS", "KINDS", "SHE_ELDERS", "HE_ELDERS"):
        sources.extend(names(constant))
    sources.extend((NUMBERS, "a an girl boy he she him her his himself herself was it the or"))
    lines = (
        line for source in sources for line in source.splitlines() if not line.startswith(("plot ", "cast ", "draw "))
    )
    text = "\n".join(re.sub(r"^(tell|end|ask \w+:)|<\w+>|\{\w+\}|> .*$", " ", line) for line in lines)
    return frozenset(_WORD.findall(text.lower()))
