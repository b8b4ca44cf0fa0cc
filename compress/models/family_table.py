"""The family table: one row of facts per `model_type`. Imports no torch.

Beside it only export knows families by name: which of the builder's classes takes each. The table is complete by itself
(optimum's NormalizedConfigManager imports transformers, lacks Gemma 2 and 3, and names no feed-forward width for several).
"""

from __future__ import annotations

from collections.abc import Mapping

from compress.models.family import ConfigKeys, Family, Weight, conv1d, embedding, layer_norm, linear, norm

_ATTENTION_BIAS = "attention_bias"


def _attention(qkv: str = "never", o: str = "never") -> tuple[Weight, ...]:
    inputs = (linear("attention", f"self_attn.{name}_proj", axis, "hidden", qkv) for name, axis in _QKV)
    return (*inputs, linear("attention", "self_attn.o_proj", "hidden", "q", o))


_QKV = (("q", "q"), ("k", "kv"), ("v", "kv"))


def _gated(bias: str = "never") -> tuple[Weight, ...]:
    return (
        linear("ffn", "mlp.gate_proj", "ffn", "hidden", bias),
        linear("ffn", "mlp.up_proj", "ffn", "hidden", bias),
        linear("ffn", "mlp.down_proj", "hidden", "ffn", bias),
    )


_NORMS = (norm("input_layernorm"), norm("post_attention_layernorm"))
_FOUR_NORMS = (*_NORMS, norm("pre_feedforward_layernorm"), norm("post_feedforward_layernorm"))
_HEAD_NORMS = (norm("self_attn.q_norm", "head"), norm("self_attn.k_norm", "head"))
_GATED_OUTSIDE = (embedding("embed_tokens"), norm("norm"))
_LM_HEAD = (linear("head", "lm_head", "vocab", "hidden", tied="weight"),)
_FUSED = (
    linear("attention", "self_attn.qkv_proj", "qkv", "hidden"),
    linear("attention", "self_attn.o_proj", "hidden", "q"),
    linear("ffn", "mlp.gate_up_proj", "gate_up", "hidden"),
    linear("ffn", "mlp.down_proj", "hidden", "ffn"),
)

