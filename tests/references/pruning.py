"""Slow float64 restatements of what prune computes: scores token by token in plain Python, fits as one dense system."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.prune.cut import Cut, Kept

Vector = Sequence[float]


def block_influence(before: Sequence[Sequence[Vector]], after: Sequence[Sequence[Vector]]) -> float:
    """ShortGPT, arXiv 2403.03853, section 3: 1 - E over every token of X_in . X_out / (|X_in| |X_out|)."""
    cosines = []
    for window_in, window_out in zip(before, after, strict=True):
        for x, y in zip(window_in, window_out, strict=True):
            dot = math.fsum(a * b for a, b in zip(x, y, strict=True))
            lengths = math.sqrt(math.fsum(a * a for a in x)) * math.sqrt(math.fsum(b * b for b in y))
            cosines.append(dot / lengths)
    return 1 - math.fsum(cosines) / len(cosines)


def column_energy(activations: Sequence[Sequence[Vector]], projection: Sequence[Vector]) -> list[float]:
    """Root mean square over tokens of the norm of what each column alone adds to the projection's output."""
    width = len(projection[0])
    tokens = [token for window in activations for token in window]
    scores = []
    for column in range(width):
        squares = [math.fsum((row[column] * token[column]) ** 2 for row in projection) for token in tokens]
        scores.append(math.sqrt(math.fsum(squares) / len(tokens)))
    return scores


def head_energy(activations: Sequence[Sequence[Vector]], projection: Sequence[Vector], heads: int) -> list[float]:
    """Root mean square over tokens of the norm of what each head alone adds to the attention's output."""
    width = len(projection[0]) // heads
    tokens = [token for window in activations for token in window]
    scores = []
    for head in range(heads):
        own = range(head * width, (head + 1) * width)
        added = [[math.fsum(row[i] * token[i] for i in own) for row in projection] for token in tokens]
        scores.append(math.sqrt(math.fsum(math.fsum(each**2 for each in out) for out in added) / len(tokens)))
    return scores


def channel_shares(energies: Sequence[Vector]) -> list[float]:
    """The mean over readers of each channel's share of the reader's squared energy."""
    shares = [[each**2 / math.fsum(other**2 for other in reader) for each in reader] for reader in energies]
    return [math.fsum(channel) / len(energies) for channel in zip(*shares, strict=True)]


def ridge(inputs: Tensor, targets: Tensor, start: Tensor, share: float) -> Tensor:
    """Least squares as one augmented system, solved by numpy: rows of inputs over sqrt(lambda) I, of targets over that of start.

    Shapes: inputs [N, I], targets [N, O], start [O, I] -> [O, I].
    """
    penalty = share * float((inputs**2).sum(0).mean())
    left = np.concatenate([inputs.numpy(), math.sqrt(penalty) * np.eye(inputs.shape[1])])
    right = np.concatenate([targets.numpy(), math.sqrt(penalty) * start.numpy().T])
    return torch.from_numpy(np.linalg.lstsq(left, right, rcond=None)[0].T)


