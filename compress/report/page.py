"""report.html: one self-contained page that needs no network and no other file."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import __version__, artifact
from compress.contract import Json
from compress.models.families import CLASSES
from compress.report.axes import GRID, INK, MUTED, PAPER
from compress.report.plots import NAMES, recorded_stages
from compress.report.regressions import find_missed
from compress.report.results import TEACHER, flatten, megabytes_of, plain_text, teacher_of, title_of, value_of
from compress.report.scatter import PRECISIONS
from compress.report.stage_bars import TIME
from compress.report.table import table
from compress.report.written import written_data

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "page.html.jinja"
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", TIME: "time"} | {
    colour: f"c-{name}" for name, colour in PRECISIONS.items() if name != "bf16"
}
"""Colours of the plots that follow the reader's light or dark scheme."""


def write_page(results: Json, plots: Path, target: Path) -> None:
    """Write the page of a run, or of merged runs, atomically; `plots` is the folder that `draw` filled."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain_text
    environment.filters["quoted"] = shlex.quote
    rows = table(results)
    text = environment.get_template(TEMPLATE).render(
        results=results,
        runs=_runs(results),
        table=rows,
        alarms=[*results.get("warnings", []), *find_missed(results), *rows.warnings],
        highlights=list(_highlights(results)),
        plots=list(_plots(plots)),
        cuts=list(_cuts(results, plots)),
        choices=list(_choices(results, plots)),
        stages=list(_stages(results)),
        written=written_data(results),
        shipped=[row for row in results["rows"] if row["format"] == "onnx" and row.get("path")],
        version=__version__,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    artifact.write_text(target, text)


def inline_svg(text: str, name: str, title: str) -> str:
    """Return an SVG file as an element for the page: ids of its own, colours that follow the scheme, a name for screen
    readers, and no fixed size."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'xlink:href="#', f'href="#{name}-', body)
    body = body.replace('xlink:href="data:image/png;', 'href="data:image/png;')
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'\sxmlns:xlink="[^"]*"', "", body)
    for colour, variable in _VARIABLES.items():
        body = re.sub(colour, f"var(--{variable})", body, flags=re.IGNORECASE)
    opening, rest = body.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', opening)
    shape = box.group(0) if box else ""
    return f'<svg xmlns="http://www.w3.org/2000/svg" {shape} role="img" aria-label="{title}">{rest.strip()}'


def _plots(folder: Path) -> Iterator[tuple[str, str, Markup]]:
    for name, title in NAMES.items():
        if svg := _svg(folder, name, title):
            yield name, title, svg


def _svg(folder: Path, name: str, title: str) -> Markup | None:
    from markupsafe import Markup, escape

    file = folder / f"{name}.svg"
    # Glyphs are outlines and comments are gone: no text of the user is left in it.
    return Markup(inline_svg(file.read_text(encoding="utf-8"), name, str(escape(title)))) if file.is_file() else None


def _cuts(results: Json, folder: Path) -> Iterator[dict[str, Any]]:
    """What each prune stage cut: its picture, and its parameters by class; those that have neither are left out."""
    for name, title, stage in recorded_stages(results, "prune"):
        svg = _svg(folder, name, f"{title}: what was kept and what was removed on each axis, by score")
        classes = list(_classes(stage.get("facts") or {}))
        if svg or classes:
            yield {"name": name, "title": title, "svg": svg, "classes": classes}


def _choices(results: Json, folder: Path) -> Iterator[tuple[str, Markup]]:
    """(name, picture) of the bits that each quantize stage chose by weight; those that chose none are left out."""
    for name, title, _ in recorded_stages(results, "quantize"):
        if svg := _svg(folder, name, f"{title}: what rounding each weight costs, and the bits that were chosen for it"):
            yield name, svg


def _classes(facts: Json) -> Iterator[tuple[str, str, str, str]]:
    """(class, parameters before, after, share removed) for each class of parameters that a prune stage tells of."""
    counts = facts.get("parameters")
    before, after = (counts.get("before"), counts.get("after")) if isinstance(counts, dict) else (None, None)
    if isinstance(before, dict) and isinstance(after, dict):
        # artifact.json sorts its keys.
        for kind in (kind for kind in (*CLASSES, "total") if kind in before):
            old, new = before[kind], after.get(kind, 0)
            yield kind, f"{old:,}", f"{new:,}", f"{100 * (1 - new / old):.1f}" if old else "–"


def _runs(results: Json) -> list[dict[str, Any]]:
    """Return what is told of each run: its recipe, machine and data."""
    runs = results.get("runs") or [{**results, "name": results["recipe"]["name"], "path": ""}]
    return [
        {
            "name": run["name"],
            "path": run["path"],
            "recipe": run["recipe"],
            "environment": list(flatten(run["environment"])),
            "data": list(flatten(run["data"])),
        }
        for run in runs
    ]


def _stages(results: Json) -> Iterator[dict[str, Any]]:
    for stage in results["stages"]:
        memory = stage.get("peak_memory_bytes")
        source = next((row.get("source") for row in results["rows"] if _made(row, stage)), None)
        yield {
            "run": stage.get("run", ""),
            "word": stage["word"],
            "id": stage["id"],
            "source": "" if stage["word"] == "export" else source or "",
            "seconds": stage.get("seconds"),
            "memory": None if memory is None else memory / 1e6,
            "facts": [fact for fact in flatten(stage.get("facts") or {}) if not _is_in_table(stage, fact[0])],
            "skipped": stage.get("skipped") or [],
        }


def _is_in_table(stage: Json, fact: str) -> bool:
    return bool(stage["word"] == "prune" and fact.startswith("parameters.") and any(_classes(stage["facts"])))


def _made(row: Json, stage: Json) -> bool:
    return bool(row["id"] == stage["id"] and row.get("run") == stage.get("run") and row.get("source") != row["id"])


def _highlights(results: Json) -> Iterator[tuple[str, str, list[str]]]:
    """The smallest, the fastest and the best of the ONNX artifacts: (what it is best in, title of the row, facts)."""
    rows = [row for row in results["rows"] if row["format"] == "onnx" and row["id"] != TEACHER]
    best: dict[int, list[str]] = {}
    for what, name, sign in (
        ("smallest", "size_bytes", 1),
        ("fastest decode", "decode_tokens_per_second", -1),
        ("lowest perplexity", "perplexity", 1),
    ):
        having = [
            (sign * found, math.inf if (lost := _value(row, "perplexity")) is None else lost, index)
            for index, row in enumerate(rows)
            if (found := _value(row, name)) is not None
        ]
        if having:  # of equal ones, such as int4 and the same healed, the better
            best.setdefault(min(having)[-1], []).append(what)
    for index, merits in best.items():
        said = ", ".join(merits)
        yield said[0].upper() + said[1:], title_of(rows[index]), list(_facts(results, rows[index]))


def _value(row: Json, name: str) -> float | None:
    return megabytes_of(row) if name == "size_bytes" else value_of(row, name)


def _facts(results: Json, row: Json) -> Iterator[str]:
    teacher = teacher_of(results, row, same_format=True)
    for name, form in (
        ("size_bytes", "{:,.2f} MB"),
        ("perplexity", "perplexity {:,.4g}"),
        ("decode_tokens_per_second", "{:,.0f} tokens/s"),
    ):
        value = _value(row, name)
        if value is None:
            continue
        before = None if teacher is None else _value(teacher, name)
        yield form.format(value) + (f" ({value / before:,.2f}× teacher)" if before else "")
