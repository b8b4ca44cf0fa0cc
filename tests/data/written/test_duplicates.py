"""Near duplicates are those of a comparison of all with all; MinHash estimates what it should."""

from __future__ import annotations

import numpy as np
import pytest

from compress.data.written.duplicates import PERMUTATIONS, RECALL, ExactIndex, NearIndex, band_rows, normalised
from tests.references.near_duplicates import keep_first, similarity


def near_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 60 words, of which each third is an earlier one with some words changed."""
    generator = np.random.default_rng(seed)
    texts: list[list[str]] = []
    for index in range(count):
        words = [f"w{number}" for number in generator.integers(0, 500, 60)]
        if index % 3 == 2:
            words = list(texts[generator.integers(0, len(texts))])
            for place in generator.integers(0, 60, generator.integers(0, 8)):
                words[place] = "changed"
        texts.append(words)
    return [" ".join(words) for words in texts]


@pytest.mark.parametrize(("threshold", "size"), [(0.5, 3), (0.75, 5), (0.9, 2), (1.0, 5)])
def test_kept_are_those_of_a_comparison_with_all(threshold, size):
    texts = near_texts(120)
    index = NearIndex(threshold, size)
    kept = [number for number, text in enumerate(texts) if index.find_or_add(text, str(number)) is None]
    assert kept == keep_first(texts, threshold, size)
    assert len(kept) < len(texts)


def test_minhash_agrees_as_often_as_texts_are_similar():
    texts = near_texts(60)
    index = NearIndex(0.5, 3)
    hashes = [index.ngrams(text) for text in texts]
    signatures = [index.minhash(one) for one in hashes]
    errors = [
        (signatures[a] == signatures[b]).mean() - similarity(texts[a], texts[b], 3)
        for a in range(60)
        for b in range(a)
        if similarity(texts[a], texts[b], 3) > 0.1
    ]
    assert len(errors) > 10
    assert abs(np.mean(errors)) < 0.03
    assert np.std(errors) < 1.5 * 0.5 / np.sqrt(PERMUTATIONS)


@pytest.mark.parametrize("similar", [0.3, 0.5, 0.75, 0.9, 1.0])
def test_bands_find_what_is_just_similar_enough(similar):
    rows = band_rows(similar)
    assert 1 - (1 - similar**rows) ** (PERMUTATIONS // rows) >= RECALL


def test_the_nearest_one_is_named():
    index = NearIndex(0.3, 1)
    for name, text in (("a", "one two three four"), ("b", "one two three five six")):
        assert index.find_or_add(text, name) is None or name == "b"
    assert index.find_or_add("One, two; three four!", "c") == ("a", 1.0)


def test_exact_duplicates_are_found_but_for_case_spaces_and_punctuation():
    index = ExactIndex()
    assert index.find_or_add("The fox ran.", "a") is None
    assert index.find_or_add("the  fox — RAN!", "b") == "a"
    assert index.find_or_add("The fox sat.", "c") is None
    assert normalised("Ｆｏｘ_ﬁ") == "fox fi"


def test_texts_without_words_are_one_text():
    index = NearIndex(0.75, 5)
    assert index.find_or_add("", "a") is None
    assert index.find_or_add("…", "b") == ("a", 1.0)
