from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from compress.models.folding import ScalingGroup, tie
from compress.models.grid import in_blocks, max_abs_grid, round_to_codes, values
from compress.models.rounded_inputs import rounded_by_row
from compress.quantize.smooth import (
    Rounding,
    by_call,
    output_error,
    search_scales,
    smoothing_scales,
)
from tests.references import smoothquant as reference

CALLS, TOKENS, WIDTH = 2, 24, 16


def per_channel(weight: Tensor) -> Tensor:
    blocks = in_blocks(weight, weight.shape[1])
    grid = max_abs_grid(blocks, 8)
    return values(round_to_codes(blocks, grid), grid).reshape(weight.shape)


MATMUL_INTEGER = Rounding(per_channel, by_call)


def inputs(loud: float = 30.0, seed: int = 0) -> Tensor:
    """Return calls [C, T, K] with a channel that a single token of each makes loud."""
    drawn = torch.randn(CALLS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))
    drawn[:, 0, 5] = loud
    return drawn


def weights(seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, WIDTH, generator=generator), torch.randn(4, WIDTH, generator=generator)]


def session(nodes: list[Any], outputs: list[Any], constants: dict[str, np.ndarray]) -> Any:
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "K"])],
        outputs,
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "call",
    [
        inputs()[0],
        inputs(3.0, 4)[1],
        inputs()[0].abs(),
        -inputs()[0].abs(),
        torch.zeros(3, WIDTH),
        torch.tensor([[0.5, 1.5, 2.5, 255.0]]),
    ],
)
def test_inputs_by_call_are_those_of_onnx_runtime_bit_for_bit(call: Tensor) -> None:
    kinds = {"q": TensorProto.UINT8, "s": TensorProto.FLOAT, "z": TensorProto.UINT8}
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    node = helper.make_node("DynamicQuantizeLinear", ["x"], list(kinds))
    codes, scale, zero = session([node], outputs, {}).run(None, {"x": call.numpy()})
    expected = (codes.astype(np.float32) - np.float32(zero)) * scale
    assert np.array_equal(by_call(call[None])[0].numpy(), expected)


def test_outputs_are_those_of_matmul_integer() -> None:
    call, weight = inputs()[0], weights()[0]
    grid = max_abs_grid(in_blocks(weight, WIDTH), 8)
    codes = (round_to_codes(in_blocks(weight, WIDTH), grid) - 128).squeeze(1).to(torch.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["scale"]),
        helper.make_node("Mul", ["f", "scale"], ["y"]),
    ]
    constants = {"w": codes.T.contiguous().numpy(), "ws": grid.scales.flatten().numpy()}
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    expected = session(nodes, outputs, constants).run(None, {"x": call.numpy()})[0]
    found = by_call(call[None])[0] @ per_channel(weight).T
    assert found.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_each_call_has_a_range_of_its_own() -> None:
    calls = torch.stack([inputs()[0], inputs(1.0)[1]])
    alone = torch.cat([by_call(call[None]) for call in calls])
    assert torch.equal(by_call(calls), alone)
    quiet = (by_call(calls)[1] - calls[1]).abs().max()
    together = by_call(calls.reshape(1, -1, WIDTH)).reshape(calls.shape)
    assert float(quiet) < float((together[1] - calls[1]).abs().max()) / 3


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_smoothing_scales_are_the_papers(alpha: float) -> None:
    calls, matrices = inputs(), weights()
    found = smoothing_scales(calls.abs().amax((0, 1)), torch.cat(matrices).abs().amax(0), alpha)
    tokens = calls.reshape(-1, WIDTH).double().numpy()
    expected = reference.smoothing_scales(tokens, [matrix.double().numpy() for matrix in matrices], alpha)
    assert found.numpy() == pytest.approx(np.array(expected), rel=1e-5)


@pytest.mark.parametrize("loud", [4.0, 30.0])
def test_the_search_finds_what_the_restated_one_finds(loud: float) -> None:
    calls, matrices = inputs(loud), weights()
    wide = [matrix.double().numpy() for matrix in matrices]
    found = search_scales(matrices, calls, MATMUL_INTEGER)
    expected = reference.search(wide, calls.double().numpy())
    assert found.numpy() == pytest.approx(np.array(expected), rel=1e-4)
    error = output_error(matrices, calls, MATMUL_INTEGER, found)
    assert error == pytest.approx(reference.output_error(wide, calls.double().numpy(), expected), rel=1e-3)


@pytest.mark.parametrize("rounded", [by_call, rounded_by_row])
def test_smoothing_never_loses_and_wins_where_an_input_sticks_out(rounded: Any) -> None:
    calls, matrices, rounding = inputs(), weights(), Rounding(per_channel, rounded)
    found = search_scales(matrices, calls, rounding)
    before, after = (output_error(matrices, calls, rounding, scales) for scales in (torch.ones(WIDTH), found))
    assert after < (0.3 if rounded is by_call else 1.0) * before
    assert torch.equal(found, search_scales(matrices, calls, rounding))


def test_without_rounding_nothing_is_smoothed() -> None:
    exact = Rounding(lambda weight: weight, lambda given: given)
    found = search_scales([torch.ones(3, WIDTH)], torch.ones(1, 4, WIDTH), exact)
    assert torch.equal(found, torch.ones(WIDTH))


def test_shared_and_silent_channels() -> None:
    calls = inputs()
    calls[..., 2] = 0
    group = ScalingGroup(("o",), "v", "rows", repeats=2, head_dim=4)
    found = search_scales(weights(), calls, MATMUL_INTEGER, lambda scales: tie(scales, group))
    by_head = found.reshape(-1, 2, 4)
    assert torch.equal(by_head[:, 0], by_head[:, 1])
    assert bool((found.isfinite() & (found > 0)).all())
    silent = search_scales(weights(), torch.zeros_like(calls), MATMUL_INTEGER)
    assert torch.equal(silent, torch.ones(WIDTH))


def test_inputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^the sample of inputs holds values that are not finite$"):
        search_scales(weights(), inputs(torch.inf), MATMUL_INTEGER)
