"""The loss in chunks of rows gives the values and gradients of the plain one, and holds little at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.profiler import ProfilerActivity, profile

from compress.distill.losses import forward_kl
from compress.models.head import Tail, split
from compress.training.chunked import LOGITS, chunked_loss, rows_at_a_time
from tests.references.tiny_families import tiny_model

ROWS, WIDTH, VOCABULARY = 11, 6, 17


def parts_of(dtype=torch.float64, bias=True, rows=ROWS, **tail):
    torch.manual_seed(0)
    hidden = torch.randn(rows, WIDTH, dtype=dtype, requires_grad=True)
    return hidden, Tail(nn.Linear(WIDTH, VOCABULARY, bias=bias, dtype=dtype), **tail)


def rows_loss_of(rows=ROWS, calls=None):
    """Squares against fixed rows and a normaliser, with two weights."""
    wanted = torch.randn(rows, VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def rows_loss(logits, part):
        if calls is not None:
            calls.append((part.start, part.stop, logits.dtype))
        exact = logits if logits.dtype == torch.float64 else logits.float()
        squares = (exact - wanted[part].to(exact.dtype)).square().sum()
        normaliser = exact.logsumexp(-1).sum()
        return 0.3 * squares + 2.0 * normaliser, {"squares": squares, "normaliser": normaliser}

    return rows_loss


def gradients(total, hidden, tail):
    leaves = [hidden, tail.head.weight] + ([tail.head.bias] if tail.head.bias is not None else [])
    return torch.autograd.grad(total / 7, leaves)


@pytest.mark.parametrize("chunk", [1, 4, 11, 100, None])
@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"scale": 0.5}, {"softcap": 3.0, "scale": 2.0}])
def test_values_and_gradients_are_those_of_the_plain_way(chunk, settings):
    hidden, tail = parts_of(**settings)
    plain, terms = rows_loss_of()(tail(hidden), slice(0, ROWS))
    total, sums = chunked_loss(hidden, tail, rows_loss_of(), chunk)
    assert total.item() == pytest.approx(plain.item(), rel=1e-12)
    assert {name: value.item() for name, value in sums.items()} == pytest.approx(
        {name: value.item() for name, value in terms.items()}, rel=1e-12
    )
    assert not any(value.requires_grad for value in sums.values())
    for found, expected in zip(gradients(total, hidden, tail), gradients(plain, hidden, tail), strict=True):
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("vocabulary", [50, 3000])
def test_in_float32_gradients_agree_to_1e_5(vocabulary):
    torch.manual_seed(0)
    tail = Tail(nn.Linear(32, vocabulary, bias=False))
    hidden = torch.randn(300, 32, requires_grad=True)
    wanted = torch.randint(vocabulary, (300,))

    def rows_loss(logits, part):
        value = nn.functional.cross_entropy(logits, wanted[part], reduction="sum")
        return value, {"cross_entropy": value}

    plain = gradients(rows_loss(tail(hidden), slice(None))[0], hidden, tail)
    for chunk in (7, 64, None):
        total, _ = chunked_loss(hidden, tail, rows_loss, chunk)
        for found, expected in zip(gradients(total, hidden, tail), plain, strict=True):
            assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_chunks_are_even_in_order_and_as_many_as_needed():
    calls: list[Any] = []
    hidden, tail = parts_of()
    chunked_loss(hidden, tail, rows_loss_of(calls=calls), 4)
    assert [call[:2] for call in calls] == [(0, 3), (3, 7), (7, 11)]
    calls.clear()
    chunked_loss(hidden, tail, rows_loss_of(calls=calls))
    assert [call[:2] for call in calls] == [(0, 11)]
    assert VOCABULARY * ROWS < LOGITS


def test_without_gradients_only_values_are_computed():
    hidden, tail = parts_of()
    with_graph, sums = chunked_loss(hidden, tail, rows_loss_of(), 4)
    with torch.no_grad():
        total, same = chunked_loss(hidden, tail, rows_loss_of(), 4)
    assert not total.requires_grad
    assert total.item() == with_graph.item()
    assert same == sums
    fixed = Tail(tail.head.requires_grad_(False))
    assert not chunked_loss(hidden.detach(), fixed, rows_loss_of(), 4)[0].requires_grad
    total, _ = chunked_loss(hidden, fixed, rows_loss_of(), 4)
    total.backward()
    assert tail.head.weight.grad is None
    assert hidden.grad.abs().sum() > 0


def test_without_rows_the_total_is_zero_and_runs_backward():
    hidden, tail = parts_of(rows=0)
    total, sums = chunked_loss(hidden, tail, rows_loss_of(0))
    total.backward()
    assert (total.item(), sums) == (0, {})
    assert not tail.head.weight.grad.any()


def test_a_second_backward_is_refused():
    hidden, tail = parts_of()
    total, _ = chunked_loss(hidden, tail, rows_loss_of())
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="the chunked loss was run backward before"):
        total.backward()


def test_a_weight_that_is_computed_passes_its_gradient_on():
    class Rounded(nn.Module):
        def forward(self, weight):
            return weight + (torch.round(weight * 4) / 4 - weight).detach() + weight.square()

    found = []
    for chunk in (None, 2):
        hidden, tail = parts_of()
        parametrize.register_parametrization(tail.head, "weight", Rounded())
        total = (
            chunked_loss(hidden, tail, rows_loss_of(), chunk)[0]
            if chunk
            else rows_loss_of()(tail(hidden), slice(None))[0]
        )
        total.backward()
        found.append(tail.head.parametrizations.weight.original.grad)
    assert torch.allclose(*found, rtol=1e-10)
    assert found[0].abs().sum() > 0


def test_a_tied_embedding_gets_both_gradients():
    ids = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(0))
    found = []
    for chunk in (None, 5):
        model = tiny_model("gemma2", tied=True)
        body, tail = split(model)

        def rows_loss(logits, part):
            value = logits.logsumexp(-1).sum() - logits[:, 3].sum()
            return value, {"value": value}

        rows = body(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        total = chunked_loss(rows, tail, rows_loss, chunk)[0] if chunk else rows_loss(tail(rows), slice(None))[0]
        total.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.allclose(own, other, rtol=1e-9, atol=1e-11) for own, other in zip(*found, strict=True))
    assert len(found[0]) > 10


def test_under_autocast_the_products_are_bfloat16_and_sums_float32():
    calls: list[Any] = []
    hidden, tail = parts_of(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        plain, _ = rows_loss_of()(tail(hidden), slice(0, ROWS))
        total, _ = chunked_loss(hidden, tail, rows_loss_of(calls=calls), 4)
    assert {call[2] for call in calls} == {torch.bfloat16}
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(plain.item(), rel=1e-5)
    exact = gradients(rows_loss_of()(tail(hidden), slice(0, ROWS))[0], hidden, tail)
    for found, other, wanted in zip(gradients(total, hidden, tail), gradients(plain, hidden, tail), exact, strict=True):
        assert found.dtype == torch.float32
        assert float((found - wanted).norm()) < 1.5 * float((other - wanted).norm()) + 1e-6


def test_weights_in_bfloat16_get_their_sum_rounded_once():
    hidden, tail = parts_of(torch.bfloat16)
    exact = gradients(rows_loss_of()(tail(hidden), slice(0, ROWS))[0], hidden, tail)
    for found, expected in zip(
        gradients(chunked_loss(hidden, tail, rows_loss_of(), 1)[0], hidden, tail), exact, strict=True
    ):
        assert found.dtype == torch.bfloat16
        assert float((found - expected).float().norm() / expected.float().norm()) < 0.01


def peak_bytes(work):
    """Return the most memory that is allocated at once during `work`, beyond what was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def kl_memory(rows, width, vocabulary, chunk):
    """Return the peak bytes of forward_kl from two heads, without the gradient of the student's: plain, and in chunks."""
    torch.manual_seed(0)
    hidden, wanted = torch.randn(rows, width, requires_grad=True), torch.randn(rows, width)
    tail = Tail(nn.Linear(width, vocabulary, bias=False))
    teacher = Tail(nn.Linear(width, vocabulary, bias=False).requires_grad_(False))

    def rows_loss(logits, part):
        value = forward_kl(logits, teacher(wanted[part]))
        return value, {"forward_kl": value}

    plain = peak_bytes(lambda: rows_loss(tail(hidden), slice(None))[0].backward())
    tail.head.weight.grad = None
    chunked = peak_bytes(lambda: chunked_loss(hidden, tail, rows_loss, chunk)[0].backward())
    return tuple(found - 4 * width * vocabulary for found in (plain, chunked))


def test_memory_is_that_of_one_chunk():
    rows, vocabulary, chunk = 512, 8192, 32
    plain, chunked = kl_memory(rows, 16, vocabulary, chunk)
    assert plain > 6 * 4 * rows * vocabulary
    assert chunked < 7.5 * 4 * chunk * vocabulary


def test_the_default_chunk_is_cached_on_a_cpu_and_bounded_everywhere():
    assert rows_at_a_time(4096, "cpu") == 512
    assert rows_at_a_time(50_257, "cpu") == 128
    assert rows_at_a_time(151_936, "cpu") == rows_at_a_time(151_936, "cuda") == 110
    assert rows_at_a_time(4096, "cuda") == 4096
    assert rows_at_a_time(2 * LOGITS, "cpu") == 1
    assert 11 * 4 * LOGITS < 2**30
