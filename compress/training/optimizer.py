"""The optimizers: AdamW for all, or Muon for the matrices of the layers and AdamW for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compress.training.rounding import is_grid_parameter

_BETAS = (0.9, 0.95)
GRID_RATE = 0.03
_GRID = "grid"
# Of a cut stories3M, perplexity of held-out stories by the share: 6 9.15, 2 8.54 (without hidden states); 2 8.36, 0.4 8.34
TOKEN_RATE = 0.6


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for matrices and AdamW for everything else, as one optimizer with one learning rate.

    Muon's steps are scaled to the root mean square of AdamW's, so that one learning rate fits both. Both work on the groups
    and the state of this optimizer, so that whatever sets a learning rate, saves a state or exchanges a parameter finds one
    optimizer of torch.
    Paper: Muon, arXiv 2502.16982 §2.2 (the scale is `match_rms_adamw`); AdamW, arXiv 1711.05101.
    """

    def __init__(self, matrices: list[Tensor], rest: list[dict[str, Any]], rate: float, decay: float) -> None:
        muon = torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(rest, lr=rate, betas=_BETAS)
        groups = [*muon.param_groups, *adamw.param_groups]
        super().__init__(groups, {"lr": rate})
        self._parts: tuple[torch.optim.Optimizer, ...] = (muon, adamw)
        self._share()

    def _share(self) -> None:
        muon, adamw = self._parts
        muon.param_groups, adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        muon.state = adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step with both."""
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state of both."""
        super().load_state_dict(state_dict)
        self._share()


def make_optimizer(learner: nn.Module, name: str, rate: float, decay: float) -> torch.optim.Optimizer:
    """Return the optimizer of everything in `learner` that is learned.

    name   "muon" or "adamw"
    rate   peak learning rate; beside Muon what AdamW learns, and scales and zero points everywhere, go at a share of it
    decay  weight decay, of matrices alone
    """
    matrices, others, grid = sort_parameters(learner)
    rest: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
    if name == "muon" and matrices:
        rest[0]["lr"] = rate * TOKEN_RATE
    if grid:
        rest.append({"params": grid, "weight_decay": 0.0, "lr": rate * GRID_RATE, _GRID: True})
    if name == "muon" and matrices:
        return MuonWithAdamW(matrices, rest, rate, decay)
    return torch.optim.AdamW([{"params": matrices, "weight_decay": decay}, *rest], lr=rate, betas=_BETAS)


def is_grid_group(group: dict[str, Any]) -> bool:
    """Return whether a group of an optimizer holds scales and zero points."""
    return bool(group.get(_GRID))


def sort_parameters(learner: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return what is learned as (matrices of linear layers, the rest, scales and zero points).

    The embedding and the head are in the rest: their rows are tokens, each with a gradient of its own.
    """
    tokens = {
        id(one) for module in learner.modules() if isinstance(module, nn.Embedding) for one in module.parameters()
    }
    model: Any = getattr(learner, "model", learner)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    tokens |= {id(one) for one in head.parameters()} if head is not None else set()
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    grid: list[Tensor] = []
    for name, parameter in learner.named_parameters():
        if not parameter.requires_grad:
            continue
        if is_grid_parameter(name):
            grid.append(parameter)
        elif parameter.ndim == 2 and id(parameter) not in tokens:
            matrices.append(parameter)
        else:
            others.append(parameter)
    return matrices, others, grid
