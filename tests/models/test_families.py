from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from typing import Any

import pytest
import transformers

from compress.models.families import (
    CLASSES,
    Shape,
    architecture_of,
    axis_sizes,
    count_parameters,
    cut_config,
    family_of,
    has_bias,
    parameters_of,
    shape_of,
)
from compress.models.family import AXES
from compress.models.family_table import FAMILIES
from tests.references.tiny_families import ARCHITECTURES, CONFIGS, COUPLED, GROUPED, tiny_config, tiny_model

KNOWN = "llama, mistral, qwen2, qwen3, phi3, gemma2, gemma3_text, smollm3, gpt2, gpt_neo, gpt_neox, opt, bert, distilbert, roberta"
NAMES = sorted(FAMILIES)
MODELS = [(family, architecture) for family in NAMES for architecture in ARCHITECTURES[family]]


def _refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        call(*arguments)
    return str(caught.value)


def _plain(family: str, **changes: Any) -> dict[str, Any]:
    """config.json of a tiny model, as it stands on disk."""
    written: dict[str, Any] = json.loads(tiny_config(family, **changes).to_json_string())
    return written


def test_every_family_and_architecture_has_a_tiny_model():
    assert {name: tuple(family.heads) for name, family in FAMILIES.items()} == ARCHITECTURES
    assert set(CONFIGS) == set(FAMILIES)
    assert {name for name, family in FAMILIES.items() if family.coupled} == set(COUPLED)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_complete(name):
    family = FAMILIES[name]
    rows = [*family.layer, *family.outside, *(row for head in family.heads.values() for row in head)]
    for row in rows:
        assert {*row.axes, row.bias_axis} - {""} <= set(AXES)
        assert row.kind in CLASSES
        assert bool(row.bias_axis) == (row.bias != "never" or (len(row.axes) == 2 and row.kind != "embedding"))
    by_path = {row.path: row for row in family.layer}
    assert {by_path[path].axes[1 - by_path[path].incoming] for path in family.ffn_in} <= {"ffn", "gate_up"}
    assert by_path[family.ffn_out].axes[by_path[family.ffn_out].incoming] == "ffn"
    assert by_path[family.attention_out].axes[by_path[family.attention_out].incoming] == "q"


@pytest.mark.parametrize("name", NAMES)
def test_paths_are_those_of_the_model(name):
    family, model = FAMILIES[name], tiny_model(name)
    layers = model.get_submodule(family.base).get_submodule(family.layers)
    assert model.get_submodule(family.base) is model.base_model or name == "opt"
    assert len(layers) == shape_of(model.config.to_dict()).layers
    for layer in layers:
        attention = layer.get_submodule(family.attention)
        assert re.search("Attention$", type(attention).__name__)
        assert layer.get_submodule(family.attention_out).weight.shape == (32, 40 if name == "qwen3" else 32)
        inside = [layer.get_submodule(path) for path in (*family.ffn_in, family.ffn_out)]
        if family.ffn:
            modules = list(layer.get_submodule(family.ffn).modules())
            assert all(any(each is module for module in modules) for each in inside)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(("name", "architecture"), MODELS)
def test_parameters_are_counted_as_the_model_has_them(name, architecture, tied):
    model = tiny_model(name, tied, architectures=[architecture])
    found = dict.fromkeys(CLASSES, 0)
    for path, parameter in model.named_parameters():
        found[_class_by_name(path)] += parameter.numel()
    assert count_parameters(_plain(name, tied=tied, architectures=[architecture])) == found


def _class_by_name(path: str) -> str:
    """The class of a parameter by what its name says, without the table."""
    if re.search(r"norm|\bln_|LayerNorm", path):
        return "norm"
    if not re.search(r"\.(layers?|h)\.\d", f".{path}"):
        return "embedding" if re.search(r"embed|\bwte|\bwpe", path) else "head"
    return "attention" if "attn" in path or re.search(r"attention\.", path) else "ffn"


