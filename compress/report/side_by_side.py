"""The artifacts under every scheme: megabytes by weight class with bits per weight, quality and speed, a line for each. Draws on a
Figure that plots.py makes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compress.contract import Json
from compress.report.axes import GRID, INK, MUTED, PAPER, add_foot, add_head, linear_ticks, set_ticks
from compress.report.results import FLOATS, bits_of, find_stage, value_of
from compress.report.scatter import FAR, letters_of
from compress.report.stage_bars import TIME

CLASSES = {
    "embedding": "#56b4e9",
    "attention": "#0072b2",
    "ffn": "#e69f00",
    "head": "#009e73",
    "other": "#5f6872",
}
"""Okabe and Ito's colours, light beside dark, so that neighbours differ in grey too."""


@dataclass(frozen=True)
class Line:
    """A row: MB (10^6 bytes) of its weights by class, bits of a weight, and its measurements by panel."""

    label: str
    megabytes: dict[str, float]
    bits: float | None
    values: dict[str, float | None]


@dataclass(frozen=True)
class _Panel:
    """`dots` start where the values do, bars at zero."""

    title: str
    name: str
    form: Callable[[float], str]
    scale: float = 1.0
    dots: bool = False


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


_PANELS = (
    _Panel(
        "Perplexity\n(lower is better)",
        "perplexity",
        lambda value: f"{value:#.4g}" if value < 1000 else f"{value:,.0f}",
        dots=True,
    ),
    _Panel("KL to teacher\n(nats a token)", "kl_to_teacher", lambda value: f"{value:.3f}"),
    _Panel("Top-1 agreement\n(%)", "top1_agreement", lambda value: f"{value:.1f}", 100, dots=True),
    _Panel("Prefill\n(tokens/s)", "prefill_tokens_per_second", _speed),
    _Panel("Decode\n(tokens/s)", "decode_tokens_per_second", _speed),
)


def lines_of(results: Json) -> list[Line]:
    """Return a line for each ONNX row, or for each quantized torch row where no ONNX row tells of its weights; none where
    nothing is quantized, or nobody tells."""
    for format in ("onnx", "torch"):
        rows = [row for row in results["rows"] if row["format"] == format]
        weights = [_megabytes(results, row) for row in rows]
        if format == "torch":
            rows = [row for row, found in zip(rows, weights, strict=True) if found]
            weights = [found for found in weights if found]
        if any(weights) and any(row["precision"] not in FLOATS for row in rows):
            return [_line(results, row, found) for row, found in zip(rows, weights, strict=True)]
    return []


def _line(results: Json, row: Json, megabytes: dict[str, float]) -> Line:
    letter = letters_of(results).get(row.get("run") or "", "")
    label = str(row["id"])
    label = (label if len(label) <= 26 else label[:25] + "…") + (f" ·{letter}" if letter else "")
    return Line(label, megabytes, bits_of(results, row), {panel.name: value_of(row, panel.name) for panel in _PANELS})


def _megabytes(results: Json, row: Json) -> dict[str, float]:
    """Return MB by class, as the export says of an ONNX row, and the quantize stage of a torch row."""
    word, fact, unit = ("export", "weight_bytes", 1e6) if row["format"] == "onnx" else ("quantize", "megabytes", 1.0)
    stage = find_stage(results, row["id"], word, row.get("run"))
    said = ((stage or {}).get("facts") or {}).get(fact)
    if not isinstance(said, dict):
        return {}
    found: dict[str, float] = {}
    for kind, size in said.items():
        key = kind if kind in CLASSES else "other"
        found[key] = found.get(key, 0.0) + size / unit
    return found


def size_of(lines: Sequence[Line]) -> tuple[float, float]:
    """Return the width and the height of the figure in inches."""
    return 5.6 + 1.35 * len(_panels(lines)), 1.85 + 0.3 * max(2, len(lines))


def _panels(lines: Sequence[Line]) -> list[_Panel]:
    return [panel for panel in _PANELS if any(line.values[panel.name] is not None for line in lines)]


