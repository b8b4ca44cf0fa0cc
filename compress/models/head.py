"""A causal language model in two parts: the body gives hidden states, the tail turns rows of them into logits.

So a loss can take the logits of some rows at a time, of counted tokens alone, and never holds those of a whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.models.kind import is_causal, not_causal

_PROOF_TOKENS = 8
_PROOF_ERROR = 1e-2


class Tail:
    """What a model does behind its body: the head's product, times a scale, softly capped.

    Weight and bias are read from the head at every call: they may be tied, or computed anew by a parametrization.
    Under FSDP the head must be whole then: call it inside the forward of the module that holds it.
    """

    def __init__(self, head: nn.Linear, scale: float = 1.0, softcap: float | None = None) -> None:
        self.head, self.scale, self.softcap = head, scale, softcap

    @property
    def weight(self) -> Tensor:
        """The head's weight [V, D]."""
        return self.head.weight

    @property
    def bias(self) -> Tensor | None:
        """The head's bias [V], None where it has none."""
        return self.head.bias

    def __call__(self, rows: Tensor) -> Tensor:
        """Return logits [n, V] of hidden states [n, D]."""
        return self.finish(functional.linear(rows, self.weight, self.bias))

    def finish(self, products: Tensor) -> Tensor:
        """Return logits [n, V] from what the head's product and bias give [n, V]; the same tensor where nothing follows."""
        if self.scale != 1.0:
            products = products * self.scale
        if self.softcap is not None:
            products = torch.tanh(products / self.softcap) * self.softcap
        return products


def split(model: Any) -> tuple[Any, Tail]:
    """Return body and tail of a model; both share its weights.

    body(input_ids=…, …) is transformers' base model, and gives last_hidden_state [B, T, D] behind the last norm.

    Raises ValueError for a model that is no causal language model, and for a head that is no linear layer.
    """
    config = model.config
    described = {**config.to_dict(), "architectures": [type(model).__name__]}
    if not is_causal(described):
        raise ValueError(f"{not_causal(described)}: it has no head that gives the logits of the next token")
    head = model.get_output_embeddings()
    body = model.base_model
    if not isinstance(head, nn.Linear) or body is model:
        raise ValueError(
            f"{type(model).__name__}: its head is {type(head).__name__}, a linear layer on a base model is needed"
        )
    return body, Tail(head, _scale(config), getattr(config, "final_logit_softcapping", None))


def _scale(config: Any) -> float:
    """Return the factor of the logits: Cohere multiplies by one key, Granite divides by another."""
    factor = getattr(config, "logit_scale", None)
    divisor = getattr(config, "logits_scaling", None)
    return float(1.0 if factor is None else factor) / float(1.0 if divisor is None else divisor)


@torch.no_grad()
def prove_split(model: Any) -> None:
    """Compare tail(body(ids)) with the model's own logits on a few tokens: for families that are not in the family table.

    Raises ValueError where they differ by more than a hundredth of the largest logit, or where split does.
    """
    body, tail = split(model)
    vocabulary = tail.weight.shape[0]
    ids = torch.arange(_PROOF_TOKENS, device=tail.weight.device)[None] % vocabulary
    was_training = model.training
    model.eval()
    try:
        whole = model(input_ids=ids, use_cache=False).logits.float()
        parts = tail(body(input_ids=ids, use_cache=False).last_hidden_state).float()
    finally:
        model.train(was_training)
    if whole.shape != parts.shape or not (whole - parts).abs().max() <= _PROOF_ERROR * whole.abs().max():
        raise ValueError(
            f"{type(model).__name__}: its logits are not its head's product with the hidden states; "
            "this model cannot be trained here"
        )
