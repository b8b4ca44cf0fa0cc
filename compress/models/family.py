"""What the family table says of one kind of model: which axis every dimension of every weight belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Axes of a weight's dimensions. Cut: vocab, hidden, ffn, q (query heads times head_dim), kv (the same for key/value heads),
# qkv (all q, then all k, then all v), qkv_by_head (q, k, v of the first head, of the second, ...), gate_up (all gates,
# then all ups). Never cut: head (head_dim), positions, types, labels.
AXES = ("vocab", "hidden", "ffn", "q", "kv", "qkv", "qkv_by_head", "gate_up", "head", "positions", "types", "labels")


@dataclass(frozen=True)
class Weight:
    """One module that holds a weight, and where the rule says so a bias.

    kind       class under which its parameters are counted: embedding, attention, ffn, norm, head
    path       from the base model, from the layer, or from the whole model, according to where the row stands
    axes       the axis of every dimension of the weight, in order
    bias       `always`, `never`, or the name of the config key that says so
    bias_axis  the axis of the bias
    leaf       name of the parameter in the module
    tied       what is no parameter of its own where embedding and head are tied: nothing, weight, bias, both
    """

    kind: str
    path: str
    axes: tuple[str, ...]
    bias: str = "never"
    bias_axis: str = ""
    leaf: str = "weight"
    tied: str = "nothing"

    @property
    def incoming(self) -> int:
        """Which dimension of the weight is the module's input."""
        return 1 - self.axes.index(self.bias_axis) if len(self.axes) == 2 else 0


def linear(kind: str, path: str, out: str, incoming: str, bias: str = "never", tied: str = "nothing") -> Weight:
    """Return the row of an nn.Linear: weight [out, in]."""
    return Weight(kind, path, (out, incoming), bias, out, tied=tied)


def conv1d(kind: str, path: str, incoming: str, out: str) -> Weight:
    """Return the row of transformers' Conv1D: weight [in, out], always with a bias."""
    return Weight(kind, path, (incoming, out), "always", out)


def norm(path: str, axis: str = "hidden", kind: str = "norm") -> Weight:
    """Return the row of a normalisation without bias."""
    return Weight(kind, path, (axis,))


def layer_norm(path: str) -> Weight:
    """Return the row of a normalisation with weight and bias."""
    return Weight("norm", path, ("hidden",), "always", "hidden")


def embedding(path: str, axis: str = "vocab") -> Weight:
    """Return the row of an embedding [axis, D]."""
    return Weight("embedding", path, (axis, "hidden"))


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
class Family:
    """The facts of one family.

    base             path of the base model in the whole one; an architecture without a head has no such prefix
    layers           path of the list of layers, from the base
    layer            the weights of one layer
    outside          the weights of the base outside its layers
    heads            the weights outside the base, by architecture; the first one is the default
    attention        path of the attention from a layer, and of its output projection
    ffn              path from a layer of the module that holds the whole feed-forward, or "" where there is none
    ffn_in, ffn_out  paths from a layer of the projections that make the feed-forward columns, and of the one that reads them
    activation       config key that names the feed-forward's activation function
    residual         where a block's output joins the residual stream: `after` the projection, behind a `norm` of its own,
                     or normalised `together` with it (post-norm)
    per_layer        config keys that hold one entry per layer
    patterns         config keys of the form [[kinds, repetitions], ...], which name the kind of every layer
    by_index         config keys that, when true, make a layer depend on its number
    tied             whether embedding and head are tied when config.json does not say
    coupled          the config has no head_dim: heads and hidden width shrink together
    whole_heads      the config class refuses a hidden width that its heads do not divide
    rope_by_width    the config class measures the factors of a longrope by hidden width over heads, whatever head_dim says
    fixed            config keys that must be unset or equal the hidden width
    presumes         what the rows presume of the config, where it says anything
    on               config keys of biases that are true when config.json does not say
    defaults         what the config class takes where config.json has no such key (sizes that are null follow from others)
    default_ffn      feed-forward width as a multiple of the hidden one when config.json does not say
    extra_positions  rows of the position embedding beyond the context
    pad_position     positions are counted from the id of the padding token, which must stay
    """

    name: str
    layer: tuple[Weight, ...]
    outside: tuple[Weight, ...]
    heads: Mapping[str, tuple[Weight, ...]]
    keys: ConfigKeys = field(default_factory=ConfigKeys)
    base: str = "model"
    layers: str = "layers"
    attention: str = "self_attn"
    attention_out: str = "self_attn.o_proj"
    ffn: str = "mlp"
    ffn_in: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    ffn_out: str = "mlp.down_proj"
    activation: str = "hidden_act"
    residual: str = "after"
    per_layer: tuple[str, ...] = ("layer_types",)
    patterns: tuple[str, ...] = ()
    by_index: tuple[str, ...] = ()
    tied: bool = False
    coupled: bool = False
    whole_heads: bool = False
    rope_by_width: bool = False
    fixed: tuple[str, ...] = ()
    presumes: Mapping[str, object] = field(default_factory=dict)
    on: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    default_ffn: int = 0
    extra_positions: int = 0
    pad_position: bool = False
