"""What --set changes in a recipe, and where its paths lead."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from compress.document import Document, PathKey, parse
from compress.errors import Problem
from compress.explain import name_of, suggest
from compress.steps import ids_of

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?\Z")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_PARTS = ("train", "validation", "calibration", "evaluation")


def apply_override(document: Document, override: str) -> None:
    """Apply one --set path=value: the value is YAML, paths in it are relative to the current folder.

    A value that is no YAML changes nothing, and is said.
    """
    label = f"--set {override!r}"
    document.files.append(label)
    name, equals, text = override.partition("=")
    steps = [step.strip() for step in name.split(".")]
    # what the shell passed on as bytes that are no UTF-8 stands there as surrogates
    if not equals or not all(steps) or not name.isprintable():
        document.problems.append(Problem("an override is path=value, such as --set seed=1", label))
        return
    part = parse(text, label)
    if () not in part.places or () in part.unread:
        document.problems += part.problems
        return
    path: PathKey | None = tuple(steps)
    if steps[0] == "stages" and len(steps) > 1:
        path = _stage_path(document, steps[1:], part)
    if path is None:
        return
    inner: Any = part.value
    for step in reversed(path):
        inner = {step: inner}
    holder = Document(inner, {path + key: place for key, place in part.places.items()}, part.problems, files=[label])
    resolve_paths(holder, Path.cwd())
    for step in path:
        inner = inner[step]  # a path in it may have been resolved
    part.value = inner
    part.unread |= {key[len(path) :] for key in holder.unread}
    try:
        document.replace(path, part)
    except (TypeError, KeyError, IndexError):
        document.problems.append(part.problem((), f"there is no mapping at '{name}' in which a value could be set"))


def _stage_path(document: Document, steps: list[str], part: Document) -> PathKey | None:
    """Return the path of stages.<id>.<option>; the id is that of the line, or its verb where it has none.

    stages.<id> itself replaces all options of the line; the id stays where the new ones have none.
    """
    stages = document.value.get("stages")
    known: dict[str, list[tuple[int, str]]] = {}
    makers: dict[str, str] = {}
    for index, entry in enumerate(stages if isinstance(stages, list) else []):
        if isinstance(entry, dict) and len(entry) == 1:
            word, given = next(iter(entry.items()))
            identity, several = ids_of(word, given)
            known.setdefault(identity, []).append((index, word))
            makers |= dict.fromkeys(several, identity)
    wanted = steps[0]
    found = known.get(wanted, [])
    if len(found) != 1:
        why = f"there is no id '{wanted}'.{suggest(wanted, known)}"
        if found:
            why = f"{len(found)} lines are called '{wanted}'; change them in the recipe"
        elif wanted in makers:
            why = f"'{wanted}' is made by the line '{makers[wanted]}'; set stages.{makers[wanted]}.<option>"
        document.problems.append(part.problem((), f"stages are set as stages.<id>.<option>; {why}"))
        return None
    index, word = found[0]
    path: PathKey = ("stages", index, word)
    if len(steps) == 1 and isinstance(part.value, dict) and wanted != word:
        part.value.setdefault("id", wanted)
        part.places.setdefault(("id",), part.places[()])
    return (*path, *steps[1:])


def resolve_paths(document: Document, base: Path) -> None:
    """Put environment variables into the paths of models and data files, and let them start from `base`."""
    value = document.value
    if not isinstance(value, dict):
        return
    for part in ("teacher", "student"):
        if isinstance(entry := value.get(part), dict) and isinstance(model := entry.get("model"), str):
            entry["model"] = _model_path(document, (part, "model"), model, base)
    data = value.get("data")
    for part in _PARTS:
        entry = data.get(part) if isinstance(data, dict) else None
        if isinstance(entry, dict):
            _data_files(document, ("data", part), entry, base)
            _written(document, ("data", part), entry, base)


def _data_files(document: Document, path: PathKey, entry: dict[str, Any], base: Path) -> None:
    files = entry.get("files")
    if isinstance(files, str):
        entry["files"] = _file_path(document, (*path, "files"), files, base)
    elif isinstance(files, list):
        for index, file in enumerate(files):
            if isinstance(file, str):
                files[index] = _file_path(document, (*path, "files", index), file, base)


def _written(document: Document, path: PathKey, entry: dict[str, Any], base: Path) -> None:
    """The paths of data that the teacher writes: files of prompts and words, and the folders of classifiers."""
    prompts, filters = entry.get("prompts"), entry.get("filters")
    for kind, given in prompts.items() if isinstance(prompts, dict) else ():
        if isinstance(given, dict) and kind != "words":
            _data_files(document, (*path, "prompts", kind), given, base)
        for name, words in given.items() if isinstance(given, dict) and kind == "words" else ():
            if isinstance(words, str):
                given[name] = _file_path(document, (*path, "prompts", kind, name), words, base)
    for index, given in enumerate(filters if isinstance(filters, list) else ()):
        quality = given.get("quality") if isinstance(given, dict) else None
        if isinstance(quality, dict) and isinstance(model := quality.get("model"), str):
            place = (*path, "filters", index, "quality", "model")
            quality["model"] = _file_path(document, place, model, base)


def is_folder(path: Path) -> bool:
    """Say whether there is a folder; a name that no file system takes is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _file_path(document: Document, path: PathKey, text: str, base: Path) -> str:
    expanded = _expand(document, path, text)
    return str(base / expanded) if expanded else text


def _model_path(document: Document, path: PathKey, text: str, base: Path) -> str:
    expanded = _expand(document, path, text)
    if not expanded:
        return text
    if is_folder(base / expanded):
        return str(base / expanded)
    looks_local = text != str(expanded) or expanded.is_absolute() or text[0] in ".~" or not _HUB_ID.match(text)
    if looks_local:
        document.complain(path, f"{name_of(path)}: there is no folder {base / expanded}")
        document.unread.add(path)
    return text


def _expand(document: Document, path: PathKey, text: str) -> Path | None:
    """Return a path with variables and ~ put in; None, and a problem, where one is unknown. Empty: None."""
    missing = [name for name in _VARIABLE.findall(text) if name not in os.environ]
    for name in missing:
        document.complain(path, f"{name_of(path)}: the environment variable {name} is not set")
    if missing or not text:
        document.unread |= {path} if missing else set()
        return None
    try:
        return Path(_VARIABLE.sub(lambda match: os.environ[match[1]], text)).expanduser()
    except RuntimeError:
        document.complain(path, f"{name_of(path)}: there is no such user's folder: {text}")
        document.unread.add(path)
        return None
