"""Two tokenizers compared in what decides which ids a text becomes. Pure functions on tokenizer.json: no torch, no tokenizers.

That is the model with its merges or scores, the normaliser, the pre-tokeniser, and how added tokens are found. What stands around
a text (post-processor), how ids become text again (decoder), padding and truncation decide nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]
_EXAMPLES = 3
_FOUND_BY = ("lstrip", "rstrip", "single_word", "normalized")


def ids_of(tokenizer: Json) -> dict[str, int]:
    """Return the id of every token by its text."""
    return _own_ids(tokenizer) | {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens") or ()}


def difference(teacher: Json, student: Json, name: str = "student") -> str:
    """Return what keeps the teacher from reading what the student's tokenizer gives, in words; empty where nothing does. The
    student is called by `name`.

    Tokens that are added in the teacher alone keep it from nothing: the student's text never holds them.
    """
    ours, theirs = ids_of(teacher), ids_of(student)
    added = {text for text in ours if text not in _own_ids(teacher)}
    moved = sorted((ours[text], text) for text in ours.keys() & theirs.keys() if ours[text] != theirs[text])
    lost = sorted((ours[text], text) for text in ours.keys() - theirs.keys() - added)
    new = sorted((theirs[text], text) for text in theirs.keys() - ours.keys())
    said = [f"{text!r} is {index} for the teacher and {theirs[text]} for the {name}" for index, text in moved]
    said += [f"{text!r} ({index}) is a token of the teacher alone" for index, text in lost]
    said += [f"{text!r} ({index}) is a token of the {name} alone" for index, text in new]
    if said:
        counts = (
            f"the teacher's has {len(ours):,} tokens, the {name}'s {len(theirs):,}" if len(ours) != len(theirs) else ""
        )
        more = f"and {len(said) - _EXAMPLES:,} more" if len(said) > _EXAMPLES else ""
        return "; ".join(part for part in (counts, *said[:_EXAMPLES], more) if part)
    parts = [name for name in _PARTS if _PARTS[name](teacher) != _PARTS[name](student)]
    found = [_found(tokenizer) for tokenizer in (teacher, student)]
    parts += [f"added token {text!r}" for text, how in found[1].items() if found[0].get(text, how) != how][:_EXAMPLES]
    return f"they have the same tokens, but differ in {', '.join(parts)}" if parts else ""


def _own_ids(tokenizer: Json) -> dict[str, int]:
    vocabulary = _model(tokenizer).get("vocab") or {}
    if isinstance(vocabulary, Mapping):
        return dict(vocabulary)
    return {piece: index for index, (piece, _) in enumerate(vocabulary)}


def _model(tokenizer: Json) -> Json:
    return tokenizer.get("model") or {}


def _merges(tokenizer: Json) -> Any:
    """Merges, which stand as two texts or as one string."""
    merges = _model(tokenizer).get("merges") or ()
    return [tuple(each.split(" ")) if isinstance(each, str) else tuple(each) for each in merges]


def _scores(tokenizer: Json) -> Any:
    vocabulary = _model(tokenizer).get("vocab")
    return vocabulary if isinstance(vocabulary, list) else None


def _settings(tokenizer: Json) -> Json:
    model = _model(tokenizer)
    return {
        key: value for key, value in model.items() if key not in ("vocab", "merges") and value not in (None, False, "")
    }


def _plain(step: Any) -> Any:
    """A normaliser or pre-tokeniser without what moves offsets alone, and with what older files leave out."""
    if isinstance(step, list):
        return [_plain(each) for each in step]
    if not isinstance(step, dict):
        return step
    plain = {key: _plain(value) for key, value in step.items() if key != "trim_offsets"}
    return {"use_regex": True, **plain} if plain.get("type") == "ByteLevel" else plain


_PARTS: Mapping[str, Callable[[Json], Any]] = {
    "the order of merges": _merges,
    "the scores of pieces": _scores,
    "settings of the model": _settings,
    "normalizer": lambda tokenizer: _plain(tokenizer.get("normalizer")),
    "pre_tokenizer": lambda tokenizer: _plain(tokenizer.get("pre_tokenizer")),
}


def _found(tokenizer: Json) -> dict[str, tuple[bool, ...]]:
    """How each added token is found in a text."""
    entries = tokenizer.get("added_tokens") or ()
    return {entry["content"]: tuple(bool(entry.get(flag)) for flag in _FOUND_BY) for entry in entries}
