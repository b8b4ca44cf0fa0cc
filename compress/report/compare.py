"""Several runs side by side: one table, plots and a page, and what keeps the runs from being comparable."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from compress import artifact
from compress.contract import Json
from compress.errors import ArtifactError
from compress.report.results import FILE, FORMATS, SCHEMA, flatten, plain_text, read_results
from compress.report.table import markdown, table

MACHINE = {
    "cpu",
    "cores",
    "threads",
    "machine",
    "processor",
    "device",
    "gpu",
    "memory",
    "memory_bytes",
    "memory_gb",
    "platform",
    "system",
}
"""Names in the environment (at any depth) that say on what the speeds were measured; other names are software."""


def compare(paths: Sequence[Path], out: Path) -> Json:
    """Compare runs and write table.md, plots/ and report.html into `out`; return the merged results.

    Each path is a run folder or its results.json. Rows, stages and limits carry their run's name under "run"; what
    keeps the runs from being comparable is listed under "warnings".

    Raises ArtifactError where there is nothing to compare, naming every folder without results.
    """
    merged = merge(paths)
    # Drawing needs matplotlib, which is slow to load: a wrong path must be refused before.
    from compress.report.page import write_page
    from compress.report.plots import draw

    out.mkdir(parents=True, exist_ok=True)
    warnings = "".join(f"> **{warning}**  \n" for warning in merged["warnings"])
    artifact.write_text(out / "table.md", warnings + ("\n" if warnings else "") + markdown(table(merged)))
    draw(merged, out / "plots", Path())
    write_page(merged, out / "plots", out / "report.html")
    return merged


def merge(paths: Sequence[Path]) -> Json:
    """Return the runs as one results-like dict, with "runs" and "warnings"."""
    _check(paths)
    runs = [read_results(path) for path in paths]
    names = name_runs(paths, [str(run["recipe"]["name"]) for run in runs])
    merged: Json = {
        "schema": SCHEMA,
        "recipe": {"name": "Comparison of " + _listed(names), "text": "", "overrides": []},
        "environment": {},
        "data": {},
        "rows": [],
        "stages": [],
        "limits": [],
        "written": [],
        "runs": [],
        "warnings": [],
    }
    for path, name, run in zip(paths, names, runs, strict=True):
        folder = path if path.is_dir() else path.parent
        for part in ("rows", "stages", "limits", "written"):
            merged[part] += [{**entry, "run": name} for entry in run.get(part, [])]
        about = {key: run[key] for key in ("recipe", "environment", "data")}
        merged["runs"].append({"name": name, "path": folder.as_posix(), **about})
    for row in merged["rows"]:
        folder = next(run["path"] for run in merged["runs"] if run["name"] == row["run"])
        if row.get("path"):
            row["path"] = (PurePosixPath(folder) / row["path"]).as_posix()
    merged["warnings"] = differences(merged)
    return merged


def name_runs(paths: Sequence[Path], recipes: Sequence[str]) -> list[str]:
    """Return a name of its own for each run: the recipe's, with as much of the folder as tells them apart."""
    folders = [(path if path.is_dir() else path.parent).resolve() for path in paths]
    names = []
    for folder, recipe in zip(folders, recipes, strict=True):
        twins = [other for other, name in zip(folders, recipes, strict=True) if name == recipe and other != folder]
        parts = 1
        while parts < len(folder.parts) and any(other.parts[-parts:] == folder.parts[-parts:] for other in twins):
            parts += 1
        place = "/".join(folder.parts[-parts:])
        names.append(f"{recipe} ({place})" if twins and place != recipe else recipe)
    return names


def differences(merged: Json) -> list[str]:
    """Return a sentence for each evaluation condition in which the runs differ."""
    runs = merged["runs"]
    found = list(_data_differences(runs))
    found += list(_condition_differences(merged))
    machine: list[str] = []
    software: list[str] = []
    flat = {run["name"]: dict(flatten(run["environment"])) for run in runs}
    for key in _ordered(name for values in flat.values() for name in values):
        values = {name: values.get(key, "not said") for name, values in flat.items()}
        if len(set(values.values())) > 1:
            (machine if MACHINE & set(key.split(".")) else software).append(f"{key}: {_by_value(values)}")
    if machine:
        found.append(
            f"The runs were measured on different machines, so their speeds are not comparable. {'; '.join(machine)}"
        )
    if software:
        found.append(f"The runs used different software. {'; '.join(software)}")
    return found


def _check(paths: Sequence[Path]) -> None:
    if not paths:
        raise ArtifactError("compare: no run was given; give run folders, such as runs/<recipe name>")
    bare = [str(path) for path in paths if not (path.is_file() or (path / FILE).is_file())]
    if bare:
        raise ArtifactError(f"no {FILE} in: {', '.join(bare)}; give run folders that `compress apply` has finished")
    seen: set[Path] = set()
    for path in paths:
        file = (path / FILE if path.is_dir() else path).resolve()
        if file in seen:
            raise ArtifactError(f"{path}: given twice; give each run once")
        seen.add(file)


def _data_differences(runs: Sequence[Json]) -> Iterator[str]:
    prints = {run["name"]: str(run["data"].get("evaluation", "not said")) for run in runs}
    if len(set(prints.values())) > 1:
        short = {name: value[:12] for name, value in prints.items()}
        yield (
            "The runs were evaluated on different data or with different tokenizers, so perplexity, KL and agreement "
            f"are not comparable. evaluation: {_by_value(short)}"
        )


# what stands among the conditions and was found, not set
_FOUND = {"p95", "standard_error"}


def _condition_differences(merged: Json) -> Iterator[str]:
    """Conditions of one measurement whose values in two runs have nothing in common."""
    said: dict[tuple[str, str, str], dict[str, set[str]]] = {}
    for row in merged["rows"]:
        for name, entry in row["measurements"].items():
            for key, value in entry.get("conditions", {}).items():
                if key in _FOUND:
                    continue
                text = json.dumps(value, sort_keys=True)
                said.setdefault((name, key, row["format"]), {}).setdefault(row["run"], set()).add(text)
    found: dict[str, list[str]] = {}
    for (name, key, format), values in said.items():
        sets = list(values.values())
        if any(one.isdisjoint(other) for one in sets for other in sets):
            texts = {
                run: " or ".join(sorted(plain_text(json.loads(text)) for text in texts))
                for run, texts in values.items()
            }
            found.setdefault(f"{key}: {_by_value(texts)}", []).append(f"{name} ({FORMATS.get(format, format)})")
    for difference, names in found.items():
        yield f"Measured under different conditions: {', '.join(names)}. {difference}"


def _by_value(values: dict[str, str]) -> str:
    """Return `256 (a, b), 512 (c)`."""
    runs: dict[str, list[str]] = {}
    for name, value in values.items():
        runs.setdefault(value, []).append(name)
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in runs.items())


def _ordered(names: Iterator[Any]) -> list[Any]:
    return list(dict.fromkeys(names))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
