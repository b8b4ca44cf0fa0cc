"""Small edits of an onnx_ir graph: a new initializer, a constant, an operator, nodes in place of others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

MICROSOFT = "com.microsoft"


def initializer(graph: ir.Graph, name: str, array: Any) -> ir.Value:
    """Return a new initializer of the graph; its bytes go to the external data."""
    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def constant(name: str, array: Any) -> ir.Node:
    """Return a Constant node: shapes must not stand in the external data, ONNX Runtime reads them while loading."""
    return _named(ir.node("Constant", [], {"value": ir.tensor(np.asarray(array))}, name=name))


def operator(
    kind: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    attributes: Mapping[str, Any] | None = None,
    domain: str = "",
) -> ir.Node:
    """Return a node of one output, named as the builder names them."""
    return _named(ir.node(kind, inputs, attributes or {}, domain=domain, name=name))


def replace(graph: ir.Graph, old: Sequence[ir.Node], new: Sequence[ir.Node]) -> None:
    """Put the nodes `new` in the place of `old`; the last one's output takes the last one's name and uses."""
    last_old, last_new = old[-1].outputs[0], new[-1].outputs[0]
    ir.convenience.replace_nodes_and_values(graph, old[-1], old, new, [last_old], [last_new])
    last_new.name = last_old.name


def remove_unused_initializers(graph: ir.Graph, among: Iterable[ir.Value | None] | None = None) -> None:
    """Take out what no node reads: of all initializers, or of some."""
    for value in list(graph.initializers.values() if among is None else among):
        if value is not None and value.is_initializer() and not value.uses() and not value.is_graph_output():
            del graph.initializers[str(value.name)]


def forget_types(graph: ir.Graph) -> None:
    """Take out the types and shapes between inputs and outputs: ONNX Runtime infers them, and they are a quarter of the file."""
    for value in [*graph.initializers.values(), *(output for node in graph for output in node.outputs)]:
        if not value.is_graph_output():
            value.type = value.shape = None


def _named(node: ir.Node) -> ir.Node:
    node.outputs[0].name = f"{node.name}/output_0"
    return node
