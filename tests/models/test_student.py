"""Configs of students made from the teacher's: every size is asked for or the teacher's, and what is not legal is named."""

# ruff: noqa: E501 - the tables hold whole messages

from __future__ import annotations

import pytest
from pydantic import ValidationError

from compress.models.families import shape_of
from compress.models.options import StudentOptions
from compress.models.skeleton import prove_shapes
from compress.models.student import (
    every_config,
    fresh_config,
    fresh_problems,
    layers_kept,
    llama_config,
    llama_problems,
)
from tests.references.tiny_families import CONFIGS, COUPLED, GROUPED, tiny_config


def scratch(**sizes: int) -> StudentOptions:
    return StudentOptions(init="scratch", **sizes)


def config_of(family: str, **changes: object) -> dict:
    return tiny_config(family, **changes).to_dict()


@pytest.mark.parametrize("family", CONFIGS)
def test_a_smaller_config_of_every_family_is_what_transformers_builds(family):
    teacher = config_of(family)
    # GPT-2's and its like have no width of a head but hidden / heads; Qwen3's here is 10, its own
    config = fresh_config(scratch(layers=2, hidden=16, ffn=24, heads=2, context=32), teacher)
    shape = shape_of(config)
    assert (shape.layers, shape.hidden, shape.ffn, shape.heads, shape.kv_heads) == (2, 16, 24, 2, 2)
    assert shape.head_dim == (10 if family == "qwen3" else 8)
    assert shape.context == (32 + 1 if family == "roberta" else 32)
    prove_shapes(config)


@pytest.mark.parametrize("family", CONFIGS)
def test_what_is_not_asked_for_is_the_teachers(family):
    teacher = config_of(family)
    config = fresh_config(scratch(layers=2), teacher)
    same = {key for key, value in teacher.items() if config.get(key) == value}
    gone = {"dtype", "torch_dtype", "transformers_version", "_name_or_path", "quantization_config"}
    layered = {"layer_types", "no_rope_layers", "attention_types", "attention_layers"}
    assert teacher.keys() - same - gone - layered <= {"num_hidden_layers", "n_layer", "n_layers", "num_layers"}
    assert not gone & config.keys()


def test_without_sizes_it_is_the_teacher_without_weights():
    teacher = config_of("llama") | {"quantization_config": {"bits": 4}}
    assert fresh_config(scratch(), teacher).items() <= teacher.items()
    assert "quantization_config" not in fresh_config(scratch(), teacher)


def test_heads_follow_the_teachers_way():
    own = config_of("qwen3")
    assert shape_of(fresh_config(scratch(hidden=33), own)).head_dim == 10
    derived = config_of("llama")
    assert shape_of(fresh_config(scratch(hidden=64), derived)).head_dim == 16
    single = config_of("llama", num_key_value_heads=4)
    assert shape_of(fresh_config(scratch(heads=2), single)).kv_heads == 2
    assert shape_of(fresh_config(scratch(heads=8, hidden=64), derived)).kv_heads == 2


def test_an_open_feed_forward_width_stays_a_multiple():
    teacher = config_of("gpt2", n_inner=None)
    config = fresh_config(scratch(hidden=16, heads=2), teacher)
    assert (config["n_inner"], shape_of(config).ffn) == (None, 64)
    assert fresh_config(scratch(hidden=16, heads=2, ffn=40), teacher)["n_inner"] == 40


def test_layers_keep_the_first_kinds_and_lists_of_one_kind_grow():
    teacher = config_of("qwen2")
    assert fresh_config(scratch(layers=3), teacher)["layer_types"] == teacher["layer_types"][:3]
    plain = teacher | {"layer_types": ["full_attention"] * 4}
    assert fresh_config(scratch(layers=6), plain)["layer_types"] == ["full_attention"] * 6
    assert shape_of(fresh_config(scratch(layers=9), config_of("llama"))).layers == 9


