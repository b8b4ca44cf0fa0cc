"""Which parts a prune stage kept and removed, by score: a panel for each axis. Draws on a Figure that plots.py makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from compress.models.pruning_record import AxisRecord, Record
from compress.report.axes import GRID, INK, PAPER, add_foot, add_head, linear_ticks, set_ticks
from compress.report.heatmap import (
    KEPT,
    PLAIN_COLUMNS,
    REMOVED,
    Grid,
    draw_heat,
    grid_of,
    is_log,
    label_of,
    scale_of,
    texts_of,
    ticks_of,
    whole_ticks,
)

_HEAT = ("ffn", "heads")
_HALF_WIDTH = 32
"""A heat map of more parts than this has a row of panels of its own."""
_BINS = 200
_TITLES = {
    "layers": ("Layers", "Layer"),
    "ffn": ("Feed-forward columns (ffn)", "Column"),
    "heads": ("Attention heads", "Head"),
    "hidden": ("Hidden channels", "Channel"),
    "vocab": ("Tokens (vocab)", "Token"),
}


def size_of(record: Record) -> tuple[float, float]:
    """Return the width and height in inches that the picture of a record needs."""
    return 10.0, 1.0 + sum(_heights(record))


def draw_cut(figure: Any, title: str, record: Record, marks: str = "") -> None:
    """Draw a panel for each axis: heat maps for ffn and heads, bars for layers, falling curves for hidden and vocab."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    removed = Patch(facecolor=REMOVED, edgecolor=PAPER, linewidth=0, label="removed")
    if "layers" in record:
        removed.set_hatch("///")
    handles: list[Any] = [Patch(facecolor=KEPT, label="kept"), removed]
    if any(_is_ordered(axis, entry) for axis, entry in record.items()):
        handles.append(Line2D([], [], color=INK, linewidth=1.4, label="cut: what was kept is on its left"))
    add_head(figure, title, handles, marks)
    rows, heights = _rows(record), _heights(record)
    for strip, row in zip(np.atleast_1d(figure.subfigures(len(rows), 1, height_ratios=heights)), rows, strict=True):
        strip.set_facecolor("none")
        for axes, axis in zip(strip.subplots(1, len(row), squeeze=False)[0], row, strict=True):
            name, noun = _TITLES[axis]
            axes.set_title(f"{name}: {_counted(record[axis])}", fontsize=10, loc="left", color=INK)
            if axis in _HEAT:
                draw_heat(axes, record[axis], noun, key_width=0.011 if len(row) == 1 else 0.025)
            else:
                _draw_bars(axes, record[axis], noun, ordered=axis != "layers")
    if any(axis in _HEAT for axis in record):
        add_foot(figure, "In heat maps darker is a higher score; blank was not scored. Layers and parts count from 0.")


def _rows(record: Record) -> list[list[str]]:
    """Narrow panels stand two in a row, in the order of the axes; a heat map of many columns has a row of its own."""
    wide = [axis for axis, entry in record.items() if axis in _HEAT and entry.scores.shape[1] > _HALF_WIDTH]
    narrow = [axis for axis in record if axis not in wide]
    pairs = [narrow[i : i + 2] for i in range(0, len(narrow), 2)]
    return [*pairs[:1], *([axis] for axis in wide), *pairs[1:]]


def _heights(record: Record) -> list[float]:
    return [max(_height(axis, record[axis]) for axis in row) for row in _rows(record)]


def _height(axis: str, entry: AxisRecord) -> float:
    return 0.85 + min(5.5, max(1.45, 0.2 * len(entry.scores))) if axis in _HEAT else 2.3


def _is_ordered(axis: str, entry: AxisRecord) -> bool:
    return axis in ("hidden", "vocab") or (axis in _HEAT and entry.scores.shape[1] > PLAIN_COLUMNS)


def _counted(entry: AxisRecord) -> str:
    kept = entry.kept
    left = np.atleast_2d(kept).sum(axis=1)
    each = set(left[left > 0].tolist())
    if kept.ndim == 1 or len(each) != 1:
        return f"{kept.sum():,} of {kept.size:,} kept"
    layers = np.count_nonzero(left)
    return f"{each.pop():,} of {kept.shape[1]:,} kept in " + (f"each of {layers} layers" if layers > 1 else "1 layer")


def _draw_bars(axes: Any, entry: AxisRecord, noun: str, ordered: bool) -> None:
    width = entry.scores.size
    known = entry.scores[np.isfinite(entry.scores)]
    log = is_log(scale_of(entry.scores))
    floor = _scale_bars(axes, known[known > 0] if log else known, log)
    axes.set_ylabel(label_of(entry.score))
    axes.spines[["top", "right"]].set_visible(False)
    if ordered:
        _fill_curve(axes, grid_of(entry, True, _BINS), floor)
        zeros = np.count_nonzero(known == 0) if log else 0
        axes.set_xlabel(
            f"{noun}s: the kept ones first, each side by falling score"
            + (f";\n{zeros:,} have a score of 0, below the axis" if zeros else "")
        )
        axes.set_xlim(0, width)
        set_ticks(axes.xaxis, linear_ticks(0, width, 5))
        return
    places = np.arange(width)
    drawn = np.isfinite(entry.scores) & ((entry.scores > floor) | (not log))
    for group, style in ((entry.kept, {"color": KEPT}), (~entry.kept, {"color": REMOVED, "hatch": "///"})):
        shown = drawn & group
        axes.bar(places[shown], entry.scores[shown] - floor, 0.8, floor, edgecolor=PAPER, linewidth=0, **style)
    axes.set_xlabel(noun)
    axes.set_xlim(-0.6, width - 0.4)
    set_ticks(axes.xaxis, whole_ticks(width))


def _fill_curve(axes: Any, grid: Grid, floor: float) -> None:
    """Fill below the scores of the kept parts, and of the removed ones: two shapes, since bars would leave seams in SVG."""
    values, cut = grid.values[0], int(np.searchsorted(grid.edges, grid.cuts[0]))
    if floor > 0:
        # On a logarithm the mean of parts with 0 among them may lie below the axis.
        values = np.fmax(values, floor)
    for part, colour in ((slice(0, cut), KEPT), (slice(cut, len(values)), REMOVED)):
        edges = grid.edges[part.start : part.stop + 1]
        if len(edges) > 1:
            axes.stairs(values[part], edges, baseline=floor, fill=True, color=colour, linewidth=0)
    axes.axvline(grid.cuts[0], color=INK, linewidth=1.4)


def _scale_bars(axes: Any, values: npt.NDArray[Any], log: bool) -> float:
    """Scale the vertical axis of bars and return where they stand."""
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    low, high = float(values.min(initial=np.inf if log else 0.0)), float(values.max(initial=0.0))
    if log:
        low, high = low / 1.6, high * 1.3
        axes.set_yscale("log")
        axes.set_yticks([], minor=True)
    else:
        low, high = low * 1.08, (high if high > low else low + 1.0) * 1.08
    ticks = ticks_of(low, high, log)
    axes.yaxis.set_ticks(ticks, labels=texts_of(ticks))
    axes.set_ylim(low, high)
    return low if log else 0.0
