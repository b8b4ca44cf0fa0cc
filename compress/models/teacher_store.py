"""Stored teachers: records of top logits in shards on disk, written once for a teacher and its windows, shared by recipes.

A store is a folder in $COMPRESS_CACHE/teacher-logits whose name is the sha256 of what determines its bytes. Each shard is
written beside its place and renamed, then noted in store.json with its checksum: a kill leaves whole shards, and the next run
goes on after them. Stores are never removed by the product; any of them may be deleted by hand while nobody reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from compress import artifact
from compress.contract import Progress, silent
from compress.errors import ArtifactError
from compress.models.cache import VARIABLE, cache_folder
from compress.models.top_logits import Ids, Records, TopLayout, TopRows, decode

Write = Callable[[slice], Records]
"""Returns the records [windows, positions, record_bytes] of a slice of the windows."""

FOLDER, MANIFEST = "teacher-logits", "store.json"
_SCHEMA = 1
_SHARD_BYTES = 64_000_000
_TOKENS_AT_ONCE = 4096
_WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Contents:
    """What a store holds: the answers for `windows` windows at `positions` places each.

    made  what determines the answers, as JSON: fingerprints of the teacher and of the windows, seed, temperature,
          precision, and the map of tokens where there is one. With the rest of this it makes the store's key.
    """

    layout: TopLayout
    windows: int
    positions: int
    made: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.windows < 1 or self.positions < 1:
            raise ValueError(f"a store needs a window and a position in it, got {self.windows} and {self.positions}")

    @property
    def key(self) -> str:
        """The content address."""
        shape = {"schema": _SCHEMA, "windows": self.windows, "positions": self.positions}
        return artifact.key_of({**shape, "layout": self.layout.to_json(), "made": dict(self.made)})

    @property
    def window_bytes(self) -> int:
        """How many bytes one window takes."""
        return self.positions * self.layout.record_bytes

    @property
    def shard_windows(self) -> int:
        """How many windows a shard holds, the last one perhaps fewer."""
        return max(1, _SHARD_BYTES // self.window_bytes)

    def shards(self) -> list[slice]:
        """Return the windows of every shard."""
        step = self.shard_windows
        return [slice(start, min(start + step, self.windows)) for start in range(0, self.windows, step)]


def fingerprint_windows(ids: Ids) -> str:
    """Return the sha256 of windows of token ids [N, T], with their shape."""
    whole = np.ascontiguousarray(ids, dtype="<i8")
    return hashlib.sha256(f"{whole.shape}".encode() + whole.tobytes()).hexdigest()


class TeacherStore:
    """The answers of a teacher for windows, read from disk."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        self.folder, self.contents = folder, contents
        self._shards = [
            np.memmap(
                folder / _name(number),
                dtype=np.uint8,
                mode="r",
                shape=(part.stop - part.start, contents.positions, contents.layout.record_bytes),
            )
            for number, part in enumerate(contents.shards())
        ]

    @classmethod
    def open_or_write(
        cls, contents: Contents, write: Write, progress: Progress = silent, parent: Path | None = None
    ) -> TeacherStore:
        """Return the store of these contents; what is missing or damaged of it is written first.

        Every shard's checksum is compared once in a process. Another process that writes the same store is waited for.
        parent: the folder of all stores; None: that of $COMPRESS_CACHE.

        Raises ArtifactError where the store cannot be written, or the disk has no room for it.
        """
        folder = (parent or cache_folder() / FOLDER) / contents.key
        if not _missing(folder, contents):
            return cls(folder, contents)
        with _writing(folder), _lock(folder, progress):
            artifact.sweep(folder)
            _write_missing(folder, contents, write, progress)
        return cls(folder, contents)

    @property
    def size_bytes(self) -> int:
        """How many bytes the shards take."""
        return sum(shard.size for shard in self._shards)

    def rows(self, windows: Ids) -> tuple[Ids, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return (ids, ln p, weights), each [B, T-1, m], for the windows with these numbers [B]; see TopRows.

        Raises IndexError where there is no such window.
        """
        found = self.answers(windows)
        return found.ids, found.log_chances, found.weights

    def answers(self, windows: Ids) -> TopRows:
        """Return what is stored for the windows with these numbers [B]; see `rows`."""
        contents = self.contents
        if len(windows) and not 0 <= windows.min() <= windows.max() < contents.windows:
            raise IndexError(f"windows are numbered from 0 to {contents.windows - 1:,}, got {windows.tolist()}")
        records = np.empty((len(windows), contents.positions, contents.layout.record_bytes), dtype=np.uint8)
        for place, window in enumerate(windows.tolist()):
            shard, inside = divmod(window, contents.shard_windows)
            records[place] = self._shards[shard][inside]
        return decode(contents.layout, records)


def _name(number: int) -> str:
    return f"{number:05}.top"


@cache
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    # size and time only say when to read it again
    return artifact.sha256_of(path)


def _manifest(folder: Path, contents: Contents) -> dict[str, Any]:
    """Return the shards that store.json notes, by name; none where it cannot be read or is of something else."""
    try:
        entry = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        shards = entry["shards"] if entry["key"] == contents.key else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return shards if isinstance(shards, dict) else {}


def _missing(folder: Path, contents: Contents) -> list[int]:
    """Return the numbers of the shards that are not there as they were written."""
    noted = _manifest(folder, contents)
    return [
        number
        for number, part in enumerate(contents.shards())
        if not _is_whole(
            folder / _name(number), (part.stop - part.start) * contents.window_bytes, noted.get(_name(number))
        )
    ]


def _is_whole(path: Path, size: int, sha256: object) -> bool:
    try:
        found = path.stat()
        return found.st_size == size and _sha256(path, size, found.st_mtime_ns) == sha256
    except OSError:
        return False


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ArtifactError(
            f"{folder}: the teacher's answers cannot be stored ({error.strerror or error}); set {VARIABLE} to a folder "
            "with room, or use the live teacher"
        ) from error


@contextmanager
def _lock(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the store for this process; the system lets go of it when the process ends, however it ends."""
    lock = FileLock(folder / ".lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_WAIT_SECONDS)
        except Timeout:
            progress(0, 1, "", "another compress writes these answers")
    try:
        yield
    finally:
        lock.release()


def _write_missing(folder: Path, contents: Contents, write: Write, progress: Progress) -> None:
    missing, shards = _missing(folder, contents), contents.shards()
    _refuse_small_disk(
        folder, sum(shards[number].stop - shards[number].start for number in missing) * contents.window_bytes
    )
    noted = {
        name: digest
        for name, digest in _manifest(folder, contents).items()
        if name in {_name(number) for number in range(len(shards)) if number not in missing}
    }
    windows = sum(shards[number].stop - shards[number].start for number in missing)
    done = 0
    for number in missing:
        for written in _write_shard(folder / _name(number), shards[number], contents, write):
            done += written
            progress(done * contents.positions, windows * contents.positions, "tokens", "the teacher's answers")
        noted[_name(number)] = artifact.sha256_of(folder / _name(number))
        entry = {"key": contents.key, "layout": contents.layout.to_json(), "made": dict(contents.made), "shards": noted}
        artifact.write_text(folder / MANIFEST, json.dumps(entry, indent=1, sort_keys=True) + "\n")


def _write_shard(path: Path, part: slice, contents: Contents, write: Write) -> Iterator[int]:
    """Write one shard, yielding how many windows each piece of it had.

    The pieces are the same whoever writes: the last bits of a teacher's logits change with the batch.
    """
    temporary = path.with_name(artifact.TEMPORARY + path.name)
    step = max(1, _TOKENS_AT_ONCE // contents.positions)
    shape = (contents.positions, contents.layout.record_bytes)
    try:
        with temporary.open("wb") as file:
            for start in range(part.start, part.stop, step):
                piece = slice(start, min(start + step, part.stop))
                records = write(piece)
                if records.shape != (piece.stop - piece.start, *shape) or records.dtype != np.uint8:
                    raise ValueError(f"records of {shape} bytes a window are needed, got {records.shape}")
                file.write(np.ascontiguousarray(records).data)
                yield piece.stop - piece.start
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_small_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ArtifactError(
            f"{folder}: the teacher's answers take {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free there; set {VARIABLE} "
            "to a folder with room, or use the live teacher"
        )
