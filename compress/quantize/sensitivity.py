"""What each weight costs on each grid that it may get, in nats a token of KL to the float model, when it alone is rounded.

`fisher` estimates it by half the quadratic form of the Fisher information (fisher.py): one backward pass, whatever the number of
grids. `kl` measures it on calibration text for each number of bits, one weight at a time, and takes from the estimate only how
blocks of other sizes compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compress.contract import Progress
from compress.models.grid import Grid, values
from compress.models.scheme import Scheme
from compress.quantize.fisher import Curvature, EmbeddingCurvature
from compress.quantize.rtn import round_to_nearest

# Rows of a matrix on which errors are taken: those of the largest curvature for the half of it, the others evenly.
_ROWS = 128
# Log-probabilities of the float model that are held for `kl`.
_LOGITS = 1 << 27


@dataclass(frozen=True)
class Weights:
    """The weights that are chosen for: tensors by name, and which of them is the embedding or the head."""

    tensors: Mapping[str, Tensor]
    embedding: str
    head: str


def estimated(weights: Weights, grids: Mapping[str, Sequence[Scheme]], curvature: Curvature) -> dict[str, list[float]]:
    """Return the cost of each weight on each of its grids, by the second-order estimate."""
    return {
        name: [_estimate(name, weights, scheme, curvature) for scheme in schemes] for name, schemes in grids.items()
    }


def _estimate(name: str, weights: Weights, scheme: Scheme, curvature: Curvature) -> float:
    weight = weights.tensors[name].detach()
    if name in (weights.embedding, weights.head):
        uses = (name == weights.embedding, name == weights.head)
        importance = _by_row(curvature.embedding, uses, len(weight))
        rows, factors = _some_rows(importance)
        error = _error(weight[rows], scheme).double()
        return float((_row_costs(error, rows, curvature.embedding, uses) * factors).sum()) / (2 * curvature.tokens)
    diagonal = curvature.diagonals[name]
    rows, factors = _some_rows(diagonal.sum(1))
    costs = (diagonal[rows] * _error(weight[rows], scheme).square()).sum(1).double()
    return float((costs * factors).sum()) / (2 * curvature.tokens)


def _error(weight: Tensor, scheme: Scheme) -> Tensor:
    rounded = round_to_nearest(weight, scheme.bits, scheme.block, scheme.symmetric)
    grid = Grid(scheme.bits, rounded.scales, rounded.zeros.float())
    return values(rounded.codes.float(), grid).flatten(1)[:, : weight.shape[1]] - weight.float()


def _some_rows(importance: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows on which a sum over all rows is estimated, and what each counts for."""
    count = len(importance)
    order = torch.argsort(importance, descending=True, stable=True)
    if count <= _ROWS:
        return order, torch.ones(count, dtype=torch.float64, device=order.device)
    most = order[: _ROWS // 2]
    others = order[_ROWS // 2 :: max(1, (count - _ROWS // 2) // (_ROWS // 2))]
    factor = (count - len(most)) / len(others)
    factors = torch.ones(len(most) + len(others), dtype=torch.float64, device=order.device)
    factors[len(most) :] = factor
    return torch.cat([most, others]), factors


def _by_row(curvature: EmbeddingCurvature, uses: tuple[bool, bool], count: int) -> Tensor:
    found = torch.zeros(count, dtype=torch.float64, device=curvature.uses.device)
    if uses[0]:
        found += curvature.uses[:count] * curvature.inputs.trace()
    if uses[1]:
        found += curvature.outputs[:count] * curvature.hidden.trace()
    return found


def _row_costs(error: Tensor, rows: Tensor, curvature: EmbeddingCurvature, uses: tuple[bool, bool]) -> Tensor:
    costs = torch.zeros(len(rows), dtype=torch.float64, device=error.device)
    if uses[0]:
        costs += curvature.uses[rows] * ((error @ curvature.inputs) * error).sum(1)
    if uses[1]:
        costs += curvature.outputs[rows] * ((error @ curvature.hidden) * error).sum(1)
    return costs


def measured(
    model: Any,
    weights: Weights,
    grids: Mapping[str, Sequence[Scheme]],
    ids: Tensor,
    costs: Mapping[str, Sequence[float]],
    progress: Progress,
) -> dict[str, list[float]]:
    """Return the costs with each weight's estimates scaled to the KL that is measured, for each number of bits by itself.

    Shapes: ids [N, T], of which as many windows are read as `_LOGITS` holds.
    """
    ids = ids[: max(1, _LOGITS // (ids.shape[1] * model.config.vocab_size))].to(model.device)
    truth = _log_probabilities(model, ids)
    found = {}
    for done, (name, schemes) in enumerate(grids.items()):
        scaled = list(costs[name])
        for bits in sorted({scheme.bits for scheme in schemes}):
            of_bits = [at for at, scheme in enumerate(schemes) if scheme.bits == bits]
            at = of_bits[len(of_bits) // 2]
            kl = _kl_of(model, weights.tensors[name], schemes[at], ids, truth)
            for other in of_bits:
                scaled[other] = costs[name][other] * kl / max(costs[name][at], 1e-30)
        found[name] = scaled
        progress(done + 1, len(grids), "weights", f"KL of {name}")
    return found


@torch.no_grad()
def _kl_of(model: Any, weight: Tensor, scheme: Scheme, ids: Tensor, truth: Tensor) -> float:
    kept = weight.detach().clone()
    weight.add_(_error(kept, scheme))
    try:
        said = _log_probabilities(model, ids)
    finally:
        weight.copy_(kept)
    return max(0.0, float((truth.exp() * (truth - said)).sum(-1).mean()))


@torch.no_grad()
def _log_probabilities(model: Any, ids: Tensor) -> Tensor:
    parts = [model(input_ids=part, use_cache=False).logits.float().log_softmax(-1) for part in torch.split(ids, 8)]
    return torch.cat(parts)
