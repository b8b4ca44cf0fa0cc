"""The gradients through the rounding equal those of the papers; the values are those that are stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.models.grid import in_blocks, round_to_codes, values
from compress.training.straight_through import inside_cells, integer_grid, round_to_grid
from tests.references.straight_through import rounded_and_gradients


def example(bits: int, width: int = 40, block: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latent weights of which some lie outside the codes, scales of both signs, zero points between the integers."""
    random = torch.Generator().manual_seed(bits)
    groups = -(-width // block)
    scales = torch.rand(3, groups, generator=random) * 0.02 + 0.01
    scales[1] *= -1
    zeros = torch.rand(3, groups, generator=random) * (2**bits + 1) - 1
    latent = torch.randn(3, width, generator=random) * 0.01 * 2**bits * 0.4
    return latent, scales, zeros


@pytest.mark.parametrize("width", [48, 40])
@pytest.mark.parametrize("bits", [4, 8])
def test_values_and_gradients_equal_the_reference(bits: int, width: int) -> None:
    given = [one.requires_grad_() for one in example(bits, width)]
    slope = torch.randn(3, width, generator=torch.Generator().manual_seed(9))
    rounded = round_to_grid(given[0], given[1], given[2], bits, 16)
    rounded.backward(slope)
    latent, scales, zeros = (one.detach().double().numpy() for one in given)
    expected = rounded_and_gradients(latent, (scales, zeros), slope.double().numpy(), bits, 16)
    outside = (expected[1] == 0).mean()
    assert 0.05 < outside < 0.95
    found = [rounded.detach(), *(one.grad for one in given)]
    for one, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), wanted, rtol=2e-4, atol=2e-5)


def test_only_what_is_learned_gets_a_gradient() -> None:
    latent, scales, zeros = example(4)
    scales.requires_grad_()
    round_to_grid(latent, scales, zeros, 4, 16).sum().backward()
    assert scales.grad is not None
    assert bool(scales.grad.any())
    assert latent.grad is None
    assert zeros.grad is None


def test_a_weight_on_the_last_code_can_leave_it_and_one_beyond_cannot() -> None:
    scales, zeros = torch.tensor([[0.5]]), torch.tensor([[8.0]])
    latent = torch.tensor([[3.5, 3.74, 3.76, -4.0, -4.24, -4.26]], requires_grad=True)
    rounded = round_to_grid(latent, scales, zeros, 4, 16)
    rounded.sum().backward()
    assert rounded.tolist() == [[3.5, 3.5, 3.5, -4.0, -4.0, -4.0]]
    assert latent.grad.tolist() == [[1, 1, 0, 1, 1, 0]]


def test_zero_points_are_stored_as_integers_of_the_grid() -> None:
    grid = integer_grid(torch.ones(1, 4), torch.tensor([[-0.9, 3.4, 3.6, 17.0]]), 4)
    assert grid.zeros.tolist() == [[0, 3, 4, 15]]


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_moved_into_their_cells_have_the_codes_and_move_no_further_than_they_must(bits: int) -> None:
    latent, scales, zeros = example(bits)
    grid = integer_grid(scales, zeros, bits)
    own = round_to_codes(in_blocks(latent, 16), grid)
    noise = torch.randint(-1, 2, own.shape, generator=torch.Generator().manual_seed(2))
    codes = (own + noise).clamp(0, 2**bits - 1)
    moved = inside_cells(latent, codes, grid)
    real = torch.arange(48).expand(3, 48) < 40
    assert torch.equal(round_to_codes(in_blocks(moved, 16), grid).flatten(1)[real], codes.flatten(1)[real])
    step = grid.scales.abs().repeat_interleave(16, 1)[:, :40]
    went = (moved - latent).abs()
    kept = (codes == own).flatten(1)[:, :40]
    assert bool((went[kept] <= 0.0011 * step[kept]).all())
    centre = values(codes, grid).flatten(1)[:, :40]
    on_border = ((moved - centre).abs() / step - 0.499).abs() < 1e-3
    assert bool((on_border | (went == 0) | (went < 1e-6 * latent.abs())).all())
    assert bool((on_border & ~kept).any())
