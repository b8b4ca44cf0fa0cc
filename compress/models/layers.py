"""The layers of a model, their matrices, and hooks that see what passes through them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from compress.models.family import Family, Weight

BATCH = 8


def base_of(model: Any, family: Family) -> Any:
    """Return the model without its head."""
    return model.get_submodule(family.base) if hasattr(model, family.base.partition(".")[0]) else model


def run_base(model: Any, family: Family, ids: Tensor) -> Any:
    """Run the model without its head, and without a cache where it could keep one. Shapes: ids [B, T]."""
    base = base_of(model, family)
    cache = {"use_cache": False} if "use_cache" in inspect.signature(base.forward).parameters else {}
    return base(input_ids=ids.to(model.device), **cache)


def layers_of(model: Any, family: Family) -> Any:
    """Return the list of layers of a model."""
    return base_of(model, family).get_submodule(family.layers)


def matrix(module: Any, row: Weight) -> Tensor:
    """Return a module's weight as [out, in], whichever way it is stored."""
    weight: Tensor = module.weight.detach()
    return weight if row.incoming == 1 else weight.T


def row_of(family: Family, path: str) -> Weight:
    """Return the row of a layer's module."""
    return next(row for row in family.layer if row.path == path)


@contextmanager
def hooked(handles: Iterator[Any]) -> Iterator[None]:
    """Hold hooks for as long as the block runs."""
    installed = list(handles)
    try:
        yield
    finally:
        for handle in installed:
            handle.remove()


def stream_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the residual stream that a layer was called with."""
    entering: Tensor = args[0] if args else kwargs["hidden_states"]
    return entering


def stream_out(output: Any) -> Tensor:
    """Return the residual stream that a layer gave."""
    leaving: Tensor = output[0] if isinstance(output, tuple) else output
    return leaving
