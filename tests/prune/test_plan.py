from __future__ import annotations

import json
from typing import Any

import pytest

from compress.models.families import count_parameters, shape_of
from compress.models.skeleton import prove_shapes
from compress.prune.options import PruneOptions
from compress.prune.plan import plan, sizes_after
from tests.references.tiny_families import CONFIGS, COUPLED, tiny_config

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 6,
    "intermediate_size": 512,
    "hidden_size": 192,
    "num_attention_heads": 6,
    "vocab_size": 4096,
    "max_position_embeddings": 512,
}


def _options(length: int = 256, **remove: Any) -> PruneOptions:
    return PruneOptions.model_validate({"remove": remove, "calibration": {"length": length}})


def _refusal(options: PruneOptions, config: dict[str, Any]) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        plan(options, config)
    return str(caught.value)


def test_plan_gives_the_new_sizes_and_leaves_the_rest():
    after = plan(_options(layers=2, ffn=0.25), LLAMA)
    assert after == {**LLAMA, "num_hidden_layers": 4, "intermediate_size": 384}
    assert LLAMA["num_hidden_layers"] == 6


def test_plan_keeps_lists_as_long_as_the_layers():
    after = plan(_options(32, layers=1), tiny_config("gemma2").to_dict())
    assert len(after["layer_types"]) == after["num_hidden_layers"] == 3


@pytest.mark.parametrize("family", list(CONFIGS))
def test_every_axis_of_every_family_is_planned_and_builds(family):
    config = json.loads(tiny_config(family).to_json_string())
    remove = {"layers": 1, "ffn": 0.25, "heads": 0.5, "vocab": 4} | ({} if family in COUPLED else {"hidden": 8})
    options = _options(32, **remove)
    after = plan(options, config)
    shape = shape_of(after)
    heads = 2
    assert (shape.layers, shape.ffn, shape.heads, shape.vocabulary) == (3, 36, heads, 60)
    assert shape.hidden == (16 if family in COUPLED else 24)
    assert shape == sizes_after(options, config)
    prove_shapes(after)
    assert sum(count_parameters(after).values()) < sum(count_parameters(config).values())


def test_ids_of_special_tokens_are_in_range_once_tokens_go():
    config = {**LLAMA, "bos_token_id": 1, "eos_token_id": [2, 4095], "pad_token_id": None, "sep_token_id": 9000}
    after = plan(_options(vocab=96), config)
    ids = {key: after[key] for key in after if key.endswith("_token_id")}
    assert ids == {"bos_token_id": 1, "eos_token_id": [2, 3999], "pad_token_id": None, "sep_token_id": 3999}
    assert plan(_options(ffn=12), config)["sep_token_id"] == 9000


def test_a_target_is_met_by_whole_numbers_and_fractions_and_megabytes():
    total = sum(count_parameters(LLAMA).values())
    for keep, most in (
        ({"parameters": 0.75}, 0.75 * total),
        ({"parameters": 3_000_000}, 3_000_000),
        ({"size_mb": 13}, 13e6 / 4),
    ):
        after = plan(PruneOptions.model_validate({"keep": keep}), LLAMA)
        kept = sum(count_parameters(after).values())
        assert 0.95 * most < kept <= most


def test_everything_wrong_is_said_at_once():
    config = {
        **LLAMA,
        "quantization_config": {"quant_method": "gptq"},
        "architectures": ["LlamaForTokenClassification"],
    }
    assert _refusal(_options(1024, layers=6, ffn=0), config) == (
        "LlamaForTokenClassification is not in the family table; of family llama it knows LlamaForCausalLM; "
        "the weights are quantized (config.json: quantization_config); prune the float model, quantize afterwards; "
        "calibration.length 1024 is longer than the model's context of 512 tokens; use at most 512; "
        "remove.layers 6 would remove 6 of 6 layers; at least 1 must stay: use a count of at most 5; "
        "remove.ffn 0 removes 0 of 512 feed-forward columns: nothing to remove; leave it out, or use a count of at least 1"
    )


