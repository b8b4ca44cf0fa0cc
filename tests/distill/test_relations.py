"""Attention and value relations against slow restatements, and what is captured of every family of decoders."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from compress.distill.relations import Captured, attention_kl, relation_heads, value_relation
from compress.models.families import shape_of
from tests.references.distillation import slow_attention_kl, slow_value_relation
from tests.references.tiny_families import DECODERS, tiny_config, tiny_model

IDS = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(0))

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def values(width, seed=0, dtype=torch.float64):
    return torch.randn(2, 5, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def attention(heads=2, seed=0):
    scores = torch.randn(2, heads, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scores.masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -math.inf).softmax(-1)


COUNTED = torch.tensor([[True, True, False, True, True], [False, True, True, False, False]])


def test_attention_equals_the_slow_restatement_and_is_zero_for_one_model():
    student, teacher = attention(seed=1), attention(seed=2)
    expected = slow_attention_kl(student.numpy(), teacher.numpy(), COUNTED.numpy())
    assert float(attention_kl(student, teacher, COUNTED)) == pytest.approx(expected, rel=1e-12)
    assert float(attention_kl(student.float(), teacher.float(), COUNTED)) == pytest.approx(expected, rel=1e-5)
    assert float(attention_kl(student, student, COUNTED)) == pytest.approx(0, abs=1e-12)


def test_attention_of_a_student_that_looks_away_stays_finite():
    student, teacher = torch.eye(5).expand(1, 1, 5, 5).clone().requires_grad_(True), attention(1)[:1].float()
    loss = attention_kl(student, teacher, torch.ones(1, 5, dtype=torch.bool))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_attention_of_other_heads_is_refused():
    with pytest.raises(ValueError, match=r"the student has 2, the teacher 4; use value_relation, which takes any$"):
        attention_kl(attention(2), attention(4), COUNTED)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_value_relation_equals_the_slow_restatement(heads, padded):
    student, teacher = values(8, 1), values(12, 2)
    visible = torch.tensor([[False, True, True, True, True], [True, True, True, False, False]]) if padded else None
    seen = visible.numpy() if visible is not None else None
    expected = slow_value_relation(student.numpy(), teacher.numpy(), COUNTED.numpy(), heads, seen)
    assert float(value_relation(student, teacher, COUNTED, heads, visible)) == pytest.approx(expected, rel=1e-12)
    single = value_relation(student.float(), teacher.float(), COUNTED, heads, visible)
    assert float(single) == pytest.approx(expected, rel=1e-4)
    assert float(value_relation(student, student, COUNTED, heads, visible)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", ["attention", "values"])
def test_what_is_not_counted_or_stands_behind_has_no_part(loss):
    counted = torch.tensor([[True, False, True, False, False], [False, False, False, False, False]])
    if loss == "values":
        student, teacher = values(8, 1).requires_grad_(True), values(8, 2)
        value = value_relation(student, teacher, counted, 2)
        value.backward()
        assert not student.grad[0, 3:].any()
        assert student.grad[0, 1].abs().sum() > 0  # a key of the third row, though no row itself
    else:
        student, teacher = attention(seed=1), attention(seed=2)
        student[:, :, 3:] = math.nan
        student.requires_grad_(True)
        value = attention_kl(student, teacher, counted)
        value.backward()
        assert not student.grad[0, :, [1, 3, 4]].any()
    assert torch.isfinite(value)
    assert not student.grad[1].any()
    assert student.grad[0].abs().sum() > 0
    nothing = torch.zeros_like(counted)
    assert float((value_relation(student, teacher, nothing, 2) if loss == "values" else value * 0).detach()) == 0


def test_under_autocast_relations_are_computed_in_float32():
    student, teacher = values(8, 1).bfloat16(), values(8, 2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = value_relation(student, teacher, COUNTED, 2)
    assert found.dtype == torch.float32
    assert found == value_relation(student.float(), teacher.float(), COUNTED, 2)


def test_the_gradients_are_those_of_the_values():
    student, teacher = values(4, 1).requires_grad_(True), values(6, 2)
    assert torch.autograd.gradcheck(lambda own: value_relation(own, teacher, COUNTED, 2), student)
    chances = (0.8 * attention(seed=1) + 0.04).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda own: attention_kl(own, attention(seed=2), COUNTED), chances)


def test_relation_heads_are_the_models_own_where_they_agree_and_fit_both_where_not():
    def shape(heads, kv_heads, head_dim=8):
        config = tiny_config("llama", num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim)
        return shape_of(config.to_dict())

    assert relation_heads(shape(4, 2), shape(4, 2)) == 2
    assert relation_heads(shape(4, 2), shape(4, 4)) == 2
    assert relation_heads(shape(4, 4, 6), shape(8, 8)) == 4
    assert relation_heads(shape(4, 2), shape(4, 4), 16) == 16
    with pytest.raises(ValueError, match=r"12 in the student and 32 in the teacher; use one of 1, 2, 4$"):
        relation_heads(shape(4, 2, 6), shape(4, 4), 3)
    with pytest.raises(ValueError, match=r"3 relation heads do not divide values of width 8$"):
        value_relation(values(8), values(6), COUNTED, 3)


@pytest.mark.parametrize("family", DECODERS)
def test_values_and_attention_of_every_family_give_the_layers_output(family):
    """Attention over captured values, through the output projection, is what the attention module gives."""
    model = tiny_model(family)
    table = {"gpt_neo": "attn.attention", "gpt2": "attn", "gpt_neox": "attention"}
    out = {"gpt_neo": "out_proj", "gpt2": "c_proj", "gpt_neox": "dense", "opt": "out_proj"}.get(family, "o_proj")
    layers = next(module for name, module in model.named_modules() if name.endswith((".layers", ".h")))
    module = layers[2].get_submodule(table.get(family, "self_attn"))
    given = []
    module.register_forward_hook(lambda own, inputs, output: given.append(output[0]))
    shape = shape_of(model.config.to_dict())
    with torch.no_grad(), Captured(model, 2, "values") as found, Captured(model, -2, "attention") as looks:
        model(input_ids=IDS, use_cache=False)
        value, weights = found.take(), looks.take()
    assert value.shape == (2, 9, shape.kv_heads * shape.head_dim)
    assert weights.shape == (2, shape.heads, 9, 9)
    assert torch.allclose(weights.sum(-1), torch.ones((), dtype=weights.dtype))
    repeated = value.unflatten(-1, (shape.kv_heads, shape.head_dim)).transpose(1, 2)
    read = weights @ repeated.repeat_interleave(shape.group, dim=1)
    with torch.no_grad():
        assert torch.allclose(module.get_submodule(out)(read.transpose(1, 2).flatten(-2)), given[0], atol=1e-10)


def test_captured_carries_the_graph_is_taken_once_and_leaves_no_hook():
    model = tiny_model("llama")
    captured = Captured(model, 1, "values")
    with pytest.raises(RuntimeError, match=r"no forward pass since the values of layer 1 were taken"):
        captured.take()
    model(input_ids=IDS, use_cache=False)
    captured.take().square().sum().backward()
    assert model.model.layers[0].self_attn.v_proj.weight.grad.abs().sum() > 0
    assert model.model.layers[1].mlp.down_proj.weight.grad is None
    captured.remove()
    model(input_ids=IDS, use_cache=False)
    with pytest.raises(RuntimeError, match=r"no forward pass"):
        captured.take()


def test_what_cannot_be_captured_is_refused():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match=r"the model has 4 layers, there is no layer 4$"):
        Captured(model, 4, "values")
    model.set_attn_implementation("sdpa")
    with Captured(model, 1, "attention"), pytest.raises(ValueError, match=r'set_attn_implementation."eager".'):
        model(input_ids=IDS, use_cache=False)
    other = transformers.PhiForCausalLM(transformers.PhiConfig(**SIZES))
    with pytest.raises(ValueError, match=r"^model_type 'phi' is not in the family table"):
        Captured(other, 1, "values")
