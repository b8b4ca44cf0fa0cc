"""What a weight costs: the estimate beside a slow float64 sum, and beside the KL that is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.contract import silent
from compress.models.scheme import Scheme
from compress.quantize import sensitivity
from compress.quantize.by_layer import embedding_and_head
from compress.quantize.fisher import Curvature, EmbeddingCurvature, measure_curvature
from compress.quantize.rtn import round_to_nearest
from compress.quantize.sensitivity import Weights, estimated, measured
from compress.quantize.stage import list_matrices
from tests.references.tiny_families import tiny_model

Grids = dict[str, list[Scheme]]
IDS = torch.randint(3, 64, (6, 12), generator=torch.Generator().manual_seed(3))


def make(tied: bool = True) -> Any:
    return tiny_model("llama", tied, torch.float32, num_hidden_layers=2)


def weights_of(model: Any) -> Weights:
    return Weights(list_matrices(model)[1], *embedding_and_head(model))


def grids_of(weights: Weights, *settings: tuple[int, int, bool]) -> Grids:
    return {
        name: [Scheme(bits, block, symmetric, tuple(weight.shape)) for bits, block, symmetric in settings]
        for name, weight in weights.tensors.items()
    }


def error_of(weight: Tensor, scheme: Scheme) -> np.ndarray:
    """Return rounded minus float [N, K], value by value in float64."""
    found = round_to_nearest(weight, scheme.bits, scheme.block, scheme.symmetric)
    steps = found.codes.double() - found.zeros.double().unsqueeze(-1)
    rounded = (steps * found.scales.double().unsqueeze(-1)).reshape(len(weight), -1)[:, : weight.shape[1]]
    return (rounded - weight.detach().double()).numpy()


def slow_cost(name: str, weights: Weights, scheme: Scheme, curvature: Curvature) -> float:
    error = error_of(weights.tensors[name], scheme)
    if name not in (weights.embedding, weights.head):
        return float((curvature.diagonals[name].double().numpy() * error**2).sum()) / 2 / curvature.tokens
    both, total = curvature.embedding, 0.0
    for row, e in enumerate(error):
        if name == weights.embedding:
            total += float(both.uses[row]) * float(e @ both.inputs.numpy() @ e)
        if name == weights.head:
            total += float(both.outputs[row]) * float(e @ both.hidden.numpy() @ e)
    return total / 2 / curvature.tokens


@pytest.mark.parametrize("tied", [True, False])
def test_the_estimate_is_half_the_quadratic_form(tied: bool) -> None:
    model = make(tied)
    weights = weights_of(model)
    curvature = measure_curvature(model, IDS, 0, linears=True)
    grids = grids_of(weights, (2, 32, True), (4, 16, False), (8, 64, True))
    found = estimated(weights, grids, curvature)
    assert set(found) == set(weights.tensors)
    assert len(found) == 2 * 7 + (1 if tied else 2)
    for name, costs in found.items():
        expected = [slow_cost(name, weights, scheme, curvature) for scheme in grids[name]]
        assert costs == pytest.approx(expected, rel=1e-4)
        assert costs[0] > costs[1] > costs[2] > 0


def tall(rows: int, width: int) -> tuple[Tensor, Tensor]:
    """Return a weight and its curvature, of which some rows carry ten times as much as others."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(rows, width, generator=generator)
    curvature = torch.rand(rows, width, generator=generator) * torch.exp(torch.randn(rows, 1, generator=generator))
    return weight, curvature