@pytest.mark.parametrize("name", NAMES)
def test_a_config_without_a_key_means_what_transformers_takes_it_for(name):
    family, config_class = FAMILIES[name], getattr(transformers, CONFIGS[name][0])
    default = config_class()
    assert default.model_type == name
    keys = family.keys
    biases = {row.bias for row in family.layer} - {"always", "never"}
    optional = [keys.ffn, keys.kv_heads, keys.head_dim, keys.tied, *family.fixed, *biases, *family.presumes]
    written = json.loads(default.to_json_string())
    for key in {*optional, *family.patterns} & set(written):
        less = {other: value for other, value in written.items() if other != key}
        means = transformers.AutoConfig.for_model(**less).to_dict()
        if key == keys.ffn and not family.default_ffn:
            assert f"needs a whole number above 0 for {key}" in _refusal(shape_of, less)
            continue
        assert shape_of(less) == shape_of(means), key
        for row in family.layer:
            assert has_bias(less, row) == has_bias(means, row), key
        assert family.defaults.get(key, means[key]) == means[key]


@pytest.mark.parametrize(
    ("name", "nulls"),
    [
        ("llama", ("head_dim", "num_key_value_heads")),
        ("mistral", ("head_dim",)),
        ("qwen2", ("num_key_value_heads",)),
        ("phi3", ("num_key_value_heads",)),
        ("gpt2", ("n_inner",)),
        ("gpt_neo", ("intermediate_size",)),
        ("opt", ("word_embed_proj_dim",)),
    ],
)
def test_a_null_means_what_transformers_takes_it_for(name, nulls):
    config = {**_plain(name), **dict.fromkeys(nulls)}
    config = {key: value for key, value in config.items() if key != "head_dim" or "head_dim" in nulls}
    assert shape_of(config) == shape_of(transformers.AutoConfig.for_model(**config).to_dict())


@pytest.mark.parametrize("name", NAMES)
def test_lists_with_an_entry_per_layer_are_all_known(name):
    config, family = _plain(name), FAMILIES[name]
    lists = {key for key, value in config.items() if isinstance(value, list) and len(value) == 4}
    assert lists == set(family.per_layer) & set(config)
    assert {
        key for key, value in config.items() if isinstance(value, list) and value and isinstance(value[0], list)
    } == set(family.patterns)


@pytest.mark.parametrize("name", NAMES)
def test_whole_heads_are_those_that_the_config_class_asks_for(name):
    keys = FAMILIES[name].keys
    config = {**_plain(name), keys.hidden: 30} | ({} if name in COUPLED else {"head_dim": 8})
    try:
        transformers.AutoConfig.for_model(**config)
        refused = False
    except Exception as error:  # noqa: BLE001 - transformers raises several kinds without a base of their own
        assert re.search(r"multiple of the number of attention heads|divisible", str(error))  # noqa: PT017
        refused = True
    assert FAMILIES[name].whole_heads == refused


@pytest.mark.parametrize("name", [name for name in GROUPED if name != "gemma3_text"])
def test_rope_by_width_are_those_whose_config_class_measures_the_factors_by_it(name):
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 32}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 1.0, "factor": 2.0, **factors}
    config = {**_plain(name), "head_dim": 8, "rope_parameters": rope}
    transformers.AutoConfig.for_model(**config)
    try:
        transformers.AutoConfig.for_model(**{**config, "hidden_size": 24})
        refused = False
    except Exception as error:  # noqa: BLE001 - transformers raises several kinds without a base of their own
        assert "short_factor field must have length 3" in str(error)  # noqa: PT017
        refused = True
    assert FAMILIES[name].rope_by_width == refused


@pytest.mark.parametrize("name", NAMES)
def test_names_agree_with_optimum_where_it_knows_them(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optimum.utils import NormalizedConfigManager
    config = tiny_config(name)
    shape, expected = shape_of(config.to_dict()), 0
    try:
        normalized = NormalizedConfigManager.get_normalized_config_class(name)(config)
    except KeyError:
        assert name in {"gemma2", "gemma3_text", "smollm3"}
        return
    for theirs, ours in (
        ("num_layers", shape.layers),
        ("hidden_size", shape.hidden),
        ("num_attention_heads", shape.heads),
        ("num_key_value_heads", shape.kv_heads),
        ("head_dim", shape.head_dim),
        ("vocab_size", shape.vocabulary),
    ):
        if normalized.has_attribute(theirs) and getattr(normalized, theirs) is not None:
            assert getattr(normalized, theirs) == ours
            expected += 1
    assert expected >= 4


OLD_LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "vocab_size": 10,
}


