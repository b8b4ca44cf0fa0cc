"""Quality against a cost, one point per artifact, with the Pareto front. Draws on a Figure that plots.py makes."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compress.contract import Json
from compress.report.axes import GRID, MUTED, PAPER, add_foot, add_head, set_scale
from compress.report.labels import Tag, write_labels
from compress.report.results import FLOATS, FORMATS, find_row, megabytes_of, value_of

PRECISIONS = {
    "fp32": "#0072b2",
    "fp16": "#56b4e9",
    "bf16": "#56b4e9",
    "int8": "#009e73",
    "int4": "#d55e00",
    "int2": "#e69f00",
    "mixed": "#cc79a7",
}
"""Okabe and Ito's colours, told apart by colour-blind readers."""
OTHER = "#8a8a8a"
FAR = 2.0
"""A value above this many times the median is off the scale: it would press the others into one line."""

CROWD = 16
"""With more points than this, labels are spared."""
NAMELESS = "A torch point without a name has that of the ONNX point of its precision and height."

NOT_DRAWN = "Quantized torch rows that were exported are not drawn: torch holds their weights in float."


@dataclass(frozen=True)
class Quality:
    """A measure of quality and its axis."""

    name: str
    axis: str
    lower_is_better: bool = True
    scale: float = 1.0


QUALITIES = (
    Quality("perplexity", "Perplexity"),
    Quality("bits_per_byte", "Bits per byte"),
    Quality("kl_to_teacher", "KL to teacher (nats a token)"),
    Quality("accuracy", "Accuracy (%)", lower_is_better=False, scale=100),
)


@dataclass(frozen=True)
class Cost:
    """What is paid for quality, on the horizontal axis. `what` stands in titles."""

    what: str
    axis: str
    of: Callable[[Json], float | None]
    lower_is_better: bool = True


SIZE = Cost("size", "Size on disk (MB, 10⁶ bytes; smaller is better)", megabytes_of)
DECODE = Cost(
    "decode speed",
    "Decode speed (tokens/s; faster is better)",
    lambda row: value_of(row, "decode_tokens_per_second"),
    False,
)


@dataclass(frozen=True)
class Dot:
    """A row that has both values. `label` is its id, with the run's letter where runs were merged."""

    x: float
    y: float
    label: str
    format: str
    precision: str


