from __future__ import annotations

import numpy as np
import pytest

from compress.models.input_grid import static_grid


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero"),
    [
        (-1.0, 1.55, 0.01, 100),
        (0.0, 255.0, 1.0, 0),
        (-255.0, 0.0, 1.0, 255),
        (2.0, 51.0, 0.2, 0),
        (-51.0, -3.0, 0.2, 255),
    ],
)
def test_a_range_fills_the_codes_and_holds_0(low: float, high: float, scale: float, zero: int) -> None:
    grid = static_grid(low, high)
    assert float(grid.scale) == pytest.approx(scale)
    assert (grid.zero, grid.scale.dtype, grid.zero.dtype) == (zero, np.float32, np.uint8)


@pytest.mark.parametrize("span", [(0.0, 0.0), (0.0, 1e-40)])
def test_a_range_of_nothing_has_a_scale_to_divide_by(span: tuple[float, float]) -> None:
    assert static_grid(*span).scale == 1


@pytest.mark.parametrize("span", [(1.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_no_range_is_refused(span: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"^\[.*\] is no range of inputs$"):
        static_grid(*span)