_LLAMA = Family(
    "llama",
    (*_attention(_ATTENTION_BIAS, _ATTENTION_BIAS), *_gated("mlp_bias"), *_NORMS),
    _GATED_OUTSIDE,
    {"LlamaForCausalLM": _LM_HEAD},
    whole_heads=True,
)
_MISTRAL = Family(
    "mistral",
    (*_attention(), *_gated(), *_NORMS),
    _GATED_OUTSIDE,
    {"MistralForCausalLM": _LM_HEAD},
    defaults={"num_key_value_heads": 8},
)
_QWEN2 = Family(
    "qwen2",
    (*_attention("always"), *_gated(), *_NORMS),
    _GATED_OUTSIDE,
    {"Qwen2ForCausalLM": _LM_HEAD},
    defaults={"num_key_value_heads": 32},
)
_QWEN3 = Family(
    "qwen3",
    (*_attention(_ATTENTION_BIAS, _ATTENTION_BIAS), *_HEAD_NORMS, *_gated(), *_NORMS),
    _GATED_OUTSIDE,
    {"Qwen3ForCausalLM": _LM_HEAD},
    defaults={"num_key_value_heads": 32, "head_dim": 128},
)
_PHI3 = Family(
    "phi3",
    (*_FUSED, *_NORMS),
    _GATED_OUTSIDE,
    {"Phi3ForCausalLM": _LM_HEAD},
    ffn_in=("mlp.gate_up_proj",),
    rope_by_width=True,
)
_GEMMA_DEFAULTS = {"num_key_value_heads": 4, "head_dim": 256}
_GEMMA2 = Family(
    "gemma2",
    (*_attention(_ATTENTION_BIAS, _ATTENTION_BIAS), *_gated(), *_FOUR_NORMS),
    _GATED_OUTSIDE,
    {"Gemma2ForCausalLM": _LM_HEAD},
    activation="hidden_activation",
    residual="norm",
    tied=True,
    whole_heads=True,
    defaults=_GEMMA_DEFAULTS,
)
_GEMMA3 = Family(
    "gemma3_text",
    (*_attention(_ATTENTION_BIAS, _ATTENTION_BIAS), *_HEAD_NORMS, *_gated(), *_FOUR_NORMS),
    _GATED_OUTSIDE,
    {"Gemma3ForCausalLM": _LM_HEAD},
    activation="hidden_activation",
    residual="norm",
    tied=True,
    whole_heads=True,
    defaults=_GEMMA_DEFAULTS,
)
_SMOLLM3 = Family(
    "smollm3",
    (*_attention(_ATTENTION_BIAS, _ATTENTION_BIAS), *_gated("mlp_bias"), *_NORMS),
    _GATED_OUTSIDE,
    {"SmolLM3ForCausalLM": _LM_HEAD},
    per_layer=("layer_types", "no_rope_layers"),
    tied=True,
    defaults={"num_key_value_heads": 4},
)
_GPT2 = Family(
    "gpt2",
    (
        conv1d("attention", "attn.c_attn", "hidden", "qkv"),
        conv1d("attention", "attn.c_proj", "q", "hidden"),
        conv1d("ffn", "mlp.c_fc", "hidden", "ffn"),
        conv1d("ffn", "mlp.c_proj", "ffn", "hidden"),
        layer_norm("ln_1"),
        layer_norm("ln_2"),
    ),
    (embedding("wte"), embedding("wpe", "positions"), layer_norm("ln_f")),
    {"GPT2LMHeadModel": _LM_HEAD},
    ConfigKeys(layers="n_layer", ffn="n_inner", hidden="n_embd", heads="n_head", context="n_positions"),
    base="transformer",
    layers="h",
    attention="attn",
    attention_out="attn.c_proj",
    ffn_in=("mlp.c_fc",),
    ffn_out="mlp.c_proj",
    activation="activation_function",
    per_layer=(),
    by_index=("scale_attn_by_inverse_layer_idx",),
    presumes={"add_cross_attention": False},
    tied=True,
    coupled=True,
    default_ffn=4,
)
_GPT_NEO = Family(
    "gpt_neo",
    (
        *(linear("attention", f"attn.attention.{name}_proj", axis, "hidden") for name, axis in _QKV),
        linear("attention", "attn.attention.out_proj", "hidden", "q", "always"),
        linear("ffn", "mlp.c_fc", "ffn", "hidden", "always"),
        linear("ffn", "mlp.c_proj", "hidden", "ffn", "always"),
        layer_norm("ln_1"),
        layer_norm("ln_2"),
    ),
    (embedding("wte"), embedding("wpe", "positions"), layer_norm("ln_f")),
    {"GPTNeoForCausalLM": _LM_HEAD},
    ConfigKeys(layers="num_layers", heads="num_heads"),
    base="transformer",
    layers="h",
    attention="attn.attention",
    attention_out="attn.attention.out_proj",
    ffn_in=("mlp.c_fc",),
    ffn_out="mlp.c_proj",
    activation="activation_function",
    per_layer=("attention_layers",),
    patterns=("attention_types",),
    tied=True,
    coupled=True,
    defaults={"attention_types": [[["global", "local"], 12]]},
    default_ffn=4,
)
_NEOX_LAYER = (
    Weight("attention", "attention.query_key_value", ("qkv_by_head", "hidden"), _ATTENTION_BIAS, "qkv_by_head"),
    linear("attention", "attention.dense", "hidden", "q", _ATTENTION_BIAS),
    linear("ffn", "mlp.dense_h_to_4h", "ffn", "hidden", "always"),
    linear("ffn", "mlp.dense_4h_to_h", "hidden", "ffn", "always"),
    layer_norm("input_layernorm"),
    layer_norm("post_attention_layernorm"),
)
_GPT_NEOX = Family(
    "gpt_neox",
    _NEOX_LAYER,
    (embedding("embed_in"), layer_norm("final_layer_norm")),
    {"GPTNeoXForCausalLM": _LM_HEAD},
    base="gpt_neox",
    attention="attention",
    attention_out="attention.dense",
    ffn_in=("mlp.dense_h_to_4h",),
    ffn_out="mlp.dense_4h_to_h",
    per_layer=(),
    coupled=True,
    whole_heads=True,
    on=(_ATTENTION_BIAS,),
)
_OPT = Family(
    "opt",
    (
        *(linear("attention", f"self_attn.{name}_proj", axis, "hidden", "enable_bias") for name, axis in _QKV),
        linear("attention", "self_attn.out_proj", "hidden", "q", "enable_bias"),
        linear("ffn", "fc1", "ffn", "hidden", "enable_bias"),
        linear("ffn", "fc2", "hidden", "ffn", "enable_bias"),
        layer_norm("self_attn_layer_norm"),
        layer_norm("final_layer_norm"),
    ),
    (embedding("embed_tokens"), embedding("embed_positions", "positions"), layer_norm("final_layer_norm")),
    {"OPTForCausalLM": _LM_HEAD},
    ConfigKeys(ffn="ffn_dim"),
    base="model.decoder",
    attention_out="self_attn.out_proj",
    ffn="",
    ffn_in=("fc1",),
    ffn_out="fc2",
    activation="activation_function",
    per_layer=(),
    tied=True,
    coupled=True,
    fixed=("word_embed_proj_dim",),
    presumes={
        "do_layer_norm_before": True,
        "layer_norm_elementwise_affine": True,
        "_remove_final_layer_norm": False,
    },
    on=("enable_bias",),
    extra_positions=2,
)


