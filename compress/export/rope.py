"""Tables of cosines and sines as a formula: ONNX Runtime computes them once, while it loads, and the file need not hold them.

A table has a row for each position of the context: 2 · context · head width / 2 floats, 67 MB for a context of 131,072 tokens and
heads of 128. Cos and Sin of ONNX Runtime are within 1.2e-7 of torch's, and as quick as reading the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from compress.export.graph_edit import constant, initializer, operator

_COS, _SIN = "cos_cache", "sin_cache"
# Below this many positions the nodes of the formula take more bytes than the table.
_LEAST_VALUES = 512


def frequencies_of(builder: Any) -> Tensor:
    """Return the radians that each pair of channels turns with each position [R], as the builder computes them."""
    attributes = builder.rope_attrs
    width = int(attributes["partial_rotary_factor"] * builder.head_size)
    exponents = torch.arange(0, width, 2, dtype=torch.int64).float() / width
    frequencies = 1.0 / (attributes["rescale_factors"] * attributes["theta"] ** exponents)
    if "rescale_inv_freq" in attributes:
        frequencies = builder.make_inv_freq_rescaled(frequencies)
    result: Tensor = frequencies
    return result


def compute_tables(graph: ir.Graph, candidates: Sequence[Tensor]) -> None:
    """Replace each pair of tables by the formula of the candidate frequencies that gives it, bit for bit in torch; others stay."""
    for name in [name for name in graph.initializers if name.startswith(_COS)]:
        cosines, sines = graph.initializers[name], graph.initializers.get(name.replace(_COS, _SIN))
        if sines is None or cosines.const_value is None or sines.const_value is None:
            continue
        tables = [_floats(value) for value in (cosines, sines)]
        for frequencies in candidates:
            if tables[0].size >= _LEAST_VALUES and _gives(frequencies, tables):
                _replace(graph, [cosines, sines], frequencies, name.removeprefix(_COS))
                break


def _floats(value: ir.Value) -> Any:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy())


def _gives(frequencies: Tensor, tables: Sequence[Any]) -> bool:
    angles = torch.outer(torch.arange(len(tables[0])).float(), frequencies)
    return all(
        np.array_equal(found.numpy(), table) for found, table in zip((angles.cos(), angles.sin()), tables, strict=True)
    )


def _replace(graph: ir.Graph, tables: Sequence[ir.Value], frequencies: Tensor, suffix: str) -> None:
    module = f"/model/rope{suffix}"
    limits = [
        constant(f"{module}/{key}", np.float32(number))
        for key, number in (("first", 0), ("end", len(_floats(tables[0]))), ("step", 1))
    ]
    axis = constant(f"{module}/axis", np.array([1]))
    positions = operator("Range", [limit.outputs[0] for limit in limits], f"{module}/Range")
    column = operator("Unsqueeze", [positions.outputs[0], axis.outputs[0]], f"{module}/Unsqueeze")
    row = initializer(graph, f"rope{suffix}.inv_freq", frequencies.numpy()[None, :])
    angles = operator("Mul", [column.outputs[0], row], f"{module}/Mul")
    nodes = [*limits, axis, positions, column, angles]
    for kind, table in zip(("Cos", "Sin"), tables, strict=True):
        node = operator(kind, [angles.outputs[0]], f"{module}/{kind}")
        name = table.name
        table.replace_all_uses_with(node.outputs[0])
        del graph.initializers[str(name)]
        node.outputs[0].name = name
        nodes.append(node)
    graph.insert_before(graph[0], nodes)
