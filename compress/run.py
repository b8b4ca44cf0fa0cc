"""A recipe at work in its run folder: its artifacts, who listens, what it remembers."""

from __future__ import annotations

import json
import time
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
        state = json.loads((run.folder / STATE / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def save_state(run: Run, name: str, state: Json) -> None:
    """Remember something of the run that is no part of an artifact: times, measurements."""
    (run.folder / STATE).mkdir(parents=True, exist_ok=True)
    artifact.write_text(run.folder / STATE / f"{name}.json", json.dumps(state, sort_keys=True) + "\n")


class StageClock:
    """The seconds of a stage over all its attempts, from the times of the files in its scratch folder.

    An attempt that was killed counts up to the last file that it left there, which is what its successor goes on from.
    """

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        mark = scratch / "seconds"
        self._spent = 0.0
        if mark.exists():
            begun = mark.stat().st_mtime
            last = max(path.stat().st_mtime for path in scratch.rglob("*"))
            self._spent = float(mark.read_text(encoding="ascii") or 0) + max(0.0, last - begun)
        mark.write_text(str(self._spent), encoding="ascii")
        self._begun = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds until now."""
        return self._spent + time.perf_counter() - self._begun


def version_notes(nodes: list[Node]) -> list[str]:
    """Return which reused artifacts were made with other versions of the libraries than those installed now."""
    notes = []
    for node in nodes:
        found = artifact.read(node.folder) if node.made else None
        if found and (changed := changed_versions(found.versions)):
            notes.append(f"{node.label}: made with other versions ({', '.join(changed)}); --fresh makes it again")
    return notes
