"""Checkpoints that a kill cannot break: a checkpoint counts once its own list of checksums is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from compress.artifact import canonical, list_files, sha256_of, write_text

_LIST = "complete.json"
PREFIX = "checkpoint-"
FOLDER = "training"


def resume_step(scratch: Path) -> int | None:
    """Return the step from which a stage will go on that was stopped before, or None where it begins."""
    found = newest(scratch / FOLDER)
    return step_of(found) if found else None


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix(PREFIX))


def seal(checkpoint: Path, keep: int | None = None) -> None:
    """Mark a checkpoint as complete, then drop the ones before it, but for that of step `keep`."""
    listed = {path.as_posix(): sha256_of(checkpoint / path) for path in list_files(checkpoint) if path.name != _LIST}
    write_text(checkpoint / _LIST, canonical(listed))
    for older in checkpoint.parent.glob(PREFIX + "*"):
        if older != checkpoint and older.name != f"{PREFIX}{keep}":
            shutil.rmtree(older, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint; incomplete and damaged ones are removed."""
    found = sorted(folder.glob(PREFIX + "*"), key=step_of, reverse=True)
    for checkpoint in found:
        if _is_complete(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def _is_complete(checkpoint: Path) -> bool:
    try:
        listed: dict[str, str] = json.loads((checkpoint / _LIST).read_text(encoding="utf-8"))
        return all(sha256_of(checkpoint / name) == digest for name, digest in listed.items())
    except (OSError, ValueError):
        return False
