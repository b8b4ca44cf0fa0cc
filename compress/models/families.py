"""The family table: where each kind of model keeps its layers, feed-forward projections and sizes. Imports no torch.

One row of facts per `model_type`. Beside it only export knows families by name: which of the builder's classes takes
each. The table is complete by itself (optimum's NormalizedConfigManager imports transformers, lacks Gemma 2 and 3, and
names no feed-forward width).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]

# Keys by which a mixture of experts gives itself away, under any model_type.
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class ConfigKeys:
    """Names in config.json of the sizes."""

    layers: str = "num_hidden_layers"
    ffn: str = "intermediate_size"
    hidden: str = "hidden_size"
    heads: str = "num_attention_heads"
    kv_heads: str = "num_key_value_heads"
    head_dim: str = "head_dim"
    context: str = "max_position_embeddings"
    vocabulary: str = "vocab_size"
    tied: str = "tie_word_embeddings"


@dataclass(frozen=True)
class ModulePaths:
    """Where the modules live: from the model (embedding, base, layers, head) or from a decoder layer (the others).

    ffn_in   projections whose rows are the feed-forward columns; when `ffn_fused` there is one, and its rows are all
             gates followed by all ups
    ffn_out  the projection whose columns are the feed-forward columns
    """

    base: str = "model"
    embedding: str = "model.embed_tokens"
    layers: str = "model.layers"
    head: str = "lm_head"
    attention: str = "self_attn"
    ffn: str = "mlp"
    ffn_in: tuple[str, ...] = ("gate_proj", "up_proj")
    ffn_out: str = "down_proj"
    ffn_fused: bool = False


@dataclass(frozen=True)
class Family:
    """The facts of one family. Biases: `always`, `never`, or the name of the config key that says so.

    per_layer        config keys that hold one entry per decoder layer, cut along with the layers
    tied             whether embedding and head are tied when config.json does not say
    norms            normalisations of width D in a decoder layer
    head_norms       normalisations of width head_dim in a decoder layer
    qkv_bias, o_bias, ffn_bias  biases of the attention's inputs, of its output, of the feed-forward projections
    """

    name: str
    keys: ConfigKeys = ConfigKeys()
    paths: ModulePaths = ModulePaths()
    per_layer: tuple[str, ...] = ("layer_types",)
    tied: bool = False
    norms: int = 2
    head_norms: int = 0
    qkv_bias: str = "never"
    o_bias: str = "never"
    ffn_bias: str = "never"


_FUSED = ModulePaths(ffn_in=("gate_up_proj",), ffn_fused=True)

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("llama", qkv_bias="attention_bias", o_bias="attention_bias", ffn_bias="mlp_bias"),
        Family("mistral"),
        Family("qwen2", qkv_bias="always"),
        Family("qwen3", head_norms=2, qkv_bias="attention_bias", o_bias="attention_bias"),
        Family("phi3", paths=_FUSED),
        Family("gemma2", tied=True, norms=4, qkv_bias="attention_bias", o_bias="attention_bias"),
        Family("gemma3_text", tied=True, norms=4, head_norms=2, qkv_bias="attention_bias", o_bias="attention_bias"),
        Family(
            "smollm3",
            per_layer=("layer_types", "no_rope_layers"),
            tied=True,
            qkv_bias="attention_bias",
            o_bias="attention_bias",
            ffn_bias="mlp_bias",
        ),
    )
}


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


def family_of(config: Config) -> Family:
    """Return the family of a config.json.

    Raises ValueError for an unknown family and for a mixture of experts.
    """
    name = str(config.get("model_type"))
    known = ", ".join(FAMILIES)
    if any(isinstance(config.get(key), int) and config[key] > 1 for key in _EXPERT_KEYS):
        raise ValueError(
            f"model_type {name!r} is a mixture of experts, which cannot be pruned yet; known families: {known}"
        )
    if name not in FAMILIES:
        raise ValueError(f"model_type {name!r} is not in the family table; known families: {known}")
    return FAMILIES[name]


def shape_of(config: Config) -> Shape:
    """Return the sizes that a config.json declares.

    Raises ValueError for an unknown family, and for a size that is missing.
    """
    family = family_of(config)
    keys = family.keys
    needed = (keys.layers, keys.ffn, keys.hidden, keys.heads, keys.vocabulary)
    if missing := [key for key in needed if not isinstance(config.get(key), int)]:
        raise ValueError(f"config.json of a {family.name} model needs a whole number for {', '.join(missing)}")
    heads = config[keys.heads]
    tied = config.get(keys.tied)
    return Shape(
        layers=config[keys.layers],
        ffn=config[keys.ffn],
        hidden=config[keys.hidden],
        heads=heads,
        kv_heads=config.get(keys.kv_heads) or heads,
        head_dim=config.get(keys.head_dim) or config[keys.hidden] // heads,
        vocabulary=config[keys.vocabulary],
        context=config.get(keys.context),
        tied=family.tied if tied is None else bool(tied),
    )


def cut_config(config: Config, kept_layers: Sequence[int], ffn: int) -> dict[str, Any]:
    """Return the config of the model that keeps these layers, in this order, and `ffn` columns in each.

    Lists with an entry per layer are cut along. A list that config.json leaves out stays out: whoever derives it from
    the number of layers must write it down before layers are cut.
    """
    family, before = family_of(config), shape_of(config)
    after = dict(config)
    after[family.keys.layers] = len(kept_layers)
    after[family.keys.ffn] = ffn
    for key in family.per_layer:
        entries = config.get(key)
        if isinstance(entries, list) and len(entries) >= before.layers:
            after[key] = [entries[layer] for layer in kept_layers]
    return after


def count_parameters(config: Config) -> dict[str, int]:
    """Return the number of parameters by class: embedding, attention, ffn, norm, head. A tied head counts 0."""
    family, shape = family_of(config), shape_of(config)

    def bias(rule: str) -> bool:
        return rule == "always" or (rule != "never" and bool(config.get(rule)))

    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = 2 * shape.hidden * (queries + keys)
    attention += bias(family.qkv_bias) * (queries + 2 * keys) + bias(family.o_bias) * shape.hidden
    ffn = 3 * shape.hidden * shape.ffn + bias(family.ffn_bias) * (2 * shape.ffn + shape.hidden)
    norms = family.norms * shape.hidden + family.head_norms * shape.head_dim
    return {
        "embedding": shape.vocabulary * shape.hidden,
        "attention": shape.layers * attention,
        "ffn": shape.layers * ffn,
        "norm": shape.layers * norms + shape.hidden,
        "head": 0 if shape.tied else shape.vocabulary * shape.hidden,
    }
