"""Every family of the table as a tiny random model: 4 layers of two kinds where the family has kinds, grouped queries."""

from __future__ import annotations

from typing import Any

import torch
import transformers

_SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_KINDS = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralConfig", {"sliding_window": 6}),
    "qwen2": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 6, "layer_types": _KINDS}),
    "qwen3": ("Qwen3Config", {"head_dim": 10, "attention_bias": True}),
    "phi3": ("Phi3Config", {}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "gemma3_text": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 6, "layer_types": _KINDS}),
    "smollm3": ("SmolLM3Config", {"use_sliding_window": True, "sliding_window": 6, "no_rope_layer_interval": 2}),
}


def tiny_config(family: str, tied: bool = True, **changes: Any) -> Any:
    """Return the transformers config of a tiny model."""
    name, own = CONFIGS[family]
    return getattr(transformers, name)(**{**_SIZES, **own, "tie_word_embeddings": tied, **changes})


def tiny_model(family: str, tied: bool = True, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """Return a tiny model whose every parameter, norms and biases too, is random; the same at every call."""
    config = tiny_config(family, tied, **changes)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype).eval()
