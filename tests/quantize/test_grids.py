"""Ranges of inputs hold all that was seen, and what is stored fits its scheme."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.contract import silent
from compress.errors import StageError
from compress.models.layers import hooked
from compress.models.quantized import dequantize, unpack
from compress.models.scheme import Scheme
from compress.quantize import grids as file
from compress.quantize.grids import Grids, measure_ranges
from compress.quantize.options import QuantizeOptions
from compress.quantize.rtn import round_to_nearest
from compress.quantize.schemes import assign
from compress.quantize.stage import list_matrices
from tests.references.tiny_families import tiny_model

IDS = torch.randint(3, 64, (11, 6), generator=torch.Generator().manual_seed(2))


def make(name: str = "llama", tied: bool = True) -> tuple[Any, dict[str, Scheme]]:
    model = tiny_model(name, tied, torch.float32, num_hidden_layers=2)
    options = QuantizeOptions.model_validate({"bits": 8, "activations": "static"})
    return model, dict(assign(options, list_matrices(model)[0]).schemes)


def seen(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """Return all inputs of every linear layer, by the path of the layer."""
    found: dict[str, list[Tensor]] = {}
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    hooks = (
        module.register_forward_pre_hook(lambda _, args, name=name: found.setdefault(name, []).append(args[0]))
        for name, module in linears
    )
    with hooked(hooks), torch.no_grad():
        for window in ids:
            model(input_ids=window[None])
    return {name: torch.cat([part.flatten() for part in parts]) for name, parts in found.items()}


@pytest.mark.parametrize(("name", "tied"), [("llama", True), ("llama", False), ("opt", True), ("bert", True)])
def test_a_range_holds_every_input_and_zero(name: str, tied: bool) -> None:
    model, schemes = make(name, tied)
    told: list[tuple[float, float]] = []
    ranges = measure_ranges(model, schemes, IDS, lambda done, total, *_: told.append((done, total)))
    assert set(ranges) == {name for name, scheme in schemes.items() if scheme.activations == "static"}
    first = {id(weight): name for name, weight in reversed(list(model.named_parameters(remove_duplicate=False)))}
    for path, inputs in seen(model, IDS).items():
        low, high = ranges[first[id(model.get_submodule(path).weight)]]
        assert low == pytest.approx(min(0.0, float(inputs.min())), rel=1e-4, abs=1e-5)
        assert high == pytest.approx(max(0.0, float(inputs.max())), rel=1e-4, abs=1e-5)
        assert low <= 0 <= high
        assert low < high
    assert told == [(8, 11), (11, 11)]


def test_the_range_of_a_tied_head_is_that_of_the_head() -> None:
    model, schemes = make()
    ranges = measure_ranges(model, schemes, IDS, silent)
    assert "lm_head.weight" not in ranges
    inputs = seen(model, IDS)["lm_head"]
    expected = (float(inputs.min()), float(inputs.max()))
    assert ranges["model.embed_tokens.weight"] == pytest.approx(expected, rel=1e-4)


def test_a_table_has_no_range() -> None:
    model, schemes = make(tied=False)
    assert schemes["model.embed_tokens.weight"].activations == "none"
    assert "model.embed_tokens.weight" not in measure_ranges(model, schemes, IDS, silent)


def test_only_as_many_windows_are_read_as_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, schemes = make()
    some = measure_ranges(model, schemes, IDS[:3], silent)
    monkeypatch.setattr(file, "_WINDOWS", 3)
    assert measure_ranges(model, schemes, IDS, silent) == some


def test_without_static_activations_nothing_is_run() -> None:
    schemes = {"a.weight": Scheme(8, 4, True, (4, 4), "dynamic"), "b.weight": Scheme(4, 16, True, (4, 4))}
    assert measure_ranges(None, schemes, IDS, silent) == {}


def test_an_input_that_is_not_finite_names_the_weight() -> None:
    for value in (float("inf"), float("nan")):
        model, schemes = make()
        with torch.no_grad():
            model.model.layers[1].input_layernorm.weight[0] = value
        said = "model.layers.1.self_attn.q_proj.weight: gets inputs that are not finite; the model or the calibration text is damaged"
        with pytest.raises(StageError, match=f"^{re.escape(said)}$"):
            measure_ranges(model, schemes, IDS, silent)


@pytest.mark.parametrize(
    ("scheme", "span"),
    [
        (Scheme(4, 16, False, (6, 40)), None),
        (Scheme(2, 16, True, (6, 40)), None),
        (Scheme(8, 40, True, (6, 40), "dynamic"), None),
        (Scheme(8, 40, True, (6, 40), "static"), (-1.5, 2.25)),
    ],
)
def test_what_is_stored_is_what_was_rounded(scheme: Scheme, span: tuple[float, float] | None) -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    rounded = round_to_nearest(weight, scheme.bits, scheme.block, scheme.symmetric)
    ranges = {} if span is None else {"a": span}
    stored = Grids({"a": scheme}, {**ranges, "b": (0.0, 1.0)}).stored("a", rounded)
    assert (stored.scheme, stored.input_range) == (scheme, span)
    assert (stored.zero_points is None) == scheme.symmetric
    np.testing.assert_array_equal(unpack(stored.codes, scheme.bits, scheme.block), rounded.codes.numpy())
    np.testing.assert_array_equal(stored.scales, rounded.scales.numpy())
    assert float(np.abs(dequantize(stored) - weight.numpy()).max()) < 1.2 * float(rounded.scales.abs().max())


def test_static_activations_without_a_range_are_refused() -> None:
    scheme = Scheme(8, 4, True, (4, 4), "static")
    with pytest.raises(ValueError, match=r"^static activations have a range of inputs, others have none$"):
        Grids({"a": scheme}).stored("a", round_to_nearest(torch.eye(4), 8, 4, True))
