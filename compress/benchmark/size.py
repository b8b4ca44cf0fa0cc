"""Size of an artifact: parameters, and bytes that ship. Reads headers only, no weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from compress.models.decoder import ONNX_FILE, format_of
from compress.models.folder import weight_files

# Positions of inputs that carry no parameter: scales, zero points, tables and frequencies of sines and cosines.
_NO_PARAMETERS = {
    "DequantizeLinear": {1, 2},
    "QuantizeLinear": {1, 2},
    "MatMulInteger": {2, 3},
    "MatMulIntegerToFloat": {2, 3, 4, 5},
    "MatMulNBits": {2, 3, 4},
    "GatherBlockQuantized": {1, 2, 3},
    "GroupQueryAttention": {7, 8},
    "RotaryEmbedding": {1, 2, 3},
    "Range": {0, 1, 2},
}
_NO_PARAMETER_NAME = re.compile(r"(scales?|zero_points?|qzeros|zp|(cos|sin)_cache|inv_freq)$")
_BLOCK_OPERATORS = ("MatMulNBits", "GatherBlockQuantized")
_INT8_OPERATORS = (
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QLinearMatMul",
    "DynamicQuantizeMatMul",
    "DequantizeLinear",
)
_FLOAT_OPERATORS = ("MatMul", "Gemm", "FusedMatMul", "Gather")
_FLOATS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16"}
_INTEGERS_THAT_INDEX = {"INT32", "INT64", "BOOL", "STRING"}


def size_bytes(folder: Path) -> int:
    """Return the bytes of the weights: model.onnx and its external data, or the model*.safetensors files.

    Raises ArtifactError when the folder is no model folder.
    """
    onnx_files = [folder / ONNX_FILE, *folder.glob(f"{ONNX_FILE}.data*")]
    files = onnx_files if format_of(folder) == "onnx" else weight_files(folder)
    return sum(file.stat().st_size for file in files)


def parameters(folder: Path) -> int:
    """Return the number of parameters: each stored weight once, tied weights once, scales and zero points not.

    Of an ONNX graph packed codes count as the weights they stand for.

    Raises ArtifactError when the folder is no model folder.
    """
    if format_of(folder) == "onnx":
        return _onnx_parameters(folder / ONNX_FILE)
    from safetensors import safe_open

    total = 0
    for file in weight_files(folder):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def graph_precision(folder: Path) -> str:
    """Return the precision that all matrices of an ONNX graph share (fp32, int8, int4, ...), else mixed.

    Raises ArtifactError when the file is no ONNX file.
    """
    graph, types = _read_graph(folder / ONNX_FILE)
    matrices = {
        tensor.name: _FLOATS[types.Name(tensor.data_type)]
        for tensor in graph.initializer
        if len(tensor.dims) > 1
        and types.Name(tensor.data_type) in _FLOATS
        and not _NO_PARAMETER_NAME.search(tensor.name)
    }
    codes = {tensor.name for tensor in graph.initializer if types.Name(tensor.data_type) == "INT8"}
    found: set[str] = set()
    for node in graph.node:
        if node.op_type in _BLOCK_OPERATORS:
            bits = {entry.name: entry.i for entry in node.attribute}.get("bits", 4)
            found.add(f"int{bits}")
        elif node.op_type in _INT8_OPERATORS or (node.op_type == "Gather" and node.input[0] in codes):
            found.add("int8")
        elif node.op_type in _FLOAT_OPERATORS:
            found |= {matrices[name] for name in node.input if name in matrices}
    return "mixed" if len(found) > 1 else found.pop() if found else "fp32"


def _read_graph(path: Path) -> tuple[Any, Any]:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load(path, load_external_data=False).graph, onnx.TensorProto.DataType
    except DecodeError as error:
        raise ArtifactError(f"{path}: no ONNX file ({error})") from error


def _onnx_parameters(path: Path) -> int:
    graph, types = _read_graph(path)
    stored = {
        tensor.name: math.prod(tensor.dims)
        for tensor in graph.initializer
        if tensor.dims and types.Name(tensor.data_type) not in _INTEGERS_THAT_INDEX
    }
    packed = {tensor.name for tensor in graph.initializer if types.Name(tensor.data_type) == "UINT8"}
    sizes: dict[str, int] = {}
    for name, size in _uses(graph, stored, packed):
        if name in stored and not _NO_PARAMETER_NAME.search(name):
            sizes[name] = max(sizes.get(name, 0), size)
    return sum(sizes.values())


def _uses(graph: Any, stored: Mapping[str, int], packed: set[str]) -> Iterator[tuple[str, int]]:
    """Yield each input of a node that carries parameters, and how many they are; codes may be packed, and reshaped."""
    reshaped = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Reshape"}
    widths = _widths_after_slice(graph)
    for node in graph.node:
        if node.op_type == "Reshape":
            continue
        attributes = {entry.name: entry.i for entry in node.attribute}
        for place, name in enumerate(node.input):
            if place in _NO_PARAMETERS.get(node.op_type, set()):
                continue
            source = reshaped.get(name, name)
            size = stored.get(source, 0)
            if node.op_type == "MatMulNBits" and place == 1:
                size = attributes["K"] * attributes["N"]
            elif node.op_type == "GatherBlockQuantized" and source in packed:
                size = size * 8 // attributes.get("bits", 4)
                if node.output[0] in widths:
                    # A short last block is padded.
                    width, block = widths[node.output[0]], attributes["block_size"]
                    size = size // (-(-width // block) * block) * width
            yield source, size


def _widths_after_slice(graph: Any) -> dict[str, int]:
    """Return what a Slice from the start of the last axis leaves of a value's width, by the value's name."""
    from onnx.numpy_helper import to_array

    numbers = {
        node.output[0]: to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    slices = [
        node for node in graph.node if node.op_type == "Slice" and len(node.input) > 2 and node.input[2] in numbers
    ]
    return {node.input[0]: int(numbers[node.input[2]].reshape(-1)[0]) for node in slices}
