"""What a cut does to the sizes of a model, in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.models.families import count_parameters, shape_of

Config = Mapping[str, Any]
# Field of a shape, and how it is called.
_SIZES = {
    "layers": "layers",
    "ffn": "ffn",
    "heads": "heads",
    "kv_heads": "key/value heads",
    "hidden": "hidden",
    "vocabulary": "vocab",
}


def cut_words(before: Config, after: Config) -> str:
    """Return `3.15 M -> 2.54 M parameters: ffn 512 -> 336`, millions, tied weights once; empty for an unknown family."""
    try:
        counts = [sum(count_parameters(config).values()) for config in (before, after)]
        shapes = [shape_of(config) for config in (before, after)]
    except ValueError:
        return ""
    old, new = shapes
    changes = [
        f"{word} {getattr(old, name):,} -> {getattr(new, name):,}"
        for name, word in _SIZES.items()
        if getattr(old, name) != getattr(new, name) and not (name == "kv_heads" and old.group == new.group == 1)
    ]
    return f"{_millions(counts[0])} -> {_millions(counts[1])} parameters: {', '.join(changes) or 'nothing is cut'}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count < 1e8 else f"{count / 1e6:,.0f} M"
