"""The shipped recipes, as `compress init` offers them."""

from __future__ import annotations

from pathlib import Path

from compress.errors import CommandError
from compress.explain import suggest


def folder() -> Path:
    """Return where the shipped recipes are: inside the installed package, or beside it in a source tree."""
    installed = Path(__file__).parent / "shipped"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "recipes"


def names() -> dict[str, str]:
    """Return each shipped recipe's name with its first line of comment."""
    return {path.stem: _summary(path) for path in sorted(folder().glob("*.yaml"))}


def text_of(name: str) -> str:
    """Return the text of a shipped recipe.

    Raises CommandError for a name that is not shipped.
    """
    path = folder() / f"{name}.yaml"
    if name not in names():
        raise CommandError(f"there is no recipe '{name}'.{suggest(name, names())}")
    return path.read_text(encoding="utf-8")


def _summary(path: Path) -> str:
    lines = (line.removeprefix("# ") for line in path.read_text(encoding="utf-8").splitlines())
    return next((line for line in lines if line and not line.startswith(("yaml-language-server", "#"))), "")
