"""What rounding each weight costs, in colour, with the bits that were chosen for it. Draws on a Figure that plots.py makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compress.report.axes import INK, PAPER, add_foot, add_head, set_ticks
from compress.report.heatmap import CROSSES, ramp, texts_of, ticks_of, whole_ticks
from compress.report.sensitivity import (
    Grid,
    Record,
    Rows,
    Weight,
    common_grid,
    nearest_grid,
    shares_of_bits,
    split_layers,
)

_WIDTH, _ROW = 10.0, 0.36
_WIDE = 16
"""With more columns than this only bits are written, not the block."""
_SAID = {
    "fisher": ", each estimated from the curvature of the loss (Fisher)",
    "kl": ", each measured with that weight alone quantized",
}
_DARK = 0.45
"""From here on white stands out more than black."""
_Cell = tuple[int, int, Weight]


def size_of(record: Record) -> tuple[float, float]:
    """Return the width and height in inches that the picture of a record needs."""
    rows, outside = split_layers(record.weights)
    return _WIDTH, 2.15 + _ROW * max(3, len(rows.labels), len(outside))


def draw_choice(figure: Any, title: str, record: Record, marks: str = "") -> None:
    """Draw the weights of layers with the layers from left to right, and beside them those outside the layers."""
    from matplotlib.cm import ScalarMappable

    rows, outside = split_layers(record.weights)
    grid = common_grid(record.weights)
    norm = _scale_of([weight.kl[grid] for weight in record.weights if grid in weight.kl])
    said = f"KL of the choice: {record.total:.3g} nats a token, summed over the weights{_SAID.get(record.sensitivity, '')}."
    add_head(figure, title, _legend(record), f"{said}   {marks}".rstrip())
    height = max(3, len(rows.labels), len(outside))
    columns = len(rows.layers)
    ratios = [*([columns] if columns else []), *([max(1.0, columns * 0.07)] if outside else [])]
    panels = list(figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0])
    shown = list(panels)
    if columns:
        _draw_layers(panels.pop(0), rows, grid, norm)
    if outside:
        axes = panels.pop(0)
        _draw_cells(axes, [(row, 0, weight) for row, (_, weight) in enumerate(outside)], grid, norm, (len(outside), 1))
        axes.yaxis.set_ticks(range(len(outside)), [_short(label) for label, _ in outside])
        axes.xaxis.set_ticks([])
        axes.set_ylim(height - 0.5, -0.5)
    bar = figure.colorbar(ScalarMappable(norm, ramp(True)), ax=shown, fraction=0.03, pad=0.012, aspect=18)
    _dress_key(bar, norm, grid)
    add_foot(figure, _foot(record, rows, grid))


def _dress_key(bar: Any, norm: Any, grid: Grid) -> None:
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    ticks = ticks_of(norm.vmin, norm.vmax, log=True)
    bar.set_ticks(ticks, labels=texts_of(ticks))
    bar.set_label(f"KL at {grid[0]} bits in blocks of {grid[1]}\n(nats a token)", fontsize=9)


def _foot(record: Record, rows: Rows, grid: Grid) -> str:
    written = "bits/block" if _has_blocks(rows) else "bits"
    foot = f"Darker: rounding that weight alone costs more. In each cell the chosen {written}, and a bar as long as its bits."
    if len(rows.cells) < len(rows.labels) * len(rows.layers):
        foot += " Blank: nothing was chosen for it."
    others = sorted({nearest_grid(weight, grid) for weight in record.weights} - {grid})
    if others:
        names = ", ".join(f"{bits} bits in blocks of {block}" for bits, block in others)
        foot += f" Star: not tried at the grid of the scale, so the colour is the KL at the nearest that was: {names}."
    return foot


def _has_blocks(rows: Rows) -> bool:
    return len(rows.layers) <= _WIDE


def _scale_of(values: Sequence[float]) -> Any:
    """A logarithmic scale; what costs nothing has its lightest colour, also where that is all."""
    from matplotlib.colors import LogNorm

    positive = [value for value in values if value > 0] or [1e-6]
    low, high = min(positive), max(positive)
    return LogNorm(low, high, clip=True) if high > low else LogNorm(low / 2, high * 2, clip=True)


def _draw_layers(axes: Any, rows: Rows, grid: Grid, norm: Any) -> None:
    count, columns = len(rows.labels), len(rows.layers)
    cells = [(row, rows.layers.index(layer), weight) for (row, layer), weight in rows.cells.items()]
    _draw_cells(axes, cells, grid, norm, (count, columns), blocks=_has_blocks(rows))
    axes.yaxis.set_ticks(range(count), [_short(label) for label in rows.labels])
    axes.set_xlabel("Layer")
    if rows.layers == tuple(range(columns)):
        set_ticks(axes.xaxis, whole_ticks(columns) if columns > 30 else range(columns))
    else:
        axes.xaxis.set_ticks(range(columns), [str(layer) for layer in rows.layers])


def _draw_cells(
    axes: Any, cells: Sequence[_Cell], grid: Grid, norm: Any, shape: tuple[int, int], blocks: bool = True
) -> None:
    """Colour the cells, and write what was chosen into each with a bar under it."""
    pixels = np.zeros((*shape, 4))
    rows, columns = shape
    size = max(5.0, min(8.5, 230 / max(columns, 1)))
    for row, column, weight in cells:
        found = nearest_grid(weight, grid)
        scaled = float(norm(max(weight.kl[found], norm.vmin)))
        pixels[row, column] = ramp(True)(scaled)
        ink = CROSSES[scaled > _DARK]
        bits, block = weight.chosen
        text = (f"{bits}/{block}" if blocks else f"{bits}") + ("" if found == grid else "*")
        axes.text(column, row - 0.1, text, ha="center", va="center", fontsize=size, color=ink)
        # The thin line is eight bits long.
        for length, line in ((8, 0.5), (bits, 2.6)):
            end = column - 0.32 + 0.64 * min(length, 8) / 8
            axes.hlines(row + 0.32, column - 0.32, end, color=ink, linewidth=line)
    axes.imshow(pixels, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5), aspect="auto", interpolation="none")
    axes.hlines(np.arange(rows - 1) + 0.5, -0.5, columns - 0.5, color=PAPER, linewidth=1.0)
    axes.vlines(np.arange(columns - 1) + 0.5, -0.5, rows - 0.5, color=PAPER, linewidth=1.0 if columns <= 40 else 0.4)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _legend(record: Record) -> list[Any]:
    """Say which share of the weights got how many bits, with the bar that stands in the cells."""
    from matplotlib.lines import Line2D
    from matplotlib.path import Path

    handles = []
    for bits, share in shares_of_bits(record.weights).items():
        right = -1 + 2 * min(bits, 8) / 8
        mark = Path([(-1, -0.2), (right, -0.2), (right, 0.2), (-1, 0.2), (-1, -0.2)], closed=True)
        label = f"{bits} bits: {100 * share:.0f} % of the weights"
        handles.append(Line2D([], [], linestyle="none", marker=mark, markersize=16, color=INK, label=label))
    return handles


def _short(label: str) -> str:
    return label if len(label) <= 28 else "…" + label[-27:]
