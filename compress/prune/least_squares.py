"""The least-squares fit behind a repair. Knows tensors only."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows multiplied at once in float32, before they are added up in float64.
_CHUNK = 2048
# Of the mean squared input; the last one that still lowers the error on tokens held out is taken.
RIDGES = (0.1, 1.0, 10.0, 100.0)
# One token in this many says which ridge: the last ones of each batch.
_HELD_OUT = 8
# About as many outputs are compared for it, evenly spread.
_COMPARED = 512


class Moments:
    """Second moments of what a projection reads and of what it should give, summed over tokens in float64.

    With `bias`, a constant 1 is read too. The last eighth of each batch is held out: a fit is first made without it.
    """

    def __init__(self, bias: bool) -> None:
        self._bias = bias
        self._seen: tuple[Tensor, Tensor] | None = None
        self._unseen: tuple[Tensor, Tensor] | None = None

    def add(self, inputs: Tensor, targets: Tensor, targets_bias: bool = False) -> None:
        """Take in tokens; with `targets_bias` the targets get a constant 1 too.

        Shapes: inputs [..., I], targets [..., O].
        """
        x, y = as_rows(inputs, self._bias), as_rows(targets, targets_bias)
        border = len(x) - len(x) // _HELD_OUT
        self._seen = _added(self._seen, x[:border], y[:border])
        self._unseen = _added(self._unseen, x[border:], y[border:])

    def fit(self, start: Tensor, through: Tensor | None = None) -> Tensor:
        """Return W that minimises sum ||W x - y||^2 + lambda ||W - start||^2, lambda = ridge times the mean sum of x_i^2.

        The ridge is the first of RIDGES, or a larger one as long as that lowers the error on the tokens held out; then all
        tokens are fitted with it. Where no ridge does better there than `start`, `start` comes back.

        through   when given, the targets are y = through @ what was taken in as targets

        Shapes: start [O, I] (with bias: [O, I + 1]), through [O, targets] -> like start, float64.
        """
        assert self._seen is not None
        assert self._unseen is not None
        start = start.double().cpu()
        # some outputs in single precision do for a comparison, and are many times faster
        some = slice(None, None, max(1, len(start) // _COMPARED))
        seen, unseen = (_sample(moments, start, through, some) for moments in (self._seen, self._unseen))
        ridge = _ridge(seen, unseen)
        if ridge is None:
            return start
        whole = self._seen[0] + self._unseen[0], self._seen[1] + self._unseen[1]
        gram, missing = _missing(whole, start, through)
        return start + solved(gram, missing, ridge).T


def _sample(
    moments: tuple[Tensor, Tensor], start: Tensor, through: Tensor | None, some: slice
) -> tuple[Tensor, Tensor]:
    """Return what `_missing` does for some of the outputs, in single precision."""
    gram, cross = moments[0].float(), moments[1].float()
    if through is None:
        cross = cross[:, some]
    return _missing((gram, cross), start[some].float(), None if through is None else through[some])


def _missing(moments: tuple[Tensor, Tensor], start: Tensor, through: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the moments of the inputs with themselves, and with what the start misses of the targets: [I, I], [I, O]."""
    gram, cross = moments
    if through is not None:
        cross = cross @ through.to("cpu", cross.dtype).T
    return gram, cross - gram @ start.T


def _ridge(seen: tuple[Tensor, Tensor], unseen: tuple[Tensor, Tensor]) -> float | None:
    """Return the ridge that does best on the tokens held out; None where the start does better."""
    best, least = None, 0.0
    for ridge in RIDGES:
        change = solved(*seen, ridge)
        error = float(((unseen[0] @ change - 2 * unseen[1]) * change).sum(dtype=torch.float64))
        if best is not None and error >= least:
            break
        if error < least:
            best, least = ridge, error
    return best


def solved(gram: Tensor, missing: Tensor, ridge: float) -> Tensor:
    """Return the change of least squared error with a ridge. Shapes: gram [I, I], missing [I, O] -> [I, O]."""
    # The least is for inputs that are all zero.
    penalty = ridge * gram.diagonal().mean().clamp(min=1e-20)
    factor = torch.linalg.cholesky(gram + penalty * torch.eye(len(gram), dtype=gram.dtype))
    return torch.cholesky_solve(missing, factor)


def _added(sums: tuple[Tensor, Tensor] | None, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    gram, cross = sums or [torch.zeros(x.shape[1], width, dtype=torch.float64) for width in (x.shape[1], y.shape[1])]
    for a, b in zip(torch.split(x, _CHUNK), torch.split(y, _CHUNK), strict=True):
        gram += (a.T @ a).double().cpu()
        cross += (a.T @ b).double().cpu()
    return gram, cross


def as_rows(tokens: Tensor, ones: bool) -> Tensor:
    """Return tokens one below the other, with a constant 1 at the end of each where asked. Shapes: [..., I] -> [N, I (+ 1)]."""
    flat = tokens.detach().flatten(0, -2).float()
    return torch.cat([flat, flat.new_ones(len(flat), 1)], 1) if ones else flat
