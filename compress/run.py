"""A recipe at work in its run folder: its artifacts, who listens, what it remembers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from compress import artifact
from compress.contract import Json, Progress
from compress.data.load import RecipeData
from compress.distributed import Launch, refuse_sharding, sharding, windows_per_piece
from compress.errors import CommandError, StageError
from compress.recipe import Recipe, Step
from compress.training.options import TrainingOptions
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

    @property
    def trains(self) -> bool:
        """Whether every process of a launch works on it."""
        return self.step is not None and isinstance(self.step.options, TrainingOptions)


@dataclass(frozen=True)
class Run:
    """A recipe at work in its run folder."""

    recipe: Recipe
    folder: Path
    data: RecipeData
    listener: Listener
    fresh: bool = False
    device: str = "cpu"
    launch: Launch = field(default_factory=Launch)


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


_TRAIN, _NOTHING = "train", "nothing"
_SOURCE_SECONDS = 120.0


def refuse_processes(recipe: Recipe, processes: int, device: str) -> None:
    """Raise CommandError where a launcher asks for what no training of the recipe can do: before anything runs."""
    for step in recipe.steps:
        if isinstance(step.options, TrainingOptions):
            refuse_sharding(device)
            writes = bool(getattr(step.options, "on_policy", False))
            if writes and sharding():
                raise CommandError(
                    f"{step.where}.on_policy: the student cannot write with weights in pieces; leave FSDP out"
                )
            try:
                windows_per_piece(step.options.batch, step.options.accumulate, processes)
            except ValueError as error:
                raise CommandError(f"{step.where}: {error}") from error


def call(run: Run, node: Node, needed: bool) -> None:
    """Tell the other processes whether they are needed for a node."""
    if node.trains:
        run.launch.tell(f"node/{node.id}", _TRAIN if needed else _NOTHING)


def is_called(run: Run, node: Node) -> bool:
    """Wait for the first process to come to a node, and return whether this one is needed for it."""
    return node.trains and run.launch.hear(f"node/{node.id}") == _TRAIN


def wait_for_source(node: Node, nodes: list[Node]) -> None:
    """Wait until the artifact that a node starts from is seen here: another machine sees a shared disk a little later.

    Raises StageError where it does not come.
    """
    source = next(other for other in nodes if other.id == node.source and other.gives == "torch")
    end = time.monotonic() + _SOURCE_SECONDS
    while source.made and ((found := artifact.read(source.folder)) is None or found.key != source.key):
        if time.monotonic() > end:
            raise StageError(
                f"{node.label}: {source.folder} is not here, and the first process has made it; "
                "the run folder must be on a disk that all machines share"
            )
        time.sleep(1)
