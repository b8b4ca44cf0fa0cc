"""Quantized folders of any scheme, and the weights that an ONNX folder holds, code by code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.numpy_helper import to_array

from compress.models import grid, quantized
from compress.models.folder import load_model, save_model
from compress.models.quantized import dequantize, store
from compress.models.scheme import Scheme
from tests.references.number_grid import unpacked

Choice = tuple[int, int | None, bool, str]
INPUTS = (-6.0, 7.0)


def quantized_folder(source: Path, target: Path, choose: Callable[[str], Choice | None]) -> Path:
    """Round a model's matrices plainly: `choose` gives bits, block (None: a whole row), symmetric and activations, or None for float."""
    target.mkdir(parents=True, exist_ok=True)
    model = load_model(source)
    stored, left_out = {}, []
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            continue
        chosen = choose(name)
        if chosen is None:
            left_out.append(name)
            continue
        bits, block, symmetric, activations = chosen
        scheme = Scheme(bits, block or weight.shape[1], symmetric, tuple(weight.shape), activations)
        blocks = grid.in_blocks(weight.detach(), scheme.block)
        found = grid.max_abs_grid(blocks, bits) if symmetric else grid.min_max_grid(blocks, bits)
        codes = grid.round_to_codes(blocks, found).to(torch.uint8).numpy()
        zeros = None if symmetric else found.zeros.to(torch.uint8).numpy()
        span = INPUTS if activations == "static" else None
        stored[name] = store(scheme, codes, found.scales.numpy(), zeros, span)
        weight.data.copy_(torch.from_numpy(dequantize(stored[name])))
    save_model(model, target, source)
    quantized.write(target, stored, left_out)
    return target


def read_graph(folder: Path) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    model = onnx.load(str(folder / "model.onnx"))
    arrays = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            arrays[node.output[0]] = to_array(attributes(node)["value"])
    return list(model.graph.node), arrays


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    """The float32 weight [N, K] of every product and of the embedding's gather, by the module's path in the graph."""
    nodes, arrays = read_graph(folder)
    made = {output: node for node in nodes for output in node.output}
    found = {}
    for node in nodes:
        module = node.name.rsplit("/", 1)[0]
        if node.op_type == "MatMulNBits":
            found[module] = _of_blocks(node, arrays)
        elif node.op_type == "MatMulIntegerToFloat":
            found[module] = _of_codes(_codes(node.input[1], made, arrays), arrays[node.input[3]])
        elif node.op_type == "MatMul":
            source = made.get(node.input[1])
            if source is None:
                found[module] = arrays[node.input[1]].T
            else:
                found[module] = _of_codes(_codes(source.input[0], made, arrays), arrays[source.input[1]])
        elif node.op_type == "GatherBlockQuantized":
            found[module] = _of_gathered_blocks(node, made, arrays)
        elif node.name in ("/model/embed_tokens/Gather", "/model/embed_tokens/codes/Gather"):
            found["/model/embed_tokens"] = _of_rows(node, nodes, made, arrays)
    return found


def _codes(name: str, made: dict[str, onnx.NodeProto], arrays: dict[str, np.ndarray]) -> np.ndarray:
    return arrays[made[name].input[0]].T if name in made else arrays[name]


def _of_codes(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    assert codes.dtype == np.int8
    return np.ascontiguousarray((codes.astype(np.float32) * scales[None, :]).T)


def _of_rows(
    node: onnx.NodeProto, nodes: list[onnx.NodeProto], made: dict[str, onnx.NodeProto], arrays: dict[str, np.ndarray]
) -> np.ndarray:
    table = _codes(node.input[0], made, arrays)
    assert node.op_type == "Gather"
    if table.dtype == np.float32:
        return table
    scales = next(arrays[other.input[0]] for other in nodes if other.name == "/model/embed_tokens/scales/Gather")
    return table.astype(np.float32) * scales[:, None]


def _of_blocks(node: onnx.NodeProto, arrays: dict[str, np.ndarray]) -> np.ndarray:
    said = attributes(node)
    zeros = arrays[node.input[3]] if len(node.input) > 3 else None
    codes = arrays[node.input[1]]
    assert codes.shape == (said["N"], -(-said["K"] // said["block_size"]), said["block_size"] * said["bits"] // 8)
    return _values(codes, arrays[node.input[2]], zeros, said["bits"], said["block_size"])[:, : said["K"]]


def _of_gathered_blocks(
    node: onnx.NodeProto, made: dict[str, onnx.NodeProto], arrays: dict[str, np.ndarray]
) -> np.ndarray:
    said = attributes(node)
    reshape = made[node.input[0]]
    codes = arrays[reshape.input[0]].reshape(arrays[reshape.input[1]])
    scales = arrays[node.input[2]]
    zeros = arrays[node.input[3]] if len(node.input) > 3 else None
    values = _values(codes.reshape(*scales.shape, -1), scales, zeros, said["bits"], said["block_size"])
    cut = next(
        (other for other in made.values() if other.op_type == "Slice" and other.input[0] == node.output[0]), None
    )
    return values if cut is None else values[:, : int(arrays[cut.input[2]][0])]


def _values(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int, block: int) -> np.ndarray:
    """Restate the weight from packed codes [N, G, bytes], scales [N, G] and packed zeros, row by row."""
    rows, groups = scales.shape
    result = np.zeros((rows, groups * block), np.float32)
    for row in range(rows):
        middle = [1 << (bits - 1)] * groups
        zero = middle if zeros is None else unpacked(zeros.reshape(rows, -1)[row].tolist(), bits, groups)
        for group in range(groups):
            steps = np.array(unpacked(codes[row, group].tolist(), bits, block), np.float32) - np.float32(zero[group])
            result[row, group * block : (group + 1) * block] = scales[row, group] * steps
    return result
