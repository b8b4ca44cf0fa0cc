"""What follows from config.json and the family table: sizes, the config of a cut model, every weight's shape. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.models.family import Family, Weight
from compress.models.family_table import FAMILIES

Config = Mapping[str, Any]

# Keys by which a mixture of experts gives itself away, under any model_type.
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CLASSES = ("embedding", "attention", "ffn", "norm", "head")


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, by one name each; `context` is None where config.json does not say."""

    layers: int
    ffn: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int | None
    tied: bool

    @property
    def group(self) -> int:
        """How many query heads read one key/value head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class Parameter:
    """One parameter of a model: its name, its row in the table, the axis of every dimension, its layer (None: outside)."""

    name: str
    row: Weight
    axes: tuple[str, ...]
    layer: int | None
    shared: bool


def family_of(config: Config) -> Family:
    """Return the family of a config.json.

    Raises ValueError for an unknown family, for a mixture of experts, and for a variant that the table does not describe.
    """
    known = ", ".join(FAMILIES)
    if not config.get("model_type"):
        raise ValueError(f"config.json has no model_type; known families: {known}")
    name = str(config["model_type"])
    if any(isinstance(config.get(key), int) and config[key] > 1 for key in _EXPERT_KEYS):
        raise ValueError(
            f"model_type {name!r} is a mixture of experts, which cannot be pruned yet; known families: {known}"
        )
    if name not in FAMILIES:
        raise ValueError(f"model_type {name!r} is not in the family table; known families: {known}")
    family = FAMILIES[name]
    for key, value in family.presumes.items():
        if config.get(key, value) != value:
            found, only = (json.dumps(each) for each in (config[key], value))
            raise ValueError(f"{name} models with {key} {found} are not in the family table, only with {only}")
    hidden = config.get(family.keys.hidden)
    for key in family.fixed:
        if config.get(key, hidden) not in (None, hidden):
            raise ValueError(
                f"{name} models with {key} {config[key]} beside a width of {hidden} are not in the family table, "
                "only with both the same"
            )
    return family


def shape_of(config: Config) -> Shape:
    """Return the sizes that a config.json declares.

    Raises ValueError for an unknown family, and for a size that is missing or does not fit the others.
    """
    family = family_of(config)
    keys = family.keys
    needed = [keys.layers, keys.hidden, keys.heads, keys.vocabulary] + ([] if family.default_ffn else [keys.ffn])
    if any("positions" in row.axes for row in family.outside):
        needed.append(keys.context)
    if missing := [key for key in needed if not _is_size(config.get(key))]:
        raise ValueError(f"config.json of a {family.name} model needs a whole number above 0 for {', '.join(missing)}")
    heads, hidden = config[keys.heads], config[keys.hidden]
    kv_heads = _declared(family, config, keys.kv_heads) or heads
    if heads % kv_heads:
        raise ValueError(
            f"config.json has {heads} query heads and {kv_heads} key/value heads, which do not divide them"
        )
    if family.coupled and hidden % heads:
        raise ValueError(f"config.json has a width of {hidden} and {heads} heads, which do not divide it")
    tied = config.get(keys.tied)
    return Shape(
        layers=config[keys.layers],
        ffn=config.get(keys.ffn) or family.default_ffn * hidden,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_declared(family, config, keys.head_dim) or hidden // heads,
        vocabulary=config[keys.vocabulary],
        context=config.get(keys.context),
        tied=family.tied if tied is None else bool(tied),
    )


def skipped_positions(config: Config) -> int:
    """Return how many of the context's positions no text takes: those up to the padding id where a family counts from it."""
    family = FAMILIES.get(str(config.get("model_type")))
    pad = config.get("pad_token_id")
    return (pad if isinstance(pad, int) else 0) + 1 if family is not None and family.pad_position else 0


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _declared(family: Family, config: Config, key: str) -> int | None:
    """Return key/value heads or head_dim where the config says them by itself; None where they follow from the others."""
    return None if family.coupled else config.get(key, family.defaults.get(key))


