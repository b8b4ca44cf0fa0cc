from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from compress.export import integer_matmul, qdq
from compress.models.input_grid import static_grid
from compress.models.quantized import QuantizedWeight, store
from compress.models.scheme import Scheme
from tests.references import rounded_inputs as slow

ROWS, WIDTH = 24, 40
SPAN = (-1.5, 2.0)


def stored(seed: int = 0) -> QuantizedWeight:
    """A weight whose codes and scales go to their ends."""
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 256, (ROWS, 1, WIDTH)).astype(np.uint8)
    codes[0, 0, :2] = 0, 255
    scales = generator.normal(size=(ROWS, 1)).astype(np.float32)
    return store(Scheme(8, WIDTH, True, (ROWS, WIDTH), "dynamic"), codes, scales, None)


def graph_of(kind: str, weight: QuantizedWeight, as_table: bool) -> ir.Model:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["T", WIDTH]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 22, "com.microsoft": 1}, name="product")
    values = integer_matmul.stored_values(graph, "/m", weight, as_table)
    nodes = [integer_matmul.transpose_node("/m", values[0])] if as_table else []
    codes = nodes[0].outputs[0] if nodes else values[0]
    if kind == "dynamic":
        nodes += integer_matmul.RowInputs().matmul_nodes("/m", x, codes, values[1])
    else:
        nodes += qdq.StaticInputs().matmul_nodes("/m", x, static_grid(*SPAN), codes, values[1])
    graph.extend(nodes)
    result = nodes[-1].outputs[0]
    result.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(result)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("as_table", [False, True])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_the_product_equals_the_slow_restatement(kind: str, as_table: bool, tmp_path: Path) -> None:
    weight = stored()
    ir.save(graph_of(kind, weight, as_table), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    x = np.random.default_rng(1).normal(size=(5, WIDTH)).astype(np.float32)
    x[1] = 0
    x[2] *= 1e-6
    x[3] *= 1e4
    found = session.run(None, {"x": x})[0]
    seen = [
        slow.by_row(row) if kind == "dynamic" else [slow.static(value, *SPAN) for value in row]
        for row in x.astype(np.float64).tolist()
    ]
    signed = weight.codes[:, 0].astype(int) - 128
    expected = np.array(slow.product(seen, signed.tolist(), weight.scales[:, 0].astype(float).tolist()))
    largest = np.abs(expected).max(-1, keepdims=True) + 1e-30
    assert np.abs(found - expected).max() <= np.abs(expected).max() * 1e-6
    assert (np.abs(found - expected) / largest).max() < 1e-5
    assert not found[1].any()


def test_signed_codes_stand_for_the_same_steps() -> None:
    weight = stored()
    signed = integer_matmul.signed_codes(weight)
    assert signed.dtype == np.int8
    assert (signed[0, :2] == [-128, 127]).all()
    np.testing.assert_array_equal(signed, weight.codes[:, 0].astype(int) - 128)


def test_an_input_is_rounded_once_for_all_its_products() -> None:
    x, other = ir.Value(name="x"), ir.Value(name="y")
    codes, scales = ir.Value(name="w"), ir.Value(name="s")
    rows, known = integer_matmul.RowInputs(), qdq.StaticInputs()

    def kinds(nodes: list[ir.Node]) -> list[str]:
        return [node.op_type for node in nodes if node.op_type != "Constant"]

    whole = ["Abs", "ReduceMax", "Div", "QuantizeLinear", "MatMulIntegerToFloat", "Mul"]
    assert kinds(rows.matmul_nodes("/a", x, codes, scales)) == whole
    assert kinds(rows.matmul_nodes("/b", x, codes, scales)) == whole[-2:]
    assert kinds(rows.matmul_nodes("/c", other, codes, scales)) == whole
    whole = ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul"]
    assert kinds(known.matmul_nodes("/a", x, static_grid(0, 1), codes, scales)) == whole
    assert kinds(known.matmul_nodes("/b", x, static_grid(0, 1), codes, scales)) == whole[-2:]
    assert kinds(known.matmul_nodes("/c", x, static_grid(0, 2), codes, scales)) == whole
