"""Options of the verb `quantize`. Imports no torch."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from pydantic import Field

from compress.models.family_table import FAMILIES
from compress.options import Options

Block = Literal[16, 32, 64, 128, 256]
# Their layers store weights with the input axis first (Conv1D), and no export takes them.
TRANSPOSED_FAMILIES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_TIED_NAMES = ("model.embed_tokens.weight", "lm_head.weight")


class QuantizeOptions(Options):
    """Put every matrix, embedding and lm_head included, on an integer grid in blocks along the input axis."""

    bits: Literal[4, 8] = Field(description="bits of a code")
    method: Literal["rtn"] = Field("rtn", description="rtn: round to nearest, with the scale that a search finds best")
    block: Block = Field(32, description="weights that share a scale")
    symmetric: bool = Field(True, description="true: no zero points; false: a zero point for each block")
    leave_out: tuple[str, ...] = Field(
        (), description="patterns (as in a shell) of weights that stay in float; each must match one"
    )


def plan(options: QuantizeOptions, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the quantized folder, which is the model's own.

    Raises ValueError where the model cannot be quantized so.
    """
    model_type = config.get("model_type", "")
    if model_type in TRANSPOSED_FAMILIES:
        raise ValueError(
            f"quantize does not take models of type {model_type!r}: their layers store weights with the input axis first "
            "and no ONNX export takes them; start from a Llama-like model"
        )
    family, tied = FAMILIES.get(model_type), config.get("tie_word_embeddings")
    if tied is None:
        tied = family is not None and family.tied
    width = config.get("hidden_size")
    left_out = any(fnmatchcase(name, pattern) for name in _TIED_NAMES for pattern in options.leave_out)
    if tied and isinstance(width, int) and width % options.block and not left_out:
        raise ValueError(
            f"quantize.block {options.block} does not divide the width {width} of the tied embedding; {_advice(width, options)}"
        )
    return dict(config)


def _advice(width: int, options: QuantizeOptions) -> str:
    legal = [block for block in get_args(Block) if width % block == 0]
    if not legal:
        return f"no block does; leave it out: leave_out: [{_TIED_NAMES[0]}]"
    nearest = min(legal, key=lambda block: (abs(block - options.block), block))
    return f"the nearest block that does is {nearest}"
