"""Training curves: loss, divergence from the teacher and perplexity against tokens, every stage in the same axes. Draws on a Figure
that plots.py makes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from compress.contract import Json
from compress.report.axes import GRID, INK, LEGEND_LINE, MUTED, add_head, linear_ticks, set_scale, set_ticks
from compress.report.scatter import letters_of

Point = tuple[float, float]

PANELS = {
    "loss": "Loss (nats a token)",
    "kl": "Forward KL to the teacher (nats a token)",
    "perplexity": "Perplexity",
}
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a8490")
"""Okabe and Ito's colours without black and yellow, and a grey. A line style tells lines apart that share one."""
_STYLES = ("-", "--", ":", "-.")
_MOST_NATS = 700.0
_FEW = 4
"""With more curves than this, training is drawn fainter, so that validation stays readable."""
# Of the font, in points.
_LETTER, _HANDLE = 4.9, 42.0


@dataclass(frozen=True)
class Curve:
    """What the log of a stage says: (tokens or steps, value) by panel, of training and at its validation points."""

    label: str
    training: Mapping[str, list[Point]]
    validation: Mapping[str, list[Point]]


def curves_of(results: Json) -> tuple[list[Curve], str]:
    """Return a curve for each stage whose log has values, and what they are drawn against: tokens, or step where a log has none."""
    letters = letters_of(results)
    logs = [(stage, stage.get("log") or []) for stage in results["stages"]]
    logs = [(stage, log) for stage, log in logs if any(_is_number(record.get("step")) for record in log)]
    unit = "tokens" if all(any(_is_number(record.get("tokens")) for record in log) for _, log in logs) else "step"
    curves = []
    for stage, log in logs:
        letter = letters.get(stage.get("run") or "", "")
        label = f"{stage['word']}: {stage['id']}" + (f" ·{letter}" if letter else "")
        sides = [_read(log, prefix, unit, stage["word"]) for prefix in ("", "validation_")]
        if any(sides):
            curves.append(Curve(label, *sides))
    return curves, unit


def _read(log: Sequence[Json], prefix: str, unit: str, word: str) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for record in log:
        if _is_number(record.get(unit)):
            for panel, value in _values(record, prefix, word):
                found.setdefault(panel, []).append((float(record[unit]), value))
    return found


def _values(record: Json, prefix: str, word: str) -> Iterator[tuple[str, float]]:
    """Yield (panel, value) of a log entry. The loss of train is the cross-entropy; other logs name it, newer ones of train too."""
    entropy = record.get(f"{prefix}cross_entropy")
    if entropy is None and word == "train":
        entropy = record.get(f"{prefix}loss")
    perplexity = math.exp(entropy) if _is_number(entropy) and entropy < _MOST_NATS else None
    for panel, value in (("loss", record.get(f"{prefix}loss")), ("kl", record.get(f"{prefix}forward_kl"))):
        if _is_number(value):
            yield panel, float(value)
    if perplexity is not None:
        yield "perplexity", perplexity


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def size_of(curves: Sequence[Curve]) -> tuple[float, float]:
    """Return the width and the height of the figure in inches."""
    width = max(8.6, 4.1 * len(_panels(curves)))
    return width, 3.9 + LEGEND_LINE / 72 * (math.ceil((len(curves) + 2) / _columns(curves, width)) - 1)


def _panels(curves: Sequence[Curve]) -> list[str]:
    return [panel for panel in PANELS if any(panel in curve.training or panel in curve.validation for curve in curves)]


def _columns(curves: Sequence[Curve], width: float) -> int:
    """Return how many entries of the legend fit into a line."""
    longest = max(len(curve.label) for curve in curves)
    return max(1, min(len(curves) + 2, int(72 * width / (_LETTER * longest + _HANDLE))))


def draw_curves(figure: Any, curves: Sequence[Curve], unit: str, marks: str = "") -> None:
    """Draw a panel for each measure that some stage has: thin lines of training, dots at the validation points."""
    looks = [
        {"color": colour, "linestyle": style}
        for style, colour in itertools.islice(itertools.cycle(itertools.product(_STYLES, _COLOURS)), len(curves))
    ]
    faint = 0.55 if len(curves) <= _FEW else 0.2
    columns = _columns(curves, figure.get_figwidth())
    add_head(figure, "Training curves", _legend(curves, looks), marks, columns)
    panels = _panels(curves)
    last = max(x for curve in curves for points in _lines(curve) for x, _ in points) or 1.0
    scale, name = _unit_of(last) if unit == "tokens" else (1.0, "")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for curve, look in zip(curves, looks, strict=True):
            _draw(axes, (curve.training.get(panel, []), curve.validation.get(panel, [])), look, scale, faint)
        set_scale(axes.yaxis, [y for curve in curves for y in _heights(curve, panel)], from_zero=False)
        axes.set_title(PANELS[panel], fontsize=9.5, loc="left", color=INK)
        axes.set_xlabel(f"Tokens trained on{name}" if unit == "tokens" else "Step")
        axes.set_xlim(0, last / scale * 1.03)
        set_ticks(axes.xaxis, linear_ticks(0, last / scale, 5))
        axes.grid(True, color=GRID, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)


def _heights(curve: Curve, panel: str) -> list[float]:
    """Return the values that the scale is chosen by: validation points and no first steps, which would press all else together;
    and the bulk of what training went through below them."""
    training = sorted(y for _, y in curve.training.get(panel, ()))
    bulk = training[len(training) // 20 : len(training) - len(training) // 20]
    validation = [y for _, y in curve.validation.get(panel, ())]
    return [*validation, *(y for y in bulk if y < min(validation))] if validation else bulk


def _lines(curve: Curve) -> list[list[Point]]:
    return [*curve.training.values(), *curve.validation.values()]


def _unit_of(last: float) -> tuple[float, str]:
    return (1e6, " (millions)") if last >= 1e6 else (1e3, " (thousands)") if last >= 1e4 else (1.0, "")


def _draw(
    axes: Any, points: tuple[list[Point], list[Point]], look: Mapping[str, Any], scale: float, faint: float
) -> None:
    training, validation = ([(x / scale, y) for x, y in side] for side in points)
    if training:
        # a line of one point is a dot
        marker = "." if len(training) == 1 else None
        xs, ys = zip(*training, strict=True)
        axes.plot(xs, ys, **look, linewidth=0.9, alpha=faint if validation else 1.0, marker=marker)
    if validation:
        xs, ys = zip(*validation, strict=True)
        axes.plot(xs, ys, **look, linewidth=1.6, marker="o", markersize=3.6)


def _legend(curves: Sequence[Curve], looks: Sequence[Mapping[str, Any]]) -> list[Any]:
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], **look, linewidth=2, label=curve.label) for curve, look in zip(curves, looks, strict=True)
    ]
    if any(curve.training for curve in curves):
        entries.append(Line2D([], [], color=MUTED, linewidth=0.9, label="training"))
    if any(curve.validation for curve in curves):
        entries.append(Line2D([], [], color=MUTED, linewidth=1.6, marker="o", markersize=3.6, label="validation"))
    return entries
