"""The mix that meets a target: never above it, close to it, legal, the same at every call; what is out of reach is refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from compress.models.families import Shape, count_parameters, cut_config, shape_of
from compress.models.skeleton import prove_shapes
from compress.prune.balance import balanced
from compress.prune.options import PruneOptions
from compress.prune.plan import sizes_after
from tests.references.tiny_families import CONFIGS, tiny_config

FRACTIONS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
GROUPED: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 512,
    "tie_word_embeddings": True,
}
# The sizes of GPT-2, of SmolLM2-135M and of TinyLlama.
REAL: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
    },
    "smollm2": {
        **GROUPED,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    "tinyllama": {
        **GROUPED,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    },
}
LONG: dict[str, Any] = {
    "model_type": "phi3",
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "vocab_size": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 64,
    "original_max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 32,
        "long_factor": [1.0] * 32,
        "original_max_position_embeddings": 64,
    },
}


def _plain(family: str, tied: bool = True) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(tiny_config(family, tied).to_json_string())
    return written


def _count(config: dict[str, Any], mix: Shape) -> int:
    return sum(count_parameters(cut_config(config, mix)).values())


def _one_more_column(config: dict[str, Any], mix: Shape) -> int:
    """Return how many parameters the least widening of the feed-forward adds: a multiple of 8 columns where it is wide."""
    step = 8 if shape_of(config).ffn >= 64 else 1
    return _count(config, mix_with(mix, mix.ffn + step)) - _count(config, mix)


def mix_with(mix: Shape, ffn: int) -> Shape:
    return Shape(**{**vars(mix), "ffn": ffn})


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_meets_every_target_and_transformers_builds_it(family, tied):
    config = _plain(family, tied)
    total = _count(config, shape_of(config))
    mixes = []
    # Embedding and head of their own are half of these tiny models, and neither goes.
    fractions = FRACTIONS if tied else FRACTIONS[:-1]
    for fraction in fractions:
        target = round(total * fraction)
        mix = balanced(target, config)
        assert _count(config, mix) <= target
        # A whole feed-forward cannot be widened: heads of a coupled family go in steps of their own.
        if mix.ffn < shape_of(config).ffn:
            assert target - _count(config, mix) < _one_more_column(config, mix)
        prove_shapes(cut_config(config, mix))
        mixes.append(mix)
    assert mixes == [balanced(round(total * fraction), config) for fraction in fractions]


@pytest.mark.parametrize("name", REAL)
def test_models_of_real_sizes_are_used_to_the_last_multiple(name):
    config = REAL[name]
    before = shape_of(config)
    total = _count(config, before)
    for fraction in FRACTIONS[:6]:
        target = round(total * fraction)
        mix = balanced(target, config)
        assert _count(config, mix) <= target
        if mix.ffn < before.ffn:
            assert mix.ffn % 8 == 0
            assert target - _count(config, mix) < _one_more_column(config, mix)
        assert mix.vocabulary == before.vocabulary
        assert (mix.hidden == before.hidden) == (mix.heads == before.heads or name != "gpt2")


def test_feed_forward_goes_to_half_then_layers_then_feed_forward_again_then_heads():
    before = shape_of(GROUPED)
    total = _count(GROUPED, before)
    mixes = [balanced(round(total * fraction), GROUPED) for fraction in (*FRACTIONS, 0.2)]
    assert [(mix.layers, mix.ffn, mix.heads, mix.kv_heads) for mix in mixes] == [
        (4, 648, 16, 4),
        (4, 600, 16, 4),
        (4, 504, 16, 4),
        (4, 408, 16, 4),
        (3, 496, 16, 4),
        (3, 368, 16, 4),
        (2, 464, 16, 4),
        (2, 272, 16, 4),
        (2, 184, 8, 2),
    ]
    for mix in mixes:
        assert mix.hidden == before.hidden
        # Heads are not cut harder than the feed-forward.
        assert mix.heads == before.heads or mix.heads / before.heads >= mix.ffn / before.ffn
        assert mix.kv_heads >= 2


def test_where_heads_and_width_go_together_they_go_once_the_feed_forward_is_half_gone():
    config = REAL["gpt2"]
    total = _count(config, shape_of(config))
    mixes = [balanced(round(total * fraction), config) for fraction in (0.9, 0.8, 0.75, 0.5)]
    assert [(mix.heads, mix.hidden) for mix in mixes[:2]] == [(12, 768)] * 2
    assert mixes[3].heads < 12
    assert all(mix.hidden == 64 * mix.heads and mix.ffn >= 3072 / 2 and mix.layers == 12 for mix in mixes)


def test_a_width_that_the_config_class_measures_is_left_and_its_heads_too():
    total = _count(LONG, shape_of(LONG))
    for fraction in (0.8, 0.6, 0.4):
        mix = balanced(round(total * fraction), LONG)
        assert (mix.heads, mix.hidden) == (8, 512)
        prove_shapes(cut_config(LONG, mix))


def test_layers_that_depend_on_their_number_stay():
    config = {**REAL["gpt2"], "n_layer": 4, "vocab_size": 1000}
    by_index = {**config, "scale_attn_by_inverse_layer_idx": True}
    least = _least(_refusal(1, by_index))
    assert balanced(least, by_index).layers == balanced(least, config).layers == 4
    assert balanced(least - 1, config).layers == 3
    assert "out of reach" in _refusal(least - 1, by_index)


def test_the_default_mix_of_the_bar():
    assets = os.environ.get("COMPRESS_ASSETS")
    if not assets:
        pytest.skip("COMPRESS_ASSETS is not set")
    config = json.loads((Path(assets) / "models" / "stories3M" / "config.json").read_text())
    options = PruneOptions.model_validate({"keep": {"parameters": 2_558_000}})
    mix = sizes_after(options, config)
    before = shape_of(config)
    removed = _count(config, before) - _count(config, mix)
    without_embedding = _count(config, before) - count_parameters(config)["embedding"]
    assert 0.245 < removed / without_embedding < 0.26
    assert _count(config, mix) <= 2_558_000
    assert (mix.layers, mix.heads, mix.hidden) == (before.layers, before.heads, before.hidden)


def test_a_harder_cut_takes_layers_before_more_than_half_of_the_feed_forward():
    shape = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "head_dim": 32, "vocab_size": 4096}
    config = {**GROUPED, **shape, "num_attention_heads": 6, "num_key_value_heads": 2}
    mix = balanced(1_970_000, config)
    assert (mix.layers, mix.ffn, mix.heads, mix.kv_heads, mix.hidden) == (4, 336, 6, 2, 192)


def _refusal(target: int, config: dict[str, Any]) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        balanced(target, config)
    return str(caught.value)


def _least(refusal: str) -> int:
    found = re.search(r"the least is ([\d,]+)\.", refusal)
    assert found
    return int(found[1].replace(",", ""))


def test_more_than_there_is_is_refused():
    total = _count(GROUPED, shape_of(GROUPED))
    message = "keep: the model has {:,} parameters, which is not more than the {:,} to keep; nothing to remove"
    assert _refusal(total, GROUPED) == message.format(total, total)
    assert _refusal(total + 1, GROUPED) == message.format(total, total + 1)
    assert balanced(total - 1, GROUPED).ffn == 696


@pytest.mark.parametrize("name", ["grouped", "odd", "long", "smollm2", "tinyllama", *CONFIGS])
def test_what_is_out_of_reach_is_refused_with_the_least_that_can_be_had(name):
    # A quarter of 100 columns is 25, and they go by eights.
    own = {"grouped": GROUPED, "odd": {**GROUPED, "intermediate_size": 100}, "long": LONG, **REAL}
    config = own[name] if name in own else _plain(name)
    total = _count(config, shape_of(config))
    said = _refusal(1, config)
    least = _least(said)
    assert said == (
        f"keep: 1 of {total:,} parameters are out of reach for layers, feed-forward and heads; the least is {least:,}. "
        "Keep more, or give remove with hidden or vocab"
    )
    assert _count(config, balanced(least, config)) == least
    assert _refusal(least - 1, config).startswith("keep: ")
    assert balanced(least, config).layers == shape_of(config).layers / 2
