"""The least-squares fit behind a repair. Knows tensors only."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows multiplied at once in float32, before they are added up in float64.
_CHUNK = 2048


class Moments:
    """Second moments of what a projection reads and of what it should give, summed over tokens in float64.

    With `bias`, a constant 1 is read too.
    """

    def __init__(self, bias: bool) -> None:
        self._bias = bias
        self._inputs: Tensor | None = None
        self._cross: Tensor | None = None

    def add(self, inputs: Tensor, targets: Tensor, targets_bias: bool = False) -> None:
        """Take in tokens; with `targets_bias` the targets get a constant 1 too.

        Shapes: inputs [..., I], targets [..., O].
        """
        x, y = as_rows(inputs, self._bias), as_rows(targets, targets_bias)
        for a, b in zip(torch.split(x, _CHUNK), torch.split(y, _CHUNK), strict=True):
            gram, cross = (a.T @ a).double().cpu(), (a.T @ b).double().cpu()
            self._inputs = gram if self._inputs is None else self._inputs.add_(gram)
            self._cross = cross if self._cross is None else self._cross.add_(cross)

    def fit(self, start: Tensor, ridge: float, through: Tensor | None = None) -> Tensor:
        """Return W that minimises sum ||W x - y||^2 + lambda ||W - start||^2, lambda = ridge times the mean E-sum of x_i^2.

        through   when given, the targets are y = through @ what was taken in as targets

        Shapes: start [O, I] (with bias: [O, I + 1]), through [O, targets] -> like start, float64.
        """
        assert self._inputs is not None
        assert self._cross is not None
        penalty = ridge * self._inputs.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        cross = self._cross if through is None else self._cross @ through.double().cpu().T
        start = start.double().cpu()
        left = self._inputs + penalty * torch.eye(len(self._inputs), dtype=torch.float64)
        factor = torch.linalg.cholesky(left)
        return torch.cholesky_solve(cross + penalty * start.T, factor).T


def as_rows(tokens: Tensor, ones: bool) -> Tensor:
    """Return tokens one below the other, with a constant 1 at the end of each where asked. Shapes: [..., I] -> [N, I (+ 1)]."""
    flat = tokens.detach().flatten(0, -2).float()
    return torch.cat([flat, flat.new_ones(len(flat), 1)], 1) if ones else flat