LONGROPE = {
    "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
}
REFUSED = [
    ("llama", {}, {"hidden": 30}, "hidden", "a width of 30 beside 4 heads, and a llama model needs a width that is an even multiple of its heads; the nearest legal values are 24 and 32"),
    ("llama", {}, {"heads": 6}, "heads", "a width of 32 beside 6 heads, and a llama model needs a width that is an even multiple of its heads; the nearest legal values are 4 and 8"),
    ("llama", {}, {"hidden": 4}, "hidden", "a width of 4 beside 4 heads, and a llama model needs a width that is an even multiple of its heads; the nearest legal value is 8"),
    ("llama", {}, {"heads": 8, "kv_heads": 3}, "kv_heads", "3 key/value heads do not divide 8 query heads; the nearest legal values are 2 and 4"),
    ("llama", {}, {"heads": 1, "hidden": 8}, "heads", "1 query heads are no multiple of the teacher's 2 key/value heads; the nearest legal value is 2, or give kv_heads"),
    ("gemma2", {"head_dim": 16}, {"hidden": 30}, "hidden", "a width of 30 beside 4 heads, and a gemma2 model needs a width that is a multiple of its heads; the nearest legal values are 28 and 32"),
    ("gpt2", {}, {"hidden": 30}, "hidden", "a width of 30 beside 4 heads, and a gpt2 model needs a width that is a multiple of its heads; the nearest legal values are 28 and 32"),
    ("gpt2", {}, {"kv_heads": 2}, "kv_heads", "every query head of a gpt2 model has a key/value head of its own; leave it out"),
    # half of the channels of a head turn, rounded down, in pairs
    ("gpt_neox", {}, {"hidden": 24}, "hidden", "a width of 24 beside 4 heads, and a gpt_neox model needs a width that is an even multiple of its heads; the nearest legal values are 20 and 32"),
    ("phi3", LONGROPE, {"hidden": 16}, "hidden", "the config has rotary factors for heads of 8 channels, here they have 4; with 4 heads use hidden 32"),
    ("qwen2", {}, {"layers": 5}, "layers", "config.json says the kind of each of the teacher's 4 layers (layer_types), and not of 5; use at most 4"),
    ("gpt_neo", {}, {"layers": 5}, "layers", "config.json says the kind of each of the teacher's 4 layers (attention_layers, attention_types), and not of 5; use at most 4"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "changes", "sizes", "name", "message"), REFUSED)
def test_sizes_that_the_family_cannot_have_are_refused_with_the_nearest(family, changes, sizes, name, message):
    teacher = config_of(family) | changes
    assert fresh_problems(scratch(**sizes), teacher) == [(name, message)]
    with pytest.raises(ValueError, match="^" + name + ": "):
        fresh_config(scratch(**sizes), teacher)


def test_the_nearest_values_that_are_named_are_legal():
    teacher = config_of("gpt_neox")
    assert [bool(fresh_problems(scratch(hidden=width), teacher)) for width in (20, 24, 28, 32)] == [
        False,
        True,
        True,
        False,
    ]


def test_everything_wrong_is_said_at_once():
    found = fresh_problems(scratch(hidden=30, kv_heads=3, layers=5), config_of("qwen2"))
    assert [name for name, _ in found] == ["kv_heads", "hidden", "layers"]


def test_a_family_that_is_not_known_is_refused():
    [(name, words)] = fresh_problems(scratch(layers=1), {"model_type": "mamba"})
    assert name == "init"
    assert words.startswith("model_type 'mamba' is not in the family table; known families: llama, ")
    assert words.endswith("; a fresh student is of the teacher's family")


def test_a_student_with_its_own_tokenizer_is_a_llama():
    options = scratch(layers=2, hidden=30, ffn=48, heads=4, kv_heads=3, vocab=300)
    assert [name for name, _ in llama_problems(options)] == ["kv_heads", "hidden"]
    good = scratch(layers=2, hidden=32, ffn=48, heads=4, vocab=300)
    assert llama_problems(good) == []
    shape = shape_of(llama_config(good, 300))
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.context) == (2, 32, 4, 4, 512)


@pytest.mark.parametrize(
    ("every", "layers", "kept"),
    [(2, 12, [0, 2, 4, 6, 8, 10]), (2, 5, [0, 2, 4]), (3, 7, [0, 3, 6]), (4, 4, [0]), (2, 2, [0])],
)
def test_which_layers_are_kept(every, layers, kept):
    assert layers_kept(every, layers) == kept


@pytest.mark.parametrize("family", [*GROUPED, *COUPLED])
def test_each_kept_layer_keeps_its_kind(family):
    teacher = config_of(family)
    config = every_config(3, teacher)
    assert shape_of(config).layers == 2
    for key in ("layer_types", "no_rope_layers"):
        if teacher.get(key):
            assert config[key] == [teacher[key][0], teacher[key][3]]
    if family == "gpt_neo":
        assert config["attention_types"] == [[["global", "local"], 1]]
    prove_shapes(config)


@pytest.mark.parametrize(
    ("family", "changes", "every", "message"),
    [
        ("llama", {}, 5, "the teacher has 4 layers, fewer than 5; use at most 4"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, 2, "with scale_attn_by_inverse_layer_idx in config.json a layer depends on its number; leave every out"),
        ("llama", {"quantization_config": {"bits": 4}}, 2, "the teacher's weights are quantized (config.json: quantization_config); give the float model"),
        ("llama", {"architectures": ["LlamaModel"]}, 2, "LlamaModel is not in the family table; of family llama it knows LlamaForCausalLM"),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_taken_are_refused(family, changes, every, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
        every_config(every, config_of(family) | changes)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"init": "scratch", "every": 2}, "every can stand beside init: teacher only"),
        ({"init": "teacher", "every": 2, "layers": 1}, "layers can stand beside init: scratch only"),
        ({"model": "x", "every": 2}, "every can stand beside init: teacher only"),
        ({"init": "teacher", "every": 1}, "greater than or equal to 2"),
        ({"init": "scratch", "vocab": 300, "layers": 1}, "init: scratch with vocab needs ffn, heads, hidden"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        StudentOptions(**given)
