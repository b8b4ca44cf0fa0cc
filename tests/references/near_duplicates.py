"""Slow restatements of what the filters of written data compute, from the words of the papers."""

from __future__ import annotations

import math
import re


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    """The n-grams of the words of a text without case and punctuation."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    size = min(size, len(words))
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


def similarity(one: str, other: str, size: int) -> float:
    """Jaccard similarity of two texts."""
    first, second = shingles(one, size), shingles(other, size)
    return len(first & second) / len(first | second)


def keep_first(texts: list[str], threshold: float, size: int) -> list[int]:
    """Numbers of the texts that are not similar to one kept before: each is compared with all."""
    kept: list[int] = []
    for index, text in enumerate(texts):
        if all(similarity(text, texts[other], size) < threshold for other in kept):
            kept.append(index)
    return kept


def top_ngram_share(text: str, size: int) -> float:
    """Gopher: characters of the most frequent n-gram, over all the times that it stands there, of the characters of all words."""
    words = text.split()
    grams = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    most = max((grams.count(gram) * sum(map(len, gram)) for gram in grams if grams.count(gram) > 1), default=0)
    return min(1.0, most / sum(map(len, words)))


def repeated_ngram_share(text: str, size: int) -> float:
    """Gopher: characters of the words that lie in an n-gram which stood there before."""
    words = text.split()
    inside = set()
    for start in range(len(words) - size + 1):
        gram = words[start : start + size]
        if any(words[before : before + size] == gram for before in range(start)):
            inside |= set(range(start, start + size))
    return sum(len(words[place]) for place in inside) / sum(map(len, words))


def perplexity(log_probabilities: list[float]) -> float:
    """Of the learned tokens' natural log probabilities."""
    return math.exp(-math.fsum(log_probabilities) / len(log_probabilities))
