"""Lists of words that templates draw from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from compress.errors import StageError


def read_words(words: Mapping[str, str | Sequence[str]]) -> dict[str, list[str]]:
    """Return the list of each name; a text names a file with one word, or several, in each line.

    Raises StageError for a file that is not there, is no text, or has no words.
    """
    return {name: _lines(name, Path(given)) if isinstance(given, str) else list(given) for name, given in words.items()}


def _lines(name: str, path: Path) -> list[str]:
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise StageError(
            f"words.{name}: there is no file {path}; give a text file with a word in each line, or a list"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"words.{name}: {path} cannot be read ({error})") from error
    if not found:
        raise StageError(f"words.{name}: {path} holds no words")
    return found