def test_sizes_that_config_leaves_out_follow_from_the_others():
    shape = shape_of(OLD_LLAMA)
    assert shape == Shape(2, 24, 32, 4, 4, 8, 10, None, False)
    assert shape.group == 1


def test_a_cut_writes_down_what_would_follow_otherwise_and_nothing_else():
    before = shape_of(OLD_LLAMA)
    assert cut_config(OLD_LLAMA, before) == OLD_LLAMA
    assert cut_config(OLD_LLAMA, replace(before, hidden=24)) == {**OLD_LLAMA, "hidden_size": 24, "head_dim": 8}
    fewer = cut_config(OLD_LLAMA, replace(before, heads=3, kv_heads=3))
    assert fewer == {**OLD_LLAMA, "num_attention_heads": 3, "head_dim": 8}
    assert cut_config(OLD_LLAMA, replace(before, heads=3, kv_heads=3, hidden=24)) == {
        **OLD_LLAMA,
        "hidden_size": 24,
        "num_attention_heads": 3,
    }
    mistral = {**OLD_LLAMA, "model_type": "mistral", "num_attention_heads": 16}
    kept = replace(shape_of(mistral), heads=4, kv_heads=2)
    assert cut_config(mistral, kept) == {**mistral, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2}


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_config_has_the_sizes_and_loads(name):
    config = _plain(name)
    before = shape_of(config)
    narrow = {"heads": 2, "kv_heads": 2, "hidden": 16} if name in COUPLED else {"heads": 1, "kv_heads": 1, "hidden": 25}
    after = replace(before, layers=2, ffn=31, vocabulary=60, **narrow)
    cut = cut_config(config, after, [1, 2])
    loaded = transformers.AutoConfig.for_model(**cut)
    assert shape_of(cut) == shape_of(loaded.to_dict()) == after
    family = FAMILIES[name]
    for key in {*family.per_layer} & set(config):
        assert getattr(loaded, key) == config[key][1:3]
    unchanged = set(config) - {*vars(family.keys).values(), *family.per_layer, *family.patterns, *family.fixed}
    assert {key: cut[key] for key in unchanged} == {key: config[key] for key in unchanged}


def test_per_layer_lists_are_cut_along():
    config = {**_plain("smollm3"), "no_rope_layers": [1, 0, 1, 0], "layer_types": ["a", "b", "c", "d"]}
    after = cut_config(config, replace(shape_of(config), layers=2, ffn=40), [0, 3])
    assert {key: after[key] for key in after if after[key] != config[key]} == {
        "num_hidden_layers": 2,
        "intermediate_size": 40,
        "layer_types": ["a", "d"],
        "no_rope_layers": [1, 0],
    }
    assert config["layer_types"] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("written", [True, False])
def test_gpt_neos_pattern_of_kinds_is_cut_along_even_where_it_is_left_out(written):
    config = {**_plain("gpt_neo", num_layers=24, attention_types=[[["global", "local"], 12]])}
    if not written:
        config = {key: value for key, value in config.items() if not key.startswith("attention_")}
    after = cut_config(config, replace(shape_of(config), layers=3), [1, 2, 5])
    assert after["attention_types"] == [[["local", "global", "local"], 1]]
    assert transformers.AutoConfig.for_model(**after).attention_layers == ["local", "global", "local"]
    whole = replace(shape_of(config), ffn=40)
    assert cut_config(config, whole) == {**config, "intermediate_size": 40}


def test_axis_sizes_are_those_of_the_parameters():
    config = _plain("phi3")
    assert axis_sizes(config) == {
        "vocab": 64,
        "hidden": 32,
        "ffn": 48,
        "q": 32,
        "kv": 16,
        "qkv": 64,
        "qkv_by_head": 96,
        "gate_up": 96,
        "head": 8,
        "positions": 64,
        "types": 2,
        "labels": 2,
    }
    names = [parameter.name for parameter in parameters_of(config)]
    assert len(names) == len(set(names)) == 3 + 4 * 6
    assert [parameter.name for parameter in parameters_of(config) if parameter.shared] == ["lm_head.weight"]