def test_one_thing_wrong_is_enough():
    assert _refusal(_options(513, layers=1), LLAMA) == (
        "calibration.length 513 is longer than the model's context of 512 tokens; use at most 512"
    )
    assert plan(_options(512, layers=1), LLAMA)["num_hidden_layers"] == 5
    assert plan(_options(513, layers=1), {**LLAMA, "max_position_embeddings": None})["num_hidden_layers"] == 5


def test_positions_up_to_the_padding_id_hold_no_calibration_text():
    config = json.loads(tiny_config("roberta", pad_token_id=1).to_json_string())
    assert _refusal(_options(63, ffn=1), config) == (
        "calibration.length 63 is longer than the model's context of 62 tokens; use at most 62"
    )
    assert plan(_options(62, ffn=1), config)["intermediate_size"] == 47


def test_a_quantized_model_is_refused():
    assert _refusal(_options(layers=1), {**LLAMA, "quantization_config": {"quant_method": "gptq"}}) == (
        "the weights are quantized (config.json: quantization_config); prune the float model, quantize afterwards"
    )


def test_an_unknown_family_and_a_mixture_of_experts_are_refused():
    unknown = _refusal(_options(layers=1), {**LLAMA, "model_type": "rwkv"})
    assert unknown.startswith("model_type 'rwkv' is not in the family table; known families: llama, mistral, ")
    mixture = _refusal(_options(layers=1), {**LLAMA, "model_type": "mixtral", "num_local_experts": 8})
    assert mixture.startswith(
        "model_type 'mixtral' is a mixture of experts, which cannot be pruned yet; known families: "
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remove": {}}, "needs at least one of layers, ffn, heads, hidden, vocab"),
        ({}, "needs exactly one of remove, keep"),
        ({"remove": {"layers": 1}, "keep": {"parameters": 0.5}}, "needs exactly one of remove, keep"),
        ({"keep": {}}, "needs exactly one of parameters, size_mb"),
        ({"keep": {"parameters": 0.5, "size_mb": 3}}, "needs exactly one of parameters, size_mb"),
        ({"remove": {"layers": -1}}, r"a count such as 1, or a fraction such as 0\.25"),
        ({"remove": {"ffn": 1.5}}, r"a count such as 1, or a fraction such as 0\.25"),
        ({"keep": {"parameters": 1.5}}, r"a number such as 2_500_000, or a fraction such as 0\.6"),
        ({"remove": {"heads": {"groups": 1}}}, "kv_groups"),
    ],
)
def test_options_that_say_nothing_or_too_much_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PruneOptions.model_validate(options)


def test_one_score_for_every_axis_or_one_each():
    def scores(score: Any) -> dict[str, str]:
        said: dict[str, str] = PruneOptions.model_validate({"remove": {"ffn": 1}, "score": score}).score.model_dump()
        return said

    widths = ("ffn", "heads", "hidden")
    assert scores("activation") == {"layers": "block_influence", **dict.fromkeys(widths, "activation")}
    assert scores("taylor") == {"layers": "taylor", **dict.fromkeys(widths, "taylor")}
    assert scores({"ffn": "random"}) == {
        "layers": "block_influence",
        "ffn": "random",
        "heads": "activation",
        "hidden": "activation",
    }


@pytest.mark.parametrize("options", [{"rounds": 2}, {"repair": "least_squares"}, {"repair": "gauss_newton"}])
def test_options_that_would_do_nothing_where_only_tokens_go_are_refused(options):
    config = tiny_config("llama").to_dict()
    window = {"calibration": {"length": 32}}
    with pytest.raises(ValueError, match=r"only tokens go here, and there is nothing for it to do; leave it out$"):
        plan(PruneOptions.model_validate({"remove": {"vocab": 8}, **window, **options}), config)
    assert plan(PruneOptions.model_validate({"remove": {"vocab": 8, "ffn": 8}, **window, **options}), config)
