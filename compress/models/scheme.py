"""The grid of a weight: bits, block, zero points, and what becomes of its inputs. Imports no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "int8", "int4", "int2", "mixed"]
Activations = Literal["none", "dynamic", "static"]

# "embed_tokens" and "lm_head" first: an embedding may stand inside a part named attention.
_CLASSES: Mapping[str, tuple[str, ...]] = {
    "embedding": ("embed_tokens", "wte", "wpe", "embed_positions", "embed_in", "embeddings"),
    "head": ("lm_head", "embed_out"),
    "attention": ("self_attn", "attn", "attention"),
    "ffn": ("mlp", "fc1", "fc2", "feed_forward", "block_sparse_moe"),
}


@dataclass(frozen=True)
class Scheme:
    """The grid of one weight of shape [N, K]: bits of a code, weights in a block, zero points or none.

    A block of K weights is a scale for each output channel. activations: what becomes of the input that the weight is
    multiplied with: `none` (the runtime's own choice), `dynamic` (8 bits, range taken as it runs) or `static` (8 bits, range known).
    """

    bits: int
    block: int
    symmetric: bool
    shape: tuple[int, int]
    activations: Activations = "none"

    @property
    def groups(self) -> int:
        """Return G, the number of blocks in a row."""
        return -(-self.shape[1] // self.block)

    @property
    def middle(self) -> int:
        """Return the code that means 0 in a symmetric scheme."""
        return 1 << (self.bits - 1)


def stored_bytes(scheme: Scheme) -> int:
    """Return the bytes of codes, scales and zero points of a weight with this scheme."""
    rows, groups = scheme.shape[0], scheme.groups
    zeros = 0 if scheme.symmetric else -(-groups * scheme.bits // 8)
    return rows * (groups * -(-scheme.block * scheme.bits // 8) + groups * 4 + zeros)


def weight_class(name: str) -> str:
    """Return embedding, head, attention, ffn or other, from the name of a weight in torch or in our ONNX graphs."""
    parts = name.replace("/", ".").split(".")
    for key, words in _CLASSES.items():
        if any(part in words for part in parts):
            return key
    return "other"
