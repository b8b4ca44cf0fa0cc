"""Scores of parts, kept or removed, in colour: what is drawn of them, their scale, and the heat map of an axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.models.pruning_record import AxisRecord
from compress.report.axes import GRID, INK, MUTED, PAPER, linear_ticks, log_ticks, set_ticks, tick_labels

KEPT, REMOVED = "#0072b2", "#d55e00"
"""Okabe and Ito's blue and orange, told apart by colour-blind readers; in a heat map each runs from light to dark."""
CROSSES = ("#000000", "#fefefe")
"""Crosses on light and on dark cells. Cells are pixels, which do not follow the page's scheme: nor must their crosses."""
_RAMPS = {True: ("#dcebf7", KEPT, "#00243a"), False: ("#fdebdc", REMOVED, "#4a2000")}
PLAIN_COLUMNS = 64
"""Up to this many parts of a layer are drawn one by one and in their own order; more are sorted."""
BINS = 512
LOG_FROM = 4.0
"""Scores are drawn on a logarithmic scale where the highest is more than this many times the median."""
_LABELS = {
    "block_influence": "Block influence (1 − cosine)",
    "perplexity": "Perplexity if left out",
    "usage": "Uses in the text",
    "magnitude": "Magnitude (L2 norm)",
    "taylor": "Taylor score (nats)",
}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """What is drawn of an axis: a line for each layer, or one line.

    values   [L, X] mean score of the parts of a bin; NaN is blank
    share    [L, X] which share of its parts was kept, 0-1
    edges    [X + 1] the parts before each bin; the last is their number
    ordered  in every line the kept parts come first, then the removed ones, each by falling score
    cuts     [L] how many parts were kept
    """

    values: Floats
    share: Floats
    edges: npt.NDArray[np.int64]
    ordered: bool
    cuts: tuple[int, ...]


def grid_of(record: AxisRecord, ordered: bool, bins: int = BINS) -> Grid:
    """Return what is drawn of the scores of an axis, [L, X] or [X]."""
    values, kept = np.atleast_2d(record.scores).astype(np.float64), np.atleast_2d(record.kept)
    if ordered:
        order = np.lexsort((np.where(np.isnan(values), np.inf, -values), ~kept), axis=1)
        values, kept = np.take_along_axis(values, order, axis=1), np.take_along_axis(kept, order, axis=1)
    cuts = tuple(kept.sum(axis=1).tolist())
    width = values.shape[1]
    edges = np.linspace(0, width, min(width, bins) + 1).round().astype(np.int64)
    if ordered and len(cuts) == 1:
        # A line alone has its cut between two bins, so that none is half kept.
        edges = np.unique(np.append(edges, cuts[0]))
    known = np.isfinite(values)
    total = np.add.reduceat(np.where(known, values, 0.0), edges[:-1], axis=1)
    number = np.add.reduceat(known, edges[:-1], axis=1, dtype=np.float64)
    mean = np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
    share = np.add.reduceat(kept, edges[:-1], axis=1, dtype=np.float64) / np.diff(edges)
    return Grid(mean, share, edges, ordered, cuts)


def draw_heat(axes: Any, entry: AxisRecord, noun: str, key_width: float) -> None:
    """Draw the scores [L, X] with the layers from top to bottom, and their key, which is `key_width` of the axes wide.

    Up to PLAIN_COLUMNS parts stand in their own order, removed ones crossed out; more are sorted and have the cut marked.
    """
    layers, width = entry.scores.shape
    grid = grid_of(entry, ordered=width > PLAIN_COLUMNS)
    norm = scale_of(entry.scores)
    scaled = np.asarray(norm(np.nan_to_num(grid.values, nan=norm.vmin)))
    share = grid.share[..., None]
    pixels = share * ramp(True)(scaled) + (1 - share) * ramp(False)(scaled)
    pixels[~np.isfinite(grid.values), 3] = 0
    # Parts one by one carry their number, from 0; sorted ones lie between 0 and how many there are.
    left = 0.0 if grid.ordered else -0.5
    axes.imshow(pixels, extent=(left, left + width, layers - 0.5, -0.5), aspect="auto", interpolation="none")
    if grid.ordered:
        axes.set_xlabel(f"{noun}s of each layer: the kept ones first, each side by falling score")
        rows = np.array([row for row, cut in enumerate(grid.cuts) if cut])
        axes.vlines([cut for cut in grid.cuts if cut], rows - 0.5, rows + 0.5, color=INK, linewidth=1.4)
        set_ticks(axes.xaxis, linear_ticks(0, width))
    else:
        axes.set_xlabel(noun)
        _cross_out(axes, entry, scaled)
        set_ticks(axes.xaxis, whole_ticks(width))
    axes.set_ylabel("Layer")
    set_ticks(axes.yaxis, whole_ticks(layers))
    axes.set_xlim(left, left + width)
    axes.set_ylim(layers - 0.5, -0.5)
    axes.spines[:].set_color(GRID)
    for row in range(layers):
        if not grid.cuts[row] and not np.isfinite(grid.values[row]).any():
            axes.text(left + width / 2, row, "layer removed", ha="center", va="center", fontsize=7, color=MUTED)
    _draw_key(axes, norm, label_of(entry.score), key_width)


