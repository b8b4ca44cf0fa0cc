"""What --set changes in a recipe, and where its paths lead."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from compress.document import Document, PathKey, Place, parse
from compress.errors import Problem
from compress.explain import name_of, suggest

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?\Z")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_PARTS = ("train", "validation", "calibration", "evaluation")


def apply_override(document: Document, override: str) -> None:
    """Apply one --set path=value: the value is YAML, paths in it are relative to the current folder."""
    label = f"--set {override!r}"
    name, equals, text = override.partition("=")
    steps = [step for step in name.strip().split(".") if step]
    if not equals or not steps:
        document.problems.append(Problem("an override is path=value, such as --set seed=1", label))
        return
    if not isinstance(document.value, dict):
        return
    path: PathKey | None = tuple(steps)
    if steps[0] == "stages":
        path = _stage_path(document, steps[1:], label)
    if path is None:
        return
    part = parse(text, label)
    part.places = {key: Place(label, place.line, place.column, place.text) for key, place in part.places.items()}
    inner: Any = part.value
    for step in reversed(path):
        inner = {step: inner}
    holder = Document(inner, {path + key: place for key, place in part.places.items()}, part.problems)
    resolve_paths(holder, Path.cwd())
    for step in path:
        inner = inner[step]  # a path in it may have been resolved
    try:
        document.replace(path, Document(inner, part.places, holder.problems))
    except (TypeError, KeyError, IndexError):
        document.problems.append(Problem(f"there is nothing at '{name}' in which a value could be set", label))


def _stage_path(document: Document, steps: list[str], label: str) -> PathKey | None:
    """Return the path of stages.<id>.<option>; the id is that of the line, or its verb where it has none."""
    stages = document.value.get("stages")
    known: dict[str, tuple[int, str]] = {}
    for index, entry in enumerate(stages if isinstance(stages, list) else []):
        if isinstance(entry, dict) and len(entry) == 1:
            word, given = next(iter(entry.items()))
            known.setdefault(str(given.get("id", word)) if isinstance(given, dict) else word, (index, word))
    if len(steps) < 2 or steps[0] not in known:
        found = steps[0] if steps else ""
        document.problems.append(
            Problem(f"stages are set as stages.<id>.<option>; there is no id '{found}'.{suggest(found, known)}", label)
        )
        return None
    index, word = known[steps[0]]
    if not isinstance(stages[index][word], dict):
        stages[index][word] = {}
    return ("stages", index, word, *steps[1:])


def resolve_paths(document: Document, base: Path) -> None:
    """Make the paths of models and data files absolute, and put environment variables into them."""
    value = document.value
    if not isinstance(value, dict):
        return
    for part in ("teacher", "student"):
        if isinstance(entry := value.get(part), dict) and isinstance(model := entry.get("model"), str):
            entry["model"] = _model_path(document, (part, "model"), model, base)
    data = value.get("data")
    for part in _PARTS:
        entry = data.get(part) if isinstance(data, dict) else None
        files = entry.get("files") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and isinstance(files, str):
            files = entry["files"] = [files]
        if isinstance(files, list):
            for index, file in enumerate(files):
                if isinstance(file, str):
                    expanded = _expand(document, ("data", part, "files", index), file)
                    files[index] = str(base / Path(expanded).expanduser())


def _expand(document: Document, path: PathKey, text: str) -> str:
    def value_of(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            document.problems.append(
                document.problem(path, f"{name_of(path)}: the environment variable {match[1]} is not set")
            )
        return found or ""

    return _VARIABLE.sub(value_of, text)


def _model_path(document: Document, path: PathKey, text: str, base: Path) -> str:
    expanded = Path(_expand(document, path, text)).expanduser()
    folder = base / expanded
    if folder.is_dir():
        return str(folder)
    looks_local = (
        text != str(expanded) or expanded.is_absolute() or text.startswith((".", "~")) or not _HUB_ID.match(text)
    )
    if looks_local:
        document.problems.append(document.problem(path, f"{name_of(path)}: there is no folder {folder}"))
    return text
