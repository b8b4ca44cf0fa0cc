"""Which tokens of a vocabulary stay: those that a text uses, and those without which some text could not be encoded."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from compress.data.corpus import Corpus
from compress.models.vocabulary import NONE
from compress.prune.spelling import Json, Spelling, spelling_of

# A token that is spelled by its parts costs some bits more each time; a measured gain is noise.
_LEAST_BITS = 1.0


def count_tokens(corpus: Corpus, size: int) -> list[int]:
    """Return how often each of `size` ids stands in a text."""
    counts: list[int] = np.bincount(corpus.ids, minlength=size).tolist()
    return counts


def choose_tokens(
    tokenizer: Json,
    counts: Sequence[int],
    keep: int,
    always: Iterable[int] = (),
    extra_bits: Mapping[int, float] | None = None,
) -> list[int]:
    """Return the `keep` ids that stay, ascending: the tokens that cost most to do without.

    counts      how often a text uses each id; as many as the model has rows. Rows without a token go first
    always      ids that stay whatever they count, such as those which config.json names
    extra_bits  bits that one use of a token costs more when its parts spell it; those not in it cost the mean, and without
                it every use costs one for each token more

    What goes first is what costs least: uses times bits. A token can go once no token that stays is built from it; its uses
    then count for its parts. Among equals the last id goes first: trainers give the ids by falling use.

    Raises ValueError where fewer are asked for than must stay, which says how many can go.
    """
    spelling = spelling_of(tokenizer)
    size = len(counts)
    _check(spelling, size, keep, always)
    padding = [index for index in range(size - 1, -1, -1) if index not in spelling.tokens and index not in set(always)]
    gone = set(padding[: size - keep])
    removal = _Removal(spelling, counts, set(always), extra_bits)
    while len(gone) < size - keep:
        gone.add(removal.next())
    return [index for index in range(size) if index not in gone]


def removal_order(tokenizer: Json, counts: Sequence[int], count: int, always: Iterable[int] = ()) -> list[int]:
    """Return up to `count` tokens in the order in which they go, by their uses alone; rows without a token are not among them."""
    spelling = spelling_of(tokenizer)
    removal = _Removal(spelling, counts, set(always), None)
    available = len(spelling.tokens) - len(_staying(spelling, always))
    return [removal.next() for _ in range(min(count, available))]


def beginnings(tokenizer: Json, kept: Sequence[int], size: int) -> list[int]:
    """Return for each of `size` ids the place in `kept` of the token that its spelling begins with; -1 where it has no token."""
    spelling, places = spelling_of(tokenizer), {index: place for place, index in enumerate(kept)}
    found = []
    for index in range(size):
        first = index
        while first not in places and first in spelling.parts:
            first = spelling.parts[first][0]
        found.append(places.get(first, NONE))
    return found


def least_tokens(tokenizer: Json, always: Iterable[int] = ()) -> int:
    """Return the least number of tokens with which any text still encodes as well as before, and `always` stay.

    Raises ValueError for a tokenizer that cannot be cut.
    """
    return len(_staying(spelling_of(tokenizer), always))


def refuse_fewer(tokenizer: Json, size: int, keep: int, always: Iterable[int] = ()) -> None:
    """Raise ValueError, which says how many tokens can go, where `keep` of `size` are fewer than must stay, and for a
    tokenizer that cannot be cut.
    """
    _check(spelling_of(tokenizer), size, keep, always)


def _staying(spelling: Spelling, always: Iterable[int]) -> set[int]:
    found = {index for index in spelling.tokens if index not in spelling.parts}
    waiting = [index for index in always if index >= 0]
    while waiting:
        index = waiting.pop()
        if index not in found:
            found.add(index)
            waiting += spelling.needs.get(index, ())
    return found


def _check(spelling: Spelling, size: int, keep: int, always: Iterable[int]) -> None:
    largest = max(max(spelling.tokens), *always, 0)
    if largest >= size:
        raise ValueError(
            f"the tokenizer gives id {largest}, and the model has {size} tokens; give it its own tokenizer"
        )
    if keep > size:
        raise ValueError(f"{keep} tokens cannot be kept of {size}; keep at most {size}")
    least = len(_staying(spelling, always))
    if keep < least:
        raise ValueError(
            f"remove.vocab would leave {keep} of {size} tokens, and {least} must stay for any text to be encoded (special "
            f"tokens, bytes, characters); remove at most {size - least}"
        )


class _Removal:
    """Tokens one by one, the one that costs least first."""

    def __init__(
        self, spelling: Spelling, counts: Sequence[int], always: set[int], extra_bits: Mapping[int, float] | None
    ) -> None:
        self.spelling = spelling
        self.uses = list(counts)
        self.staying = _staying(spelling, always)
        self.gone: set[int] = set()
        self.bits = extra_bits
        self.mean = sum(extra_bits.values()) / len(extra_bits) if extra_bits else 1.0
        self.users: dict[int, set[int]] = defaultdict(set)
        for index, needed in spelling.needs.items():
            for part in needed:
                self.users[part].add(index)
        self.heap = [self._entry(index) for index in spelling.parts if self._can_go(index)]
        heapq.heapify(self.heap)

    def next(self) -> int:
        """Take out the token that costs least and return it."""
        while True:
            cost, _, index = heapq.heappop(self.heap)
            if cost == self._cost(index):
                break
            heapq.heappush(self.heap, self._entry(index))
        spelled = self._spelled(index)
        self.gone.add(index)
        for part in spelled:
            self.uses[part] += self.uses[index]
        for part in set(self.spelling.needs.get(index, ())):
            self.users[part].discard(index)
            if self._can_go(part):
                heapq.heappush(self.heap, self._entry(part))
        return index

    def _spelled(self, index: int) -> list[int]:
        """Return the tokens that spell a token now; WordPiece takes parts away from under others."""
        return [
            token
            for part in self.spelling.parts[index]
            for token in (self._spelled(part) if part in self.gone else (part,))
        ]

    def _can_go(self, index: int) -> bool:
        return index in self.spelling.parts and index not in self.staying and not self.users[index]

    def _entry(self, index: int) -> tuple[float, int, int]:
        return self._cost(index), -index, index

    def _cost(self, index: int) -> float:
        if self.bits is None:
            return float(self.uses[index] * max(1, len(self._spelled(index)) - 1))
        return self.uses[index] * max(self.bits.get(index, self.mean), _LEAST_BITS)
