from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array

from compress.errors import StageError
from compress.export.packing import Piece, can_join_qkv, pieces_of
from compress.models.folder import load_model, save_model
from compress.models.quantized import Scheme
from tests.export.conftest import export, quantize, torch_folder
from tests.references.number_grid import unpacked

Packed = Callable[..., tuple[Path, Path]]


def read_graph(folder: Path) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    model = onnx.load(str(folder / "model.onnx"))
    return list(model.graph.node), {tensor.name: to_array(tensor) for tensor in model.graph.initializer}


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def values_of(node: onnx.NodeProto, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Restate MatMulNBits' weight [N, K] from its inputs, code by code."""
    said = attributes(node)
    bits, block, rows, width = said["bits"], said["block_size"], said["N"], said["K"]
    codes, scales = arrays[node.input[1]], arrays[node.input[2]]
    groups = -(-width // block)
    result = np.zeros((rows, width), np.float32)
    for row in range(rows):
        zeros = [1 << (bits - 1)] * groups
        if len(node.input) > 3:
            zeros = unpacked(arrays[node.input[3]].reshape(rows, -1)[row].tolist(), bits, groups)
        for group in range(groups):
            part = unpacked(codes[row, group].tolist(), bits, block)
            steps = np.array(part, np.float32) - np.float32(zeros[group])
            end = min(width, (group + 1) * block)
            result[row, group * block : end] = (scales.reshape(rows, -1)[row, group] * steps)[: end - group * block]
    return result


@pytest.mark.parametrize(
    "options", [{}, {"symmetric": False}, {"bits": 8}, {"bits": 8, "symmetric": False, "block": 16}]
)
def test_the_packed_weights_are_the_torch_weights_bit_for_bit(packed: Packed, options: dict[str, Any]) -> None:
    source, target = packed(**options)
    weights = {name: weight.detach().numpy() for name, weight in load_model(source).named_parameters()}
    nodes, arrays = read_graph(target)
    seen = 0
    for node in nodes:
        assert node.op_type != "MatMul"
        if node.op_type != "MatMulNBits":
            continue
        seen += 1
        parts = node.name.removesuffix("NBits").split("/")
        if parts[1] == "lm_head":
            expected = weights["model.embed_tokens.weight"]
        else:
            prefix = f"{parts[1]}.{parts[2]}.".replace("/", ".") + parts[3].replace("attn", "self_attn")
            names = ["q_proj", "k_proj", "v_proj"] if parts[4] == "qkv_proj" else [parts[4]]
            expected = np.concatenate([weights[f"{prefix}.{name}.weight"] for name in names])
        np.testing.assert_array_equal(values_of(node, arrays), expected)
        assert attributes(node)["accuracy_level"] == 4
    assert seen == 2 * 5 + 1


def test_a_tied_embedding_is_stored_once(packed: Packed) -> None:
    nodes, arrays = read_graph(packed()[1])
    gather = next(node for node in nodes if node.op_type == "GatherBlockQuantized")
    head = next(node for node in nodes if node.name == "/lm_head/MatMulNBits")
    reshape = next(node for node in nodes if node.output and node.output[0] == gather.input[0])
    assert reshape.input[0] == head.input[1]
    assert gather.input[2] == head.input[2]
    used = {name for node in nodes for name in node.input}
    assert set(arrays) <= used
    assert not [name for name, array in arrays.items() if array.size == 64 * 64 and array.dtype == np.float32]


@pytest.mark.parametrize("options", [{"block": 128}, {"block": 128, "symmetric": False, "bits": 8}, {"block": 32}])
def test_an_untied_embedding_may_have_a_short_block(tmp_path: Path, options: dict[str, Any]) -> None:
    source = quantize(
        torch_folder(tmp_path / "float", tied=False, hidden_size=80, head_dim=16), tmp_path / "torch", **options
    )
    outcome = export(source, tmp_path / "onnx")
    nodes, _ = read_graph(tmp_path / "onnx")
    assert [node.op_type for node in nodes].count("GatherBlockQuantized") == 1
    assert outcome.facts["parity"]["prefill"]["kl"] < 0.05


def test_phi3s_joined_weights_are_cut_in_halves(tmp_path: Path) -> None:
    source = quantize(torch_folder(tmp_path / "float", "phi3"), tmp_path / "torch")
    export(source, tmp_path / "onnx")
    nodes, arrays = read_graph(tmp_path / "onnx")
    whole = load_model(source).model.layers[0].mlp.gate_up_proj.weight.detach().numpy()
    found = [
        values_of(next(node for node in nodes if node.name == f"/model/layers.0/mlp/{name}/MatMulNBits"), arrays)
        for name in ("gate_proj", "up_proj")
    ]
    np.testing.assert_array_equal(np.concatenate(found), whole)


def test_a_projection_left_out_stays_a_float_matmul(packed: Packed) -> None:
    nodes, _ = read_graph(packed(leave_out=("*.layers.0.*.k_proj.weight", "*down_proj*"))[1])
    floats = sorted(node.name for node in nodes if node.op_type == "MatMul")
    assert floats == [
        "/model/layers.0/attn/k_proj/MatMul",
        *(f"/model/layers.{i}/mlp/down_proj/MatMul" for i in range(2)),
    ]


def test_an_embedding_left_out_stays_a_float_gather(packed: Packed) -> None:
    nodes, arrays = read_graph(packed(leave_out=("*embed_tokens*",))[1])
    assert [node.name for node in nodes if node.op_type == "MatMul"] == ["/lm_head/MatMul"]
    assert sum(array.dtype == np.float32 and array.shape == (64, 64) for array in arrays.values()) == 1


def test_joining_needs_one_scheme_for_query_key_and_value() -> None:
    scheme, other = Scheme(4, 32, True, (64, 64)), Scheme(8, 32, True, (64, 64))
    names = [f"model.layers.0.self_attn.{name}.weight" for name in ("q_proj", "k_proj", "v_proj")]
    assert can_join_qkv(dict.fromkeys(names, scheme))
    assert can_join_qkv({})
    assert not can_join_qkv(dict.fromkeys(names[:2], scheme))
    assert not can_join_qkv({**dict.fromkeys(names, scheme), names[1]: other})


def test_pieces_of_a_matmul() -> None:
    scheme = Scheme(4, 32, True, (64, 64))
    tied = {"model.embed_tokens.weight": scheme}
    assert pieces_of("/lm_head/MatMul", tied) == (Piece("model.embed_tokens.weight"),)
    assert pieces_of("/lm_head/MatMul", {**tied, "lm_head.weight": scheme}) == (Piece("lm_head.weight"),)
    joined = {"model.layers.11.mlp.gate_up_proj.weight": scheme}
    assert pieces_of("/model/layers.11/mlp/up_proj/MatMul", joined) == (Piece(next(iter(joined)), 1),)
    assert pieces_of("/model/layers.1/mlp/up_proj/MatMul", joined) == ()
    assert pieces_of("/somewhere/MatMul", joined) == ()


def test_codes_that_are_not_the_folders_weights_are_refused(llama: Path, tmp_path: Path) -> None:
    source = quantize(llama, tmp_path / "torch")
    model = load_model(source)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] += 1
    save_model(model, source, source)
    with pytest.raises(
        StageError, match=r"not the weights of /model/layers\.1/mlp/down_proj/MatMul: the folder's weights"
    ):
        export(source, tmp_path / "onnx")
