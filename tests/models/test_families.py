from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
import transformers

from compress.models.families import FAMILIES, count_parameters, cut_config, family_of, shape_of
from tests.references.tiny_families import CONFIGS, tiny_config, tiny_model

KNOWN = "llama, mistral, qwen2, qwen3, phi3, gemma2, gemma3_text, smollm3"
FAMILY_NAMES = sorted(FAMILIES)


def test_every_family_has_a_tiny_model():
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_module_paths_are_those_of_the_model(name):
    family, model = FAMILIES[name], tiny_model(name)
    paths, shape = family.paths, shape_of(model.config.to_dict())
    layers = model.get_submodule(paths.layers)
    assert len(layers) == shape.layers
    for layer in layers:
        ffn = layer.get_submodule(paths.ffn)
        rows = 2 * shape.ffn if paths.ffn_fused else shape.ffn
        assert [ffn.get_submodule(each).weight.shape for each in paths.ffn_in] == [(rows, shape.hidden)] * len(
            paths.ffn_in
        )
        assert ffn.get_submodule(paths.ffn_out).weight.shape == (shape.hidden, shape.ffn)
        assert layer.get_submodule(paths.attention).layer_idx == list(layers).index(layer)
    assert model.get_submodule(paths.embedding) is model.get_input_embeddings()
    assert model.get_submodule(paths.head) is model.get_output_embeddings()
    assert layers is model.get_submodule(paths.base).layers


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_parameters_are_counted_as_the_model_has_them(name, tied):
    model = tiny_model(name, tied)
    paths = FAMILIES[name].paths
    found = dict.fromkeys(("embedding", "attention", "ffn", "norm", "head"), 0)
    for path, parameter in model.named_parameters():
        inside = path.removeprefix(paths.layers + ".").partition(".")[2] if path.startswith(paths.layers) else path
        if "norm" in path:
            found["norm"] += parameter.numel()
        elif path.startswith(paths.embedding):
            found["embedding"] += parameter.numel()
        elif path.startswith(paths.head):
            found["head"] += parameter.numel()
        else:
            found["attention" if inside.startswith(paths.attention) else "ffn"] += parameter.numel()
    counted = count_parameters(model.config.to_dict())
    assert counted == found
    assert sum(counted.values()) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_defaults_are_those_of_transformers(name):
    default = getattr(transformers, CONFIGS[name][0])()
    assert default.model_type == name
    assert FAMILIES[name].tied == default.tie_word_embeddings
    written = {key: value for key, value in default.to_dict().items() if key not in ("head_dim", "tie_word_embeddings")}
    shape = shape_of(default.to_dict())
    assert shape_of(written).tied == shape.tied
    lists = {key for key, value in default.to_dict().items() if isinstance(value, list) and len(value) == shape.layers}
    assert lists <= set(FAMILIES[name].per_layer)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_names_agree_with_optimum_where_it_knows_the_family(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optimum.utils import NormalizedConfigManager
    config = tiny_config(name)
    shape = shape_of(config.to_dict())
    try:
        normalized = NormalizedConfigManager.get_normalized_config_class(name)(config)
    except KeyError:
        assert name in {"gemma2", "gemma3_text"}
        return
    assert normalized.num_layers == shape.layers
    assert normalized.hidden_size == shape.hidden
    assert normalized.num_attention_heads == shape.heads
    assert normalized.vocab_size == shape.vocabulary
    if normalized.has_attribute("num_key_value_heads"):
        assert normalized.num_key_value_heads == shape.kv_heads


def test_head_and_group_sizes_that_config_leaves_out_follow_from_the_others():
    config = {"model_type": "llama", "num_hidden_layers": 2, "intermediate_size": 24, "hidden_size": 32}
    shape = shape_of({**config, "num_attention_heads": 4, "vocab_size": 10})
    assert (shape.kv_heads, shape.head_dim, shape.context, shape.tied) == (4, 8, None, False)


def test_per_layer_lists_are_cut_along():
    config = tiny_config("smollm3").to_dict()
    config["no_rope_layers"] = [1, 0, 1, 0]
    config["layer_types"] = ["a", "b", "c", "d"]
    after = cut_config(config, [0, 3], 40)
    changed = {key: after[key] for key in after if after[key] != config[key]}
    assert changed == {
        "num_hidden_layers": 2,
        "intermediate_size": 40,
        "layer_types": ["a", "d"],
        "no_rope_layers": [1, 0],
    }
    assert config["layer_types"] == ["a", "b", "c", "d"]


def test_unknown_families_are_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match=r".") as caught:
        family_of({"model_type": "mamba"})
    assert str(caught.value) == f"model_type 'mamba' is not in the family table; known families: {KNOWN}"


@pytest.mark.parametrize("key", ["num_local_experts", "num_experts", "n_routed_experts"])
def test_mixtures_of_experts_are_refused(key):
    with pytest.raises(ValueError, match=r".") as caught:
        family_of({"model_type": "mixtral", key: 8})
    assert str(caught.value) == (
        f"model_type 'mixtral' is a mixture of experts, which cannot be pruned yet; known families: {KNOWN}"
    )


def test_missing_sizes_are_named():
    with pytest.raises(ValueError, match=r".") as caught:
        shape_of({"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "vocab_size": "64"})
    assert str(caught.value) == (
        "config.json of a llama model needs a whole number for num_hidden_layers, intermediate_size, vocab_size"
    )


def test_the_table_and_prunes_plan_import_no_torch():
    code = (
        "import sys, compress.prune.options, compress.models.families;"
        "print(sorted({'torch', 'transformers', 'optimum'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_tiny_model_runs():
    logits = tiny_model("qwen3")(torch.arange(6)[None]).logits
    assert logits.shape == (1, 6, 64)
    assert torch.isfinite(logits).all()
