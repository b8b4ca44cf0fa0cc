"""How the tokens of a tokenizer.json are spelled by other tokens. Pure functions on its JSON: no torch, no tokenizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Merges = Mapping[tuple[int, int], tuple[int, int]]
"""(left, right) -> (rank, result); the lowest rank merges first."""

_BYTES = tuple(f"<0x{value:02X}>" for value in range(256))


@dataclass(frozen=True)
class Spelling:
    """What stands for a token that is cut out.

    tokens  every id that the tokenizer gives, with its text
    parts   the tokens that spell a token's text where it alone is missing; a token without an entry cannot go
    needs   the tokens from which the merges build a token: as long as it stays they do, too
    """

    tokens: dict[int, str]
    parts: dict[int, tuple[int, ...]]
    needs: dict[int, tuple[int, ...]]


def spelling_of(tokenizer: Json) -> Spelling:
    """Return how a BPE or WordPiece tokenizer spells its tokens.

    Without an entry in `parts` are: added and unknown tokens, byte tokens, the alphabet of a byte-level tokenizer, and
    single characters, except where byte tokens spell them without loss. So any text that encoded without loss still does.

    Where the merges build a token from its text, the last of them names its parts: no merge before that one reads across
    them, so each is built within the token as it is on its own. A token whose parts stay is built as before.

    Raises ValueError for a tokenizer that cannot be cut.
    """
    refuse_uncuttable(tokenizer)
    model = tokenizer["model"]
    vocabulary: dict[str, int] = model["vocab"]
    added = {entry["id"]: entry["content"] for entry in tokenizer.get("added_tokens") or ()}
    tokens = {index: text for text, index in vocabulary.items()} | added
    fixed = {*added, vocabulary.get(str(model.get("unk_token")))}
    free = {index: text for text, index in vocabulary.items() if index not in fixed}
    if model["type"] == "WordPiece":
        parts = {index: found for index, text in free.items() if (found := _pieces(text, model))}
        return Spelling(tokens, parts, {})
    return _merged_spelling(tokenizer, tokens, free)


def refuse_uncuttable(tokenizer: Json) -> None:
    """Raise ValueError, which says what was found and what to do, for a tokenizer that cannot be cut."""
    model = tokenizer.get("model") or {}
    kind = model.get("type", "one of no type")
    if kind not in ("BPE", "WordPiece"):
        raise ValueError(
            f"the tokenizer is {kind}, and only BPE and WordPiece tokenizers can be cut; leave remove.vocab out"
        )
    marks = [key for key in ("end_of_word_suffix", "continuing_subword_prefix") if kind == "BPE" and model.get(key)]
    if marks:
        raise ValueError(
            f"the tokenizer marks the pieces of words ({marks[0]} {model[marks[0]]!r}), and such merges cannot be cut; "
            "leave remove.vocab out"
        )


def ranked_merges(model: Json) -> dict[tuple[int, int], tuple[int, int]]:
    """Return the merges of a BPE model by ids."""
    vocabulary = model["vocab"]
    found = {}
    for rank, (left, right) in enumerate(merge_pairs(model)):
        found[vocabulary[left], vocabulary[right]] = rank, vocabulary[left + right]
    return found


def merge_pairs(model: Json) -> Iterator[tuple[str, str]]:
    """Yield both texts of every merge, which stand in tokenizer.json as a list or as one string."""
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def merge(symbols: Sequence[int], merges: Merges, without: int | None = None) -> list[int]:
    """Return what the merges make of symbols, the lowest rank first and leftmost among equals, as if one token were not there.

    Paper: Sennrich et al., arXiv 1508.07909 §3.2.
    """
    found = list(symbols)
    while True:
        best: tuple[int, int, int] | None = None
        for place in range(len(found) - 1):
            rule = merges.get((found[place], found[place + 1]))
            if rule and rule[1] != without and (best is None or rule[0] < best[0]):
                best = (*rule, place)
        if best is None:
            return found
        found[best[2] : best[2] + 2] = [best[1]]


def _merged_spelling(tokenizer: Json, tokens: dict[int, str], free: dict[int, str]) -> Spelling:
    model = tokenizer["model"]
    vocabulary, merges = model["vocab"], ranked_merges(model)
    fallback = _byte_tokens(tokenizer)
    written = set("".join(_texts([tokenizer.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")])))
    bytes_of = {index for name in _BYTES if (index := vocabulary.get(name)) is not None and model.get("byte_fallback")}
    parts: dict[int, tuple[int, ...]] = {}
    needs: dict[int, tuple[int, ...]] = {}
    for index, text in free.items():
        if index in bytes_of:
            continue
        if len(text) == 1:
            if fallback and text not in written:
                parts[index] = tuple(fallback[value] for value in text.encode())
            continue
        symbols = [_symbols(char, vocabulary, fallback) for char in text]
        if not all(symbols):
            continue  # nothing else could spell it
        found = tuple(merge([symbol for each in symbols for symbol in each], merges, without=index))
        parts[index] = found
        if len(found) == 2 and (rule := merges.get((found[0], found[1]))) and rule[1] == index:
            needs[index] = found
    return Spelling(tokens, parts, needs)


def _symbols(char: str, vocabulary: Mapping[str, int], fallback: Sequence[int]) -> list[int]:
    if char in vocabulary:
        return [vocabulary[char]]
    return [fallback[value] for value in char.encode()] if fallback else []


def _byte_tokens(tokenizer: Json) -> list[int]:
    """Return the ids of the 256 byte tokens, empty where they do not spell every character without loss."""
    model = tokenizer["model"]
    decodes = any(entry == "ByteFallback" for entry in _types(tokenizer.get("decoder")))
    if not model.get("byte_fallback") or not decodes or any(name not in model["vocab"] for name in _BYTES):
        return []
    return [model["vocab"][name] for name in _BYTES]


def _types(part: Any) -> Iterator[str]:
    for each in part if isinstance(part, list) else part.values() if isinstance(part, dict) else ():
        yield from _types(each)
    if isinstance(part, dict):
        yield str(part.get("type"))


def _texts(part: Any) -> Iterator[str]:
    """Yield what a normalizer or decoder reads and writes: such characters are more than their bytes."""
    if isinstance(part, str):
        yield part
    for each in part if isinstance(part, list) else ():
        yield from _texts(each)
    for key, each in part.items() if isinstance(part, dict) else ():
        if key != "type":
            yield from _texts(each)


def _pieces(text: str, model: Json) -> tuple[int, ...]:
    """Return the longest pieces, from the left, that spell a token without itself; empty where it has to stay.

    Paper: WordPiece as in BERT, Devlin et al., arXiv 1810.04805 §3 (greedy longest match).
    """
    vocabulary: dict[str, int] = model["vocab"]
    prefix = str(model.get("continuing_subword_prefix") or "")
    begins = not (prefix and text.startswith(prefix) and text != prefix)
    word = text if begins else text.removeprefix(prefix)
    marks = [("" if place == 0 and begins else prefix) for place in range(len(word))]
    if len(word) < 2 or any(mark + char not in vocabulary for mark, char in zip(marks, word, strict=True)):
        return ()
    found, place = [], 0
    while place < len(word):
        for end in range(len(word), place, -1):
            piece = marks[place] + word[place:end]
            if piece != text and piece in vocabulary:
                found.append(vocabulary[piece])
                place = end
                break
    return tuple(found)