def draw_side_by_side(figure: Any, lines: Sequence[Line], marks: str = "") -> None:
    """Draw the weights of each row as a bar of parts, then a panel for each measure that some row has."""
    from matplotlib.patches import Patch

    used = [kind for kind in CLASSES if any(line.megabytes.get(kind) for line in lines)]
    handles = [Patch(facecolor=CLASSES[kind], label=kind) for kind in used]
    add_head(figure, "The artifacts side by side", handles, marks)
    panels = _panels(lines)
    width = figure.get_figwidth()
    ratios = [max(3.2, width - 1.8 - 1.35 * len(panels)), *[1.35] * len(panels)]
    first, *others = figure.subplots(1, 1 + len(panels), sharey=True, squeeze=False, width_ratios=ratios)[0]
    _draw_weights(first, lines, used)
    for axes, panel in zip(others, panels, strict=True):
        _draw_panel(axes, panel, [line.values[panel.name] for line in lines])
    first.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=9, color=INK)
    first.set_ylim(len(lines) - 0.4, -0.6)
    for axes in (first, *others):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8.5)
        axes.set_axisbelow(True)
        axes.grid(True, axis="x", color=GRID, linewidth=0.8)
    add_foot(
        figure,
        "Bits per weight count scales, zero points and matrices left in float; MB are 10⁶ bytes of weights, without the graph. "
        "Dots stand on scales that do not start at zero; → lies beyond.",
    )


def _draw_weights(axes: Any, lines: Sequence[Line], used: Sequence[str]) -> None:
    totals = [sum(line.megabytes.values()) for line in lines]
    edge = max(totals) * 1.5
    axes.set_title("Weights by class\n(MB; bits per weight)", fontsize=9, color=INK)
    axes.set_xlim(0, edge)
    set_ticks(axes.xaxis, linear_ticks(0, edge, 5))
    for place, (line, total) in enumerate(zip(lines, totals, strict=True)):
        left = 0.0
        for kind in used:
            part = line.megabytes.get(kind, 0.0)
            axes.barh(place, part, 0.62, left, color=CLASSES[kind], edgecolor=PAPER, linewidth=0.6)
            left += part
        bits = "" if line.bits is None else f"{line.bits:#.3g} bits"
        text = (
            f"{bits} · {_megabytes_text(total)} MB".removeprefix(" · ")
            if total
            else f"{bits} · not told".removeprefix(" · ")
        )
        _write(axes, total, place, text)


def _megabytes_text(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:,.0f}"


def _draw_panel(axes: Any, panel: _Panel, values: Sequence[float | None]) -> None:
    """Values far off the others end at the edge, with an arrow."""
    known = [value * panel.scale for value in values if value is not None]
    limit = FAR * statistics.median(known)
    shown = [value for value in known if value <= limit or limit <= 0] if panel.name == "perplexity" else known
    low, high = min(shown), max(shown)
    span = (high - low) or abs(high) or 1.0
    start, end = (low - 0.15 * span, high + 1.1 * span) if panel.dots else (0.0, (high or 1.0) * 1.75)
    axes.set_title(panel.title, fontsize=9, color=INK)
    axes.set_xlim(start, end)
    set_ticks(axes.xaxis, [tick for tick in linear_ticks(start, end, 3) if tick <= high + 0.3 * span])
    for place, value in enumerate(values):
        if value is None:
            _write(axes, start, place, "–", MUTED)
            continue
        scaled = value * panel.scale
        drawn = min(scaled, high)
        if panel.dots:
            axes.plot([drawn], [place], "o", color=TIME, markersize=5.5)
        else:
            axes.barh(place, drawn, 0.62, color=TIME)
        _write(axes, drawn, place, panel.form(scaled) + (" →" if drawn < scaled else ""), gap=6 if panel.dots else 3)


def _write(axes: Any, x: float, y: float, text: str, colour: str = INK, gap: float = 3) -> None:
    axes.annotate(text, (x, y), (gap, 0), textcoords="offset points", va="center", fontsize=8.5, color=colour)
