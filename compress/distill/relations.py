"""Losses between the self-attention of one layer of teacher and student: its distributions, and how its values relate.

Both compare, for every counted token, distributions over the tokens that it sees: itself and those before it. A token that
is not counted is left out as a row, and is still seen by others, as the words of a prompt are. Sums over rows, each the mean
over heads, in nats.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.models.families import Shape, family_of, shape_of
from compress.models.family import Family


def attention_kl(student: Tensor, teacher: Tensor, counted: Tensor) -> Tensor:
    """Return the sum over counted rows of the mean over heads of KL(teacher || student).

    Shapes: attention distributions [B, H, T, T] of both, rows over the last axis; counted [B, T] bool.
    Numerics: float32, or float64 where both are; a chance of 0 counts as the smallest that the format has. In training mode
    transformers gives distributions behind dropout: set attention_dropout to 0.
    Raises: ValueError where the numbers of heads differ.
    Paper: MiniLM, arXiv 2002.10957 §3.1; its equation divides by the rows too.
    """
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"the loss attention needs one number of heads: the student has {student.shape[1]}, "
            f"the teacher {teacher.shape[1]}; use value_relation, which takes any"
        )
    # rows first: nothing of the others takes part, whatever they hold
    p, q = _precise(teacher.transpose(1, 2)[counted]), _precise(student.transpose(1, 2)[counted])
    log_q = q.clamp_min(torch.finfo(q.dtype).tiny).log()
    return (torch.xlogy(p, p) - p * log_q).sum() / student.shape[1]


def value_relation(
    student: Tensor, teacher: Tensor, counted: Tensor, heads: int, visible: Tensor | None = None
) -> Tensor:
    """Return the sum over counted rows of the mean over relation heads of KL(teacher || student) between the
    distributions softmax(v vᵀ / sqrt(width of a relation head)) over the tokens that a row sees.

    The values of all heads stand side by side and are cut anew into `heads` relation heads, so that numbers of heads and
    widths may differ between the models.

    Shapes: values [B, T, W] of the student, [B, T, W'] of the teacher; counted [B, T] bool; visible [B, T] bool, False for
    padding, which no row sees. Numerics: float32, or float64 where both are.
    Memory: about eight tensors of [B, heads, T, T] elements.
    Raises: ValueError where `heads` does not divide both widths.
    Paper: MiniLM, arXiv 2002.10957 §3.2; relation heads: MiniLMv2, arXiv 2012.15828 §3.1. Causal here, where the papers'
    encoders see every token.
    """
    seen = torch.ones(student.shape[1], student.shape[1], dtype=torch.bool, device=student.device).tril()
    if visible is not None:
        # each sees itself at least: a row over nothing would be NaN
        itself = torch.eye(student.shape[1], dtype=torch.bool, device=student.device)
        seen = ((seen & visible[:, None, :]) | itself)[:, None]
    log_q, log_p = _relation(student, heads, seen), _relation(teacher, heads, seen)
    per_row = (log_p.exp() * (log_p - log_q)).sum(-1).mean(1)
    return per_row[counted].sum()


def relation_heads(student: Shape, teacher: Shape, asked: int | None = None) -> int:
    """Return into how many relation heads the values of both models are cut: as asked, else the most that cut no
    key/value head of either in two; for models with the same heads these are the heads themselves.

    Raises ValueError where the number asked for does not divide both widths.
    """
    widths = (student.kv_heads * student.head_dim, teacher.kv_heads * teacher.head_dim)
    if asked is None:
        return math.gcd(student.kv_heads, teacher.kv_heads)
    if asked < 1 or any(width % asked for width in widths):
        fits = [heads for heads in range(1, min(widths) + 1) if not math.gcd(*widths) % heads]
        raise ValueError(
            f"{asked} relation heads do not divide the widths of the values, {widths[0]} in the student and "
            f"{widths[1]} in the teacher; use one of {', '.join(map(str, fits))}"
        )
    return asked


class Captured:
    """The values or the attention distributions of one layer, kept at every forward pass until they are taken.

    values      [B, T, W], W = key/value heads times their width, before any repetition for grouped queries
    attention   [B, H, T, T]; the model must run transformers' eager attention: set_attn_implementation("eager")

    A context manager, or remove() at the end. Layers count from 0, a negative one from the end.

    Raises ValueError for a family that is not in the table, and for a layer that the model does not have.
    """

    def __init__(self, model: Any, layer: int, what: Literal["values", "attention"]) -> None:
        config = model.config.to_dict()
        family, shape = family_of(config), shape_of(config)
        if not -shape.layers <= layer < shape.layers:
            raise ValueError(f"the model has {shape.layers} layers, there is no layer {layer}")
        self.what, self.layer = what, layer % shape.layers
        self._family, self._shape = family, shape
        self._tensor: Tensor | None = None
        self._axis, path = _value_row(family) if what == "values" else ("", family.attention)
        name = f"{family.base}.{family.layers}.{self.layer}.{path}"
        module: nn.Module = model.get_submodule(name)
        self._hook = module.register_forward_hook(self._keep)

    def take(self) -> Tensor:
        """Return what the last forward pass left, and forget it.

        Raises RuntimeError where there was none since the last time.
        """
        found, self._tensor = self._tensor, None
        if found is None:
            raise RuntimeError(f"no forward pass since the {self.what} of layer {self.layer} were taken")
        return found

    def remove(self) -> None:
        """Take the hook off the model."""
        self._hook.remove()
        self._tensor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.what == "values":
            self._tensor = _values_of(output, self._axis, self._shape)
            return
        if not isinstance(output, tuple) or output[1] is None:
            raise ValueError(
                "this model's attention gives no distributions; "
                'call set_attn_implementation("eager") on it, or use value_relation'
            )
        self._tensor = output[1]


def _value_row(family: Family) -> tuple[str, str]:
    """Return the axis of the projection that makes the values, and its path from the layer."""
    rows = [row for row in family.layer if row.kind == "attention"]
    separate = [row.path for row in rows if row.bias_axis == "kv"]
    if separate:
        return "kv", separate[-1]  # keys stand before values
    fused = next(row for row in rows if row.bias_axis in ("qkv", "qkv_by_head"))
    return fused.bias_axis, fused.path


def _values_of(output: Tensor, axis: str, shape: Shape) -> Tensor:
    if axis == "qkv":
        return output[..., -shape.kv_heads * shape.head_dim :]
    if axis == "qkv_by_head":
        return output.view(*output.shape[:-1], shape.heads, 3, shape.head_dim)[..., 2, :].flatten(-2)
    return output


def _relation(values: Tensor, heads: int, seen: Tensor) -> Tensor:
    """Return log chances [B, heads, T, T]; where a row does not look they are so low that the chance is 0."""
    width = values.shape[-1]
    if width % heads:
        raise ValueError(f"{heads} relation heads do not divide values of width {width}")
    split = _precise(values).reshape(*values.shape[:-1], heads, width // heads).transpose(1, 2)
    with torch.autocast(values.device.type, enabled=False):
        scores = split @ split.transpose(-1, -2) / math.sqrt(width // heads)
    return functional.log_softmax(scores.masked_fill(~seen, torch.finfo(scores.dtype).min / 2), dim=-1)


def _precise(rows: Tensor) -> Tensor:
    return rows if rows.dtype == torch.float64 else rows.float()
