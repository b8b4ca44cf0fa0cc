"""A loss on logits that are never all there: some rows at a time, their gradients taken on the way forward.

The plain way holds logits, chances and gradients of every row until the backward pass, [n, V] each, and several of them.
Here the rows of one chunk go through the head and the loss, and of their graph stay only the gradients for the hidden
states and for the head. Nothing is computed twice, so that one chunk costs what the plain way does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from compress.models.head import Tail

RowsLoss = Callable[[Tensor, slice], tuple[Tensor, dict[str, Tensor]]]
"""(logits [m, V], which rows they are) -> (weighted total of these rows, the sum of every term)."""

# Logits of one chunk at most: a loss holds seven to eleven tensors of this size, 64 MiB each in float32.
LOGITS = 2**24
# On a CPU chunks of 2**21 logits stay in its caches and in memory that the process has already, where larger tensors are
# mapped anew each time (measured, forward_kl with both heads, 2,048 rows, width 192, vocabulary 4,096: 0.19 s of one core
# against 0.28); but each chunk reads and writes the head's gradient once, which below 128 rows costs more than that saves.
_CPU_LOGITS = 2**21
_CPU_ROWS = 128
_HALVES = (torch.float16, torch.bfloat16)


def chunked_loss(
    hidden: Tensor, tail: Tail, rows_loss: RowsLoss, chunk: int | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the total of `rows_loss` over all rows, a scalar with a graph to `hidden` and to the head, and the sums by
    name, detached.

    rows_loss is called once for each chunk, in order, under the autocast around this call; from its total gradients go to
    the logits alone, never to anything else that it reads.
    chunk: rows at a time; None: as many as the device does best, and at most 2**24 logits.

    Shapes: hidden [n, D]; without rows the total is 0 and there are no sums.
    Numerics: that of the plain way; the head's gradients are summed in float32 at least. Not for float16, whose gradients
    need a scale before they are taken.
    Memory: seven times chunk x V elements with forward_kl and a live teacher, eleven with jensen_shannon, and one gradient of
    the head; the graph can be run backward once.
    """
    weight, bias = tail.weight, tail.bias
    step = chunk if chunk is not None else rows_at_a_time(weight.shape[0], hidden.device.type)
    work = _Work(tail, rows_loss, list(_parts(len(hidden), step)))
    if torch.is_grad_enabled():
        total: Tensor = _ChunkedLoss.apply(hidden, weight, bias, work)  # type: ignore[no-untyped-call]
    else:
        total = work.total(hidden, weight, bias)
    return total, work.sums


def rows_at_a_time(vocabulary: int, device: str) -> int:
    """Return the default number of rows in a chunk."""
    most = max(1, LOGITS // vocabulary)
    return min(most, max(_CPU_ROWS, _CPU_LOGITS // vocabulary)) if device == "cpu" else most


def _parts(rows: int, step: int) -> Iterator[slice]:
    """Yield slices of nearly the same length, at most `step`."""
    number = -(-rows // step)
    for index in range(number):
        yield slice(index * rows // number, (index + 1) * rows // number)


@dataclass
class _Gradients:
    """What is added up over the chunks; None where no gradient is asked for."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def zeros(cls, asked: tuple[bool, ...], hidden: Tensor, weight: Tensor, bias: Tensor | None) -> _Gradients:
        return cls(
            torch.empty_like(hidden) if asked[0] else None,
            _zeros(weight) if asked[1] else None,
            _zeros(bias) if bias is not None and asked[2] else None,
        )

    def add(self, slope: Tensor, rows: Tensor, weight: Tensor, part: slice) -> None:
        """Add one chunk. Shapes: slope [m, V] by the head's product, rows [m, D], weight [V, D]."""
        if self.hidden is not None:
            self.hidden[part] = slope @ weight
        if self.weight is not None:
            if self.weight.dtype == slope.dtype:
                self.weight.addmm_(slope.t(), rows)
            else:
                self.weight += slope.t() @ rows
        if self.bias is not None:
            self.bias += slope.sum(0, dtype=self.bias.dtype)


@dataclass
class _Work:
    tail: Tail
    rows_loss: RowsLoss
    parts: list[slice]
    sums: dict[str, Tensor] = field(default_factory=dict)

    def total(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, into: _Gradients | None = None) -> Tensor:
        """Return the total over all chunks, detached, and add the gradients up."""
        dtype = _product_dtype(weight)
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        total = hidden.new_zeros((), dtype=torch.float32 if hidden.dtype in _HALVES else hidden.dtype)
        for part in self.parts:
            total = total + self._chunk(hidden[part].to(dtype), (weight, bias), part, into)
        return total

    def _chunk(self, rows: Tensor, head: tuple[Tensor, Tensor | None], part: slice, into: _Gradients | None) -> Tensor:
        weight, bias = head
        products = functional.linear(rows, weight, bias)
        if into is None:
            total, sums = self.rows_loss(self.tail.finish(products), part)
        else:
            products.requires_grad_()
            with torch.enable_grad():
                total, sums = self.rows_loss(self.tail.finish(products), part)
            (slope,) = torch.autograd.grad(total, products)
            into.add(slope, rows, weight, part)
        for name, value in sums.items():
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach()
        return total.detach()


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: _Work) -> Tensor:
        asked = ctx.needs_input_grad
        gradients = _Gradients.zeros(asked, hidden, weight, bias) if any(asked) else None
        total = work.total(hidden, weight, bias, gradients)
        ctx.gradients = gradients
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the chunked loss was run backward before: its gradients are given away the first time")
        # in place: a copy of the head's gradient can be the largest tensor of a step
        hidden, weight, bias = (
            None if found is None else found.mul_(slope)
            for found in (gradients.hidden, gradients.weight, gradients.bias)
        )
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            hidden,
            None if weight is None else weight.to(weight_dtype),
            None if bias is None else bias.to(bias_dtype),
            None,
        )


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.float32 if like.dtype in _HALVES else like.dtype)


def _product_dtype(weight: Tensor) -> torch.dtype:
    """Return the format of the head's product: what autocast would take, so that the weight is converted once."""
    kind = weight.device.type
    if weight.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return weight.dtype
    return torch.get_autocast_dtype(kind)
