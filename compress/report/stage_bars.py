"""What each stage cost and saved: one line of bars per stage, four panels. Draws on a Figure that plots.py makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compress.contract import Json
from compress.report.axes import GRID, INK, MUTED, add_foot, add_head, linear_ticks, set_ticks
from compress.report.results import TEACHER, find_row, megabytes_of, value_of
from compress.report.scatter import letters_of

BETTER, WORSE, TIME = "#0072b2", "#d55e00", "#7a8490"
CLIP = 16.0
QUALITY_CLIP = 2.0
"""Bars end at these ratios, with an arrow; the number says the whole. A few percent of perplexity must stay visible."""


@dataclass(frozen=True)
class Step:
    """What a stage did: ratios after/before (1 = no change; None = not measured) and the seconds it took."""

    label: str
    size: float | None
    perplexity: float | None
    decode: float | None
    seconds: float | None


@dataclass(frozen=True)
class _Panel:
    """A field of Step; `better` is the sign of a change for the better."""

    name: str
    title: str
    better: int = -1
    clip: float = CLIP


_PANELS = (
    _Panel("size", "Size\n(× source; smaller is better)"),
    _Panel("perplexity", "Perplexity\n(× source; lower is better)", clip=QUALITY_CLIP),
    _Panel("decode", "Decode speed\n(× source; faster is better)", better=1),
)


def steps_of(results: Json) -> list[Step]:
    """Return one step per stage. A stage is held against its source, ONNX against ONNX where both were exported, else
    torch against torch; an export is held against the torch row that it came from."""
    letters = letters_of(results)
    steps = []
    for entry in results["stages"] or _entries_of_rows(results):
        before, after = _pair(results, entry)
        letter = letters.get(entry.get("run") or "", "")
        steps.append(
            Step(
                label=f"{entry['word']}: {entry['id']}" + (f" ·{letter}" if letter else ""),
                size=_ratio(before, after, megabytes_of),
                perplexity=_ratio(before, after, lambda row: value_of(row, "perplexity")),
                decode=_ratio(before, after, lambda row: value_of(row, "decode_tokens_per_second")),
                seconds=entry.get("seconds"),
            )
        )
    return steps


def _entries_of_rows(results: Json) -> list[Json]:
    """What a file without stages tells of them: one for each id that was made from another."""
    made: dict[tuple[str, str], Json] = {}
    for row in results["rows"]:
        if row.get("source") not in (None, row["id"]):
            entry = {
                "id": row["id"],
                "word": row.get("stage", ""),
                "seconds": row.get("seconds"),
                "run": row.get("run"),
            }
            made.setdefault((row["id"], row.get("run", "")), entry)
    return list(made.values())


def draw_stage_bars(figure: Any, steps: Sequence[Step], marks: str = "") -> None:
    """Draw size, perplexity and decode speed as ratios to the source, where some stage has one, and the seconds spent.

    `steps` are one or more.
    """
    add_head(figure, "What each stage cost and saved", notes=marks)
    ratios = [(panel, [getattr(step, panel.name) for step in steps]) for panel in _PANELS]
    ratios = [(panel, found) for panel, found in ratios if any(ratio is not None for ratio in found)]
    panels = list(figure.subplots(1, len(ratios) + 1, sharey=True, squeeze=False)[0])
    for axes, (panel, found) in zip(panels, ratios, strict=False):
        _ratio_panel(axes, panel, found)
    _time_panel(panels[-1], [step.seconds for step in steps])
    panels[0].set_yticks(range(len(steps)), [_short(step.label) for step in steps], fontsize=9, color=INK)
    panels[0].set_ylim(len(steps) - 0.4, -0.6)
    for axes in panels:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8.5)
        axes.grid(True, axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    add_foot(
        figure,
        "Blue is better, orange worse, than the source: ONNX against ONNX where both exist, else torch against torch.",
    )


def _pair(results: Json, entry: Json) -> tuple[Json | None, Json | None]:
    run = entry.get("run")
    rows = {format: find_row(results, entry["id"], format, run) for format in ("onnx", "torch")}
    if entry["word"] == "export":
        return rows["torch"], rows["onnx"]
    for format, row in rows.items():
        source = None if row is None else row.get("source")
        if source in (None, entry["id"]):
            source = next(
                (other["source"] for other in rows.values() if other and other.get("source") != entry["id"]), None
            )
        # `start` without a row of its own is the teacher as it stood.
        before = find_row(results, source, format, run) or (
            find_row(results, TEACHER, format, run) if source == "start" else None
        )
        if row is not None and before is not None:
            return before, row
    return None, None


def _ratio(before: Json | None, after: Json | None, of: Any) -> float | None:
    if before is None or after is None:
        return None
    old, new = of(before), of(after)
    return None if not old or not new else new / old


def _ratio_panel(axes: Any, panel: _Panel, ratios: Sequence[float | None]) -> None:
    known = [abs(math.log2(ratio)) for ratio in ratios if ratio is not None]
    edge = min(max([0.6, *known]), math.log2(panel.clip))
    # Room on both sides for the numbers at the ends of the bars.
    axes.set_xlim(-edge * 2, edge * 2)
    axes.set_title(panel.title, fontsize=9, color=INK, loc="center")
    shown = {-4: "1/16", -2: "1/4", -1: "1/2", 0: "1", 1: "2", 2: "4", 4: "16"}
    ticks = [tick for tick in shown if abs(tick) <= edge * 1.9 and (abs(tick) != 1 or edge < 2)]
    axes.set_xticks(ticks, [shown[tick] for tick in ticks])
    axes.axvline(0, color=MUTED, linewidth=1)
    for place, ratio in enumerate(ratios):
        if ratio is None:
            axes.text(0, place, " not measured", va="center", fontsize=8, color=MUTED)
            continue
        length = math.log2(ratio)
        clipped = max(-edge, min(edge, length))
        same = abs(length) < 0.0072
        good = length * panel.better > 0
        colour = MUTED if same else BETTER if good else WORSE
        axes.barh(place, clipped, height=0.62, color=colour)
        arrow = "" if clipped == length else " →" if length > 0 else "← "
        text = f"{_number(ratio)}{arrow}" if length >= 0 else f"{arrow}{_number(ratio)}"
        offset = (3, 0) if length >= 0 else (-3, 0)
        side = "left" if length >= 0 else "right"
        axes.annotate(
            text, (clipped, place), offset, textcoords="offset points", va="center", ha=side, fontsize=8.5, color=INK
        )


def _time_panel(axes: Any, seconds: Sequence[float | None]) -> None:
    longest = max([second for second in seconds if second is not None], default=0) or 1
    axes.set_title("Time spent\n(seconds)", fontsize=9, color=INK)
    axes.set_xlim(0, longest * 1.45)
    set_ticks(axes.xaxis, linear_ticks(0, longest * 1.45, 4))
    for place, second in enumerate(seconds):
        if second is None:
            axes.text(0, place, " not measured", va="center", fontsize=8, color=MUTED)
            continue
        axes.barh(place, second, height=0.62, color=TIME)
        text = f"{second:,.0f}" if second >= 100 else f"{second:.1f}"
        axes.annotate(text, (second, place), (3, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK)


def _number(ratio: float) -> str:
    return (
        f"{ratio:,.0f}"
        if ratio >= 100
        else f"{ratio:.1f}"
        if ratio >= 10
        else f"{ratio:.2f}"
        if ratio >= 0.01
        else f"{ratio:.1g}"
    )


def _short(label: str) -> str:
    return label if len(label) <= 30 else label[:29] + "…"
