"""A torch model whose products see their inputs in 8 bits, as the exported file will show them to int8 weights.

A quantized folder opens in torch with float inputs; `round_inputs` makes the difference visible there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.models.input_grid import CODES, ROW_STEPS, InputGrid, static_grid
from compress.models.quantized import QuantizedFile, is_quantized


def rounded_by_row(x: Tensor) -> Tensor:
    """Return the input with each row on steps of max|row| / 127; a row of zeros stays. Shapes: [..., K], kept."""
    extreme = x.abs().amax(-1, keepdim=True)
    parts = x / torch.where(extreme > 0, extreme, torch.ones_like(extreme))
    step = 1 / ROW_STEPS
    return torch.round(parts / step).mul_(step).mul_(extreme)


def rounded_in_blocks(x: Tensor, block: int) -> Tensor:
    """Return the input as MatMulNBits rounds it at accuracy level 4: each block of channels by its own range. Shapes: [..., K], kept."""
    width = x.shape[-1]
    padded = torch.nn.functional.pad(x, (0, -width % block))
    return rounded_by_row(padded.reshape(*x.shape[:-1], -1, block)).flatten(-2)[..., :width]


def rounded_static(x: Tensor, grid: InputGrid) -> Tensor:
    """Return the input as its codes stand for it; what the range does not hold is cut off. Shapes: any, kept."""
    scale, zero = float(grid.scale), float(grid.zero)
    return torch.round(x / scale).add_(zero).clamp_(0, CODES - 1).sub_(zero).mul_(scale)


@contextmanager
def round_inputs(model: Any, folder: Path) -> Iterator[None]:
    """Round the inputs of the model's products as the schemes of its folder say, as long as the context is open.

    A tied embedding's scheme is that of the lm_head's product. Weights whose activations are `none` see their inputs as they are.
    """
    rounding = _roundings(folder)
    names = {id(weight): name for name, weight in model.named_parameters()}
    handles = []
    for module in model.modules():
        chosen = rounding.get(names.get(id(getattr(module, "weight", None)), ""))
        if chosen and isinstance(module, torch.nn.Linear):
            handles.append(module.register_forward_pre_hook(_hook(chosen)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _roundings(folder: Path) -> dict[str, Callable[[Tensor], Tensor]]:
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    if not is_quantized(folder):
        return found
    with QuantizedFile(folder) as file:
        for name, scheme in file.schemes.weights.items():
            if scheme.activations == "dynamic":
                found[name] = rounded_by_row
            elif scheme.activations == "static":
                span = file.read(name).input_range
                assert span is not None
                found[name] = _on(static_grid(*span))
    return found


def _on(grid: InputGrid) -> Callable[[Tensor], Tensor]:
    return lambda x: rounded_static(x, grid)


def _hook(rounding: Callable[[Tensor], Tensor]) -> Callable[[Any, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    return lambda _, inputs: (rounding(inputs[0]), *inputs[1:])
