from __future__ import annotations

import pytest

from compress.prune.options import PruneOptions, counted, counted_ffn, plan
from tests.references.tiny_families import tiny_config

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 6,
    "intermediate_size": 512,
    "hidden_size": 192,
    "num_attention_heads": 6,
    "vocab_size": 4096,
    "max_position_embeddings": 512,
}


def _options(**remove: int | float) -> PruneOptions:
    return PruneOptions.model_validate({"remove": remove})


def _refusal(options: PruneOptions, config: dict[str, object]) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        plan(options, config)
    return str(caught.value)


def test_plan_gives_the_new_sizes_and_leaves_the_rest():
    after = plan(_options(layers=2, ffn=0.25), LLAMA)
    assert after == {**LLAMA, "num_hidden_layers": 4, "intermediate_size": 384}
    assert LLAMA["num_hidden_layers"] == 6


def test_plan_keeps_lists_as_long_as_the_layers():
    after = plan(
        PruneOptions.model_validate({"remove": {"layers": 1}, "calibration": {"length": 32}}),
        tiny_config("gemma2").to_dict(),
    )
    assert len(after["layer_types"]) == after["num_hidden_layers"] == 3


@pytest.mark.parametrize(
    ("amount", "width", "removed"),
    [
        (171, 512, 171),
        (0.25, 512, 128),
        (1 / 3, 512, 168),
        (0.001, 512, 0),
        (0.999, 512, 504),
        (0.25, 48, 12),
        (0.1, 67, 3),
    ],
)
def test_ffn_counts_are_exact_and_fractions_keep_multiples_of_8(amount, width, removed):
    assert counted_ffn(amount, width) == removed


def test_amounts_of_layers():
    assert [counted(amount, 6) for amount in (None, 2, 0.25, 0.5)] == [0, 2, 2, 3]


def test_everything_wrong_is_said_at_once():
    options = PruneOptions.model_validate({"remove": {"layers": 6, "ffn": 0}, "calibration": {"length": 1024}})
    assert _refusal(options, LLAMA) == (
        "remove.layers 6 would remove 6 of 6 layers; at least 1 must stay: use a count of at most 5; "
        "remove.ffn 0 removes 0 of 512 feed-forward columns: nothing to remove; leave it out or give a count; "
        "calibration.length 1024 is longer than the model's context of 512 tokens; use at most 512"
    )


def test_too_many_columns_are_refused():
    assert _refusal(_options(ffn=512), LLAMA) == (
        "remove.ffn 512 would remove 512 of 512 feed-forward columns; at least 1 must stay: use a count of at most 511"
    )


@pytest.mark.parametrize("remove", [{"layers": 0}, {"layers": 0.05}, {"layers": 1, "ffn": 0.001}])
def test_nothing_to_remove_is_an_error(remove):
    assert "nothing to remove" in _refusal(_options(**remove), LLAMA)


def test_a_quantized_model_is_refused():
    assert _refusal(_options(layers=1), {**LLAMA, "quantization_config": {"quant_method": "gptq"}}) == (
        "the weights are quantized (config.json: quantization_config); prune the float model, quantize afterwards"
    )


def test_an_unknown_family_is_refused():
    assert _refusal(_options(layers=1), {**LLAMA, "model_type": "rwkv"}).startswith(
        "model_type 'rwkv' is not in the family"
    )


def test_an_axis_is_needed():
    with pytest.raises(ValueError, match="needs at least one of layers, ffn"):
        PruneOptions.model_validate({"remove": {}})
