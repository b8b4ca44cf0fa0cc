"""Repetition is counted as Gopher counts it; real stories pass."""

from __future__ import annotations

import numpy as np
import pytest

from compress.data.stories import stories
from compress.data.written.repetition import again_share, top_share, worst_repetition
from tests.references.near_duplicates import repeated_ngram_share, top_ngram_share


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_shares_are_those_of_the_paper(size):
    generator = np.random.default_rng(size)
    for vocabulary in (2, 4, 30):
        text = " ".join("abcdefgh"[: 1 + number % 8] * (1 + number) for number in generator.integers(0, vocabulary, 50))
        words = text.split()
        assert again_share(words, size) == pytest.approx(repeated_ngram_share(text, size))
        assert top_share(words, size) == pytest.approx(top_ngram_share(text, size))


@pytest.mark.parametrize(
    ("text", "over", "said"),
    [
        ("the dog ran and " * 10, True, "of the text is"),
        ("a line\n" * 4 + "another line of words", True, ""),
        ("yes\nno\nyes\nno\nyes", True, "again and again"),
        ("Paris.", False, ""),
        ("", False, ""),
        ("Once there was a fox who ran to the old barn and slept there until the sun rose again.", False, ""),
    ],
)
def test_what_is_said_again_is_over_the_limit(text, over, said):
    found, words = worst_repetition(text)
    assert (found > 1) is over
    assert said in words


def test_stories_that_people_made_pass():
    found = [worst_repetition(story.text)[0] for story in stories(0, 50)]
    assert np.median(found) < 1
