"""GPTQ (arXiv 2210.17323) in float64: plain loops over rows and channels, the inverse Hessian written out at every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def nearest(target: float, scale: float, zero: float, top: int) -> float:
    """Return the nearest code of a weight."""
    return float(min(max(np.round(target / scale) + zero, 0), top))


def eliminated_codes(
    weight: Floats, moments: Floats, scales: Floats, zeros: Floats, top: int, order: Sequence[int]
) -> Floats:
    """Return codes [N, K]: a channel is rounded, its error is taken up by the channels left by their inverse Hessian, and it is
    removed from the inverse by one step of Gaussian elimination (equations 2 and 3).

    Shapes: weight, scales, zeros [N, K]; moments [K, K].
    """
    left, codes = weight.copy(), np.zeros_like(weight)
    inverse = np.linalg.inv(moments)
    for at, channel in enumerate(order):
        pivot = inverse[channel, channel]
        for row in range(len(weight)):
            scale, zero = scales[row, channel], zeros[row, channel]
            code = nearest(left[row, channel], scale, zero, top)
            error = left[row, channel] - scale * (code - zero)
            codes[row, channel] = code
            for other in order[at + 1 :]:
                left[row, other] -= error / pivot * inverse[channel, other]
        inverse = inverse - np.outer(inverse[:, channel], inverse[channel]) / pivot
    return codes


def row_error(difference: Floats, moments: Floats) -> float:
    """Return d H d of one row's difference [K]."""
    return float(difference @ moments @ difference)


def least_single_change(
    weight: Floats, moments: Floats, scales: Floats, zeros: Floats, codes: Floats, top: int
) -> float:
    """Return how much the error of a row grows by the best change of one of its codes, all codes tried: below 0 where one helps.

    Shapes: moments [K, K], all others [K].
    """
    now = row_error(weight - scales * (codes - zeros), moments)
    changes = []
    for channel in range(len(weight)):
        for code in range(top + 1):
            if code != codes[channel]:
                other = codes.copy()
                other[channel] = code
                changes.append(row_error(weight - scales * (other - zeros), moments) - now)
    return min(changes)


def fitted_scales(weight: Floats, moments: Floats, codes: Floats, zeros: Floats, block: int) -> Floats:
    """Return the scales [G] of a row that are best for its codes, all blocks together: least squares. Shapes: moments [K, K], others [K]."""
    width = len(weight)
    steps = np.zeros((width, -(-width // block)))
    for channel in range(width):
        steps[channel, channel // block] = codes[channel] - zeros[channel]
    root = np.linalg.cholesky(moments).T
    found: Floats = np.linalg.lstsq(root @ steps, root @ weight, rcond=None)[0]
    return found


def moved(weight: Floats, inputs: Floats, outputs: Floats, ridge: float) -> Floats:
    """Return V [N, K] that minimises |V x - y|^2 over tokens plus lambda |V - W|^2, as one stacked least squares.

    lambda is `ridge` times the mean over channels of the sum of squared inputs. Shapes: inputs [T, K], outputs [T, N].
    """
    width = inputs.shape[1]
    root = np.sqrt(ridge * (inputs**2).sum(0).mean())
    left = np.concatenate([inputs, root * np.eye(width)])
    right = np.concatenate([outputs, root * weight.T])
    found: Floats = np.linalg.lstsq(left, right, rcond=None)[0].T
    return found


def weighted_error(block: Floats, importance: Floats, scale: float, zero: int, bits: int) -> float:
    """Return the squared error of a block on a grid, each square times the importance of its channel."""
    codes = np.clip(np.round(block / scale) + zero, 0, 2**bits - 1)
    return float((importance * (scale * (codes - zero) - block) ** 2).sum())


def least_weighted_error(block: Floats, importance: Floats, bits: int, symmetric: bool, points: int) -> float:
    """Return the least weighted error of a block over a dense scan of scales, of both signs, and every zero."""
    middle = 2 ** (bits - 1)
    span = float(np.abs(block).max()) if symmetric else float(max(block.max(), 0) - min(block.min(), 0))
    top = span / (middle if symmetric else 2**bits - 1)
    zeros = [middle] if symmetric else range(2**bits)
    signs = (1, -1) if symmetric else (1,)
    scales = [sign * top * ratio for sign in signs for ratio in np.linspace(0.4, 1.3, points)]
    return min(weighted_error(block, importance, scale, zero, bits) for scale in scales for zero in zeros)
