"""Ticks are round, few, and written without exponents."""

from __future__ import annotations

import pytest

from compress.report.axes import linear_ticks, log_ticks, tick_labels


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 13.8, ["0", "2", "4", "6", "8", "10", "12"]),
        (5.92, 7.42, ["6.00", "6.25", "6.50", "6.75", "7.00", "7.25"]),
        (0, 2_100_000, ["0", "500,000", "1,000,000", "1,500,000", "2,000,000"]),
        (-0.1, 0.1, ["-0.10", "-0.05", "0.00", "0.05", "0.10"]),
    ],
)
def test_linear_ticks(low: float, high: float, expected: list[str]) -> None:
    assert tick_labels(linear_ticks(low, high)) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (5, 30, ["5", "6", "8", "10", "15", "20", "30"]),
        (5.5, 12_000, ["10", "20", "50", "100", "200", "500", "1,000", "2,000", "5,000", "10,000"]),
        (0.02, 0.3, ["0.02", "0.05", "0.10", "0.20"]),
        (1, 1e7, ["1", "10", "100", "1,000", "10,000", "100,000", "1,000,000", "10,000,000"]),
    ],
)
def test_log_ticks(low: float, high: float, expected: list[str]) -> None:
    assert tick_labels(log_ticks(low, high)) == expected


@pytest.mark.parametrize("scale", [1e-6, 0.03, 1.0, 777.0, 1e9])
def test_there_are_always_two_to_eight_linear_ticks_within_the_limits(scale: float) -> None:
    for low, high in ((0, 1), (0.9, 1.05), (3, 9), (-2, 7)):
        ticks = linear_ticks(low * scale, high * scale)
        assert 2 <= len(ticks) <= 8
        assert all(low * scale - 1e-9 * scale <= tick <= high * scale + 1e-9 * scale for tick in ticks)
