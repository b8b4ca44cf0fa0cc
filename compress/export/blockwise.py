"""Weights in blocks: MatMulNBits, and GatherBlockQuantized for the embedding. The codes are copied as they are stored.

ONNX Runtime 1.31 on the CPU, each tried: 2, 4 and 8 bits; blocks of 16, 32, 64, 128 and 256; with and without zero points; a
short last block, of a tied embedding too. 2 bits in blocks of 16 or 256 run, but through float weights, some hundred times
slower per token: blocks of 256 are written as two of 128 here, blocks of 16 cannot be.

A scale for each output channel is written as blocks too, all with that scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from compress.export.graph_edit import MICROSOFT, constant, initializer, operator
from compress.models.quantized import QuantizedWeight, pack, unpack
from compress.models.scheme import Scheme

_LEGAL = {2: (128, 64, 32), 4: (256, 128, 64, 32, 16), 8: (256, 128, 64, 32, 16)}


def in_legal_blocks(weight: QuantizedWeight) -> QuantizedWeight:
    """Return the weight in blocks that MatMulNBits takes: its own, or parts of them that repeat its scales and zeros.

    Of the blocks that part its own evenly, or a row that is one block, the one that needs fewest bytes.
    """
    scheme, width = weight.scheme, weight.scheme.shape[1]
    legal = _LEGAL[scheme.bits]
    parts = [block for block in legal if scheme.groups == 1 or scheme.block % block == 0]
    if scheme.block in legal or not parts:
        return weight
    block = min(parts, key=lambda size: -(-width // size) * (size * scheme.bits // 8 + weight.scales.itemsize))
    changed = replace(scheme, block=block)
    owner = np.arange(changed.groups) * block // scheme.block
    codes = unpack(weight.codes, scheme.bits, scheme.block).reshape(len(weight.codes), -1)[:, :width]
    zeros = None if weight.zero_points is None else unpack(weight.zero_points, scheme.bits, scheme.groups)[:, owner]
    padded = np.full((len(codes), changed.groups * block), scheme.middle, np.uint8)
    padded[:, :width] = codes
    return replace(
        weight,
        scheme=changed,
        codes=pack(padded.reshape(len(codes), changed.groups, block), scheme.bits),
        scales=np.ascontiguousarray(weight.scales[:, owner]),
        zero_points=None if zeros is None else pack(zeros, scheme.bits),
    )


def stored_values(graph: ir.Graph, module: str, weight: QuantizedWeight) -> list[ir.Value]:
    """Return initializers for codes, scales and zero points (if there are any)."""
    prefix = module.removeprefix("/").replace("/", ".")
    arrays = {"qweight": weight.codes, "scales": weight.scales, "qzeros": weight.zero_points}
    return [initializer(graph, f"{prefix}.{key}", array) for key, array in arrays.items() if array is not None]


def matmul_nodes(
    module: str, x: ir.Value, scheme: Scheme, stored: Sequence[ir.Value], accuracy_level: int
) -> list[ir.Node]:
    """Return MatMulNBits; at accuracy level 4 it rounds x to 8 bits in blocks. Shapes: x [B, T, K] float32; result [B, T, N]."""
    rows, width = scheme.shape
    attributes = {
        "K": width,
        "N": rows,
        "accuracy_level": accuracy_level,
        "bits": scheme.bits,
        "block_size": scheme.block,
    }
    return [operator("MatMulNBits", [x, *stored], f"{module}/MatMulNBits", attributes, MICROSOFT)]


def gather_nodes(module: str, ids: ir.Value, scheme: Scheme, stored: Sequence[ir.Value]) -> list[ir.Node]:
    """Return GatherBlockQuantized over the codes [V, G, bytes] that a tied lm_head may share. Shapes: ids [B, T]."""
    rows, width = scheme.shape
    padded = scheme.groups * scheme.block
    shape = constant(f"{module}/Reshape/shape", np.array([rows, padded * scheme.bits // 8]))
    flat = operator("Reshape", [stored[0], shape.outputs[0]], f"{module}/Reshape")
    attributes = {"bits": scheme.bits, "block_size": scheme.block, "gather_axis": 0, "quantize_axis": 1}
    inputs = [flat.outputs[0], ids, *stored[1:]]
    gather = operator("GatherBlockQuantized", inputs, f"{module}/GatherBlockQuantized", attributes, MICROSOFT)
    if padded == width:
        return [shape, flat, gather]
    limits = {"start": 0, "end": width, "axis": -1}
    ends = [constant(f"{module}/Slice/{key}", np.array([value])) for key, value in limits.items()]
    cut = operator("Slice", [gather.outputs[0], *(end.outputs[0] for end in ends)], f"{module}/Slice")
    return [shape, flat, gather, *ends, cut]
