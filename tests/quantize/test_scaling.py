"""Scales searched and folded over a whole model change nothing that it says, and make it easier to round."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compress.contract import silent
from compress.errors import StageError
from compress.models.grid import in_blocks, max_abs_grid, round_to_codes
from compress.models.scheme import Scheme
from compress.quantize.finished import Finished
from compress.quantize.layerwise import Layerwise, Method
from compress.quantize.options import QuantizeOptions
from compress.quantize.rtn import Rounded
from compress.quantize.scaling import Awq, rounded_values, rounding_of, smooth_model
from compress.quantize.schemes import assign
from compress.quantize.stage import list_matrices
from tests.references.tiny_families import tiny_model

IDS = torch.randint(3, 64, (4, 8), generator=torch.Generator().manual_seed(7))
# Norms that add 1, a residual stream of both halves together, fused projections, biases, ReLU, norms after.
CASES = [
    ("llama", True),
    ("llama", False),
    ("qwen3", False),
    ("gemma2", True),
    ("phi3", False),
    ("gpt_neox", False),
    ("opt", False),
    ("bert", True),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round to the plain grid: what a fold changes does not hang on how well the search rounds."""

    def plain(weight: Tensor, bits: int, block: int, _symmetric: bool) -> Rounded:
        blocks = in_blocks(weight.detach().float(), block)
        grid = max_abs_grid(blocks, bits)
        return Rounded(round_to_codes(blocks, grid).to(torch.uint8), grid.scales, grid.zeros.to(torch.uint8))

    monkeypatch.setattr("compress.quantize.scaling.round_to_nearest", plain)


def make(name: str, tied: bool = True, **changes: Any) -> Any:
    kinds = {"layer_types": ["full_attention", "sliding_attention"]} if name in ("qwen2", "gemma3_text") else {}
    return tiny_model(name, tied, torch.float32, num_hidden_layers=2, **kinds, **changes)


def schemes_of(model: Any, **options: Any) -> dict[str, Scheme]:
    return dict(assign(QuantizeOptions.model_validate(options), list_matrices(model)[0]).schemes)


def says(model: Any) -> Tensor:
    """Return what the model says, computed in float64: what is left is the rounding of its weights."""
    model.double()
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS)[0]
    model.float()
    return found


def state(model: Any) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def changed(model: Any, before: dict[str, Tensor]) -> set[str]:
    return {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}


def check_says_the_same(model: Any, before: Tensor) -> None:
    assert float((says(model) - before).abs().max()) < 1e-5 * float(before.abs().max())


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_smoothing_changes_weights_and_nothing_that_is_said(name: str, tied: bool) -> None:
    model = make(name, tied)
    before, weights = says(model), state(model)
    told: list[tuple[float, float]] = []
    activations = "static" if name in ("llama", "bert") else "dynamic"
    smooth_model(
        model,
        schemes_of(model, bits=8, activations=activations),
        IDS,
        lambda done, total, unit="", note="": told.append((done, total)),
    )
    check_says_the_same(model, before)
    assert changed(model, weights)
    assert told == [(1, 2), (2, 2)]
    assert ("lm_head.weight" in changed(model, weights)) == (not tied)


def test_inputs_that_stay_in_float_are_not_touched() -> None:
    model = make("llama", False)
    weights = state(model)
    smooth_model(model, schemes_of(model, bits=8), IDS, silent)
    smooth_model(model, {}, IDS, silent, in_blocks=True)
    assert not changed(model, weights)
    only = schemes_of(model, bits=8, weights={"*down_proj*": {"activations": "dynamic"}})
    smooth_model(model, only, IDS, silent)
    assert {name.split(".", 3)[-1] for name in changed(model, weights)} <= {
        "mlp.down_proj.weight",
        "mlp.up_proj.weight",
        "mlp.up_proj.bias",
    }
    assert changed(model, weights)


