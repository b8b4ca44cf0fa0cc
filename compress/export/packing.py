"""Put stored codes into a float graph: MatMul and the embedding's Gather become the operators that the weight's scheme names.

activations none     MatMulNBits, GatherBlockQuantized                                   blockwise.py
activations dynamic  MatMulIntegerToFloat on rows rounded as the model runs              integer_matmul.py
activations static   QuantizeLinear, DequantizeLinear, MatMul                            qdq.py

The codes are those of quantization.safetensors; nothing is quantized here. Each float weight that leaves the graph is
first compared, bit for bit, with what the codes say, so a wrong match cannot pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from compress.errors import StageError
from compress.export import blockwise, graph_edit, integer_matmul, qdq
from compress.models.input_grid import static_grid
from compress.models.quantized import QuantizedFile, QuantizedWeight, dequantize
from compress.models.scheme import Scheme

EMBEDDING = "model.embed_tokens.weight"
_EMBEDDING_MODULE = "/model/embed_tokens"
_GATHER = f"{_EMBEDDING_MODULE}/Gather"
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


def can_join_qkv(schemes: Mapping[str, Scheme], layer: int) -> bool:
    """Return whether query, key and value weights of a layer share a scheme, or are all float."""
    prefix = f"model.layers.{layer}.self_attn"
    found = [schemes.get(f"{prefix}.{leaf}.weight") for leaf in _JOINED["qkv_proj"]]
    return len({scheme and (scheme.bits, scheme.block, scheme.symmetric, scheme.activations) for scheme in found}) == 1


def pack_graph(model: ir.Model, file: QuantizedFile, accuracy_level: int = 4) -> None:
    """Replace the float weights of the graph by the stored codes, in place.

    Memory: the codes, and one float weight at a time.
    Raises StageError where a stored weight has no place in the graph, or where its codes are not the graph's weight.
    """
    packing = _Packing(model.graph, file, accuracy_level)
    for node in list(model.graph):
        if node.op_type == "MatMul":
            packing.pack_matmul(node)
    for node in list(model.graph):
        if node.name == _GATHER and node.op_type == "Gather":
            packing.pack_embedding(node)
    packing.check_all_used()
    graph_edit.remove_unused_initializers(model.graph)


def pieces_of(node_name: str, stored: Mapping[str, Scheme], tied: bool = False) -> tuple[Piece, ...]:
    """Return the stored weights that the MatMul of this name multiplies by, joined along the output axis; none if float.

    tied   the head's weight is the embedding's
    """
    if node_name == _HEAD:
        name = EMBEDDING if tied else "lm_head.weight"
        return (Piece(name),) if name in stored else ()
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
    return replace(
        weight,
        scheme=replace(weight.scheme, shape=(rows // 2, width)),
        codes=weight.codes[part],
        scales=weight.scales[part],
        zero_points=None if weight.zero_points is None else weight.zero_points[part],
    )


def joined(weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """Return weights of one scheme as one, joined along the output axis; its range of inputs holds all of theirs."""
    if len(weights) == 1:
        return weights[0]
    scheme = replace(weights[0].scheme, shape=(sum(w.scheme.shape[0] for w in weights), weights[0].scheme.shape[1]))
    zeros = [w.zero_points for w in weights if w.zero_points is not None]
    ranges = [w.input_range for w in weights if w.input_range is not None]
    return QuantizedWeight(
        scheme,
        np.concatenate([w.codes for w in weights]),
        np.concatenate([w.scales for w in weights]),
        np.concatenate(zeros) if zeros else None,
        (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None,
    )


class _Packing:
    def __init__(self, graph: ir.Graph, file: QuantizedFile, accuracy_level: int) -> None:
        self.graph = graph
        self.accuracy_level = accuracy_level
        self.file = file
        self.used: set[str] = set()
        # A tied embedding gathers from the head's weight, turned.
        self.is_tied = any(node.name == _GATHER and node.inputs[0].producer() is not None for node in graph)
        self.rows = integer_matmul.RowInputs()
        self.known = qdq.StaticInputs()
        # Scheme and initializers of a tied embedding, once the lm_head has brought them into the graph.
        self.tied: tuple[Scheme, list[ir.Value]] | None = None

    def pack_matmul(self, node: ir.Node) -> None:
        """Turn a MatMul whose weight is stored into the operators of its scheme."""
        pieces = pieces_of(node.name or "", self.file.schemes.weights, self.is_tied)
        if not pieces:
            return
        weight = _fit(joined([rows_of(self.file.read(piece.name), piece.half) for piece in pieces]), pieces[0].name)
        self._check_same(node.name, weight, lambda: node.inputs[1].const_value.numpy().T)
        self.used.update(piece.name for piece in pieces)
        module = (node.name or "").removesuffix("/MatMul")
        tied = pieces[0].name == EMBEDDING
        build = self._blocks if weight.scheme.activations == "none" else self._integers
        stored, nodes = build(module, node.inputs[0], weight, tied)
        if tied:
            self.tied = (weight.scheme, stored)
        floats = list(node.inputs)
        graph_edit.replace(self.graph, [node], nodes)
        # At once: joined projections are copies of the torch model's.
        graph_edit.remove_unused_initializers(self.graph, floats)

    def _blocks(self, module: str, x: Any, weight: QuantizedWeight, tied: bool) -> tuple[list[ir.Value], list[ir.Node]]:
        stored = blockwise.stored_values(self.graph, module, weight)
        return stored, blockwise.matmul_nodes(module, x, weight.scheme, stored, self.accuracy_level)

    def _integers(
        self, module: str, x: Any, weight: QuantizedWeight, tied: bool
    ) -> tuple[list[ir.Value], list[ir.Node]]:
        stored = integer_matmul.stored_values(self.graph, module, weight, as_table=tied)
        turned = [integer_matmul.transpose_node(module, stored[0])] if tied else []
        codes = turned[0].outputs[0] if turned else stored[0]
        if weight.input_range is None:
            nodes = self.rows.matmul_nodes(module, x, codes, stored[1])
        else:
            nodes = self.known.matmul_nodes(module, x, static_grid(*weight.input_range), codes, stored[1])
        return stored, [*turned, *nodes]

    def pack_embedding(self, node: ir.Node) -> None:
        """Turn the embedding's Gather into one over codes; a tied one reads the lm_head's initializers."""
        if EMBEDDING not in self.file.schemes.weights:
            return
        old, ids = [node], node.inputs[1]
        if self.tied is not None:
            transpose = node.inputs[0].producer()
            old = [*([transpose] if transpose is not None else []), node]
            scheme, stored = self.tied
        else:
            weight = _fit(self.file.read(EMBEDDING), EMBEDDING)
            self._check_same(node.name, weight, lambda: node.inputs[0].const_value.numpy())
            scheme = weight.scheme
            if scheme.activations == "none":
                stored = blockwise.stored_values(self.graph, _EMBEDDING_MODULE, weight)
            else:
                stored = integer_matmul.stored_values(self.graph, _EMBEDDING_MODULE, weight, as_table=True)
        self.used.add(EMBEDDING)
        if scheme.activations == "none":
            nodes = blockwise.gather_nodes(_EMBEDDING_MODULE, ids, scheme, stored)
        else:
            nodes = integer_matmul.gather_nodes(_EMBEDDING_MODULE, ids, stored)
        graph_edit.replace(self.graph, old, nodes)

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


def _fit(weight: QuantizedWeight, name: str) -> QuantizedWeight:
    """Return the weight as its operator takes it.

    Raises StageError where inputs of 8 bits are asked for and the weight is not int8 of one scale for each output channel.
    """
    scheme = weight.scheme
    if scheme.activations == "none":
        return blockwise.in_legal_blocks(weight)
    if (scheme.bits, scheme.symmetric, scheme.groups) != (8, True, 1):
        raise StageError(
            f"{name}: {scheme.activations} activations need weights of 8 bits, symmetric, with one scale for each output "
            f"channel; found {scheme.bits} bits, {'symmetric' if scheme.symmetric else 'with zero points'}, in blocks of "
            f"{scheme.block}; quantize it with bits: 8, symmetric: true, block: null"
        )
    return weight
