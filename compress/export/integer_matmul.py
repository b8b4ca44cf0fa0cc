"""int8 weights of one scale for each output channel, multiplied with 8-bit inputs whose range is taken as the model runs.

Each row of the input (one token) has a range of its own: x / max|x| is rounded to steps of 1/127, MatMulIntegerToFloat (what
ONNX Runtime makes of MatMulInteger, Cast and Mul) multiplies, and the result is scaled by max|x|. DynamicQuantizeLinear, which
gives all tokens one range, lets the token of the largest activations (the first, mostly) take the bits of all others, and a token's
logits depend on what follows it. Measured on stories3M, plain rounding of the weights, train text: perplexity 4.088 in float, 4.113
so, 4.985 with DynamicQuantizeLinear, which is 10 % faster on a prompt and the same per token.

The inputs are unsigned and the weights signed, which ONNX Runtime multiplies fastest. x86 CPUs with AVX2 and without VNNI
(AMD before Zen 4, Intel before 2019) cut off the sum of two products at 16 bits: worked out for the same model and text, perplexity
4.106 in place of 4.017 (0.07 % of the sums). The session option `session.x64quantprecision: "1"` makes it exact; it costs half the
speed, on CPUs with VNNI too, so that no file sets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.export.graph_edit import MICROSOFT, constant, initializer, operator
from compress.models.input_grid import ROW_STEPS, ROW_ZERO
from compress.models.quantized import QuantizedWeight

_FLOAT = ir.DataType.FLOAT.value


def signed_codes(weight: QuantizedWeight) -> npt.NDArray[np.int8]:
    """Return the codes [N, K] of a weight of 8 bits and one scale for each row, as they stand for -128 .. 127 steps."""
    rows, width = weight.scheme.shape
    return (weight.codes.reshape(rows, -1)[:, :width] ^ np.uint8(weight.scheme.middle)).view(np.int8)


def stored_values(graph: ir.Graph, module: str, weight: QuantizedWeight, as_table: bool) -> list[ir.Value]:
    """Return initializers for codes and scales [N]; codes are [K, N], or [N, K] as a table to gather rows from."""
    prefix = module.removeprefix("/").replace("/", ".")
    codes = signed_codes(weight)
    return [
        initializer(graph, f"{prefix}.qweight", codes if as_table else np.ascontiguousarray(codes.T)),
        initializer(graph, f"{prefix}.scales", weight.scales.reshape(-1)),
    ]


def transpose_node(module: str, table: ir.Value) -> ir.Node:
    """Return the table [N, K] as [K, N]: ONNX Runtime does it once, while it loads."""
    return operator("Transpose", [table], f"{module}/Transpose", {"perm": [1, 0]})


def gather_nodes(module: str, ids: ir.Value, stored: Sequence[ir.Value]) -> list[ir.Node]:
    """Return the embedding from a table [V, K] of codes and scales [V]. Shapes: ids [B, T]; result [B, T, K]."""
    axis = constant(f"{module}/scales/axis", np.array([-1]))
    rows = operator("Gather", [stored[0], ids], f"{module}/codes/Gather")
    scales = operator("Gather", [stored[1], ids], f"{module}/scales/Gather")
    column = operator("Unsqueeze", [scales.outputs[0], axis.outputs[0]], f"{module}/scales/Unsqueeze")
    floats = operator("Cast", [rows.outputs[0]], f"{module}/Cast", {"to": _FLOAT})
    product = operator("Mul", [floats.outputs[0], column.outputs[0]], f"{module}/scales/Mul")
    return [axis, rows, scales, column, floats, product]


class RowInputs:
    """Inputs rounded row by row, each once, whatever number of weights it is multiplied with."""

    def __init__(self) -> None:
        self._constants: dict[str, ir.Value] = {}
        self._made: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def matmul_nodes(self, module: str, x: ir.Value, codes: ir.Value, scales: ir.Value) -> list[ir.Node]:
        """Return the product of x and codes [K, N]. Shapes: x [B, T, K] float32; result [B, T, N]."""
        nodes: list[ir.Node] = []
        step = self.shared("step", np.float32(1 / ROW_STEPS), nodes)
        zero = self.shared("zero", np.uint8(ROW_ZERO), nodes)
        if x not in self._made:
            axis = self.shared("axis", np.array([-1]), nodes)
            absolute = operator("Abs", [x], f"{module}/input/Abs")
            extreme = operator("ReduceMax", [absolute.outputs[0], axis], f"{module}/input/ReduceMax", {"keepdims": 1})
            parts = operator("Div", [x, extreme.outputs[0]], f"{module}/input/Div")
            rounded = operator("QuantizeLinear", [parts.outputs[0], step, zero], f"{module}/input/QuantizeLinear")
            nodes += [absolute, extreme, parts, rounded]
            self._made[x] = (rounded.outputs[0], extreme.outputs[0])
        rounded_x, extreme_x = self._made[x]
        inputs = [rounded_x, codes, step, scales, zero]
        product = operator("MatMulIntegerToFloat", inputs, f"{module}/MatMulIntegerToFloat", domain=MICROSOFT)
        return [*nodes, product, operator("Mul", [product.outputs[0], extreme_x], f"{module}/scale/Mul")]

    def shared(self, key: str, array: Any, nodes: list[ir.Node]) -> ir.Value:
        """Return a constant that all inputs share; its node is added to `nodes` where it is new."""
        if key not in self._constants:
            node = constant(f"/model/rows/{key}", array)
            nodes.append(node)
            self._constants[key] = node.outputs[0]
        return self._constants[key]