def _cross_out(axes: Any, entry: AxisRecord, scaled: Floats) -> None:
    """Cross removed parts out, so that no colour is needed to tell them; and part the cells."""
    layers, width = entry.scores.shape
    size = max(2.5, min(7.0, 200 / max(width, 2.5 * layers)))
    removed = ~entry.kept & np.isfinite(entry.scores)
    for dark, colour in enumerate(CROSSES):
        rows, columns = np.nonzero(removed & ((scaled > 0.6) == dark))
        axes.plot(columns, rows, "x", color=colour, markersize=size, markeredgewidth=max(0.7, size / 5))
    line = 1.0 if layers <= 40 else 0.4
    axes.hlines(np.arange(layers - 1) + 0.5, -0.5, width - 0.5, color=PAPER, linewidth=line)
    axes.vlines(np.arange(width - 1) + 0.5, -0.5, layers - 0.5, color=PAPER, linewidth=line)


def _draw_key(axes: Any, norm: Any, label: str, width: float) -> None:
    """Draw the two ramps side by side as one scale; only the outer one has numbers."""
    from matplotlib.cm import ScalarMappable

    for number, kept in enumerate((True, False)):
        place = axes.inset_axes((1 + width * (1 + 1.05 * number), 0, width, 1))
        bar = axes.figure.colorbar(ScalarMappable(norm, ramp(kept)), cax=place)
        bar.outline.set_visible(False)
        bar.ax.minorticks_off()
        ticks = [] if kept else ticks_of(norm.vmin, norm.vmax, is_log(norm))
        bar.set_ticks(ticks, labels=texts_of(ticks))
    bar.set_label(label)


def ramp(kept: bool) -> Any:
    """Return the colours of kept, or of removed parts, from the lowest score to the highest."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("kept" if kept else "removed", list(_RAMPS[kept]))


def scale_of(scores: npt.NDArray[Any]) -> Any:
    """Return the scale of scores: logarithmic where none is negative and the highest stands far above the median.

    The highest and the lowest hundredth of many scores do not stretch it. A score of 0 has no place on a logarithm.
    """
    from matplotlib.colors import LogNorm, Normalize

    known = scores[np.isfinite(scores)]
    if not known.size:
        return Normalize(0.0, 1.0, clip=True)
    ends = [1.0, 50.0, 99.0] if known.size >= 200 else [0.0, 50.0, 100.0]
    positive = known[known > 0]
    if positive.size and known.min() >= 0:
        low, middle, high = map(float, np.percentile(positive, ends))
        if high / middle > LOG_FROM:
            return LogNorm(low, high, clip=True)
    low, _, high = map(float, np.percentile(known, ends))
    return Normalize(low, high if high > low else low + 1.0, clip=True)


def is_log(norm: Any) -> bool:
    """Say whether a scale is logarithmic."""
    from matplotlib.colors import LogNorm

    return isinstance(norm, LogNorm)


def ticks_of(low: float, high: float, log: bool) -> list[float]:
    """Return few round numbers between two scores."""
    if not log:
        return linear_ticks(low, high, 5)
    ticks = log_ticks(low, high)
    powers = [tick for tick in ticks if f"{tick:e}".startswith("1.000000e")]
    return ticks if len(ticks) <= 7 or len(powers) < 2 else powers


def texts_of(ticks: list[float]) -> list[str]:
    """Return plain numbers; scientific notation where every score is below a thousandth."""
    highest = max(map(abs, ticks), default=1.0)
    return tick_labels(ticks) if highest >= 1e-3 or not highest else [f"{tick:.3g}" for tick in ticks]


def whole_ticks(count: int) -> list[float]:
    """Return at most 17 numbers from 0 to below `count`."""
    step = next(step for step in (1, 2, 4, 5, 8, 10, 16, 20, 50, 100, count) if count / step <= 17)
    return [float(tick) for tick in range(0, count, step)]


def label_of(score: str) -> str:
    """Return the name of a score, with its unit where it has one."""
    text = score.replace("_", " ")
    return _LABELS.get(score, f"{text[:1].upper()}{text[1:]} score")
