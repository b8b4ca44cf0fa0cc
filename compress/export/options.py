"""Options of the verb `export`, and the families that it takes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from compress.options import Options


@dataclass(frozen=True)
class Family:
    """A decoder family: its class in transformers, and its class in onnxruntime-genai's builder."""

    architecture: str
    builder: str


# By config.json's model_type.
FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaForCausalLM", "LlamaModel"),
    "mistral": Family("MistralForCausalLM", "MistralModel"),
    "qwen2": Family("Qwen2ForCausalLM", "QwenModel"),
    "qwen3": Family("Qwen3ForCausalLM", "Qwen3Model"),
    "phi3": Family("Phi3ForCausalLM", "Phi3MiniModel"),
    "gemma2": Family("Gemma2ForCausalLM", "Gemma2Model"),
    "gemma3_text": Family("Gemma3ForCausalLM", "Gemma3Model"),
    "smollm3": Family("SmolLM3ForCausalLM", "SmolLM3Model"),
}


# ONNX Runtime's GroupQueryAttention takes heads of a multiple of this width only.
_HEAD_MULTIPLE = 8


class ExportOptions(Options):
    """Write ONNX files that run in ONNX Runtime and onnxruntime-genai, and prove that they say what torch says."""

    tolerance: Annotated[float, Field(gt=0)] = Field(
        1e-4, description="largest difference of float logits, torch against ONNX, relative to the largest logit"
    )
    accuracy_level: Literal[0, 4] = Field(
        4,
        description="how MatMulNBits takes the inputs of weights in blocks: 4: rounded to 8 bits in blocks; 0: in float, exact and many "
        "times slower",
    )


def plan(options: ExportOptions, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the ONNX folder for a model's config.json.

    Raises ValueError where the export does not take the model.
    """
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(
            f"export does not take models of type {model_type!r}; it takes {', '.join(sorted(FAMILIES))}. "
            "Leave this stage out, or start from a model of one of these families"
        )
    _check_heads(config)
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise ValueError(
            f"export reads float weights, this model's weights are stored as {method!r} (config.json: quantization_config); "
            "start from the float model and use the stage quantize"
        )
    return {**{key: value for key, value in config.items() if key != "torch_dtype"}, "dtype": "float32"}


def _check_heads(config: Mapping[str, Any]) -> None:
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    width = config.get("head_dim") or (hidden // heads if hidden and heads else 0)
    if width % _HEAD_MULTIPLE:
        nearest = max(_HEAD_MULTIPLE, round(width / _HEAD_MULTIPLE) * _HEAD_MULTIPLE)
        raise ValueError(
            f"export does not take attention heads of width {width}: ONNX Runtime needs a multiple of {_HEAD_MULTIPLE}; "
            f"the nearest is {nearest}"
        )
