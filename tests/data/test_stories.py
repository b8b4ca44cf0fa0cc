"""The built-in stories: repeatable, distinct, within their vocabulary; no simple rule answers their questions."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable

import pytest

from compress.data.stories import Story, stories, vocabulary
from compress.data.story_template import compile_template

WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
FIRST_200_SHA256 = "0bd5734ba69688dd700510384889d50b710c2a0de0d6e7dadba23a9bdedf660c"


@pytest.fixture(scope="module")
def sample() -> list[Story]:
    return list(stories(0, 5000))


def places_of(story: Story, choice: str) -> list[int]:
    """Where a choice is mentioned in the context, as character offsets."""
    return [found.start() for found in re.finditer(rf"\b{re.escape(choice)}\b", story.context, re.IGNORECASE)]


def test_the_first_stories_are_pinned() -> None:
    text = "\n\n".join(story.text for story in stories(0, 200))
    assert hashlib.sha256(text.encode()).hexdigest() == FIRST_200_SHA256


def test_a_range_can_be_cut_out() -> None:
    assert list(stories(0, 5, start=10)) == list(stories(0, 15))[10:]
    assert list(stories(0, 0)) == []


def test_stories_differ_within_and_between_seeds() -> None:
    train = [story.text for story in stories(0, 30_000)]
    assert len(set(train)) == len(train)
    assert not set(train) & {story.text for story in stories(1, 5000)}


def test_every_word_is_in_the_vocabulary(sample: list[Story]) -> None:
    words = {word for story in sample for word in WORD.findall(story.text.lower())}
    assert words <= vocabulary()
    assert 1350 <= len(words) <= len(vocabulary()) <= 1650


def test_the_last_sentence_holds_the_answer(sample: list[Story]) -> None:
    for story in sample:
        assert story.text == story.context + " " + story.answer + "."
        assert story.choices.count(story.answer) == 1
        assert len(story.choices) in (3, 4)
        assert len({choice.split()[0] for choice in story.choices}) == len(story.choices)


def test_every_choice_is_mentioned(sample: list[Story]) -> None:
    assert all(places_of(story, choice) for story in sample for choice in story.choices)


def test_text_is_clean(sample: list[Story]) -> None:
    for story in sample:
        assert story.text.isascii()
        assert not re.search(
            r"[\[\]{}|<>~=]| [.,?!\n]|  |\n\n|[.,?!]{2}|\b[Aa] [aeiou]|\b[Aa]n [^aeiouh]|\b(\w+) \1\b", story.text
        ), story.text
        assert not re.search(r"(?:^|[.?!] |\n)[a-z]", story.context.replace('!" ', "").replace('?" ', "")), story.text
        assert story.text.count('"') % 2 == 0
        assert 70 <= len(story.text.split()) <= 200


def test_answer_positions_are_uniform(sample: list[Story]) -> None:
    positions = Counter(story.choices.index(story.answer) for story in sample if len(story.choices) == 3)
    third = sum(positions.values()) / 3
    assert all(abs(positions[position] - third) < 0.1 * third for position in range(3))


@pytest.mark.parametrize("template", ["[a|b", "a]", "[a[b]"])
def test_unmatched_brackets_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match="do not match"):
        compile_template(template)


def test_there_are_many_kinds_of_question(sample: list[Story]) -> None:
    kinds = Counter(story.question for story in sample)
    assert len(kinds) >= 8
    assert max(kinds.values()) < 0.3 * len(sample)


@pytest.mark.parametrize(
    "guess",
    [
        pytest.param(lambda story, choice: places_of(story, choice)[-1], id="last mentioned"),
        pytest.param(lambda story, choice: -places_of(story, choice)[0], id="first mentioned"),
        pytest.param(lambda story, choice: len(places_of(story, choice)), id="most often mentioned"),
        pytest.param(lambda story, choice: -len(places_of(story, choice)), id="least often mentioned"),
        pytest.param(lambda story, choice: len(choice), id="longest"),
    ],
)
def test_no_simple_rule_answers(sample: list[Story], guess: Callable[[Story, str], int]) -> None:
    right = sum(max(story.choices, key=lambda choice: guess(story, choice)) == story.answer for story in sample)
    assert right / len(sample) <= 0.65
