"""Slow restatements of BPE, WordPiece and of the choice of tokens, by texts instead of ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer

Json = dict[str, Any]


def pairs(model: Json) -> list[tuple[str, str]]:
    """Return the merges as pairs of texts."""
    return [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]


def slow_bpe(word: str, model: Json, without: str | None = None) -> list[str]:
    """Return the pieces of a word: again and again, the first merge of the list that fits somewhere, at its first place."""
    pieces = []
    for char in word:
        known = char in model["vocab"] and char != without
        fallback = model.get("byte_fallback") and not known
        pieces += [f"<0x{value:02X}>" for value in char.encode()] if fallback else [char]
    rules = pairs(model)
    while True:
        for left, right in rules:
            places = [i for i in range(len(pieces) - 1) if (pieces[i], pieces[i + 1]) == (left, right)]
            if places and left + right != without:
                pieces[places[0] : places[0] + 2] = [left + right]
                break
        else:
            return pieces


def slow_wordpiece(word: str, model: Json) -> list[str]:
    """Return the pieces of a word, the longest first from the left; one unknown piece where there is none."""
    pieces, start = [], 0
    while start < len(word):
        ends = [
            end
            for end in range(start + 1, len(word) + 1)
            if ("##" if start else "") + word[start:end] in model["vocab"]
        ]
        if not ends:
            return [model["unk_token"]]
        pieces.append(("##" if start else "") + word[start : max(ends)])
        start = max(ends)
    return pieces


def slow_encode(tokenizer: Json, text: str) -> list[int]:
    """Return the ids of a text without added tokens: words by the library, their pieces by the functions above."""
    library, model = Tokenizer.from_str(_dumped(tokenizer)), tokenizer["model"]
    text = library.normalizer.normalize_str(text) if library.normalizer else text
    words = [word for word, _ in library.pre_tokenizer.pre_tokenize_str(text)] if library.pre_tokenizer else [text]
    split = slow_bpe if model["type"] == "BPE" else slow_wordpiece
    return [model["vocab"][piece] for word in words for piece in split(word, model)]


def _dumped(tokenizer: Json) -> str:
    import json

    return json.dumps(tokenizer)


def slow_choice(tokenizer: Json, counts: Sequence[int], keep: int, free: Iterable[str]) -> list[int]:
    """Return the ids that stay of a BPE tokenizer when one token of `free` after the other goes, each time the cheapest.

    A token can go when no token that stays has it as a part, where parts are what the merges give without the token
    itself, and one merge makes it of them. Its uses go to its parts. Among equals the last id goes.
    """
    model = tokenizer["model"]
    ids: dict[str, int] = dict(model["vocab"])
    uses = dict(zip(range(len(counts)), map(float, counts), strict=True))
    parts = {text: slow_bpe(text, model, without=text) for text in free}
    built = {text: found for text, found in parts.items() if len(found) == 2 and tuple(found) in pairs(model)}
    gone: set[str] = set()

    def cost(text: str) -> tuple[float, int]:
        return uses[ids[text]] * max(1, len(parts[text]) - 1), -ids[text]

    while len(counts) - len(gone) > keep:
        needed = {part for text, found in built.items() if text not in gone for part in found}
        text = min((each for each in parts if each not in gone | needed), key=cost)
        gone.add(text)
        for part in parts[text]:
            uses[ids[part]] += uses[ids[text]]
    return [index for index in range(len(counts)) if index not in {ids[text] for text in gone}]
