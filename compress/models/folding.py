"""Where a scale for each input channel of a projection can be moved into what makes that input, without changing the model.

Projections that read the same input x are its consumers; a norm, or the rows of a projection, is its producer. With any s > 0,
W x = (W diag(s)) (x / s): consumers take the scales in their input columns, the producer gives its output divided by them.
That holds for a norm with weight (and bias), for values on the way through attention (v_proj to o_proj: the probabilities
weigh whole value rows), for the linear half of a gated feed-forward (up_proj to down_proj), and for a plain feed-forward
whose activation is ReLU, as ReLU(x / s) = ReLU(x) / s. It does not hold behind other activations, nor for a norm whose
output is the residual stream too (encoders), nor for a head that shares its weight with the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from compress.models.families import Config, architecture_of, shape_of
from compress.models.family import Family, Weight

if TYPE_CHECKING:
    from torch import Tensor

# What the norm before the feed-forward, and the one before attention, is called: the first that a layer has. Gemma's
# post_attention_layernorm stands behind attention, and it has the first name too.
_FFN_NORMS = ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2", "final_layer_norm")
_ATTENTION_NORMS = ("input_layernorm", "ln_1", "self_attn_layer_norm")
# Norms that multiply by 1 + weight.
_ONE_PLUS = ("gemma2", "gemma3_text")


@dataclass(frozen=True)
class ScalingGroup:
    """Projections that read one input, and what makes it.

    Paths are from a layer where `inside` is layer, from the whole model where it is model.

    consumers   projections whose input columns are multiplied by the scales
    producer    what is divided by them: a norm, or a projection
    kind        what a scale divides: `norm` (weight and bias), `one_plus_norm` (weight + 1), or `rows` (rows and bias)
    rows        which rows of the producer make the channels, in their order; empty: all of them
    repeats     query heads that read the same rows: channels of a head are repeated so often, head by head
    head_dim    channels of a head; 0 where channels are not repeated
    """

    consumers: tuple[str, ...]
    producer: str
    kind: Literal["norm", "one_plus_norm", "rows"]
    inside: Literal["layer", "model"] = "layer"
    rows: tuple[int, ...] = ()
    repeats: int = 1
    head_dim: int = 0


def groups_of(family: Family, config: Config) -> list[ScalingGroup]:
    """Return the scaling groups of every layer (all layers have the same), in the order in which a layer runs, and the head's.

    Raises ValueError for a config that the family table does not describe.
    """
    shape = shape_of(config)
    groups = [*_norm_group(family, _ATTENTION_NORMS, _readers(family, family.attention, exclude=family.attention_out))]
    groups.append(_values_group(family, config))
    groups += _norm_group(family, _FFN_NORMS, family.ffn_in)
    groups += _ffn_group(family, config)
    head = [
        row
        for row in family.heads[architecture_of(config)]
        if row.path == "lm_head" and row.axes == ("vocab", "hidden")
    ]
    if head and not shape.tied and family.residual != "together":
        final = next(row.path for row in family.outside if row.kind == "norm")
        groups.append(ScalingGroup(("lm_head",), f"{family.base}.{final}", _norm_kind(family), "model"))
    return groups


def _readers(family: Family, inside: str, exclude: str) -> tuple[str, ...]:
    rows = (row for row in family.layer if row.kind == "attention" and row.path.startswith(inside))
    return tuple(row.path for row in rows if row.path != exclude)


def _norm_kind(family: Family) -> Literal["norm", "one_plus_norm"]:
    return "one_plus_norm" if family.name in _ONE_PLUS else "norm"


def _norm_group(family: Family, norms: tuple[str, ...], consumers: tuple[str, ...]) -> Iterator[ScalingGroup]:
    if family.residual == "together":
        return
    held = {row.path for row in family.layer if row.kind == "norm"}
    yield ScalingGroup(consumers, next(path for path in norms if path in held), _norm_kind(family))


def _values_group(family: Family, config: Config) -> ScalingGroup:
    shape = shape_of(config)
    row, rows = _value_rows(family, shape.heads, shape.kv_heads, shape.head_dim)
    return ScalingGroup((family.attention_out,), row.path, "rows", "layer", rows, shape.group, shape.head_dim)


def _value_rows(family: Family, heads: int, kv_heads: int, width: int) -> tuple[Weight, tuple[int, ...]]:
    """Return the projection that makes the values, and which of its rows do."""
    found = [row for row in family.layer if row.kind == "attention" and row.path != family.attention_out]
    out = {row.axes[1 - row.incoming]: row for row in found}
    if "qkv" in out:
        first = (heads + kv_heads) * width
        return out["qkv"], tuple(range(first, first + kv_heads * width))
    if "qkv_by_head" in out:
        return out["qkv_by_head"], tuple(
            head * 3 * width + 2 * width + k for head in range(heads) for k in range(width)
        )
    # The last of q, k, v, by the order of the table.
    return found[-1], ()


def _ffn_group(family: Family, config: Config) -> Iterator[ScalingGroup]:
    ffn = shape_of(config).ffn
    first = next(row for row in family.layer if row.path == family.ffn_in[0])
    if first.axes[1 - first.incoming] == "gate_up":
        yield ScalingGroup((family.ffn_out,), first.path, "rows", rows=tuple(range(ffn, 2 * ffn)))
    elif len(family.ffn_in) == 2:
        yield ScalingGroup((family.ffn_out,), family.ffn_in[1], "rows")
    elif config.get(family.activation, _ACTIVATIONS.get(family.name, "gelu")) == "relu":
        yield ScalingGroup((family.ffn_out,), family.ffn_in[0], "rows")


# What the config class takes where config.json names no activation, if that is ReLU.
_ACTIVATIONS = {"opt": "relu"}


def tie(scales: Tensor, group: ScalingGroup) -> Tensor:
    """Return scales that repeated channels share: their geometric mean. Shapes: [K] -> [K]."""
    if group.repeats == 1:
        return scales
    by_head = scales.log().reshape(-1, group.repeats, group.head_dim)
    return by_head.mean(1, keepdim=True).expand_as(by_head).reshape(-1).exp()


def fold(module: Any, group: ScalingGroup, scales: Tensor) -> None:
    """Multiply the consumers' input channels by the scales and divide the producer by them, in place.

    Shapes: scales [K], one for each input channel of a consumer, above 0; repeated channels share one (see `tie`).
    Numerics: computed in float64 and rounded once for each weight, so what the model computes changes by rounding only.
    A norm that multiplies by 1 + weight cannot hold a factor far below 1 as finely as others: its error is 1e-7 of 1.
    Raises ValueError for scales that are not finite and above 0, of a wrong number, or not shared.
    """
    import torch

    with torch.no_grad():
        consumers = [module.get_submodule(path) for path in group.consumers]
        exact = scales.detach().double()
        _refuse(exact, group, _input_width(consumers[0]))
        for consumer in consumers:
            _scale(consumer.weight, exact, _input_dim(consumer))
        producer = module.get_submodule(group.producer)
        per_row = exact.reshape(-1, group.repeats, group.head_dim)[:, 0].reshape(-1) if group.head_dim else exact
        if group.kind == "one_plus_norm":
            producer.weight.copy_((producer.weight.double() + 1) / per_row - 1)
        else:
            _divide(producer, group, 1 / per_row)


def _refuse(scales: Tensor, group: ScalingGroup, width: int) -> None:
    names = ", ".join(group.consumers)
    if scales.shape != (width,):
        raise ValueError(f"{names}: {width} input channels need as many scales, found {tuple(scales.shape)}")
    if not bool((scales.isfinite() & (scales > 0)).all()):
        raise ValueError(f"{names}: scales must be finite and above 0")
    if group.repeats > 1:
        by_head = scales.reshape(-1, group.repeats, group.head_dim)
        if not bool((by_head == by_head[:, :1]).all()):
            raise ValueError(f"{names}: channels that repeat the same rows of {group.producer} must share a scale")


def _divide(producer: Any, group: ScalingGroup, factors: Tensor) -> None:
    out = 1 - _input_dim(producer) if producer.weight.ndim == 2 else 0
    if group.rows:
        whole = factors.new_ones(producer.weight.shape[out])
        whole[list(group.rows)] = factors
        factors = whole
    _scale(producer.weight, factors, out)
    if getattr(producer, "bias", None) is not None:
        _scale(producer.bias, factors, 0)


def _scale(parameter: Tensor, factors: Tensor, dim: int) -> None:
    shape = [1] * parameter.ndim
    shape[dim] = -1
    parameter.copy_(parameter.double() * factors.reshape(shape).to(parameter.device))


def _input_dim(module: Any) -> int:
    """Return which dimension of a projection's weight is its input: Conv1D stores it first."""
    return 0 if type(module).__name__ == "Conv1D" else 1


def _input_width(module: Any) -> int:
    width: int = module.weight.shape[_input_dim(module)]
    return width
