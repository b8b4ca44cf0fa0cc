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
from compress.report.scatter import DECODE, SIZE, draw_scatter, letters_of, run_marks
from compress.report.stage_bars import draw_stage_bars, steps_of

NAMES = {
    "quality-against-size": "Quality against size on disk, with the Pareto front",
    "quality-against-decode-speed": "Quality against decode speed, with the Pareto front",
    "stages": "What each stage cost and saved in size, perplexity, decode speed and time",
    "training": "Loss, divergence from the teacher and perplexity while training, against tokens",
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


def draw(results: Json, folder: Path, root: Path | None = None) -> list[Path]:
    """Draw every plot into `folder` and return the files, PNG before SVG.

    `training` is drawn where a stage has a log with losses, `pruning-<id>` where the artifact of a prune stage holds its
    scores; those of an earlier run are removed where none has. `root` is the folder that the paths of the rows start
    from; left out, it is the one that holds `folder`.

    Raises ArtifactError where the scores of an artifact cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, steps, (curves, unit) = len(results["rows"]), steps_of(results), curves_of(results)
    height = 5.2 + 0.12 * max(0, rows - 12)
    written = _save(folder, "quality-against-size", (8.6, height), lambda figure: draw_scatter(figure, results, SIZE))
    written += _save(
        folder, "quality-against-decode-speed", (8.6, height), lambda figure: draw_scatter(figure, results, DECODE)
    )
    size = (10.0, 1.75 + 0.36 * max(1, len(steps)))
    written += _save(folder, "stages", size, lambda figure: draw_stage_bars(figure, steps, run_marks(results)))
    if curves:
        fill = partial(draw_curves, curves=curves, unit=unit, marks=run_marks(results))
        written += _save(folder, "training", size_of(curves), fill)
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
    from compress.report import pruning

    written: list[Path] = []
    for name, title, stage in cut_stages(results):
        row = find_row(results, stage["id"], "torch", stage.get("run"))
        record = read_record(root / row["path"]) if row and row.get("path") else None
        if record:
            head = f"{title}: what was kept and what was removed, by score"
            fill = partial(pruning.draw_cut, title=head, record=record, marks=run_marks(results))
            written += _save(folder, name, pruning.size_of(record), fill)
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
