"""Layers run one at a time on streams as they run in the model, and a trace sees what it is told to."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from compress.models import streams
from compress.models.families import family_of
from compress.models.family import Family
from compress.models.layers import layers_of, run_base
from compress.models.streams import Trace, batch_size
from tests.references.tiny_families import CONFIGS, tiny_model

IDS = torch.randint(3, 64, (16, 16), generator=torch.Generator().manual_seed(1))


@functools.cache
def _model(family: str) -> Any:
    return tiny_model(family, dtype=torch.float32)


def _family(model: Any) -> Family:
    return family_of(model.config.to_dict())


def _stream(model: Any, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        found: Tensor = run_base(model, _family(model), ids)[0]
    return found


def test_batches_divide_the_windows():
    assert [batch_size(count) for count in (1, 2, 7, 8, 11, 12, 16, 20, 128)] == [1, 2, 7, 8, 1, 6, 8, 5, 8]


@pytest.mark.parametrize("family", CONFIGS)
def test_layers_run_alone_as_they_run_in_the_model(family):
    model = _model(family)
    facts, ids = _family(model), IDS[:6]
    calls, found = streams.layer_calls(model, facts, ids), streams.first_streams(model, facts, ids)
    assert [len(batch) for batch in found] == [6]
    for layer, call in zip(layers_of(model, facts), calls, strict=True):
        assert "past_key_values" not in call[1]
        found = [streams.forward(layer, stream, call) for stream in found]
    layer = layers_of(model, facts)[-1]
    last: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _m, _a, out: last.append(out if torch.is_tensor(out) else out[0]))
    _stream(model, ids)
    handle.remove()
    assert torch.allclose(torch.cat(found), last[0], atol=1e-5)


def test_a_trace_sees_and_ends_where_it_is_told():
    model = _model("llama")
    facts = _family(model)
    call, stream = streams.layer_calls(model, facts, IDS)[1], streams.first_streams(model, facts, IDS)[0]
    layer = layers_of(model, facts)[1]
    trace = Trace(layer, stream, call, ["mlp.gate_proj"], ["self_attn.o_proj"])
    assert set(trace.given) == {"mlp.gate_proj"}
    assert set(trace.gave) == {"self_attn.o_proj"}
    assert torch.equal(trace.after, streams.forward(layer, stream, call))
    ended = Trace(layer, stream, call, gave=["self_attn.o_proj", "mlp.down_proj"], until="mlp.down_proj")
    assert ended.after is None
    assert set(ended.given) == {"mlp.down_proj"}
    assert set(ended.gave) == {"self_attn.o_proj"}
    assert list(_hooks(model)) == []


def _hooks(model: Any) -> Iterator[Any]:
    for module in model.modules():
        yield from (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