def test_an_architecture_is_known_or_refused():
    assert architecture_of({"model_type": "gpt2"}) == "GPT2LMHeadModel"
    assert architecture_of({"model_type": "bert", "architectures": ["BertModel"]}) == "BertModel"
    assert _refusal(architecture_of, {"model_type": "bert", "architectures": ["BertForQuestionAnswering"]}) == (
        "BertForQuestionAnswering is not in the family table; of family bert it knows BertForMaskedLM, "
        "BertForSequenceClassification, BertForTokenClassification, BertModel"
    )


UNKNOWN = f"is not in the family table; known families: {KNOWN}"
MIXTURE = f"is a mixture of experts, which cannot be pruned yet; known families: {KNOWN}"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "mamba"}, f"model_type 'mamba' {UNKNOWN}"),
    ({}, f"config.json has no model_type; known families: {KNOWN}"),
    ({"model_type": "mixtral", "num_local_experts": 8}, f"model_type 'mixtral' {MIXTURE}"),
    ({"model_type": "qwen3_moe", "num_experts": 8}, f"model_type 'qwen3_moe' {MIXTURE}"),
    ({"model_type": "deepseek_v3", "n_routed_experts": 8}, f"model_type 'deepseek_v3' {MIXTURE}"),
    ({"model_type": "mixtral", "num_local_experts": 1}, f"model_type 'mixtral' {UNKNOWN}"),
    (
        {"model_type": "opt", "do_layer_norm_before": False},
        "opt models with do_layer_norm_before false are not in the family table, only with true",
    ),
    (
        {"model_type": "opt", "_remove_final_layer_norm": True},
        "opt models with _remove_final_layer_norm true are not in the family table, only with false",
    ),
    (
        {"model_type": "opt", "layer_norm_elementwise_affine": False},
        "opt models with layer_norm_elementwise_affine false are not in the family table, only with true",
    ),
    (
        {"model_type": "opt", "hidden_size": 1024, "word_embed_proj_dim": 512},
        "opt models with word_embed_proj_dim 512 beside a width of 1024 are not in the family table, only with both the same",
    ),
    (
        {"model_type": "gpt2", "add_cross_attention": True},
        "gpt2 models with add_cross_attention true are not in the family table, only with false",
    ),
    (
        {"model_type": "bert", "add_cross_attention": True},
        "bert models with add_cross_attention true are not in the family table, only with false",
    ),
]


@pytest.mark.parametrize(("config", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_the_table_does_not_describe_is_refused(config, message):
    assert _refusal(family_of, config) == message


SIZES: list[tuple[dict[str, Any], str]] = [
    (
        {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "vocab_size": "64"},
        "config.json of a llama model needs a whole number above 0 for num_hidden_layers, vocab_size, intermediate_size",
    ),
    (
        {**OLD_LLAMA, "num_attention_heads": 0, "hidden_size": True},
        "config.json of a llama model needs a whole number above 0 for hidden_size, num_attention_heads",
    ),
    (
        {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 9},
        "config.json of a gpt2 model needs a whole number above 0 for n_positions",
    ),
    (
        {**OLD_LLAMA, "num_key_value_heads": 3},
        "config.json has 4 query heads and 3 key/value heads, which do not divide them",
    ),
    (
        {"model_type": "gpt2", "n_layer": 2, "n_embd": 33, "n_head": 4, "vocab_size": 9, "n_positions": 8},
        "config.json has a width of 33 and 4 heads, which do not divide it",
    ),
]


@pytest.mark.parametrize(("config", "message"), SIZES)
def test_sizes_that_are_missing_or_do_not_fit_are_named(config, message):
    assert _refusal(shape_of, config) == message


def test_the_table_and_prunes_plan_import_no_torch():
    code = (
        "import sys, compress.prune.plan, compress.models.families;"
        "print(sorted({'torch', 'transformers', 'optimum', 'accelerate'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
