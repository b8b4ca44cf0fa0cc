from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.quantize.embedding import round_embedding
from compress.quantize.fisher import EmbeddingCurvature
from compress.quantize.gptq import gptq
from compress.quantize.rtn import Rounded

WIDTH = 8


def curvature_of(rows: int, seed: int = 0) -> EmbeddingCurvature:
    generator = torch.Generator().manual_seed(seed)

    def moments() -> Tensor:
        drawn = torch.randn(30, WIDTH, generator=generator, dtype=torch.float64)
        return drawn.T @ drawn / 30

    uses = torch.randint(0, 50, (rows,), generator=generator).double()
    outputs = torch.rand(rows, generator=generator, dtype=torch.float64) ** 3
    return EmbeddingCurvature(uses, moments(), outputs, moments())


class Rows:
    """Takes down what it is asked to round; the scales that it gives say which row is which."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], Tensor]] = []

    def __call__(self, rows: Tensor, moments: Tensor) -> Rounded:
        self.asked.append((rows[:, 0].int().tolist(), moments))
        codes = rows[:, :1].to(torch.uint8).unsqueeze(-1).repeat(1, 2, 4)
        return Rounded(codes, rows[:, :2].clone(), rows[:, :2].to(torch.uint8))


def numbered(rows: int) -> Tensor:
    return torch.arange(rows).float()[:, None].repeat(1, WIDTH)


@pytest.mark.parametrize("rows", [1, 5, 16, 17, 100])
def test_rows_come_back_in_order_and_each_is_rounded_once(rows: int) -> None:
    asked = Rows()
    found = round_embedding(numbered(rows), curvature_of(rows), True, asked)
    assert torch.equal(found.scales, numbered(rows)[:, :2])
    assert torch.equal(found.zeros, numbered(rows)[:, :2].to(torch.uint8))
    assert torch.equal(found.codes[:, 0, 0], torch.arange(rows).to(torch.uint8))
    assert sorted(row for some, _ in asked.asked for row in some) == list(range(rows))
    assert len(asked.asked) == min(rows, 16)


def test_rows_of_a_like_ratio_share_the_sum_of_both_uses() -> None:
    asked, curvature = Rows(), curvature_of(64)
    round_embedding(numbered(64), curvature, True, asked)
    uses = curvature.uses + 0.1
    outputs = curvature.outputs + 1e-6 * curvature.outputs.sum()
    ratio = uses / outputs
    last = 0.0
    for rows, moments in asked.asked:
        assert len(rows) == 4
        assert last <= float(ratio[rows].min())
        last = float(ratio[rows].max())
        expected = uses[rows].mean() * curvature.inputs + outputs[rows].mean() * curvature.hidden
        torch.testing.assert_close(moments, expected)


def test_an_embedding_with_a_head_of_its_own_is_rounded_as_an_input_alone() -> None:
    asked, curvature = Rows(), curvature_of(40)
    found = round_embedding(numbered(40), curvature, False, asked)
    ((rows, moments),) = asked.asked
    assert rows == list(range(40))
    assert moments is curvature.inputs
    assert torch.equal(found.scales, numbered(40)[:, :2])


def test_tokens_that_the_text_never_has_are_rounded_too() -> None:
    curvature = EmbeddingCurvature(
        torch.zeros(20, dtype=torch.float64),
        torch.zeros(WIDTH, WIDTH, dtype=torch.float64),
        torch.zeros(20, dtype=torch.float64),
        torch.zeros(WIDTH, WIDTH, dtype=torch.float64),
    )
    weight = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(3))
    found = round_embedding(weight, curvature, True, lambda rows, moments: gptq(rows, moments, (8, WIDTH, True)))
    back = (found.codes.float() - found.zeros[..., None].float()) * found.scales[..., None]
    torch.testing.assert_close(back[:, 0], weight, rtol=0, atol=0.02)


def test_a_row_is_rounded_for_the_use_that_it_has() -> None:
    """Half of the rows are only read, half only predicted: each half errs less in its own use than if it had the other's moments."""
    weight = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(4))
    drawn = curvature_of(64, 5)
    read = torch.arange(64) < 32
    curvature = EmbeddingCurvature(50.0 * read.double(), drawn.inputs, 50.0 * (~read).double(), drawn.hidden)

    def rounded(both: EmbeddingCurvature) -> Tensor:
        found = round_embedding(weight, both, True, lambda rows, moments: gptq(rows, moments, (2, WIDTH, True)))
        back = (found.codes.float() - found.zeros[..., None].float()) * found.scales[..., None]
        return (back[:, 0] - weight).double()

    def cost(error: Tensor) -> float:
        as_input = ((error[read] @ drawn.inputs) * error[read]).sum()
        return float(as_input + ((error[~read] @ drawn.hidden) * error[~read]).sum())

    swapped = EmbeddingCurvature(curvature.outputs, drawn.inputs, curvature.uses, drawn.hidden)
    assert cost(rounded(curvature)) < 0.9 * cost(rounded(swapped))
