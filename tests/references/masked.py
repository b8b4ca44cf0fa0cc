"""The masked model: the uncut transformers model whose removed parts are silenced by hooks, an independent reference.

Nothing is sliced here. A removed layer hands its input on. Removed feed-forward columns and heads are zeroed where the
projection behind them reads them. Removed channels are zeroed wherever something is written into the residual stream,
norms take their statistics over the kept channels only, and an embedding that scales by the width scales by the kept one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# The projections of one layer that read heads, and those that read feed-forward columns, in every family.
_READS_HEADS = (
    r"(self_attn\.o_proj|self_attn\.out_proj|attn\.c_proj|attn\.attention\.out_proj|attention\.dense"
    r"|attention\.output\.dense|attention\.out_lin)"
)
_READS_COLUMNS = r"(mlp\.down_proj|mlp\.c_proj|mlp\.dense_4h_to_h|fc2|output\.dense|ffn\.lin2)"
_LAYER = r"(?:.*\.)?(?:layers|layer|h)\.(\d+)"
# Hidden layers of heads, and the residual stream's own writers outside the layers.
_HEAD_WRITERS = ("pooler.dense", "transform.dense", "vocab_transform", "pre_classifier", "lm_head.dense")
_OVER_HEADS = ("q_norm", "k_norm")


class Float64(TorchFunctionMode):
    """Every cast to float32 that a model asks for (norms, softmax, angles) stays in float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one torch function with float64 in place of float32."""
        kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        return func(*args, **kwargs) if func is not Tensor.float else args[0].double()


def mask_layers(model: nn.Module, kept: Sequence[int]) -> None:
    """Bypass every layer but the kept ones."""

    def bypass(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        before = args[0] if args else kwargs["hidden_states"]
        return (before, *output[1:]) if isinstance(output, tuple) else before

    for name, module in model.named_modules():
        found = re.fullmatch(_LAYER, name)
        if found and int(found[1]) not in kept:
            module.register_forward_hook(bypass, with_kwargs=True)


def mask_columns(model: nn.Module, kept: dict[int, Sequence[int]]) -> None:
    """Zero all feed-forward columns but the kept ones, layer by layer."""
    _mask_inputs(model, _READS_COLUMNS, kept, 1)


def mask_heads(model: nn.Module, kept: dict[int, Sequence[int]], head_dim: int) -> None:
    """Zero what all query heads but the kept ones say, layer by layer."""
    _mask_inputs(model, _READS_HEADS, kept, head_dim)


def mask_channels(model: nn.Module, kept: Sequence[int], width: int) -> None:
    """Silence all channels of the residual stream but the kept ones."""
    mask = _mask(kept, 1, width)
    for name, module in model.named_modules():
        writes = re.fullmatch(rf"{_LAYER}\.({_READS_HEADS}|{_READS_COLUMNS})", name) or name.endswith(_HEAD_WRITERS)
        # The first layer of RoBERTa's classification head stands at the end of a name that others use for their last one.
        writes = writes or name == "classifier.dense"
        if "Norm" in type(module).__name__ and not name.endswith(_OVER_HEADS):
            module.forward = _norm(module, mask)
        elif isinstance(module, nn.Embedding) or writes:
            module.register_forward_hook(lambda _module, _args, output: output * mask)
        if hasattr(module, "embed_scale"):
            # transformers holds it in float32
            module.embed_scale = torch.tensor(len(kept) ** 0.5).double()


def _mask(kept: Sequence[int], each: int, width: int) -> Tensor:
    mask = torch.zeros(width // each, each, dtype=torch.float64)
    mask[list(kept)] = 1
    return mask.flatten()


def _mask_inputs(model: nn.Module, pattern: str, kept: dict[int, Sequence[int]], each: int) -> None:
    masked = set()
    for name, module in model.named_modules():
        found = re.fullmatch(rf"{_LAYER}\.{pattern}", name)
        if found and int(found[1]) in kept:
            index = int(found[1])

            def silence(_module: nn.Module, args: Any, index: int = index) -> Any:
                return (args[0] * _mask(kept[index], each, args[0].shape[-1]), *args[1:])

            module.register_forward_pre_hook(silence)
            masked.add(index)
    assert masked == set(kept), f"no projection to mask in layers {set(kept) - masked}"


def _norm(module: Any, mask: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the forward of a norm that sees the kept channels only, restated: RMS or mean and variance."""
    gain = 1 + module.weight if type(module).__name__.startswith("Gemma") else module.weight
    eps = next(getattr(module, name) for name in ("eps", "variance_epsilon") if hasattr(module, name))
    count = mask.sum()

    def rms(x: Tensor) -> Tensor:
        seen = x * mask
        return seen / ((seen**2).sum(-1, keepdim=True) / count + eps).sqrt() * gain

    def mean_and_variance(x: Tensor) -> Tensor:
        mean = (x * mask).sum(-1, keepdim=True) / count
        seen = (x - mean) * mask
        return (seen / ((seen**2).sum(-1, keepdim=True) / count + eps).sqrt() * gain + module.bias) * mask

    return mean_and_variance if isinstance(module, nn.LayerNorm) else rms
