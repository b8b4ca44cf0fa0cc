"""The classes of a classifier, by number and by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.errors import StageError


def class_names(config: dict[str, Any]) -> dict[int, str]:
    """Return the names of the classes in a classifier's config."""
    named = config.get("id2label")
    return {int(number): str(name) for number, name in named.items()} if isinstance(named, dict) else {}


def class_number(label: str | int, names: dict[int, str], classes: int, folder: Path) -> int:
    """Return the number of a class.

    Raises StageError where the classifier has no such class.
    """
    found = label if isinstance(label, int) else next((n for n, name in names.items() if name == label), None)
    if found is None or found >= classes:
        known = ", ".join(f"{number} {name}" for number, name in sorted(names.items())) or f"0 to {classes - 1}"
        raise StageError(f"quality.label {label!r} is no class of {folder}; it has {known}")
    return found
