from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from compress.models.families import family_of
from compress.models.folding import ScalingGroup, fold, groups_of, tie
from compress.models.grid import in_blocks, max_abs_grid, round_to_codes, values
from compress.models.layers import layers_of
from compress.models.rounded_inputs import rounded_by_row
from compress.quantize.smooth import (
    Rounding,
    by_call,
    input_costs,
    output_error,
    search_scales,
    smoothing_scales,
    worst_inputs,
)
from tests.references import smoothquant as reference
from tests.references.tiny_families import tiny_model

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


def sticking_out() -> tuple[Any, Tensor, dict[str, list[str]]]:
    """Return a tiny Llama in which one channel of the first layer's down_proj is 300 times too loud, and its inputs by name."""
    model = tiny_model("llama", dtype=torch.float32)
    family = family_of(model.config.to_dict())
    group = groups_of(family, model.config.to_dict())[3]
    fold(layers_of(model, family)[0], group, torch.ones(48).index_fill_(0, torch.tensor([7]), 1 / 300))
    ids = torch.randint(3, 64, (2, 20), generator=torch.Generator().manual_seed(1))
    names = {
        f"{index}.{path}": [f"model.layers.{index}.{path}"]
        for index in (0, 1)
        for path in ("mlp.down_proj", "mlp.up_proj")
    }
    return model, ids, names


def test_the_input_that_sticks_out_costs_most_and_nothing_changes() -> None:
    model, ids, names = sticking_out()
    costs = input_costs(model, names, ids, by_call)
    worst = max(costs, key=lambda name: costs[name])
    assert worst == "0.mlp.down_proj"
    assert costs[worst] > 10 * sum(cost for name, cost in costs.items() if name != worst)
    assert all(not module._forward_pre_hooks for module in model.modules())
    unchanged = input_costs(model, names, ids, lambda given: given)
    assert unchanged == dict.fromkeys(names, 0.0)


def test_the_cost_is_the_divergence_of_what_the_model_says() -> None:
    model, ids, _ = sticking_out()
    with torch.no_grad():
        plain = model(ids).logits.double().log_softmax(-1)
        handle = model.lm_head.register_forward_pre_hook(lambda _module, args: (rounded_by_row(args[0]),))
        rounded = model(ids).logits.double().log_softmax(-1)
        handle.remove()
    expected = float((plain.exp() * (plain - rounded)).sum(-1).mean())
    assert input_costs(model, {"head": ["lm_head"]}, ids, rounded_by_row)["head"] == pytest.approx(expected, rel=1e-3)
    assert expected > 0


@pytest.mark.parametrize(
    ("allowed", "left"),
    [
        (1.0, []),
        (0.6, []),
        (0.35, ["b"]),
        (0.05, ["b", "a"]),
        (0.0, ["b", "a", "c", "d"]),
    ],
)
def test_the_worst_are_left_out_until_the_rest_is_allowed(allowed: float, left: list[str]) -> None:
    costs = {"a": 0.25, "b": 0.30, "c": 0.025, "d": 0.025}
    assert worst_inputs(costs, allowed) == left


def test_one_of_two_equal_costs_goes_by_name() -> None:
    assert worst_inputs({"z": 0.1, "y": 0.1}, 0.15) == ["y"]
    assert worst_inputs({}, 0.0) == []
