from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from transformers import LlamaForCausalLM

from compress.benchmark.size import graph_precision, parameters, size_bytes
from compress.errors import ArtifactError


def test_parameters_of_torch_and_onnx_are_those_of_the_model(tiny: dict[str, Path]) -> None:
    expected = LlamaForCausalLM.from_pretrained(tiny["torch"]).num_parameters()
    assert parameters(tiny["torch"]) == parameters(tiny["onnx"]) == expected
    assert graph_precision(tiny["onnx"]) == "fp32"


def test_bytes_are_those_of_the_weights(tiny: dict[str, Path]) -> None:
    assert size_bytes(tiny["torch"]) == (tiny["torch"] / "model.safetensors").stat().st_size
    files = [tiny["onnx"] / "model.onnx", tiny["onnx"] / "model.onnx.data"]
    assert size_bytes(tiny["onnx"]) == sum(file.stat().st_size for file in files)


def test_packed_codes_count_as_weights(tmp_path: Path) -> None:
    rows, width, block = 32, 64, 32
    codes = np.zeros((rows, width // block, block // 2), dtype=np.uint8)
    weights = [
        numpy_helper.from_array(codes, "head.qweight"),
        numpy_helper.from_array(np.ones((rows, width // block), dtype=np.float32), "head.scales"),
        numpy_helper.from_array(np.zeros((rows, 1), dtype=np.uint8), "head.qzeros"),
        numpy_helper.from_array(np.array([rows, width // 2]), "shape"),
        numpy_helper.from_array(np.ones(width, dtype=np.float32), "norm"),
        numpy_helper.from_array(np.float32(0.5), "half"),
    ]
    packed = {"bits": 4, "block_size": block}
    nodes = [
        helper.make_node("Reshape", ["head.qweight", "shape"], ["flat"]),
        helper.make_node(
            "GatherBlockQuantized",
            ["flat", "ids", "head.scales", "head.qzeros"],
            ["x"],
            domain="com.microsoft",
            **packed,
        ),
        helper.make_node("Mul", ["x", "norm"], ["y"]),
        helper.make_node("Mul", ["y", "half"], ["z"]),
    ]
    head = helper.make_node(
        "MatMulNBits",
        ["z", "head.qweight", "head.scales", "head.qzeros"],
        ["logits"],
        domain="com.microsoft",
        K=width,
        N=rows,
        **packed,
    )
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["T"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["T", rows])
    (tmp_path / "config.json").write_text("{}")
    for index, chosen in enumerate(([*nodes, head], nodes)):
        graph = helper.make_graph(chosen, "packed", [ids], [logits], weights)
        onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
        assert parameters(tmp_path) == rows * width + width, index
        assert graph_precision(tmp_path) == "int4"
    embedding = helper.make_node("Gather", ["float", "ids"], ["other"])
    floats = [*weights, numpy_helper.from_array(np.ones((rows, width), dtype=np.float32), "float")]
    graph = helper.make_graph([embedding, *nodes], "packed", [ids], [logits], floats)
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    assert graph_precision(tmp_path) == "mixed"


def integers(kind: str, tied: bool) -> onnx.ModelProto:
    """An embedding [32, 64] of int8 rows, a norm, and a product with int8 weights as export writes them."""
    rows, width = 32, 64
    table = np.zeros((rows, width), dtype=np.int8)
    weights = [
        numpy_helper.from_array(table, "lm_head.qweight"),
        numpy_helper.from_array(np.ones(rows, dtype=np.float32), "lm_head.scales"),
        numpy_helper.from_array(np.ones(width, dtype=np.float32), "norm"),
        numpy_helper.from_array(np.ones((1, 8), dtype=np.float32), "rope.inv_freq"),
        numpy_helper.from_array(np.float32(0.1), "step"),
        numpy_helper.from_array(np.uint8(128), "zero"),
    ]
    embedding = "lm_head.qweight"
    if not tied:
        weights.append(numpy_helper.from_array(table, "model.embed_tokens.qweight"))
        embedding = "model.embed_tokens.qweight"
    nodes = [
        helper.make_node("Gather", [embedding, "ids"], ["codes"]),
        helper.make_node("Gather", ["lm_head.scales", "ids"], ["scale"]),
        helper.make_node("Cast", ["codes"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "norm"], ["y"]),
        helper.make_node("Mul", ["positions", "rope.inv_freq"], ["angles"]),
        helper.make_node("Transpose", ["lm_head.qweight"], ["turned"], perm=[1, 0]),
        helper.make_node("QuantizeLinear", ["y", "step", "zero"], ["z"]),
    ]
    if kind == "dynamic":
        inputs = ["z", "turned", "step", "lm_head.scales", "zero"]
        nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, ["logits"], domain="com.microsoft"))
    else:
        nodes.append(helper.make_node("DequantizeLinear", ["z", "step", "zero"], ["float"]))
        nodes.append(helper.make_node("DequantizeLinear", ["turned", "lm_head.scales"], ["weight"], axis=1))
        nodes.append(helper.make_node("MatMul", ["float", "weight"], ["logits"]))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["T"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["T", rows])
    return helper.make_model(helper.make_graph(nodes, "integers", [ids], [logits], weights))


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_int8_weights_count_once(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for tied in (True, False):
        onnx.save(integers(kind, tied), tmp_path / "model.onnx")
        assert parameters(tmp_path) == 32 * 64 * (1 if tied else 2) + 64
        assert graph_precision(tmp_path) == "int8"


def test_an_int8_embedding_beside_float_products_is_mixed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    model = integers("static", tied=False)
    del model.graph.node[-4:]
    model.graph.initializer.append(numpy_helper.from_array(np.ones((64, 32), dtype=np.float32), "head"))
    model.graph.node.append(helper.make_node("MatMul", ["y", "head"], ["logits"]))
    onnx.save(model, tmp_path / "model.onnx")
    assert graph_precision(tmp_path) == "mixed"


def test_what_pads_a_short_last_block_is_no_parameter(tmp_path: Path) -> None:
    rows, width, block = 32, 72, 32
    codes = np.zeros((rows, 3, block), dtype=np.uint8)
    weights = [
        numpy_helper.from_array(codes, "embed.qweight"),
        numpy_helper.from_array(np.ones((rows, 3), dtype=np.float32), "embed.scales"),
    ]
    numbers = {"shape": [rows, 96], "start": [0], "end": [width], "axis": [-1]}
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value)))
        for name, value in numbers.items()
    ]
    nodes += [
        helper.make_node("Reshape", ["embed.qweight", "shape"], ["flat"]),
        helper.make_node(
            "GatherBlockQuantized",
            ["flat", "ids", "embed.scales"],
            ["x"],
            domain="com.microsoft",
            bits=8,
            block_size=block,
        ),
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["logits"]),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["T"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["T", width])
    (tmp_path / "config.json").write_text("{}")
    onnx.save(helper.make_model(helper.make_graph(nodes, "short", [ids], [logits], weights)), tmp_path / "model.onnx")
    assert parameters(tmp_path) == rows * width
    assert graph_precision(tmp_path) == "int8"


def test_refuses_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"neither model.onnx nor model\*.safetensors there"):
        size_bytes(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(ArtifactError, match=r"model.onnx: no ONNX file"):
        parameters(tmp_path)
