"""How much of a text is said again: lines and n-grams of words, with the limits of Gopher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

# share of the lines; of the characters in the most frequent n-gram; of the characters in n-grams that were there before
LINES = 0.3
TOP = {2: 0.20, 3: 0.18, 4: 0.16}
AGAIN = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def worst_repetition(text: str) -> tuple[float, str]:
    """Return the largest share of a text that is repeated, as a multiple of its limit, and in words what that is.

    An n-gram that stands there once is not repeated, so that short texts pass. More than 1 is over the limit.

    Paper: Gopher (arXiv 2112.11446, table A1). Departures: no paragraphs, which texts of this length seldom have; one most
    frequent n-gram counts from its second time on.
    """
    words = text.split()
    found = [(_repeated_lines(text) / LINES, "of the lines were there before")]
    found += [
        (top_share(words, size) / limit, f"of the text is one {size}-gram again and again")
        for size, limit in TOP.items()
    ]
    found += [
        (again_share(words, size) / limit, f"of the text is {size}-grams that were there before")
        for size, limit in AGAIN.items()
    ]
    return max(found, key=lambda one: one[0])


def _repeated_lines(text: str) -> float:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (len(lines) - len(set(lines))) / len(lines) if lines else 0.0


def top_share(words: Sequence[str], size: int) -> float:
    """Return the share of the words' characters that the most frequent n-gram covers; 0 where none stands there twice."""
    counts = Counter(_ngrams(words, size))
    characters = sum(map(len, words))
    often = [(count * sum(map(len, ngram)), ngram) for ngram, count in counts.items() if count > 1]
    return min(1.0, max(often)[0] / characters) if often else 0.0


def again_share(words: Sequence[str], size: int) -> float:
    """Return the share of the words' characters that lie in an n-gram which was there before; each word counts once."""
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for start, ngram in enumerate(_ngrams(words, size)):
        if ngram in seen:
            covered.update(range(start, start + size))
        seen.add(ngram)
    characters = sum(map(len, words))
    return sum(len(words[place]) for place in covered) / characters if characters else 0.0


def _ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
