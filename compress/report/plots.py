"""The plots of a report, each as PNG and SVG. The same results give the same bytes. No pyplot, no global state."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from compress.contract import Json
from compress.report.axes import GRID, INK, MUTED, PAPER, add_head, linear_ticks, set_scale, set_ticks
from compress.report.results import find_row
from compress.report.scatter import DECODE, SIZE, draw_scatter, letters_of, run_marks
from compress.report.stage_bars import draw_stage_bars, steps_of

NAMES = {
    "quality-against-size": "Quality against size on disk, with the Pareto front",
    "quality-against-decode-speed": "Quality against decode speed, with the Pareto front",
    "stages": "What each stage cost and saved in size, perplexity, decode speed and time",
    "training": "Training curves",
}
CUT = "pruning-"
"""Plots of what a prune stage cut have names that start so."""
_DPI = 160
_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "svg.hashsalt": "compress",
    "svg.fonttype": "path",
}
_CURVES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def draw(results: Json, folder: Path, root: Path | None = None) -> list[Path]:
    """Draw every plot into `folder` and return the files, PNG before SVG.

    `training` is drawn where a stage has a log with losses, `pruning-<id>` where the artifact of a prune stage holds its
    scores; those of an earlier run are removed where none has. `root` is the folder that the paths of the rows start
    from; left out, it is the one that holds `folder`.

    Raises ArtifactError where the scores of an artifact cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, steps, curves = len(results["rows"]), steps_of(results), _curves(results)
    height = 5.2 + 0.12 * max(0, rows - 12)
    written = _save(folder, "quality-against-size", (8.6, height), lambda figure: draw_scatter(figure, results, SIZE))
    written += _save(
        folder, "quality-against-decode-speed", (8.6, height), lambda figure: draw_scatter(figure, results, DECODE)
    )
    size = (10.0, 1.75 + 0.36 * max(1, len(steps)))
    written += _save(folder, "stages", size, lambda figure: draw_stage_bars(figure, steps, run_marks(results)))
    if curves:
        lines = (len(curves) + 1) // 2
        size = (8.6, 0.6 + 2.7 * lines)
        written += _save(folder, "training", size, lambda figure: _draw_curves(figure, curves, run_marks(results)))
    else:
        for suffix in (".png", ".svg"):
            (folder / f"training{suffix}").unlink(missing_ok=True)
    return written + _draw_cuts(results, folder, folder.parent if root is None else root)


def cut_stages(results: Json) -> Iterator[tuple[str, str, Json]]:
    """Yield (name of the plot, title, stage) for each prune stage."""
    letters = letters_of(results)
    for stage in results["stages"]:
        if stage["word"] == "prune":
            letter = letters.get(stage.get("run") or "", "")
            # An id of ours is lower case already; one from another's results.json must not lead out of the folder.
            name = CUT + re.sub(r"[^a-z0-9-]", "-", f"{letter}-{stage['id']}".lower().lstrip("-"))
            yield name, f"prune: {stage['id']}" + (f" ·{letter}" if letter else ""), stage


def _draw_cuts(results: Json, folder: Path, root: Path) -> list[Path]:
    from compress.models.pruning_record import read_record
    from compress.report.pruning import draw_cut, size_of

    written: list[Path] = []
    for name, title, stage in cut_stages(results):
        row = find_row(results, stage["id"], "torch", stage.get("run"))
        record = read_record(root / row["path"]) if row and row.get("path") else None
        if record:
            head = f"{title}: what was kept and what was removed, by score"
            fill = partial(draw_cut, title=head, record=record, marks=run_marks(results))
            written += _save(folder, name, size_of(record), fill)
    for old in [*folder.glob(f"{CUT}*.png"), *folder.glob(f"{CUT}*.svg")]:
        if old not in written:
            old.unlink()
    return written


def _save(folder: Path, name: str, size: tuple[float, float], fill: Callable[[Any], None]) -> list[Path]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with _style():
        figure = Figure(figsize=size, dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        fill(figure)
        figure.savefig(png, dpi=_DPI, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return [png, svg]


@contextmanager
def _style() -> Iterator[None]:
    """Our style on matplotlib's defaults, whatever the user's matplotlibrc says; put back afterwards."""
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # A run's name may use letters that the font lacks; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _curves(results: Json) -> list[tuple[str, str, dict[str, list[tuple[float, float]]]]]:
    """Return (title, unit of the horizontal axis, {name of the loss: points}) for each stage whose log has losses."""
    letters = letters_of(results)
    found = []
    for stage in results["stages"]:
        log = stage.get("log") or []
        unit = "tokens" if any(record.get("tokens") for record in log) else "step"
        lines: dict[str, list[tuple[float, float]]] = {}
        for record in log:
            for name, value in record.items():
                if name.endswith("loss") and isinstance(value, int | float) and record.get(unit) is not None:
                    lines.setdefault(name, []).append((float(record[unit]), float(value)))
        if lines:
            letter = letters.get(stage.get("run") or "", "")
            found.append((f"{stage['word']}: {stage['id']}" + (f" ·{letter}" if letter else ""), unit, lines))
    return found


def _draw_curves(figure: Any, curves: list[tuple[str, str, dict[str, list[tuple[float, float]]]]], marks: str) -> None:
    add_head(figure, "Training curves", notes=marks)
    columns = min(2, len(curves))
    panels = figure.subplots((len(curves) + columns - 1) // columns, columns, squeeze=False).flat
    for axes, (title, unit, lines) in zip(panels, curves, strict=False):
        for number, (name, points) in enumerate(lines.items()):
            marker = "o" if len(points) < 12 else None
            xs, ys = [x for x, _ in points], [y for _, y in points]
            label = name.replace("_", " ")
            axes.plot(
                xs, ys, color=_CURVES[number % len(_CURVES)], marker=marker, markersize=4, linewidth=1.6, label=label
            )
        axes.set_title(title, fontsize=10, loc="left", color=INK)
        axes.set_xlabel("Tokens trained on" if unit == "tokens" else "Step")
        axes.set_ylabel("Loss (nats a token)")
        set_scale(axes.yaxis, [y for points in lines.values() for _, y in points], from_zero=False)
        last = max(x for points in lines.values() for x, _ in points) or 1.0
        axes.set_xlim(0, last * 1.03)
        set_ticks(axes.xaxis, linear_ticks(0, last, 5))
        axes.grid(True, color=GRID, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8.5)
    for axes in list(panels):
        axes.set_visible(False)
