from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from compress.models import families
from compress.models.families import count_parameters, cut_config, parameter_shapes, shape_of
from compress.models.family import linear
from compress.models.family_table import FAMILIES
from compress.models.skeleton import empty_model, model_class, prove_shapes
from tests.references.tiny_families import ARCHITECTURES, COUPLED, tiny_config, tiny_model

MODELS = [(family, architecture) for family in FAMILIES for architecture in ARCHITECTURES[family]]
BIASES = [(name, key) for name, family in FAMILIES.items() for key in sorted({row.bias for row in family.layer})]
SWITCHES = [(name, key) for name, key in BIASES if key not in ("always", "never")]


def _plain(family: str, **changes: Any) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(tiny_config(family, **changes).to_json_string())
    return written


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(("family", "architecture"), MODELS)
def test_the_table_has_every_parameter_in_its_shape(family, architecture, tied):
    config = _plain(family, tied=tied, architectures=[architecture])
    prove_shapes(config)
    model = empty_model(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(count_parameters(config).values())
    assert type(model).__name__ == architecture


@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
@pytest.mark.parametrize(("family", "key"), SWITCHES)
def test_biases_are_where_the_config_says(family, key, on):
    config = _plain(family, **{key: on})
    prove_shapes(config)
    with_bias = set(parameter_shapes({**config, key: True}))
    without = set(parameter_shapes({**config, key: False}))
    assert without < with_bias
    assert all(name.endswith(".bias") for name in with_bias - without)


def test_every_switch_of_biases_is_tried():
    assert {key for _, key in SWITCHES} == {"attention_bias", "mlp_bias", "enable_bias"}
    assert {family for family, _ in SWITCHES} == {
        "llama", "qwen3", "gemma2", "gemma3_text", "smollm3", "gpt_neox", "opt",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("family", "gone"),
    [
        ("llama", ("head_dim", "num_key_value_heads", "attention_bias", "mlp_bias", "tie_word_embeddings")),
        ("gpt_neox", ("attention_bias", "tie_word_embeddings")),
        ("opt", ("enable_bias", "word_embed_proj_dim", "layer_norm_elementwise_affine", "_remove_final_layer_norm")),
        ("gpt2", ("n_inner", "tie_word_embeddings", "add_cross_attention")),
        ("gpt_neo", ("intermediate_size", "attention_layers", "tie_word_embeddings")),
        ("qwen3", ("head_dim", "attention_bias", "layer_types")),
        ("gemma2", ("head_dim", "layer_types", "tie_word_embeddings")),
        ("bert", ("add_cross_attention", "type_vocab_size", "id2label", "tie_word_embeddings")),
    ],
)
def test_configs_without_newer_keys_are_described_too(family, gone):
    config = {key: value for key, value in _plain(family).items() if key not in gone}
    prove_shapes(config)
    shape = shape_of(config)
    heads = {"heads": 2, "kv_heads": 2} | ({"hidden": 2 * shape.head_dim} if family in COUPLED else {})
    after = replace(shape, layers=2, ffn=24, vocabulary=40, **heads)
    prove_shapes(cut_config(config, after))
    assert shape_of(cut_config(config, after)) == after


def test_labels_are_counted():
    config = _plain("roberta", architectures=["RobertaForTokenClassification"], num_labels=7)
    prove_shapes(config)
    assert parameter_shapes(config)["classifier.weight"] == (7, 32)


def test_parameters_take_no_memory_and_buffers_are_real():
    model = empty_model({**_plain("gemma2"), "dtype": "bfloat16", "torch_dtype": "float16"})
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {buffer.device.type for buffer in model.buffers()} == {"cpu"}
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert not model.training
    expected = dict(tiny_model("gemma2", dtype=torch.float32).named_buffers())
    found = dict(model.named_buffers())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_building_leaves_the_seed_alone():
    before = torch.random.get_rng_state()
    empty_model(_plain("gpt2"))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_attention_that_is_asked_for_is_used():
    assert empty_model(_plain("llama"), "eager").config._attn_implementation == "eager"


def test_the_class_is_what_the_architecture_names():
    assert model_class(_plain("bert", architectures=["BertModel"])) is transformers.BertModel
    assert model_class({"model_type": "gpt2"}) is transformers.GPT2LMHeadModel
    assert model_class({"model_type": "mamba"}) is transformers.AutoModelForCausalLM
    with_other_head = {"model_type": "bert", "architectures": ["BertForQuestionAnswering"]}
    assert model_class(with_other_head) is transformers.AutoModelForCausalLM


def _refusal(config: Mapping[str, Any]) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        prove_shapes(config)
    return str(caught.value)


def test_a_config_that_transformers_refuses_is_said_in_one_line():
    assert _refusal({**_plain("llama"), "hidden_size": 30}) == (
        "transformers refuses the config: Class validation error for validator 'validate_architecture': ValueError: "
        "The hidden size (30) is not a multiple of the number of attention heads (4)."
    )


def test_a_table_that_is_wrong_is_noticed(monkeypatch):
    llama = FAMILIES["llama"]
    rows = tuple(row for row in llama.layer if row.path != "mlp.up_proj")
    wrong = replace(llama, layer=(*rows, linear("ffn", "mlp.new_proj", "ffn", "hidden")))
    monkeypatch.setattr(families, "FAMILIES", {"llama": wrong})
    layer = "model.layers.0.mlp"
    assert _refusal(_plain("llama", mlp_bias=False, num_hidden_layers=1)) == (
        "the model of this config is not what the family table says: "
        f"{layer}.new_proj.weight is missing, the family table says (48, 32); "
        f"{layer}.up_proj.weight is (48, 32), the family table says nothing of it"
    )