@pytest.mark.parametrize("rows", [97, 193, 500])
def test_some_rows_stand_for_all_of_a_tall_matrix(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, diagonal = tall(rows, 24)
    none = EmbeddingCurvature(*(torch.zeros(1, dtype=torch.float64) for _ in range(4)))
    curvature = Curvature(7, {"a.weight": diagonal}, none)
    weights = Weights({"a.weight": weight}, "embedding", "head")
    grids = grids_of(weights, (4, 8, True), (2, 8, False))
    monkeypatch.setattr(sensitivity, "_ROWS", 96)
    looked_at: list[int] = []
    real = sensitivity.round_to_nearest
    monkeypatch.setattr(
        sensitivity, "round_to_nearest", lambda some, *grid: looked_at.append(len(some)) or real(some, *grid)
    )
    found = estimated(weights, grids, curvature)["a.weight"]
    expected = [slow_cost("a.weight", weights, scheme, curvature) for scheme in grids["a.weight"]]
    assert found == pytest.approx(expected, rel=0.1)
    assert max(looked_at) <= 144


def test_some_rows_stand_for_all_of_an_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, _ = tall(400, 16)
    generator = torch.Generator().manual_seed(2)
    square = torch.randn(16, 16, generator=generator).double()
    often = 1 / torch.arange(1.0, 401, dtype=torch.float64)
    embedding = EmbeddingCurvature(often, square @ square.T, often.flip(0), square.T @ square)
    curvature = Curvature(5, {}, embedding)
    grids = grids_of(Weights({"e": weight}, "e", "e"), (4, 16, True))
    monkeypatch.setattr(sensitivity, "_ROWS", 64)
    for uses in (("e", "e"), ("e", "h"), ("h", "e")):
        weights = Weights({"e": weight}, *uses)
        (found,) = estimated(weights, grids, curvature)["e"]
        assert found == pytest.approx(slow_cost("e", weights, grids["e"][0], curvature), rel=0.1)


def kl_of(model: Any, name: str, scheme: Scheme) -> float:
    """Return the KL of the model with one weight rounded to the model, in float64, nats a token."""
    with torch.no_grad():
        truth = model(input_ids=IDS).logits.double().log_softmax(-1)
        weight = model.get_parameter(name)
        kept = weight.clone()
        weight.add_(torch.from_numpy(error_of(weight, scheme)).float())
        said = model(input_ids=IDS).logits.double().log_softmax(-1)
        weight.copy_(kept)
    return float((truth.exp() * (truth - said)).sum(-1).mean())


def test_the_measured_cost_is_the_kl_for_each_number_of_bits_and_blocks_compare_as_estimated() -> None:
    model = make()
    weights = weights_of(model)
    settings = ((2, 16, True), (2, 32, True), (4, 16, True), (4, 32, True), (4, 64, True))
    grids = {name: each for name, each in grids_of(weights, *settings).items() if ".0." in name or "embed" in name}
    costs = {name: [5.0, 6.0, 1.0, 2.0, 3.0] for name in grids}
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    told: list[tuple[float, float, str, str]] = []
    found = measured(model, weights, grids, IDS, costs, lambda *said: told.append(said))
    assert list(found) == list(grids)
    for name, (first, second, *four) in found.items():
        assert second == pytest.approx(kl_of(model, name, grids[name][1]), rel=1e-3)
        assert first == pytest.approx(second * 5 / 6)
        assert four[1] == pytest.approx(kl_of(model, name, grids[name][3]), rel=2e-3)
        assert four == pytest.approx([four[1] / 2, four[1], four[1] * 1.5])
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert told[-1] == (8, 8, "weights", f"KL of {list(grids)[-1]}")


def test_a_weight_is_put_back_where_the_measurement_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    weights = weights_of(model)
    grids = grids_of(weights, (4, 32, True))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    real, calls = sensitivity._log_probabilities, []

    def stop(*given: Any) -> Tensor:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(sensitivity, "_log_probabilities", stop)
    with pytest.raises(KeyboardInterrupt):
        measured(model, weights, grids, IDS, {name: [1.0] for name in grids}, silent)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_as_many_windows_are_measured_as_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    weights = weights_of(model)
    grids = {name: each for name, each in grids_of(weights, (4, 32, True)).items() if "q_proj" in name}
    costs = {name: [1.0] for name in grids}
    some = measured(model, weights, grids, IDS[:2], costs, silent)
    monkeypatch.setattr(sensitivity, "_LOGITS", 2 * 12 * 64)
    assert measured(model, weights, grids, IDS, costs, silent) == some
    monkeypatch.setattr(sensitivity, "_LOGITS", 1)
    assert measured(model, weights, grids, IDS, costs, silent) == measured(
        model, weights, grids, IDS[:1], costs, silent
    )


def counting_text(windows: int) -> Tensor:
    """Return text with something to learn: numbers that go up by 1, 2 or 3, by what the first two say."""
    generator = torch.Generator().manual_seed(4)
    start = torch.randint(0, 60, (windows, 1), generator=generator)
    step = torch.randint(1, 4, (windows, 1), generator=generator)
    return 3 + (start + step * torch.arange(16)) % 60


def trained() -> Any:
    model = tiny_model("llama", True, torch.float32, num_hidden_layers=2).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        ids = counting_text(60 * 16)[step * 16 : step * 16 + 16]
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


def rank(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values))


def test_estimates_order_weights_as_measured_kl_does() -> None:
    model = trained()
    weights, ids = weights_of(model), counting_text(64)
    grids = grids_of(weights, (4, 32, True))
    guessed = estimated(weights, grids, measure_curvature(model, ids, 0, linears=True))
    true = measured(model, weights, grids, ids, guessed, silent)
    pairs = [(guessed[name][0], true[name][0]) for name in grids]
    assert np.corrcoef(*(rank(list(side)) for side in zip(*pairs, strict=True)))[0, 1] > 0.8
    ratios = [guess / kl for guess, kl in pairs]
    assert 0.5 < float(np.median(ratios)) < 2