def test_smoothing_for_the_runtimes_own_blocks_is_asked_for() -> None:
    model = make("llama", False)
    before, weights = says(model), state(model)
    smooth_model(model, schemes_of(model, bits=4, block=16), IDS, silent, in_blocks=True)
    assert changed(model, weights)
    check_says_the_same(model, before)


def test_a_channel_that_sticks_out_is_made_smaller() -> None:
    model = make("llama", False)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight[5] = 60.0
    smooth_model(model, schemes_of(model, bits=8, activations="dynamic"), IDS, silent)
    for layer in model.model.layers:
        sizes = layer.input_layernorm.weight.detach().abs()
        assert float(sizes[5] / sizes.median()) < 30


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_awq_changes_weights_and_nothing_that_is_said(name: str, tied: bool, tmp_path: Path) -> None:
    model = make(name, tied)
    before, weights = says(model), state(model)
    schemes = schemes_of(model, bits=4, block=16)
    work = Layerwise(model, IDS, Method(lambda *_: None, "own", Awq(model, schemes).prepare))
    work.run(Finished(tmp_path), silent)
    check_says_the_same(model, before)
    assert changed(model, weights)
    # Heads are read by the model and not by a layer.
    assert "lm_head.weight" not in changed(model, weights)


def test_awq_leaves_inputs_alone_that_no_rounded_weight_reads(tmp_path: Path) -> None:
    model = make("llama")
    weights = state(model)
    schemes = {name: scheme for name, scheme in schemes_of(model, bits=4).items() if "o_proj" in name}
    Layerwise(model, IDS, Method(lambda *_: None, "own", Awq(model, schemes).prepare)).run(Finished(tmp_path), silent)
    touched = {name.split(".", 3)[-1] for name in changed(model, weights)}
    assert touched == {f"self_attn.{name}" for name in ("o_proj.weight", "v_proj.weight", "v_proj.bias")}


@pytest.mark.parametrize("method", ["smooth", "awq"])
def test_inputs_that_are_not_finite_name_who_reads_them(method: str, tmp_path: Path) -> None:
    model = make("llama")
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[0] = float("inf")
    if method == "smooth":
        schemes, found = schemes_of(model, bits=8, activations="dynamic"), "the sample of inputs holds"
        work = partial(smooth_model, model, schemes, IDS, silent)
    else:
        prepare, found = Awq(model, schemes_of(model, bits=4)).prepare, "the statistics of the inputs hold"
        work = partial(Layerwise(model, IDS, Method(lambda *_: None, "own", prepare)).run, Finished(tmp_path), silent)
    said = f"model.layers.1.self_attn.q_proj: {found} values that are not finite; the model or the calibration text is damaged"
    with pytest.raises(StageError, match=f"^{re.escape(said)}$"):
        work()


def test_values_of_a_matrix_are_multiples_of_its_scales() -> None:
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    found = rounded_values(Scheme(4, 16, True, (5, 40)))(weight)
    assert found.shape == weight.shape
    assert all(len(block.unique()) <= 16 for row in in_blocks(found, 16) for block in row)
    assert 0 < float((found - weight).square().mean()) < 0.02


def test_inputs_are_rounded_by_token_or_in_the_blocks_of_the_weight() -> None:
    inputs = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    inputs[:, 20] = 1000
    by_token, in_parts = (
        rounding_of(Scheme(8, 16, True, (5, 40), activations))(inputs) for activations in ("dynamic", "none")
    )
    # one large input takes the steps of its token, or of its block alone
    assert bool((by_token[:, [*range(20), *range(21, 40)]] == 0).all())
    assert bool((in_parts[:, 16:32] == torch.where(inputs[:, 16:32] == 1000, inputs[:, 16:32], 0)).all())
    torch.testing.assert_close(in_parts[:, :16], inputs[:, :16], rtol=0, atol=0.02)


def test_the_same_model_is_smoothed_the_same() -> None:
    first, second = make("opt"), make("opt")
    for model in (first, second):
        smooth_model(model, schemes_of(model, bits=8, activations="dynamic"), IDS, silent)
    assert not changed(second, state(first))