def cut_config(config: Config, after: Shape, kept_layers: Sequence[int] | None = None) -> dict[str, Any]:
    """Return the config of a model with the sizes `after`, which keeps these layers (None: the first ones) in this order.

    Lists with an entry per layer are cut along. A list that config.json leaves out, and that follows from the number of
    layers, stays out: whoever cuts layers must write it down before. Sizes that config.json derives from others (head_dim,
    key/value heads, a feed-forward width of 4 times the hidden one) are written down once a cut changes what they follow from.
    """
    family, before = family_of(config), shape_of(config)
    keys = family.keys
    kept = range(after.layers) if kept_layers is None else kept_layers
    cut = dict(config)
    sizes = {
        keys.layers: (before.layers, after.layers),
        keys.hidden: (before.hidden, after.hidden),
        keys.heads: (before.heads, after.heads),
        keys.vocabulary: (before.vocabulary, after.vocabulary),
    }
    cut.update({key: new for key, (old, new) in sizes.items() if old != new})
    cut.update({key: after.hidden for key in family.fixed if config.get(key) is not None})
    if list(kept) != list(range(before.layers)):
        cut.update(_lists_along(family, config, kept))
    derived = {
        keys.ffn: (config.get(keys.ffn) or family.default_ffn * after.hidden, after.ffn),
        keys.kv_heads: (_declared(family, config, keys.kv_heads) or after.heads, after.kv_heads),
        keys.head_dim: (_declared(family, config, keys.head_dim) or after.hidden // after.heads, after.head_dim),
    }
    cut.update({key: new for key, (old, new) in derived.items() if old != new})
    return cut


def _lists_along(family: Family, config: Config, kept: Sequence[int]) -> Iterator[tuple[str, Any]]:
    for key in family.per_layer:
        entries = config.get(key)
        if isinstance(entries, list) and len(entries) > max(kept):
            yield key, [entries[layer] for layer in kept]
    for key in family.patterns:
        pattern = config.get(key) or family.defaults[key]
        kinds = [kind for names, count in pattern for _ in range(count) for kind in names]
        if len(kinds) > max(kept):
            yield key, [[[kinds[layer] for layer in kept], 1]]


def architecture_of(config: Config) -> str:
    """Return which of the family's architectures a config.json names; the first one where it names none.

    Raises ValueError for one that is not in the table.
    """
    family = family_of(config)
    named = config.get("architectures") or [next(iter(family.heads))]
    if named[0] not in family.heads:
        raise ValueError(
            f"{named[0]} is not in the family table; of family {family.name} it knows {', '.join(family.heads)}"
        )
    return str(named[0])


def parameters_of(config: Config) -> Iterator[Parameter]:
    """Yield every parameter that a model with this config.json has, shared ones too, outside first, then layer by layer."""
    family, shape = family_of(config), shape_of(config)
    architecture = architecture_of(config)
    # An architecture that is the base itself has nothing around it.
    base = "" if architecture.removesuffix("Model").lower() == family.base.replace("_", "") else f"{family.base}."
    places: list[tuple[str, int | None, tuple[Weight, ...]]] = [
        (base, None, family.outside),
        ("", None, family.heads[architecture]),
    ]
    places += [(f"{base}{family.layers}.{index}.", index, family.layer) for index in range(shape.layers)]
    for prefix, layer, rows in places:
        for row in rows:
            weight_shared = shape.tied and row.tied in ("weight", "both")
            yield Parameter(f"{prefix}{row.path}.{row.leaf}", row, row.axes, layer, weight_shared)
            if has_bias(config, row):
                bias_shared = shape.tied and row.tied == "both"
                yield Parameter(f"{prefix}{row.path}.bias", row, (row.bias_axis,), layer, bias_shared)


def has_bias(config: Config, row: Weight) -> bool:
    """Say whether the module of a row has a bias in a model with this config.json."""
    if row.bias in ("always", "never"):
        return row.bias == "always"
    family = FAMILIES[str(config["model_type"])]
    return bool(config.get(row.bias, row.bias in family.on))


def axis_sizes(config: Config) -> dict[str, int]:
    """Return how long a dimension of each axis is."""
    family, shape = family_of(config), shape_of(config)
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    labels = config.get("id2label")
    return {
        "vocab": shape.vocabulary,
        "hidden": shape.hidden,
        "ffn": shape.ffn,
        "q": q,
        "kv": kv,
        "qkv": q + 2 * kv,
        "qkv_by_head": 3 * q,
        "gate_up": 2 * shape.ffn,
        "head": shape.head_dim,
        "positions": (shape.context or 0) + family.extra_positions,
        "types": config.get("type_vocab_size", 2),
        "labels": len(labels) if labels else config.get("num_labels", 2),
    }


def parameter_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter, shared ones too."""
    sizes = axis_sizes(config)
    return {each.name: tuple(sizes[axis] for axis in each.axes) for each in parameters_of(config)}


def count_parameters(config: Config) -> dict[str, int]:
    """Return the number of parameters by class: embedding, attention, ffn, norm, head. A tied head counts 0."""
    sizes = axis_sizes(config)
    counts = dict.fromkeys(CLASSES, 0)
    for parameter in parameters_of(config):
        if parameter.shared:
            continue
        product = 1
        for axis in parameter.axes:
            product *= sizes[axis]
        counts[parameter.row.kind] += product
    return counts
