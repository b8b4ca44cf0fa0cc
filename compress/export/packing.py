"""Put stored codes into a float graph: MatMul becomes MatMulNBits, the embedding's Gather becomes GatherBlockQuantized.

The codes are copied as quantization.safetensors holds them; nothing is quantized here. Each float weight that leaves the
graph is first compared, bit for bit, with what the codes say, so a wrong match cannot pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from compress.errors import StageError
from compress.models.quantized import QuantizedFile, QuantizedWeight, Scheme, dequantize

# Activations are rounded to int8 in blocks; level 0 keeps them in float and is some 25 times slower per token.
ACCURACY_LEVEL = 4
DOMAIN = "com.microsoft"
EMBEDDING = "model.embed_tokens.weight"
_GATHER = "/model/embed_tokens/Gather"
_HEAD = "/lm_head/MatMul"
_LAYER_MATMUL = re.compile(r"/model/layers\.(\d+)/(attn|mlp)/(\w+)/MatMul")
_MODULES = {"attn": "self_attn", "mlp": "mlp"}
_JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj")}
# Phi-3 stores both halves in one weight: gate first, up second.
_HALVES = {"gate_proj": ("gate_up_proj", 0), "up_proj": ("gate_up_proj", 1)}


@dataclass(frozen=True)
class Piece:
    """Rows of a stored weight: all of them, or half 0 or 1."""

    name: str
    half: int | None = None


def can_join_qkv(schemes: Mapping[str, Scheme]) -> bool:
    """Return whether, in every layer, query, key and value weights share bits, block and symmetry, or are all float."""
    layers: dict[str, list[tuple[int, int, bool]]] = {}
    for name, scheme in schemes.items():
        prefix, _, leaf = name.removesuffix(".weight").rpartition(".")
        if leaf in _JOINED["qkv_proj"]:
            layers.setdefault(prefix, []).append((scheme.bits, scheme.block, scheme.symmetric))
    return all(len(found) == len(_JOINED["qkv_proj"]) and len(set(found)) == 1 for found in layers.values())


def pack_graph(model: ir.Model, file: QuantizedFile) -> None:
    """Replace the float weights of the graph by the stored codes, in place.

    Memory: the codes, and one float weight at a time.
    Raises StageError where a stored weight has no place in the graph, or where its codes are not the graph's weight.
    """
    packing = _Packing(model.graph, file)
    for node in list(model.graph):
        if node.op_type == "MatMul":
            packing.pack_matmul(node)
    for node in list(model.graph):
        if node.name == _GATHER and node.op_type == "Gather":
            packing.pack_embedding(node)
    packing.check_all_used()
    _remove_unused_initializers(model.graph)


def pieces_of(node_name: str, stored: Mapping[str, Scheme]) -> tuple[Piece, ...]:
    """Return the stored weights that the MatMul of this name multiplies by, joined along the output axis; none if float."""
    if node_name == _HEAD:
        return tuple(Piece(name) for name in ("lm_head.weight", EMBEDDING) if name in stored)[:1]
    matched = _LAYER_MATMUL.fullmatch(node_name)
    if not matched:
        return ()
    layer, part, leaf = matched.groups()
    prefix = f"model.layers.{layer}.{_MODULES[part]}"
    if f"{prefix}.{leaf}.weight" in stored:
        return (Piece(f"{prefix}.{leaf}.weight"),)
    if leaf in _HALVES:
        joined, half = _HALVES[leaf]
        return (Piece(f"{prefix}.{joined}.weight", half),) if f"{prefix}.{joined}.weight" in stored else ()
    found = tuple(Piece(f"{prefix}.{part}.weight") for part in _JOINED.get(leaf, ()))
    return found if found and all(piece.name in stored for piece in found) else ()


def rows_of(weight: QuantizedWeight, half: int | None) -> QuantizedWeight:
    """Return all rows of a stored weight, or its first or second half."""
    if half is None:
        return weight
    rows, width = weight.scheme.shape
    part = slice(half * (rows // 2), (half + 1) * (rows // 2))
    zeros = None if weight.zero_points is None else weight.zero_points[part]
    scheme = replace(weight.scheme, shape=(rows // 2, width))
    return QuantizedWeight(scheme, weight.codes[part], weight.scales[part], zeros)


def joined(weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """Return weights of one scheme as one, joined along the output axis."""
    if len(weights) == 1:
        return weights[0]
    scheme = replace(weights[0].scheme, shape=(sum(w.scheme.shape[0] for w in weights), weights[0].scheme.shape[1]))
    zeros = [w.zero_points for w in weights if w.zero_points is not None]
    return QuantizedWeight(
        scheme,
        np.concatenate([w.codes for w in weights]),
        np.concatenate([w.scales for w in weights]),
        np.concatenate(zeros) if zeros else None,
    )


class _Packing:
    def __init__(self, graph: ir.Graph, file: QuantizedFile) -> None:
        self.graph = graph
        self.file = file
        self.used: set[str] = set()
        # Codes, scales and zero points in the graph, by stored name: the tied embedding finds the head's here.
        self.values: dict[str, tuple[Scheme, list[ir.Value]]] = {}

    def pack_matmul(self, node: ir.Node) -> None:
        """Turn a MatMul whose weight is stored into MatMulNBits."""
        pieces = pieces_of(node.name or "", self.file.schemes.weights)
        if not pieces:
            return
        weight = joined([rows_of(self.file.read(piece.name), piece.half) for piece in pieces])
        self._check_same(node.name, weight, lambda: node.inputs[1].const_value.numpy().T)
        inputs = self._initializers(f"{node.name}NBits", weight)
        if len(pieces) == 1:
            self.values[pieces[0].name] = (weight.scheme, inputs)
        self.used.update(piece.name for piece in pieces)
        rows, width = weight.scheme.shape
        self._replace(
            [node],
            [
                ir.node(
                    "MatMulNBits",
                    [node.inputs[0], *inputs],
                    {
                        "K": width,
                        "N": rows,
                        "accuracy_level": ACCURACY_LEVEL,
                        "bits": weight.scheme.bits,
                        "block_size": weight.scheme.block,
                    },
                    domain=DOMAIN,
                    name=f"{node.name}NBits",
                )
            ],
        )

    def pack_embedding(self, node: ir.Node) -> None:
        """Turn the embedding's Gather into GatherBlockQuantized; a tied one reads the lm_head's initializers."""
        if EMBEDDING not in self.file.schemes.weights:
            return
        old = [node]
        if EMBEDDING in self.values:
            transpose = node.inputs[0].producer()
            old = [*([transpose] if transpose is not None else []), node]
            scheme, stored = self.values[EMBEDDING]
        else:
            weight = self.file.read(EMBEDDING)
            self._check_same(node.name, weight, lambda: node.inputs[0].const_value.numpy())
            scheme, stored = weight.scheme, self._initializers(f"{_GATHER}BlockQuantized", weight)
        self.used.add(EMBEDDING)
        self._replace(old, self._gather_nodes(scheme, stored, node.inputs[1]))

    def _gather_nodes(self, scheme: Scheme, stored: list[ir.Value], ids: ir.Value) -> list[ir.Node]:
        rows, width = scheme.shape
        padded = scheme.groups * scheme.block
        shape = _constant("/model/embed_tokens/Reshape/shape", [rows, padded * scheme.bits // 8])
        flat = ir.node("Reshape", [stored[0], shape.outputs[0]], name="/model/embed_tokens/Reshape")
        gather = ir.node(
            "GatherBlockQuantized",
            [flat.outputs[0], ids, *stored[1:]],
            {
                "bits": scheme.bits,
                "block_size": scheme.block,
                "gather_axis": 0,
                "quantize_axis": 1,
            },
            domain=DOMAIN,
            name=f"{_GATHER}BlockQuantized",
        )
        flat.outputs[0].name = "/model/embed_tokens/Reshape/output_0"
        if padded == width:
            return [shape, flat, gather]
        gather.outputs[0].name = f"{_GATHER}BlockQuantized/output_0"
        limits = {"start": 0, "end": width, "axis": -1}
        ends = [_constant(f"/model/embed_tokens/Slice/{key}", [value]) for key, value in limits.items()]
        cut = ir.node("Slice", [gather.outputs[0], *(end.outputs[0] for end in ends)], name="/model/embed_tokens/Slice")
        return [shape, flat, gather, *ends, cut]

    def check_all_used(self) -> None:
        """Raise StageError where a stored weight was not packed."""
        if missing := sorted(self.file.schemes.weights.keys() - self.used):
            raise StageError(
                f"export found no place in the ONNX graph for {len(missing)} quantized weights: {', '.join(missing[:4])}; "
                "leave them out of the stage quantize (leave_out)"
            )

    def _check_same(self, where: str | None, weight: QuantizedWeight, floats: Callable[[], Any]) -> None:
        if not np.array_equal(dequantize(weight), floats()):
            raise StageError(
                f"the stored codes are not the weights of {where}: the folder's weights were changed after quantizing; "
                "quantize the model again"
            )

    def _initializers(self, base: str, weight: QuantizedWeight) -> list[ir.Value]:
        prefix = base.removeprefix("/").replace("/", ".")
        arrays = {"qweight": weight.codes, "scales": weight.scales, "qzeros": weight.zero_points}
        return [self._initializer(f"{prefix}.{key}", array) for key, array in arrays.items() if array is not None]

    def _initializer(self, name: str, array: Any) -> ir.Value:
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def _replace(self, old: list[ir.Node], new: list[ir.Node]) -> None:
        last_old, last_new = old[-1].outputs[0], new[-1].outputs[0]
        ir.convenience.replace_nodes_and_values(self.graph, old[-1], old, new, [last_old], [last_new])
        last_new.name = last_old.name


def _constant(name: str, numbers: list[int]) -> ir.Node:
    """Return a Constant node: shapes must not stand in the external data, ONNX Runtime reads them while loading."""
    node = ir.node("Constant", [], {"value": ir.tensor(np.array(numbers, np.int64))}, name=name)
    node.outputs[0].name = f"{name}/output_0"
    return node


def _remove_unused_initializers(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
