"""Axes with plain round numbers, and the colours and the head that all plots share."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

INK, MUTED, GRID, PAPER = "#1b1f24", "#5f6872", "#dfe3e8", "#ffffff"
LOG_RANGE = 3.0
"""An axis that need not start at zero is logarithmic when it spans more than this factor; one that starts there, 10."""
LEAST_RANGE = 0.05
"""An axis that need not start at zero spans at least this fraction of its values."""
LEGEND_LINE = 14.5
"""Height of one more line of a legend, in points."""
_INCH = 72.0


def set_scale(axis: Any, values: Sequence[float], from_zero: bool) -> None:
    """Choose a linear or logarithmic axis with plain numbers, and room around the values."""
    low, high = min(values), max(values)
    x = axis.axis_name == "x"
    limits = axis.axes.set_xlim if x else axis.axes.set_ylim
    if low > 0 and high / low > (10 if from_zero else LOG_RANGE):
        (axis.axes.set_xscale if x else axis.axes.set_yscale)("log")
        room = (high / low) ** 0.09
        low, high = low / room, high * room
        set_ticks(axis, log_ticks(low, high))
        axis.set_ticks([], minor=True)
    else:
        if not from_zero and high - low < LEAST_RANGE * abs(high):
            # Differences in the noise must not fill the plot.
            low, high = low - LEAST_RANGE / 2 * abs(high), high + LEAST_RANGE / 2 * abs(high)
        room = 0.09 * ((high if from_zero else high - low) or abs(high) or 1.0)
        low, high = (min(0.0, low) if from_zero else low - room), high + room
        set_ticks(axis, linear_ticks(low, high))
    limits(low, high)


def set_ticks(axis: Any, ticks: Sequence[float]) -> None:
    """Put ticks and write them with as many digits after the point as they all need."""
    axis.set_ticks(list(ticks), tick_labels(ticks))


def linear_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return at most `most` + 1 multiples of 1, 2, 2.5 or 5 times a power of ten, within the limits."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers within the limits of a logarithmic axis: the fewer to a power of ten, the longer it is."""
    span = high / low
    steps: tuple[float, ...] = (1,) if span > 1e5 else (1, 2, 5) if span > 8 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Return plain numbers: one number of decimals for even steps, its own for each tick of a wide range."""
    wide = min(map(abs, filter(None, ticks)), default=1) * 100 < max(map(abs, ticks), default=1)
    common = max(map(_decimals, ticks), default=0)
    return [f"{tick:,.{_decimals(tick) if wide else common}f}" for tick in ticks]


def _decimals(value: float) -> int:
    return next((digits for digits in range(9) if math.isclose(round(value, digits), value, rel_tol=1e-9)), 9)


def add_head(figure: Any, title: str, handles: Sequence[Any] = (), notes: str = "", columns: int = 0) -> None:
    """Write the title, below it the legend in one line or in `columns`, then notes; the axes keep what is left of the height."""
    height = figure.get_figheight() * _INCH
    figure.text(0.012, 1 - 7 / height, title, va="top", fontsize=13, fontweight="bold", color=INK, in_layout=False)
    used = 27.0
    if handles:
        legend = figure.legend(
            handles=list(handles),
            loc="upper left",
            bbox_to_anchor=(0.005, 1 - used / height),
            ncols=columns or len(handles),
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            handletextpad=0.4,
            columnspacing=1.4,
            borderaxespad=0.0,
        )
        legend.set_in_layout(False)
        used += 19 + LEGEND_LINE * (math.ceil(len(handles) / (columns or len(handles))) - 1)
    if notes:
        text = wrap(figure, notes)
        figure.text(0.012, 1 - used / height, text, va="top", fontsize=8.5, color=MUTED, in_layout=False)
        used += 6 + 12 * (text.count("\n") + 1)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - (used + 2) / height))


def add_foot(figure: Any, text: str) -> None:
    """Write a note below the axes."""
    figure.supxlabel(wrap(figure, text), x=0.012, ha="left", fontsize=8.5, color=MUTED)


def wrap(figure: Any, text: str) -> str:
    """Break small text at the width of the figure."""
    return textwrap.fill(text, int(figure.get_figwidth() * 14.5))
