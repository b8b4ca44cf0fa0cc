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
from compress.report.axes import INK, MUTED, PAPER
from compress.report.curves import curves_of, draw_curves, size_of
from compress.report.results import find_row
from compress.report.scatter import DECODE, SIZE, draw_scatter, has_dots, letters_of, run_marks
from compress.report.side_by_side import draw_side_by_side, lines_of
from compress.report.side_by_side import size_of as side_by_side_size
from compress.report.stage_bars import draw_stage_bars, steps_of

NAMES = {
    "quality-against-size": "Quality against size on disk, with the Pareto front",
    "quality-against-decode-speed": "Quality against decode speed, with the Pareto front",
    "side-by-side": "Weights by class, bits per weight, quality and speed of the artifacts",
    "stages": "What each stage cost and saved in size, perplexity, decode speed and time",
    "training": "Loss, divergence from the teacher and perplexity while training, against tokens",
}
RECORDS = {"prune": "pruning-", "quantize": "sensitivity-"}
"""Stages whose artifact may hold a record that is drawn: how the names of those plots start."""
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


def draw(results: Json, folder: Path, root: Path | None = None) -> list[Path]:
    """Draw every plot that there is data for into `folder` and return the files, PNG before SVG; others of an earlier run go.

    `side-by-side` needs a quantized row that says what its weights take, `training` a stage with losses in its log,
    `pruning-<id>` and `sensitivity-<id>` the record in the artifact of a prune or quantize stage. `root` is the folder
    that the paths of the rows start from; left out, it is the one that holds `folder`.

    Raises ArtifactError where the record of an artifact cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps, (curves, unit), lines = steps_of(results), curves_of(results), lines_of(results)
    marks = run_marks(results)
    plots: dict[str, tuple[tuple[float, float], Callable[[Any], None]]] = {}
    for name, cost in (("quality-against-size", SIZE), ("quality-against-decode-speed", DECODE)):
        if has_dots(results, cost):
            height = 5.2 + 0.12 * max(0, len(results["rows"]) - 12)
            plots[name] = (8.6, height), partial(draw_scatter, results=results, cost=cost)
    if lines:
        plots["side-by-side"] = side_by_side_size(lines), partial(draw_side_by_side, lines=lines, marks=marks)
    if steps:
        plots["stages"] = (10.0, 1.75 + 0.36 * len(steps)), partial(draw_stage_bars, steps=steps, marks=marks)
    if curves:
        plots["training"] = size_of(curves), partial(draw_curves, curves=curves, unit=unit, marks=marks)
    plots |= _records(results, folder.parent if root is None else root)
    written = [file for name, (size, fill) in plots.items() for file in _save(folder, name, size, fill)]
    for name in (*NAMES, *(f"{prefix}*" for prefix in RECORDS.values())):
        for old in {*folder.glob(f"{name}.png"), *folder.glob(f"{name}.svg")} - set(written):
            old.unlink()
    return written


def recorded_stages(results: Json, word: str) -> Iterator[tuple[str, str, Json]]:
    """Yield (name of the plot, title, stage) for each stage of a word of RECORDS."""
    letters = letters_of(results)
    for stage in results["stages"]:
        if stage["word"] == word:
            letter = letters.get(stage.get("run") or "", "")
            # An id of ours is lower case already; one from another's results.json must not lead out of the folder.
            name = RECORDS[word] + re.sub(r"[^a-z0-9-]", "-", f"{letter}-{stage['id']}".lower().lstrip("-"))
            yield name, f"{word}: {stage['id']}" + (f" ·{letter}" if letter else ""), stage


def _records(results: Json, root: Path) -> dict[str, tuple[tuple[float, float], Callable[[Any], None]]]:
    from compress.models import pruning_record
    from compress.report import chosen_bits, pruning, sensitivity

    plots: dict[str, tuple[tuple[float, float], Callable[[Any], None]]] = {}
    marks = run_marks(results)
    for word in RECORDS:
        for name, title, stage in recorded_stages(results, word):
            row = find_row(results, stage["id"], "torch", stage.get("run"))
            if not row or not row.get("path"):
                continue
            path = root / row["path"]
            if word == "prune" and (cut := pruning_record.read_record(path)):
                head = f"{title}: what was kept and what was removed, by score"
                plots[name] = pruning.size_of(cut), partial(pruning.draw_cut, title=head, record=cut, marks=marks)
            elif word == "quantize" and (choice := sensitivity.read_record(path)):
                head = f"{title}: what each weight costs, and the bits it got"
                fill = partial(chosen_bits.draw_choice, title=head, record=choice, marks=marks)
                plots[name] = chosen_bits.size_of(choice), fill
    return plots


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
