from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compress.models import quantized
from compress.models.folder import load_model, save_model
from compress.models.input_grid import static_grid
from compress.models.quantized import store
from compress.models.rounded_inputs import round_inputs, rounded_by_row, rounded_in_blocks, rounded_static
from compress.models.scheme import Scheme
from tests.references import rounded_inputs as slow
from tests.references.tiny_families import tiny_model

SPANS = {"static": (-0.5, 0.75)}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rows_equal_the_slow_restatement() -> None:
    x = random(2, 3, 40) * torch.tensor([1e-3, 1, 300]).reshape(1, 3, 1)
    x[1, 0] = 0
    found = rounded_by_row(x)
    for place in np.ndindex(2, 3):
        assert found[place].tolist() == pytest.approx(slow.by_row(x[place].double().tolist()), rel=1e-5)
    assert (found - x).abs().amax(-1).le(x.abs().amax(-1) / 127 * 0.501).all()


def test_a_known_range_equals_the_slow_restatement() -> None:
    x = random(500)
    for low, high in ((-1.0, 2.0), (0.3, 2.5), (-2.0, -0.1)):
        found = rounded_static(x, static_grid(low, high)).tolist()
        assert found == pytest.approx([slow.static(value, low, high) for value in x.double().tolist()], abs=1e-5)


def test_rounding_twice_is_rounding_once() -> None:
    x = random(7, 33, seed=1)
    once = rounded_by_row(x)
    torch.testing.assert_close(rounded_by_row(once), once)
    grid = static_grid(-1.0, 1.5)
    assert torch.equal(rounded_static(rounded_static(x, grid), grid), rounded_static(x, grid))


@pytest.mark.parametrize("activations", ["none", "dynamic", "static"])
def test_only_the_products_that_the_folder_names_see_rounded_inputs(activations: str, tmp_path: Path) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    names = ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"]
    entries = {}
    for name in names:
        shape = tuple(model.get_parameter(name).shape)
        scheme = Scheme(8, shape[1], True, shape, activations)
        codes = np.zeros((shape[0], 1, shape[1]), np.uint8)
        entries[name] = store(scheme, codes, np.ones((shape[0], 1), np.float32), None, SPANS.get(activations))
    save_model(model, tmp_path, tmp_path)
    quantized.write(tmp_path, entries)
    model = load_model(tmp_path)
    modules = {
        "lm_head": model.lm_head,
        "up": model.model.layers[1].mlp.up_proj,
        "gate": model.model.layers[1].mlp.gate_proj,
    }
    x = random(1, 2, model.config.hidden_size)
    given = {"none": x, "dynamic": rounded_by_row(x), "static": rounded_static(x, static_grid(-0.5, 0.75))}[activations]
    plain = {name: module(x) for name, module in modules.items()}
    with round_inputs(model, tmp_path):
        for name, module in modules.items():
            expected = plain[name] if name == "gate" else torch.nn.functional.linear(given, module.weight, module.bias)
            torch.testing.assert_close(module(x), expected, rtol=0, atol=0)
    for name, module in modules.items():
        assert torch.equal(module(x), plain[name])


def test_a_float_folder_changes_nothing(tmp_path: Path) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    before = model.lm_head(torch.ones(1, model.config.hidden_size))
    with round_inputs(model, tmp_path):
        assert torch.equal(model.lm_head(torch.ones(1, model.config.hidden_size)), before)


def test_blocks_have_ranges_of_their_own_and_the_last_may_be_short() -> None:
    x = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0))
    x[..., 3] = 90.0
    found = rounded_in_blocks(x, 16)
    assert torch.equal(found[..., :16], rounded_by_row(x[..., :16]))
    assert torch.equal(found[..., 32:], rounded_by_row(x[..., 32:]))
    assert (found[..., 16:] - x[..., 16:]).abs().max() <= x[..., 16:].abs().max() / 254 * 1.001