def choose_quality(results: Json) -> Quality:
    """Return the measure that most rows have; the first of QUALITIES where several are equal.

    Runs with different evaluation data or tokenizers are drawn by bits per byte, where they have it.
    """
    order = list(QUALITIES)
    if len({str(run["data"].get("evaluation")) for run in results.get("runs", [])}) > 1:
        order.insert(0, order.pop(1))
    counts = [sum(value_of(row, quality.name) is not None for row in results["rows"]) for quality in order]
    return order[counts.index(max(counts))]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that no other beats, where smaller is better in both; by rising first value.

    A point is beaten by one that is no larger in both and smaller in one; equal points are kept together.
    """
    front: list[int] = []
    best: tuple[float, float] | None = None
    for index in sorted(range(len(points)), key=lambda i: (*points[i], i)):
        if best is None or points[index][1] < best[1] or points[index] == best:
            front.append(index)
            best = points[index]
    return front


def letters_of(results: Json) -> dict[str, str]:
    """Return a short mark for each run: A, B, ... Z, then R27; empty where there are no runs."""
    names = [run["name"] for run in results.get("runs", [])]
    return {name: chr(ord("A") + i) if i < 26 else f"R{i + 1}" for i, name in enumerate(names)}


def run_marks(results: Json) -> str:
    """Return what the marks of the runs stand for."""
    return "   ".join(f"·{letter} = {name}" for name, letter in letters_of(results).items())


def collect(results: Json, quality: Quality, cost: Cost) -> tuple[list[Dot], list[str]]:
    """Return the dots to draw, and the titles of the rows that lack a value.

    A quantized torch row holds its weights in float: its size and speed are not those of the scheme. It is not drawn where
    its ONNX row is.
    """
    letters = letters_of(results)
    dots, left_out = [], []
    for row in results["rows"]:
        letter = letters.get(row.get("run", ""), "")
        label = str(row["id"]) + (f" ·{letter}" if letter else "")
        x, y = cost.of(row), value_of(row, quality.name)
        if _has_shipped_twin(results, row, quality, cost):
            continue
        if x is None or y is None:
            left_out.append(f"{label} ({FORMATS.get(row['format'], row['format'])})")
        else:
            dots.append(Dot(x, y * quality.scale, label, row["format"], row["precision"]))
    return dots, left_out


def _has_shipped_twin(results: Json, row: Json, quality: Quality, cost: Cost) -> bool:
    """Say whether a row is quantized, kept in float by torch, and drawn as its ONNX row."""
    if row["format"] != "torch" or row["precision"] in FLOATS:
        return False
    twin = find_row(results, row["id"], "onnx", row.get("run"))
    return twin is not None and cost.of(twin) is not None and value_of(twin, quality.name) is not None


def has_dots(results: Json, cost: Cost) -> bool:
    """Say whether some row has both values."""
    return bool(collect(results, choose_quality(results), cost)[0])


def split_far(dots: Sequence[Dot], quality: Quality) -> tuple[list[Dot], list[Dot]]:
    """Return the dots on the scale, and those far off it (more than FAR times the median, where lower is better)."""
    if not quality.lower_is_better or not dots:
        return list(dots), []
    limit = FAR * statistics.median(dot.y for dot in dots)
    far = [dot for dot in dots if dot.y > limit > 0]
    return [dot for dot in dots if dot not in far], far


def draw_scatter(figure: Any, results: Json, cost: Cost) -> None:
    """Draw the plot: the scale, a strip above for what is far off it, the front, labels, and what is left out."""
    quality = choose_quality(results)
    dots, left_out = collect(results, quality, cost)
    name = quality.axis.split(" (")[0]
    add_head(figure, f"{name} against {cost.what}", _entries(dots), run_marks(results))
    near, far = split_far(dots, quality)
    strips = figure.subplots(2 if far else 1, 1, sharex=True, squeeze=False, height_ratios=[1, 6] if far else [1])
    main = strips[-1][0]
    _scale_axes(main, dots, near, quality, cost)
    front = _draw_front(main, dots, near, quality, cost)
    shown = [(main, near, [dot.y for dot in near])]
    if far:
        _dress_strip(strips[0][0], main, far)
        shown.append((strips[0][0], far, [0.5] * len(far)))
    for axes, group, heights in shown:
        for dot, height in zip(group, heights, strict=True):
            _mark(axes, dot, height)
    named = _named(dots)
    notes = [NAMELESS] * (len(named) < len(dots)) + [NOT_DRAWN] * (len(dots) + len(left_out) < len(results["rows"]))
    if notes or left_out:
        add_foot(figure, " ".join(notes + _missing(left_out)))
    figure.canvas.draw()
    figure.set_layout_engine("none")
    for axes, group, heights in shown:
        tags = [_tag(dot, height, dot in named) for dot, height in zip(group, heights, strict=True)]
        write_labels(axes, tags, front if axes is main else [])


def _scale_axes(axes: Any, dots: Sequence[Dot], near: Sequence[Dot], quality: Quality, cost: Cost) -> None:
    better = "lower is better" if quality.lower_is_better else "higher is better"
    axis = quality.axis
    axes.set_ylabel(axis[:-1] + f"; {better})" if axis.endswith(")") else f"{axis} ({better})")
    axes.set_xlabel(cost.axis)
    set_scale(axes.xaxis, [dot.x for dot in dots], from_zero=True)
    set_scale(axes.yaxis, [dot.y for dot in near], from_zero=False)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_front(
    axes: Any, dots: Sequence[Dot], near: Sequence[Dot], quality: Quality, cost: Cost
) -> list[tuple[float, float]]:
    x_sign = 1 if cost.lower_is_better else -1
    y_sign = 1 if quality.lower_is_better else -1
    front = [dots[i] for i in pareto_front([(x_sign * dot.x, y_sign * dot.y) for dot in dots])]
    kept = sorted({(dot.x, dot.y) for dot in front if dot in near})
    # Between two points of the front the dearer one's quality is what can be had: a step, not a slope.
    corners = [
        corner
        for (x0, y0), (x1, y1) in itertools.pairwise(kept)
        for corner in ((x0, y0), (x1, y0) if cost.lower_is_better else (x0, y1), (x1, y1))
    ]
    axes.plot(
        [x for x, _ in corners], [y for _, y in corners], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2
    )
    return corners


def _mark(axes: Any, dot: Dot, height: float) -> None:
    colour = PRECISIONS.get(dot.precision, OTHER)
    torch = dot.format == "torch"
    # An ONNX square fits into the torch ring, so that both are seen where they coincide.
    axes.plot(
        [dot.x],
        [height],
        linestyle="none",
        marker="o" if torch else "s",
        markersize=12 if torch else 6.5,
        markerfacecolor="none" if torch else colour,
        markeredgecolor=colour,
        markeredgewidth=1.8 if torch else 0.8,
        zorder=3 if torch else 4,
        clip_on=False,
    )


def _dress_strip(strip: Any, main: Any, far: Sequence[Dot]) -> None:
    strip.set_ylim(0, 1)
    strip.set_yticks([])
    strip.tick_params(bottom=False)
    strip.spines[["top", "right", "bottom"]].set_visible(False)
    strip.set_facecolor(PAPER)
    strip.set_ylabel("off the\nscale", color=MUTED, fontsize=8.5, rotation=0, ha="right", va="center")
    strip.axhline(0, color=MUTED, linewidth=0.9, linestyle=(0, (1, 3)), clip_on=False)
    strip.grid(True, axis="x", color=GRID, linewidth=0.8)


def _entries(dots: Sequence[Dot]) -> list[Any]:
    from matplotlib.lines import Line2D

    def entry(label: str, **style: Any) -> Any:
        return Line2D([], [], linestyle=style.pop("linestyle", "none"), label=label, **style)

    used = {dot.precision for dot in dots}
    known = [precision for precision in PRECISIONS if precision in used]
    entries = [
        entry(precision, marker="s", markersize=8, color=PRECISIONS.get(precision, OTHER))
        for precision in [*known, *sorted(used - set(known))]
    ]
    formats = {dot.format for dot in dots}
    if "torch" in formats:
        entries.append(
            entry("torch", marker="o", markersize=10, markerfacecolor="none", color=MUTED, markeredgewidth=1.6)
        )
    if "onnx" in formats:
        entries.append(entry("ONNX", marker="s", markersize=6.5, color=MUTED))
    entries.append(entry("Pareto front", linestyle=(0, (4, 3)), color=MUTED, linewidth=1.2))
    return entries


def _named(dots: Sequence[Dot]) -> set[Dot]:
    """The dots that get a label: all, but in a crowd not the torch ones that stand as high as their ONNX twin."""
    if len(dots) <= CROWD:
        return set(dots)
    twins = {dot.label for dot in dots if dot.format == "onnx"}
    return {dot for dot in dots if dot.format == "onnx" or dot.label not in twins}


def _missing(left_out: Sequence[str]) -> list[str]:
    return [f"Not drawn, a value is missing: {', '.join(left_out)}."] if left_out else []


def _tag(dot: Dot, height: float, named: bool) -> Tag:
    """The id, with its value where the point does not stand at it."""
    value = f"{dot.y:,.0f}" if dot.y >= 100 else f"{dot.y:.3g}"
    short = dot.label if len(dot.label) <= 32 else dot.label[:31] + "…"
    return Tag(dot.x, height, dot.label if named else "", short if height == dot.y else f"{short}  {value}")
