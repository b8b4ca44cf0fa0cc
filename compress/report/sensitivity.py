"""sensitivity.json: what rounding each weight costs the model, and the bits it got. Reads the file; draws nothing.

A quantize stage that chose bits by weight leaves it in its torch folder:

{"sensitivity": "fisher" | "kl", "kl_of_choice": nats,
 "weights": [{"name", "class", "shape", "bits", "block", "symmetric", "kl": {"4/32": nats, ...}}]}

`kl` is in nats a token, of the model in which that weight alone is quantized, by `bits/block`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.contract import Json
from compress.errors import ArtifactError

FILE = "sensitivity.json"
Grid = tuple[int, int]
"""Bits and block."""
_USUAL: Grid = (4, 32)
_SHORT = {f"{name}_proj": name for name in ("q", "k", "v", "o", "gate", "up", "down")}
_LEAVES = (
    ("q_proj", "query", "q_lin"),
    ("k_proj", "key", "k_lin"),
    ("v_proj", "value", "v_lin"),
    ("o_proj", "out_proj", "out_lin"),
    ("gate_proj",),
    ("up_proj", "fc1", "fc_in", "lin1"),
    ("down_proj", "fc2", "fc_out", "lin2"),
)
_CLASSES = ("attention", "ffn")


@dataclass(frozen=True)
class Weight:
    """A weight of `size` numbers, the grid that was chosen for it, and the KL of each grid that was tried (nats a token)."""

    name: str
    kind: str
    size: int
    chosen: Grid
    kl: Mapping[Grid, float]


@dataclass(frozen=True)
class Record:
    """The weights, how their sensitivity was found (`fisher` or `kl`), and the sum of the KL of what was chosen."""

    sensitivity: str
    total: float
    weights: tuple[Weight, ...]


@dataclass(frozen=True)
class Rows:
    """Weights of layers by what they are: `labels` of the rows, numbers of the layers, and the weight at (row, layer)."""

    labels: tuple[str, ...]
    layers: tuple[int, ...]
    cells: Mapping[tuple[int, int], Weight]


def read_record(folder: Path) -> Record | None:
    """Return the record of a folder; None where it has none, or one without weights.

    Raises ArtifactError where the file is there but cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        weights = tuple(_weight(entry) for entry in said["weights"])
        record = Record(str(said["sensitivity"]), float(said["kl_of_choice"]), weights)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: not readable ({error}); quantize the model again") from error
    return record if weights else None


def _weight(entry: Json) -> Weight:
    name, bits, block = str(entry["name"]), int(entry["bits"]), int(entry["block"])
    kl = {_grid(text): float(value) for text, value in entry["kl"].items()}
    size = math.prod(map(int, entry["shape"]))
    if not kl or min(bits, block, size) < 1 or not all(map(math.isfinite, kl.values())):
        raise ValueError(f"weight {name} needs bits, a block, a shape and finite values of KL")
    return Weight(name, str(entry["class"]), size, (bits, block), kl)


def _grid(text: str) -> Grid:
    bits, block = map(int, text.split("/"))
    if bits < 1 or block < 1:
        raise ValueError(f"{text!r} is no bits/block")
    return bits, block


def common_grid(weights: Sequence[Weight]) -> Grid:
    """Return the grid nearest to 4 bits in blocks of 32 of those that half of the weights were tried at, or as many as possible."""
    counts = Counter(grid for weight in weights for grid in weight.kl)
    enough = min(len(weights) / 2, max(counts.values()))
    return min((grid for grid in counts if counts[grid] >= enough), key=lambda grid: (_distance(grid, _USUAL), grid))


def nearest_grid(weight: Weight, grid: Grid) -> Grid:
    """Return the grid that a weight was tried at which is nearest: in bits first, then in block."""
    return min(weight.kl, key=lambda other: (_distance(other, grid), other))


def _distance(one: Grid, other: Grid) -> tuple[float, float]:
    bits, block = (abs(math.log2(a / b)) for a, b in zip(one, other, strict=True))
    return bits, block


def shares_of_bits(weights: Sequence[Weight]) -> dict[int, float]:
    """Return which part of the numbers got how many bits, 0-1, by rising bits."""
    total = sum(weight.size for weight in weights)
    counts: Counter[int] = Counter()
    for weight in weights:
        counts[weight.chosen[0]] += weight.size
    return {bits: counts[bits] / total for bits in sorted(counts)}


def split_layers(weights: Sequence[Weight]) -> tuple[Rows, list[tuple[str, Weight]]]:
    """Return the weights of layers in rows, and the others (embedding, head) with their labels.

    Rows of attention come first, then those of the feed-forward, in the order in which a layer uses them where the names
    are known ones, else in the order of the file.
    """
    places = {weight.name: _place(weight.name) for weight in weights}
    kinds: dict[str, Weight] = {}
    for weight in weights:
        if (layer := places[weight.name][1]) is not None:
            kinds.setdefault(places[weight.name][0], weight)
    order = list(kinds)
    order.sort(key=lambda path: (_rank(kinds[path].kind, _CLASSES), _leaf_rank(path)))
    inside = [weight for weight in weights if places[weight.name][1] is not None]
    layers = tuple(sorted({layer for _, layer in places.values() if layer is not None}))
    cells = {
        (order.index(places[weight.name][0]), layer): weight
        for weight in inside
        if (layer := places[weight.name][1]) is not None
    }
    outside = [weight for weight in weights if places[weight.name][1] is None]
    twins = Counter(weight.kind for weight in outside)
    names = _labels([places[weight.name][0] for weight in outside])
    labels = [
        weight.kind if twins[weight.kind] == 1 and weight.kind != "other" else name
        for weight, name in zip(outside, names, strict=True)
    ]
    return Rows(tuple(_labels(order)), layers, cells), list(zip(labels, outside, strict=True))


def _place(name: str) -> tuple[str, int | None]:
    """Return a weight's path without its layer, and the layer: the first number in the path."""
    parts = name.removesuffix(".weight").split(".")
    place = next((index for index, part in enumerate(parts) if part.isdecimal()), None)
    if place is None:
        return ".".join(parts), None
    return ".".join([*parts[:place], "*", *parts[place + 1 :]]), int(parts[place])


def _rank(word: str, words: Sequence[str]) -> int:
    return words.index(word) if word in words else len(words)


def _leaf_rank(path: str) -> int:
    leaf = path.rpartition(".")[2]
    return next((rank for rank, names in enumerate(_LEAVES) if leaf in names), len(_LEAVES))


def _labels(paths: Sequence[str]) -> list[str]:
    """Return as many parts from the end of each path as tell it from the others."""
    labels = []
    for path in paths:
        parts = path.split(".")
        ends = (parts[-count:] for count in range(1, len(parts) + 1))
        alone = (end for end in ends if sum(other.split(".")[-len(end) :] == end for other in paths) == 1)
        label = ".".join(next(alone, parts))
        labels.append(_SHORT.get(label, label))
    return labels