def _encoder_layer() -> tuple[Weight, ...]:
    names = (("query", "q"), ("key", "kv"), ("value", "kv"))
    return (
        *(linear("attention", f"attention.self.{name}", axis, "hidden", "always") for name, axis in names),
        linear("attention", "attention.output.dense", "hidden", "q", "always"),
        layer_norm("attention.output.LayerNorm"),
        linear("ffn", "intermediate.dense", "ffn", "hidden", "always"),
        linear("ffn", "output.dense", "hidden", "ffn", "always"),
        layer_norm("output.LayerNorm"),
    )


_EMBEDDINGS = (
    embedding("embeddings.word_embeddings"),
    embedding("embeddings.position_embeddings", "positions"),
    embedding("embeddings.token_type_embeddings", "types"),
    layer_norm("embeddings.LayerNorm"),
)


def _dense(path: str, out: str = "hidden") -> Weight:
    return linear("head", path, out, "hidden", "always")


def _bert(name: str, heads: Mapping[str, tuple[Weight, ...]], pad_position: bool = False) -> Family:
    return Family(
        name,
        _encoder_layer(),
        _EMBEDDINGS,
        heads,
        base=name,
        layers="encoder.layer",
        attention="attention.self",
        attention_out="attention.output.dense",
        ffn="",
        ffn_in=("intermediate.dense",),
        ffn_out="output.dense",
        residual="together",
        per_layer=(),
        tied=True,
        coupled=True,
        presumes={"add_cross_attention": False},
        pad_position=pad_position,
    )


def _masked_lm_bias(path: str) -> Weight:
    return Weight("head", path, ("vocab",), leaf="bias")


# The pooler stands inside the base where the head reads it; its rows are named from the whole model.
_BERT = _bert(
    "bert",
    {
        "BertForMaskedLM": (
            _masked_lm_bias("cls.predictions"),
            _dense("cls.predictions.transform.dense"),
            layer_norm("cls.predictions.transform.LayerNorm"),
            linear("head", "cls.predictions.decoder", "vocab", "hidden", "always", tied="both"),
        ),
        "BertForSequenceClassification": (_dense("bert.pooler.dense"), _dense("classifier", "labels")),
        "BertForTokenClassification": (_dense("classifier", "labels"),),
        "BertModel": (_dense("pooler.dense"),),
    },
)
_ROBERTA = _bert(
    "roberta",
    {
        "RobertaForMaskedLM": (
            _masked_lm_bias("lm_head"),
            _dense("lm_head.dense"),
            layer_norm("lm_head.layer_norm"),
            linear("head", "lm_head.decoder", "vocab", "hidden", "always", tied="both"),
        ),
        "RobertaForSequenceClassification": (_dense("classifier.dense"), _dense("classifier.out_proj", "labels")),
        "RobertaForTokenClassification": (_dense("classifier", "labels"),),
        "RobertaModel": (_dense("pooler.dense"),),
    },
    pad_position=True,
)
_DISTILBERT = Family(
    "distilbert",
    (
        *(linear("attention", f"attention.{name}_lin", axis, "hidden", "always") for name, axis in _QKV),
        linear("attention", "attention.out_lin", "hidden", "q", "always"),
        layer_norm("sa_layer_norm"),
        linear("ffn", "ffn.lin1", "ffn", "hidden", "always"),
        linear("ffn", "ffn.lin2", "hidden", "ffn", "always"),
        layer_norm("output_layer_norm"),
    ),
    tuple(row for row in _EMBEDDINGS if "token_type" not in row.path),
    {
        "DistilBertForMaskedLM": (
            _dense("vocab_transform"),
            layer_norm("vocab_layer_norm"),
            linear("head", "vocab_projector", "vocab", "hidden", "always", tied="weight"),
        ),
        "DistilBertForSequenceClassification": (_dense("pre_classifier"), _dense("classifier", "labels")),
        "DistilBertForTokenClassification": (_dense("classifier", "labels"),),
        "DistilBertModel": (),
    },
    ConfigKeys(layers="n_layers", ffn="hidden_dim", hidden="dim", heads="n_heads"),
    base="distilbert",
    layers="transformer.layer",
    attention="attention",
    attention_out="attention.out_lin",
    ffn="ffn",
    ffn_in=("ffn.lin1",),
    ffn_out="ffn.lin2",
    activation="activation",
    residual="together",
    per_layer=(),
    tied=True,
    coupled=True,
)

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        _LLAMA,
        _MISTRAL,
        _QWEN2,
        _QWEN3,
        _PHI3,
        _GEMMA2,
        _GEMMA3,
        _SMOLLM3,
        _GPT2,
        _GPT_NEO,
        _GPT_NEOX,
        _OPT,
        _BERT,
        _DISTILBERT,
        _ROBERTA,
    )
}
