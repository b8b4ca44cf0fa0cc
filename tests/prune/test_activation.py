"""Scores from one pass over text: equal to slow ones on every family, and no trace of the hooks is left."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from compress.contract import silent
from compress.models.families import family_of, shape_of
from compress.models.family import Family
from compress.models.layers import base_of, layers_of, matrix, row_of, run_base
from compress.prune.activation import ActivationScores
from tests.references import pruning as slow
from tests.references.tiny_families import ARCHITECTURES, CONFIGS, ENCODERS, tiny_model

IDS = torch.randint(3, 64, (3, 5), generator=torch.Generator().manual_seed(5))
EVERY = {"layers", "ffn", "heads", "hidden"}


@functools.cache
def _model(family: str, architecture: int = 0) -> Any:
    return tiny_model(family, architectures=[ARCHITECTURES[family][architecture]])


def _family(model: Any) -> Family:
    return family_of(model.config.to_dict())


@functools.cache
def _scores(family: str) -> ActivationScores:
    scores = ActivationScores(_model(family), _family(_model(family)), EVERY)
    scores.run(IDS, silent)
    return scores


def _seen(model: Any, module: Any, entering: bool) -> Tensor:
    """Return what one module is given, or what it gives, for IDS, window by window."""
    found: list[Tensor] = []
    if entering:
        handle = module.register_forward_pre_hook(lambda _m, args: found.append(args[0]))
    else:
        handle = module.register_forward_hook(lambda _m, _a, out: found.append(out if torch.is_tensor(out) else out[0]))
    with torch.no_grad():
        model(input_ids=IDS)
    handle.remove()
    # OPT's feed-forward is given all tokens in one row.
    return found[0].view(*IDS.shape, -1)


def _near(values: list[float]) -> Any:
    # Some families compute in float32 inside whatever their weights are.
    return pytest.approx(values, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("family", CONFIGS)
def test_columns_and_heads_equal_the_references(family):
    model, facts = _model(family), _family(_model(family))
    ffn, heads = _scores(family).ffn(), _scores(family).heads()
    for index in (0, 3):
        layer = layers_of(model, facts)[index]
        out, read = layer.get_submodule(facts.ffn_out), row_of(facts, facts.ffn_out)
        expected = slow.column_energy(_seen(model, out, True).tolist(), matrix(out, read).tolist())
        assert ffn[index].tolist() == _near(expected)
        out, read = layer.get_submodule(facts.attention_out), row_of(facts, facts.attention_out)
        expected = slow.head_energy(_seen(model, out, True).tolist(), matrix(out, read).tolist(), 4)
        assert heads[index].tolist() == _near(expected)


@pytest.mark.parametrize("family", CONFIGS)
def test_layers_equal_the_reference(family):
    model = _model(family)
    layers = layers_of(model, _family(model))
    found = _scores(family).layers()
    with torch.no_grad():
        states = model(input_ids=IDS, output_hidden_states=True).hidden_states
    for index in range(4):
        after = _seen(model, layers[index], False)
        expected = slow.block_influence(states[index].tolist(), after.tolist())
        assert float(found[index]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("family", CONFIGS)
def test_channels_equal_the_reference(family):
    """Every linear of a layer that is as wide as the stream and stands behind it, and the head."""
    model, facts = _model(family), _family(_model(family))
    energies = []
    for layer in layers_of(model, facts):
        for path, module in layer.named_modules():
            if path in (facts.attention_out, facts.ffn_out) or getattr(module, "weight", None) is None:
                continue
            if module.weight.dim() == 2:
                weight = matrix(module, row_of(facts, path))
                energies.append(slow.column_energy(_seen(model, module, True).tolist(), weight.tolist()))
    end = _seen(model, base_of(model, facts), False)
    energies.append(slow.column_energy(end.tolist(), model.get_output_embeddings().weight.tolist()))
    assert _scores(family).hidden().tolist() == _near(slow.channel_shares(energies))
    assert len(energies) > 4 * 2


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("architecture", [1, 2, 3])
def test_encoders_without_a_head_over_tokens_are_scored_too(family, architecture):
    model = _model(family, architecture)
    scores = ActivationScores(model, _family(model), EVERY)
    scores.run(IDS, silent)
    for axis, shape in (("layers", (4,)), ("ffn", (4, 48)), ("heads", (4, 4)), ("hidden", (32,))):
        found = getattr(scores, axis)()
        assert found.shape == shape
        assert torch.isfinite(found).all()
        assert found.unique().numel() == found.numel()
    assert float(scores.hidden().sum()) == pytest.approx(1)


def test_what_is_not_wanted_is_not_watched_and_no_hook_is_left():
    model = tiny_model("llama")

    def hooks() -> int:
        return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())

    counts: list[int] = []
    handle = model.model.embed_tokens.register_forward_hook(lambda *_args: counts.append(hooks()))
    for wanted, watched in (({"ffn"}, 4), ({"layers"}, 4), ({"layers", "heads"}, 8), ({"hidden"}, 4 * 5 + 1)):
        ActivationScores(model, _family(model), wanted).run(IDS, silent)
        assert counts.pop() - 1 == watched
    handle.remove()
    with pytest.raises(IndexError):
        ActivationScores(model, _family(model), EVERY).run(torch.tensor([[64]]), silent)
    assert hooks() == 0


def test_the_same_text_gives_the_same_scores_in_any_batches(monkeypatch):
    model = _model("gpt2")
    results = []
    for batch in (8, 8, 2):
        monkeypatch.setattr("compress.prune.activation.BATCH", batch)
        scores = ActivationScores(model, _family(model), EVERY)
        scores.run(IDS, silent)
        results.append([scores.layers(), scores.ffn(), scores.heads(), scores.hidden()])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(results[0], results[2], strict=True))


def test_progress_counts_the_windows():
    said: list[tuple[float, float, str]] = []
    scores = ActivationScores(_model("llama"), _family(_model("llama")), {"ffn"})
    scores.run(IDS.repeat(4, 1), lambda done, total, unit="", note="": said.append((done, total, unit)))
    assert said == [(8, 12, "windows"), (12, 12, "windows")]


@pytest.mark.parametrize("family", CONFIGS)
def test_the_base_gives_what_the_whole_model_s_base_gives_without_a_cache(family):
    model, facts = _model(family), _family(_model(family))
    with torch.no_grad():
        found = run_base(model, facts, IDS)
        last = model(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(found[0], last)
    assert found.get("past_key_values") is None
    assert shape_of(model.config.to_dict()).hidden == found[0].shape[-1]
