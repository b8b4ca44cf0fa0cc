"""A model's layers run one at a time on the residual streams of calibration text, with what their projections see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from compress.models.family import Family
from compress.models.layers import BATCH, hooked, layers_of, run_base, stream_in, stream_out

Call = tuple[tuple[Any, ...], dict[str, Any]]


class _Stop(Exception):  # noqa: N818 - no error: it ends a forward pass once everything wanted was seen
    pass


def batch_size(windows: int) -> int:
    """Return the largest batch of at most 8 windows that divides them: what layers are called with then fits every batch."""
    return next(size for size in range(min(BATCH, windows), 0, -1) if windows % size == 0)


def whole_batches(windows: Tensor) -> Tensor:
    """Return windows in full batches: the last ones are left out where there are more than a batch. Shapes: [N, T] -> [M, T]."""
    return windows[: len(windows) // BATCH * BATCH] if len(windows) > BATCH else windows


def layer_calls(model: Any, family: Family, ids: Tensor) -> list[Call]:
    """Return what every layer is called with besides the stream (masks, positions), from one batch.

    Windows are full and alike, so that it holds for every batch of the same size. Shapes: ids [N, T].
    """
    calls: dict[int, Call] = {}

    def remember(index: int) -> Callable[..., None]:
        def see(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls[index] = (args[1:], {key: value for key, value in kwargs.items() if key not in _PER_CALL})

        return see

    layers = layers_of(model, family)
    handles = (layer.register_forward_pre_hook(remember(i), with_kwargs=True) for i, layer in enumerate(layers))
    with hooked(handles), torch.no_grad():
        run_base(model, family, ids[: batch_size(len(ids))])
    return [calls[index] for index in range(len(layers))]


_PER_CALL = ("hidden_states", "past_key_values", "past_key_value", "layer_past")


def first_streams(model: Any, family: Family, ids: Tensor) -> list[Tensor]:
    """Return what the first layer is given, batch by batch. Shapes: ids [N, T] -> each [B, T, D]."""
    found: list[Tensor] = []

    def see(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(stream_in(args, kwargs))
        raise _Stop

    first = layers_of(model, family)[0]
    with hooked(iter([first.register_forward_pre_hook(see, with_kwargs=True)])), torch.no_grad():
        for batch in torch.split(ids, batch_size(len(ids))):
            with suppress(_Stop):
                run_base(model, family, batch)
    return found


def forward(layer: Any, stream: Tensor, call: Call) -> Tensor:
    """Return the stream after a layer. Shapes: [B, T, D] -> [B, T, D]."""
    args, kwargs = call
    with torch.no_grad():
        return stream_out(layer(stream, *args, **kwargs))


class Trace:
    """What some of a layer's projections were given, and what others gave, in one call of the layer.

    given, gave   by path; tensors [B, T, width]
    after         the stream after the layer; None where the call was ended early
    """

    def __init__(
        self,
        layer: Any,
        stream: Tensor,
        call: Call,
        given: Iterable[str] = (),
        gave: Iterable[str] = (),
        until: str | None = None,
    ) -> None:
        self.given: dict[str, Tensor] = {}
        self.gave: dict[str, Tensor] = {}
        self.after: Tensor | None = None
        with hooked(self._hooks(layer, set(given), set(gave), until)), suppress(_Stop):
            self.after = forward(layer, stream, call)

    def _hooks(self, layer: Any, given: set[str], gave: set[str], until: str | None) -> Iterator[Any]:
        for path in gave:
            yield layer.get_submodule(path).register_forward_hook(self._output_of(path))
        for path in given | ({until} if until else set()):
            yield layer.get_submodule(path).register_forward_pre_hook(self._input_of(path, path == until))

    def _input_of(self, path: str, last: bool) -> Callable[..., None]:
        def see(_module: Any, args: tuple[Any, ...]) -> None:
            self.given[path] = args[0]
            if last:
                raise _Stop

        return see

    def _output_of(self, path: str) -> Callable[..., None]:
        def see(_module: Any, _args: tuple[Any, ...], output: Tensor) -> None:
            self.gave[path] = output

        return see
