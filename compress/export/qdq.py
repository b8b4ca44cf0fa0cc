"""int8 weights of one scale for each output channel and 8-bit inputs of a known range, as QuantizeLinear and DequantizeLinear.

ONNX Runtime's optimizer makes QuantizeLinear and MatMulIntegerToFloat of them, and the compilers of NPUs read the same form. An
input's range is one for all its tokens.
"""

from __future__ import annotations

import onnx_ir as ir

from compress.export.graph_edit import constant, operator
from compress.models.input_grid import InputGrid


class StaticInputs:
    """Inputs rounded on a grid that is known, each once for each grid."""

    def __init__(self) -> None:
        self._made: dict[tuple[ir.Value, float, int], ir.Value] = {}

    def matmul_nodes(
        self, module: str, x: ir.Value, grid: InputGrid, codes: ir.Value, scales: ir.Value
    ) -> list[ir.Node]:
        """Return the product of x and codes [K, N]. Shapes: x [B, T, K] float32; result [B, T, N]."""
        nodes: list[ir.Node] = []
        key = (x, float(grid.scale), int(grid.zero))
        if key not in self._made:
            scale = constant(f"{module}/input/scale", grid.scale)
            zero = constant(f"{module}/input/zero_point", grid.zero)
            both = [scale.outputs[0], zero.outputs[0]]
            rounded = operator("QuantizeLinear", [x, *both], f"{module}/input/QuantizeLinear")
            values = operator("DequantizeLinear", [rounded.outputs[0], *both], f"{module}/input/DequantizeLinear")
            nodes += [scale, zero, rounded, values]
            self._made[key] = values.outputs[0]
        weight = operator("DequantizeLinear", [codes, scales], f"{module}/DequantizeLinear", {"axis": 1})
        product = operator("MatMul", [self._made[key], weight.outputs[0]], f"{module}/MatMul")
        return [*nodes, weight, product]
