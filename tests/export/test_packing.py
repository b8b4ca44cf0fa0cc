from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from compress.benchmark.size import graph_precision, parameters
from compress.errors import StageError
from compress.export.packing import Piece, can_join_qkv, joined, pieces_of
from compress.models.folder import load_model, save_model
from compress.models.quantized import QuantizedWeight, store
from compress.models.scheme import Scheme
from tests.export.conftest import export, quantize, torch_folder
from tests.export.schemes import Choice, quantized_folder, read_graph, weights_of
from tests.shipped import genai_greedy, onnxruntime_greedy

Packed = Callable[..., tuple[Path, Path]]
DYNAMIC: Choice = (8, None, True, "dynamic")
STATIC: Choice = (8, None, True, "static")
KINDS: dict[str, Choice] = {
    "int2": (2, 32, True, "none"),
    "int2 zeros": (2, 64, False, "none"),
    "int2 large": (2, 256, False, "none"),
    "int4": (4, 16, True, "none"),
    "int4 zeros": (4, 128, False, "none"),
    "int8": (8, 256, True, "none"),
    "int8 zeros": (8, 16, False, "none"),
    "channel": (8, None, True, "none"),
    "channel int4": (4, None, False, "none"),
    "dynamic": DYNAMIC,
    "static": STATIC,
}


