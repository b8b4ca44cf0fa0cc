"""Every family of the table as a tiny random model: 4 layers of two kinds where the family has kinds, grouped queries."""

from __future__ import annotations

from typing import Any

import torch
import transformers

_IDS: dict[str, Any] = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_WIDTHS: dict[str, Any] = {
    **_IDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GROUPED: dict[str, Any] = {**_WIDTHS, "num_key_value_heads": 2}
_KINDS = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]

# The config class of each family, and its settings in that class's own names.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**_GROUPED, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralConfig", {**_GROUPED, "sliding_window": 6}),
    "qwen2": ("Qwen2Config", {**_GROUPED, "use_sliding_window": True, "sliding_window": 6, "layer_types": _KINDS}),
    "qwen3": ("Qwen3Config", {**_GROUPED, "head_dim": 10, "attention_bias": True}),
    "phi3": ("Phi3Config", _GROUPED),
    "gemma2": ("Gemma2Config", {**_GROUPED, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "gemma3_text": ("Gemma3TextConfig", {**_GROUPED, "head_dim": 8, "sliding_window": 6, "layer_types": _KINDS}),
    "smollm3": (
        "SmolLM3Config",
        {**_GROUPED, "use_sliding_window": True, "sliding_window": 6, "no_rope_layer_interval": 2},
    ),
    "gpt2": ("GPT2Config", {**_IDS, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, "n_inner": 48}),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            **_IDS,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_layers": 4,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "window_size": 6,
            "max_position_embeddings": 64,
        },
    ),
    "gpt_neox": (
        "GPTNeoXConfig",
        {**_WIDTHS, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    ),
    "opt": (
        "OPTConfig",
        {**{key: size for key, size in _WIDTHS.items() if key != "intermediate_size"}, "ffn_dim": 48},
    ),
    "bert": ("BertConfig", _WIDTHS),
    "distilbert": (
        "DistilBertConfig",
        {**_IDS, "dim": 32, "hidden_dim": 48, "n_layers": 4, "n_heads": 4, "max_position_embeddings": 64},
    ),
    "roberta": ("RobertaConfig", _WIDTHS),
}
# What is built of each family; the first one where none is asked for.
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "llama": ("LlamaForCausalLM",),
    "mistral": ("MistralForCausalLM",),
    "qwen2": ("Qwen2ForCausalLM",),
    "qwen3": ("Qwen3ForCausalLM",),
    "phi3": ("Phi3ForCausalLM",),
    "gemma2": ("Gemma2ForCausalLM",),
    "gemma3_text": ("Gemma3ForCausalLM",),
    "smollm3": ("SmolLM3ForCausalLM",),
    "gpt2": ("GPT2LMHeadModel",),
    "gpt_neo": ("GPTNeoForCausalLM",),
    "gpt_neox": ("GPTNeoXForCausalLM",),
    "opt": ("OPTForCausalLM",),
    **{
        family: tuple(
            f"{prefix}{head}"
            for head in ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "Model")
        )
        for family, prefix in (("bert", "Bert"), ("distilbert", "DistilBert"), ("roberta", "Roberta"))
    },
}
ENCODERS = ("bert", "distilbert", "roberta")
# Those whose heads have a width of their own, and grouped queries; the builder of export takes them all.
GROUPED = tuple(family for family, (_, own) in CONFIGS.items() if "num_key_value_heads" in own)
COUPLED = tuple(family for family in CONFIGS if family not in GROUPED)
DECODERS = tuple(family for family in CONFIGS if family not in ENCODERS)


def tiny_config(family: str, tied: bool = True, **changes: Any) -> Any:
    """Return the transformers config of a tiny model; changes stand in the family's own names, `architectures` too."""
    name, own = CONFIGS[family]
    first = [ARCHITECTURES[family][0]]
    return getattr(transformers, name)(**{**own, "architectures": first, "tie_word_embeddings": tied, **changes})


def tiny_model(family: str, tied: bool = True, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """Return a tiny model whose every parameter, norms and biases too, is random; the same at every call."""
    config = tiny_config(family, tied, **changes)
    with torch.random.fork_rng(devices=[]):
        # Not 0: that Llama says token 0 greedily, which onnxruntime-genai takes for the end where a model names no special ids.
        torch.manual_seed(1)
        model = getattr(transformers, config.architectures[0])._from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype).eval()
