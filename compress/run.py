"""A recipe at work in its run folder: its artifacts, who listens, what it remembers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from compress import artifact
from compress.contract import Json, Progress
from compress.data.load import RecipeData
from compress.recipe import Recipe, Step
from compress.versions import changed_versions

SCRATCH, STATE = ".scratch", ".state"


class Listener(Protocol):
    """Who is told what the pipeline does."""

    def say(self, message: str) -> None:
        """Take one line of news."""
        ...

    def task(self, label: str) -> AbstractContextManager[Progress]:
        """Give the progress of one piece of work, for as long as it takes."""
        ...


@dataclass(frozen=True)
class Node:
    """An artifact of the run: where it is, what makes it, and what determines its bytes."""

    id: str
    word: str
    gives: str
    folder: Path
    key: str
    made: Mapping[str, Any]
    source: str | None = None
    step: Step | None = None

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.id} ({self.word})" if self.gives == "torch" else f"{self.id} (onnx)"


@dataclass(frozen=True)
class Run:
    """A recipe at work in its run folder."""

    recipe: Recipe
    folder: Path
    data: RecipeData
    listener: Listener
    fresh: bool = False
    device: str = "cpu"


def load_state(run: Run, name: str) -> Json | None:
    """Return what a run remembers under a name, or None where there is nothing that can be read."""
    try:
        state: Json = json.loads((run.folder / STATE / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state


def save_state(run: Run, name: str, state: Json) -> None:
    """Remember something of the run that is no part of an artifact: times, measurements."""
    (run.folder / STATE).mkdir(parents=True, exist_ok=True)
    artifact.write_text(run.folder / STATE / f"{name}.json", json.dumps(state, sort_keys=True) + "\n")


def version_notes(nodes: list[Node]) -> list[str]:
    """Return which reused artifacts were made with other versions of the libraries than those installed now."""
    notes = []
    for node in nodes:
        found = artifact.read(node.folder) if node.made else None
        if found and (changed := changed_versions(found.versions)):
            notes.append(f"{node.label}: made with other versions ({', '.join(changed)}); --fresh makes it again")
    return notes
