"""A model in body and tail gives the logits of the whole one, in every family of decoders and some that are in no table."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from torch.nn.utils import parametrize

from compress.models.head import Tail, prove_split, split
from tests.references.tiny_families import ARCHITECTURES, DECODERS, ENCODERS, tiny_config, tiny_model

IDS = torch.randint(3, 64, (2, 7), generator=torch.Generator().manual_seed(0))
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Families outside the table whose logits are more than a product, and their settings.
OTHERS = {
    "Cohere": ({**SIZES, "logit_scale": 0.3}, {"scale": 0.3}),
    "Granite": ({**SIZES, "logits_scaling": 8.0, "embedding_multiplier": 3.0}, {"scale": 1 / 8}),
    "Phi": (SIZES, {}),
    "GPTJ": ({"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 32}, {}),
}


def other_model(name, **changes):
    config = getattr(transformers, f"{name}Config")(**{**OTHERS[name][0], **changes})
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(config).double().eval()


def assert_same(model):
    body, tail = split(model)
    with torch.no_grad():
        whole = model(input_ids=IDS, use_cache=False).logits
        hidden = body(input_ids=IDS, use_cache=False, output_hidden_states=True)
        assert torch.allclose(tail(hidden.last_hidden_state), whole, rtol=0, atol=1e-6)
        rows = tail(hidden.last_hidden_state[:, 2:5].flatten(0, 1))
        assert torch.allclose(rows, whole[:, 2:5].flatten(0, 1), rtol=0, atol=1e-6)
    assert len(hidden.hidden_states) == model.config.num_hidden_layers + 1
    prove_split(model)
    return tail


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("tied", [False, True])
def test_body_and_tail_of_every_decoder_give_its_logits(family, tied):
    model = tiny_model(family, tied)
    tail = assert_same(model)
    assert (tail.weight is model.get_input_embeddings().weight) is tied
    assert tail.softcap == (30.0 if family == "gemma2" else None)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_the_softcap_is_that_of_the_config(family):
    model = tiny_model(family, final_logit_softcapping=2.0)
    tail = assert_same(model)
    with torch.no_grad():
        assert float(tail(torch.full((1, 32), 9.0, dtype=torch.float64)).abs().max()) <= 2.0


@pytest.mark.parametrize("name", OTHERS)
def test_families_outside_the_table_with_a_scale_or_a_bias(name):
    tail = assert_same(other_model(name))
    assert tail.scale == OTHERS[name][1].get("scale", 1.0)
    assert (tail.bias is not None) is (name in ("Phi", "GPTJ"))


def test_the_weight_is_read_at_every_call():
    class Doubled(nn.Module):
        def forward(self, weight):
            return weight * 2

    model = tiny_model("llama", tied=False)
    _, tail = split(model)
    rows = torch.ones(3, 32, dtype=torch.float64)
    before = tail(rows).detach()
    parametrize.register_parametrization(model.lm_head, "weight", Doubled())
    assert torch.allclose(tail(rows), before * 2)
    assert not tail.weight.is_leaf
    tail(rows).sum().backward()
    assert model.lm_head.parametrizations.weight.original.grad.abs().sum() > 0


def test_without_scale_and_cap_the_products_are_the_logits():
    products = torch.randn(2, 5)
    assert Tail(nn.Linear(3, 5)).finish(products) is products
    assert torch.equal(Tail(nn.Linear(3, 5), scale=2.0).finish(products), products * 2)


@pytest.mark.parametrize("family", ENCODERS)
def test_what_is_no_causal_language_model_is_refused(family):
    for architecture in ARCHITECTURES[family]:
        config = tiny_config(family, architectures=[architecture])
        model = getattr(transformers, architecture)(config)
        with pytest.raises(ValueError, match=f"^{architecture} is no causal language model: it has no head"):
            split(model)


def test_a_base_model_and_a_head_of_another_kind_are_refused():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match=r"^LlamaModel: its head is NoneType, a linear layer"):
        split(model.model)
    model.lm_head = nn.Identity()
    with pytest.raises(ValueError, match=r"^LlamaForCausalLM: its head is Identity, a linear layer"):
        split(model)


def test_a_model_that_does_more_with_its_logits_is_refused():
    model = tiny_model("llama").train()
    inner = model.forward
    model.forward = lambda **inputs: _scaled(inner(**inputs))
    with pytest.raises(ValueError, match="its logits are not its head's product with the hidden states"):
        prove_split(model)
    assert model.training


def _scaled(output):
    output.logits = output.logits * 1.5
    return output
