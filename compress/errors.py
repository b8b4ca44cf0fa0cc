"""The error family. Everything that a user can cause is a CompressError; anything else is a defect of the product.

CompressError
├── RecipeError      the recipe is wrong; nothing was run (exit 2)
├── CommandError     the command is wrong; nothing was run (exit 2)
├── StageError       a stage could not do its work (exit 1)
├── ArtifactError    a folder is missing, damaged, or in use (exit 1)
└── MissingExtra     an optional part is not installed (exit 2)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CompressError(Exception):
    """A message for the user: where, what, what was found, what to do."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe, with its place: line and column count from 1; 0 where the text has no place for it."""

    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    excerpt: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: " if self.file else ""
        return f"{place}error: {self.message}" + (f"\n{self.excerpt}" if self.excerpt else "")


class RecipeError(CompressError):
    """Every problem of a recipe at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        tail = f"{count} error{'s' if count != 1 else ''}. Nothing was run."
        super().__init__("\n".join([*map(str, self.problems), tail]))


class CommandError(CompressError):
    """The command asks for what is not there, or would overwrite a file."""


class StageError(CompressError):
    """A stage could not do its work."""


class ArtifactError(CompressError):
    """A folder is missing, damaged, or in use."""


class MissingExtra(CompressError):  # noqa: N818 - a name of the design
    """An optional part of the product is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs an extra that is not installed. Install it: pip install 'compress-workbench[{extra}]'"
        )
