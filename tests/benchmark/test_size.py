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


def test_refuses_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"neither model.onnx nor model\*.safetensors there"):
        size_bytes(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(ArtifactError, match=r"model.onnx: no ONNX file"):
        parameters(tmp_path)
