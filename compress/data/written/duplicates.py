"""Duplicates among texts: exact ones after normalisation, and near ones by MinHash with locality-sensitive hashing."""

from __future__ import annotations

import hashlib
import re
import unicodedata

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
_NO_WORD = re.compile(r"[\W_]+")
PERMUTATIONS = 128
# A pair that is just similar enough is found with at least this probability.
RECALL = 0.99


def normalised(text: str) -> str:
    """Return a text without case, punctuation and doubled spaces; compatible characters (NFKC) are one."""
    return _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


class ExactIndex:
    """Texts that were kept, by the digest of what is left after normalisation."""

    def __init__(self) -> None:
        self._seen: dict[bytes, str] = {}

    def find_or_add(self, text: str, name: str) -> str | None:
        """Return the name of an equal text that was added before; where there is none, add this one and return None."""
        found = self._seen.setdefault(_digest(text), name)
        return None if found == name else found


def _digest(text: str) -> bytes:
    return hashlib.blake2b(normalised(text).encode(), digest_size=16).digest()


class NearIndex:
    """Texts that were kept, by bands of their MinHash; what shares a band is compared n-gram by n-gram.

    similarity  the Jaccard similarity from which two texts are near duplicates
    words       words in an n-gram

    Memory: 8 bytes for each n-gram of each text, and the bands.

    Paper: Broder 1997; bands as in Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4. Departure: candidates
    are verified, so that nothing is dropped by an estimate; what the bands miss is at most 1 % at the threshold, less above.
    """

    def __init__(self, similarity: float, words: int) -> None:
        self.similarity, self.words = similarity, words
        self.rows = band_rows(similarity)
        generator = np.random.default_rng(0)
        self._factors = generator.integers(0, 2**63, PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._terms = generator.integers(0, 2**64 - 1, PERMUTATIONS, dtype=np.uint64)
        self._bands: dict[tuple[int, bytes], list[int]] = {}
        self._kept: list[tuple[str, Hashes]] = []

    def find_or_add(self, text: str, name: str) -> tuple[str, float] | None:
        """Return the name of the most similar text that was added before, and the similarity; where none is similar enough,
        add this one and return None."""
        ngrams = self.ngrams(text)
        bands = self._bands_of(ngrams)
        candidates = {index for band in bands for index in self._bands.get(band, ())}
        found = max(((jaccard(ngrams, self._kept[index][1]), -index) for index in candidates), default=(-1.0, 0))
        if found[0] >= self.similarity:
            return self._kept[-found[1]][0], found[0]
        for band in bands:
            self._bands.setdefault(band, []).append(len(self._kept))
        self._kept.append((name, ngrams))
        return None

    def ngrams(self, text: str) -> Hashes:
        """Return the sorted hashes of a text's n-grams; a text of fewer words is one n-gram."""
        words = normalised(text).split(" ")
        size = min(self.words, len(words))
        grams = {" ".join(words[start : start + size]) for start in range(len(words) - size + 1)}
        digests = b"".join(hashlib.blake2b(gram.encode(), digest_size=8).digest() for gram in grams)
        return np.unique(np.frombuffer(digests, dtype="<u8").astype(np.uint64))

    def minhash(self, ngrams: Hashes) -> Hashes:
        """Return the MinHash [permutations] of n-gram hashes [n]: equal places of two are as frequent as they are similar."""
        found: Hashes = (self._factors[:, None] * ngrams[None] + self._terms[:, None]).min(axis=1)
        return found

    def _bands_of(self, ngrams: Hashes) -> list[tuple[int, bytes]]:
        signature = self.minhash(ngrams)
        bands = PERMUTATIONS // self.rows
        return [(band, signature[band * self.rows : (band + 1) * self.rows].tobytes()) for band in range(bands)]


def band_rows(similarity: float) -> int:
    """Return the most rows in a band with which a pair of this similarity still shares a band with probability RECALL."""
    for rows in range(32, 1, -1):
        if 1 - (1 - similarity**rows) ** (PERMUTATIONS // rows) >= RECALL:
            return rows
    return 1


def jaccard(one: Hashes, other: Hashes) -> float:
    """Return the share of two sets' elements that both have."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)
