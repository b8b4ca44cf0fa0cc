from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from compress.quantize import fisher
from compress.quantize.fisher import measure_curvature
from tests.references.tiny_families import tiny_model

WINDOWS, LENGTH, VOCABULARY = 3, 5, 64


def make(name: str = "llama", tied: bool = False) -> Any:
    kinds = {"layer_types": ["sliding_attention", "full_attention"]} if name.startswith("gemma") else {}
    return tiny_model(name, tied, num_hidden_layers=2, **kinds)


def distinct_ids() -> Tensor:
    """Return windows without a token twice, so that an embedding's row has the gradient of one token."""
    generator = torch.Generator().manual_seed(2)
    return torch.stack([torch.randperm(VOCABULARY - 3, generator=generator)[:LENGTH] + 3 for _ in range(WINDOWS)])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Return the next tokens [WINDOWS, LENGTH] that will be drawn."""
    known = torch.randint(0, VOCABULARY, (WINDOWS * LENGTH,), generator=torch.Generator().manual_seed(8))
    left: Iterator[int] = iter(known.tolist())

    def multinomial(shares: Tensor, count: int, generator: torch.Generator) -> Tensor:
        assert count == 1
        torch.testing.assert_close(shares.sum(-1), torch.ones(len(shares)))
        return torch.tensor([[next(left)] for _ in range(len(shares))])

    monkeypatch.setattr(torch, "multinomial", multinomial)
    return known.reshape(WINDOWS, LENGTH)


def gradients(model: Any, ids: Tensor, drawn: Tensor, weight: Tensor) -> list[Tensor]:
    """Return the gradient of each window's loss, token by token in float64 and added up."""
    found = []
    for window, tokens in zip(ids, drawn, strict=True):
        total = torch.zeros_like(weight)
        for at, token in enumerate(tokens):
            said = model(input_ids=window[None], use_cache=False).logits[0, at].log_softmax(-1)
            total += torch.autograd.grad(-said[token], weight)[0]
        found.append(total)
    return found


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_a_diagonal_is_the_square_of_each_windows_gradient(name: str, drawn: Tensor) -> None:
    model, ids = make(name), distinct_ids()
    found = measure_curvature(model, ids, 0, linears=True)
    linears = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert set(found.diagonals) == set(linears) - {"lm_head.weight"}
    assert found.tokens == WINDOWS * LENGTH
    for weight_name in (linears[0], linears[4], linears[5], linears[-2]):
        each = gradients(model, ids, drawn, model.get_parameter(weight_name))
        expected = sum(gradient.square() for gradient in each)
        torch.testing.assert_close(found.diagonals[weight_name].double(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["llama", "opt", "gemma2", "gemma3_text"])
def test_the_embeddings_curvature_is_the_second_moment_of_its_gradients(name: str, drawn: Tensor) -> None:
    model, ids = make(name), distinct_ids()
    found = measure_curvature(model, ids, 0).embedding
    embedding = model.get_input_embeddings().weight
    expected = torch.zeros(32, 32, dtype=torch.float64)
    for window, gradient in zip(ids, gradients(model, ids, drawn, embedding), strict=True):
        for token in window:
            expected += torch.outer(gradient[token], gradient[token])
    torch.testing.assert_close(found.inputs * WINDOWS * LENGTH, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.uses, torch.bincount(ids.flatten(), minlength=VOCABULARY).double())


@pytest.mark.parametrize("tied", [True, False])
def test_the_heads_curvature_is_that_of_its_softmax(tied: bool) -> None:
    model, ids = make("llama", tied), distinct_ids()
    found = measure_curvature(model, ids, 0).embedding
    outputs = torch.zeros(VOCABULARY, dtype=torch.float64)
    hidden = torch.zeros(32, 32, dtype=torch.float64)
    with torch.no_grad():
        for window in ids:
            states = model.model(input_ids=window[None], use_cache=False).last_hidden_state[0]
            for state in states:
                shares = model.lm_head(state).softmax(-1)
                outputs += shares * (1 - shares)
                hidden += (shares * (1 - shares)).sum() * torch.outer(state, state)
    torch.testing.assert_close(found.outputs, outputs, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(found.hidden * outputs.sum(), hidden, rtol=1e-5, atol=1e-6)


def test_the_cost_of_a_heads_row_is_the_curvature_of_the_loss_where_rows_meet_one_state() -> None:
    """For one token the Hessian of the loss in a row of the head is p (1 - p) h h^T exactly."""
    model, ids = make("llama"), distinct_ids()[:1, :1]
    found = measure_curvature(model, ids, 0).embedding
    state = model.model(input_ids=ids, use_cache=False).last_hidden_state[0, 0].detach()

    def loss(row: Tensor) -> Tensor:
        logits = model.lm_head(state).detach()
        return -torch.cat([logits[:7], (row @ state)[None], logits[8:]]).log_softmax(-1)[3]

    hessian = torch.autograd.functional.hessian(loss, model.lm_head.weight[7].detach())
    torch.testing.assert_close(found.outputs[7] * found.hidden, hessian, rtol=1e-5, atol=1e-9)


def test_half_the_quadratic_form_is_the_kl_of_a_small_change() -> None:
    model, ids = make(), torch.randint(3, 64, (4, 6), generator=torch.Generator().manual_seed(6))
    found = measure_curvature(model, ids.repeat(96, 1), 3, linears=True)
    for path in ("model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"):
        diagonal, weight = found.diagonals[f"{path}.weight"].double(), model.get_parameter(f"{path}.weight")
        # the elements that cost most, one of each row
        rows = diagonal.amax(1).argsort(descending=True)[:8].tolist()
        places = [(row, int(diagonal[row].argmax())) for row in rows]
        measured = sum(kl_of_change(model, ids, weight, place, 1e-3) for place in places)
        estimated = sum(1e-6 * float(diagonal[place]) / (2 * found.tokens) for place in places)
        assert estimated == pytest.approx(measured, rel=0.15)


@torch.no_grad()
def kl_of_change(model: Any, ids: Tensor, weight: Tensor, place: tuple[int, int], step: float) -> float:
    """Return the KL of the changed model to the model, in nats a token."""
    truth = model(input_ids=ids).logits.log_softmax(-1)
    weight[place] += step
    said = model(input_ids=ids).logits.log_softmax(-1)
    weight[place] -= step
    return float((truth.exp() * (truth - said)).sum(-1).mean())


@pytest.mark.parametrize(("name", "value"), [("_LOGITS", 1), ("_LOGITS", 2 * LENGTH * VOCABULARY), ("_ROWS", 4)])
def test_the_parts_of_the_work_do_not_change_the_sums(name: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def first(shares: Tensor, _count: int, generator: torch.Generator) -> Tensor:
        return shares.argmax(-1, keepdim=True)

    monkeypatch.setattr(torch, "multinomial", first)
    model, ids = make(tied=True), distinct_ids()
    whole = measure_curvature(model, ids, 0, linears=True)
    monkeypatch.setattr(fisher, name, value)
    parts = measure_curvature(model, ids, 0, linears=True)
    for field in ("uses", "inputs", "outputs", "hidden"):
        torch.testing.assert_close(
            getattr(parts.embedding, field), getattr(whole.embedding, field), rtol=1e-5, atol=1e-8
        )
    for weight_name, diagonal in whole.diagonals.items():
        torch.testing.assert_close(parts.diagonals[weight_name], diagonal, rtol=1e-4, atol=1e-8)


def test_the_same_seed_draws_the_same_and_the_model_is_left_as_it_was() -> None:
    model, ids = make(), distinct_ids()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    model.lm_head.weight.requires_grad_(False)
    said: list[tuple[float, float, str]] = []
    first = measure_curvature(
        model, ids, 1, True, lambda done, total, unit="", note="": said.append((done, total, unit))
    )
    again, other = measure_curvature(model, ids, 1, True), measure_curvature(model, ids, 2, True)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first.diagonals[name], again.diagonals[name])
    assert not torch.equal(first.diagonals[name], other.diagonals[name])
    assert torch.equal(first.embedding.outputs, other.embedding.outputs)
    assert said == [(WINDOWS, WINDOWS, "windows")]
    for weight_name, weight in model.named_parameters():
        assert torch.equal(weight, before[weight_name])
        assert weight.grad is None
        assert weight.requires_grad == (weight_name != "lm_head.weight")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_without_linears_only_the_embedding_is_measured() -> None:
    model, ids = make(tied=True), distinct_ids()
    assert measure_curvature(model, ids, 0).diagonals == {}