def expected_weights(source: Path, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The torch folder's weights, by the paths that the graph has for them."""
    weights = {name: weight.detach().numpy() for name, weight in load_model(source).named_parameters()}
    expected = {}
    for path in found:
        parts = path.strip("/").replace("/", ".").replace(".attn.", ".self_attn.")
        if parts == "lm_head" and "lm_head.weight" not in weights:
            parts = "model.embed_tokens"
        if parts.endswith("qkv_proj"):
            prefix = parts.removesuffix("qkv_proj")
            expected[path] = np.concatenate([weights[f"{prefix}{leaf}_proj.weight"] for leaf in "qkv"])
        else:
            expected[path] = weights[f"{parts}.weight"]
    return expected


def check_bits(source: Path, target: Path, products: int) -> None:
    found = weights_of(target)
    assert len(found) == products + 1
    for path, weight in expected_weights(source, found).items():
        np.testing.assert_array_equal(found[path], weight, err_msg=path)
    assert parameters(target) == parameters(source)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_packed_weights_are_the_torch_weights_bit_for_bit(kind: str, tied: bool, tmp_path: Path) -> None:
    # No block divides the width 72 but those of the whole row, and 341 is odd.
    sizes = {"hidden_size": 72, "head_dim": 16, "intermediate_size": 341, "num_attention_heads": 4}
    source = quantized_folder(
        torch_folder(tmp_path / "float", tied=tied, **sizes), tmp_path / "q", lambda _: KINDS[kind]
    )
    outcome = export(source, tmp_path / "onnx")
    check_bits(source, tmp_path / "onnx", products=2 * 5 + 1)
    assert graph_precision(tmp_path / "onnx") == f"int{KINDS[kind][0]}" == outcome.facts["precision"]
    assert outcome.facts["parity"]["prefill"]["kl"] < 0.02


def mixed(name: str) -> Choice | None:
    """A scheme of its own for nearly every weight."""
    chosen: dict[str, Choice | None] = {
        "embed_tokens": (4, 64, False, "none"),
        "layers.0.self_attn.k_proj": (8, 32, True, "none"),
        "layers.0.self_attn": (4, 32, True, "none"),
        "layers.1.self_attn.o_proj": STATIC,
        "layers.0.mlp.gate_proj": STATIC,
        "layers.0.mlp.down_proj": None,
        "layers.1.mlp.up_proj": (2, 32, False, "none"),
    }
    return next((choice for part, choice in chosen.items() if part in name), DYNAMIC)


def test_every_weight_may_have_its_own_scheme(llama: Path, tmp_path: Path) -> None:
    source = quantized_folder(llama, tmp_path / "q", mixed)
    export(source, tmp_path / "onnx")
    # Query, key and value are joined in layer 1 and apart in layer 0.
    check_bits(source, tmp_path / "onnx", products=7 + 5 + 1)
    assert graph_precision(tmp_path / "onnx") == "mixed"
    assert genai_greedy(tmp_path / "onnx", [1, 9, 33], 24) == onnxruntime_greedy(tmp_path / "onnx", [1, 9, 33], 24, [2])


def test_layers_before_and_after_one_that_is_not_joined(llama: Path, tmp_path: Path) -> None:
    source = quantize(llama, tmp_path / "q", leave_out=("*.layers.0.*.k_proj.weight", "*down_proj*"))
    export(source, tmp_path / "onnx")
    nodes, _ = read_graph(tmp_path / "onnx")
    floats = sorted(node.name for node in nodes if node.op_type == "MatMul")
    downs = [f"/model/layers.{layer}/mlp/down_proj/MatMul" for layer in range(2)]
    assert floats == ["/model/layers.0/attn/k_proj/MatMul", *downs]
    names = {node.name for node in nodes}
    assert {"/model/layers.0/attn/q_proj/MatMulNBits", "/model/layers.1/attn/qkv_proj/MatMulNBits"} <= names


def test_qwen3s_norms_part_joined_projections_again(tmp_path: Path) -> None:
    source = quantized_folder(torch_folder(tmp_path / "float", "qwen3"), tmp_path / "q", mixed)
    export(source, tmp_path / "onnx")
    check_bits(source, tmp_path / "onnx", products=7 + 5 + 1)


@pytest.mark.parametrize("kind", ["int4", "int8 zeros", "dynamic", "static"])
def test_a_tied_embedding_is_stored_once(llama: Path, tmp_path: Path, kind: str) -> None:
    source = quantized_folder(llama, tmp_path / "q", lambda _: KINDS[kind])
    export(source, tmp_path / "onnx")
    nodes, arrays = read_graph(tmp_path / "onnx")
    used = {name for node in nodes for name in node.input}
    assert set(arrays) <= used
    large = [array for array in arrays.values() if array.nbytes >= 64 * 64 // 2 and array.size % (64 * 64) == 0]
    heads = [name for name in arrays if "lm_head" in name or "embed" in name]
    assert sorted(name.rsplit(".", 1)[-1] for name in heads if "." in name) == (
        ["qweight", "qzeros", "scales"] if "zeros" in kind else ["qweight", "scales"]
    )
    assert not [array for array in large if array.dtype == np.float32]


def test_what_onnxruntime_makes_of_integers(llama: Path, tmp_path: Path) -> None:
    for kind in ("dynamic", "static"):
        folder = tmp_path / kind
        export(quantized_folder(llama, tmp_path / f"q-{kind}", lambda _, kind=kind: KINDS[kind]), folder)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        (folder / "optimized").mkdir()
        (folder / "optimized.onnx").rename(folder / "optimized" / "model.onnx")
        (folder / "model.onnx.data").rename(folder / "optimized" / "model.onnx.data")
        kinds = [node.op_type for node in read_graph(folder / "optimized")[0]]
        # An input is rounded once for queries, keys and values, and once for gate and up.
        assert (kinds.count("MatMulIntegerToFloat"), kinds.count("QuantizeLinear")) == (2 * 5 + 1, 2 * 4 + 1)
        assert not {"MatMul", "MatMulInteger", "DequantizeLinear", "Transpose", "Cos", "Sin", "Range"} & set(kinds)


def test_dynamic_inputs_keep_each_token_for_itself(llama: Path, tmp_path: Path) -> None:
    export(quantized_folder(llama, tmp_path / "q", lambda _: DYNAMIC), tmp_path / "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    past = {
        entry.name: np.zeros((1, 2, 0, 16), np.float32)
        for entry in session.get_inputs()
        if entry.name.startswith("past")
    }

    def logits(ids: list[int]) -> np.ndarray:
        mask = np.ones((1, len(ids)), np.int64)
        return session.run(["logits"], {"input_ids": np.array([ids]), "attention_mask": mask, **past})[0][0]

    first, second = logits([1, 9, 33, 5, 7]), logits([1, 9, 33, 40, 2])
    np.testing.assert_allclose(first[:3], second[:3], atol=1e-6)
    assert np.abs(first[3:] - second[3:]).max() > 1e-3


def test_phi3s_joined_weights_are_cut_in_halves(tmp_path: Path) -> None:
    for kind in ("int4 zeros", "static"):
        choice = KINDS[kind]
        source = quantized_folder(
            torch_folder(tmp_path / f"float {kind}", "phi3"), tmp_path / f"q {kind}", lambda _, choice=choice: choice
        )
        export(source, tmp_path / kind)
        whole = load_model(source).model.layers[0].mlp.gate_up_proj.weight.detach().numpy()
        found = weights_of(tmp_path / kind)
        halves = [found[f"/model/layers.0/mlp/{name}_proj"] for name in ("gate", "up")]
        np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_an_embedding_left_out_stays_a_float_gather(packed: Packed) -> None:
    nodes, arrays = read_graph(packed(leave_out=("*embed_tokens*",))[1])
    assert [node.name for node in nodes if node.op_type == "MatMul"] == ["/lm_head/MatMul"]
    assert sum(array.dtype == np.float32 and array.shape == (64, 64) for array in arrays.values()) == 1


def test_joining_needs_one_scheme_for_query_key_and_value() -> None:
    scheme, other = Scheme(4, 32, True, (64, 64)), Scheme(8, 32, True, (64, 64))
    names = [f"model.layers.0.self_attn.{name}.weight" for name in ("q_proj", "k_proj", "v_proj")]
    assert can_join_qkv(dict.fromkeys(names, scheme), 0)
    assert can_join_qkv({names[0]: scheme}, 1)
    assert not can_join_qkv(dict.fromkeys(names[:2], scheme), 0)
    assert not can_join_qkv({**dict.fromkeys(names, scheme), names[1]: other}, 0)
    dynamic = Scheme(8, 64, True, (64, 64), "dynamic")
    assert not can_join_qkv({**dict.fromkeys(names, Scheme(8, 64, True, (64, 64))), names[2]: dynamic}, 0)


def test_joined_weights_hold_the_inputs_of_all() -> None:
    scheme = Scheme(8, 4, True, (2, 4), "static")
    weights: list[QuantizedWeight] = [
        store(scheme, np.full((2, 1, 4), 7, np.uint8), np.ones((2, 1), np.float32), None, span)
        for span in ((-1.0, 2.0), (-3.0, 1.0))
    ]
    whole = joined(weights)
    assert whole.input_range == (-3.0, 2.0)
    assert whole.scheme.shape == (4, 4)
    assert joined(weights[:1]) is weights[0]


def test_pieces_of_a_matmul() -> None:
    scheme = Scheme(4, 32, True, (64, 64))
    tied = {"model.embed_tokens.weight": scheme}
    assert pieces_of("/lm_head/MatMul", tied, tied=True) == (Piece("model.embed_tokens.weight"),)
    assert pieces_of("/lm_head/MatMul", tied) == ()
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


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        ((4, None, True, "dynamic"), "4 bits, symmetric, in blocks of 64"),
        ((8, 32, True, "static"), "8 bits, symmetric, in blocks of 32"),
        ((8, None, False, "dynamic"), "8 bits, with zero points, in blocks of 64"),
    ],
)
def test_inputs_in_8_bits_need_int8_weights_of_one_scale(llama: Path, tmp_path: Path, choice: Any, found: str) -> None:
    source = quantized_folder(llama, tmp_path / "q", lambda name: choice if "0.mlp.up" in name else None)
    with pytest.raises(StageError) as error:
        export(source, tmp_path / "onnx")
    assert str(error.value) == (
        f"model.layers.0.mlp.up_proj.weight: {choice[3]} activations need weights of 8 bits, symmetric, with one scale for each "
        f"output channel; found {found}; quantize it with bits: 8, symmetric: true, block: null"
    )


def test_an_untied_head_may_stay_in_float(tmp_path: Path) -> None:
    source = torch_folder(tmp_path / "float", tied=False)
    quantize(source, tmp_path / "torch", bits=8, leave_out=("lm_head*",))
    export(tmp_path / "torch", tmp_path / "onnx")
    head = [node.op_type for node in read_graph(tmp_path / "onnx")[0] if node.name.startswith("/lm_head/")]
    assert head == ["MatMul"]