def chosen_ridge(batches: Sequence[tuple[Tensor, Tensor]], start: Tensor, shares: Sequence[float]) -> float | None:
    """The share that does best on the last eighth of each batch when the rest is fitted, None where the start does better.

    Larger shares are tried as long as they do better. Shapes: each batch inputs [N, I], targets [N, O]; start [O, I].
    """
    borders = [len(x) - len(x) // 8 for x, _ in batches]
    seen = [torch.cat([each[i][:b] for each, b in zip(batches, borders, strict=True)]) for i in (0, 1)]
    unseen = [torch.cat([each[i][b:] for each, b in zip(batches, borders, strict=True)]) for i in (0, 1)]

    def error(weight: Tensor) -> float:
        return float((unseen[0] @ weight.T - unseen[1]).square().sum())

    best, least = None, error(start)
    for share in shares:
        tried = error(ridge(seen[0], seen[1], start, share))
        if tried < least:
            best, least = share, tried
        elif best is not None:
            return best
    return best


def gauss_newton_step(
    inputs: Sequence[Tensor],
    output: Tensor,
    activation: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    share: float,
) -> list[Tensor]:
    """The deltas of one Gauss-Newton step: the dense Jacobian by autograd, and the normal equations solved at once.

    The ridge of each matrix is `share` times the mean of sum_n s^2 ||D_f||^2 over columns f, times the mean of x^2.

    Shapes: inputs each [F, I], output [D, F], x [N, I], target [N, D] -> each [F, I].
    """

    def said(*weights: Tensor) -> Tensor:
        products = [x @ weight.T for weight in weights]
        columns = activation(products[0])
        return (columns * products[1] if len(weights) == 2 else columns) @ output.T

    blocks = torch.autograd.functional.jacobian(said, tuple(inputs))
    jacobian = torch.cat([block.reshape(target.numel(), -1) for block in blocks], 1)
    missing = (target - said(*inputs)).flatten()
    penalties = []
    for each in slopes(inputs, activation, x):
        by_column = (each**2).sum(0) * (output**2).sum(0)
        penalties.append(torch.full((inputs[0].numel(),), share * float(by_column.mean()) * float((x**2).mean())))
    normal = jacobian.T @ jacobian + torch.diag(torch.cat(penalties).double())
    found = torch.linalg.solve(normal, jacobian.T @ missing)
    return [each.view_as(inputs[0]) for each in found.split(inputs[0].numel())]


def white(x: Tensor, damping: float) -> Tensor:
    """The symmetric square root S of the second moments of x plus damping times their mean diagonal: S^-1 x is white."""
    moments = x.T @ x / len(x)
    values, vectors = torch.linalg.eigh(
        moments + damping * moments.diagonal().mean() * torch.eye(len(moments)).double()
    )
    return (vectors * values.sqrt()) @ vectors.T


def slopes(inputs: Sequence[Tensor], activation: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Central differences of the columns by each of the products."""
    step = 1e-6
    gate = x @ inputs[0].T
    slope = (activation(gate + step) - activation(gate - step)) / (2 * step)
    return [slope] if len(inputs) == 1 else [slope * (x @ inputs[1].T), activation(gate)]


def perplexity(model: Any, ids: Tensor) -> float:
    """exp of the mean negative log-likelihood of the tokens 2..T of every window, window by window in float64."""
    losses = []
    for window in ids:
        with torch.no_grad():
            chances = model(input_ids=window[None]).logits[0].double().log_softmax(-1)
        losses += [-float(chances[place, token]) for place, token in enumerate(window[1:].tolist())]
    return math.exp(math.fsum(losses) / len(losses))


def removed_weights(model: Any, kept: Kept) -> dict[str, Tensor]:
    """Return for every parameter which of its weights a cut takes away: each weight is a number of its own that goes or stays.

    Says what the cut does; nothing here knows where heads, columns or channels are.
    """
    numbered, first = copy.deepcopy(model).double(), 0
    numbers = {}
    for name, parameter in numbered.named_parameters():
        numbers[name] = torch.arange(first, first + parameter.numel(), dtype=torch.float64).view_as(parameter)
        parameter.data = numbers[name].clone()
        first += parameter.numel()
    left = torch.cat([parameter.detach().flatten() for parameter in Cut(numbered, kept).run().parameters()])
    gone = torch.ones(first, dtype=torch.bool)
    gone[left.long()] = False
    return {name: gone[number.long()] for name, number in numbers.items()}


def common(*removals: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that all of several cuts take away."""
    return {name: torch.stack([each[name] for each in removals]).all(0) for name in removals[0]}


def sum_removed(removed: dict[str, Tensor], values: Callable[[str], Tensor]) -> float:
    """Return the sum of a value per weight over removed weights."""
    return math.fsum(float(values(name)[gone].double().sum()) for name, gone in removed.items())
