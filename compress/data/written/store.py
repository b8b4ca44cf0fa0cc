"""Where written texts lie: $COMPRESS_CACHE/written/<key>, in batches that are written once and shared by recipes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from compress import artifact
from compress.contract import Json
from compress.models.cache import cache_folder


class Store:
    """The texts of one key. A batch is a file that is there whole or not at all; its first line has its checksum."""

    def __init__(self, made: Json) -> None:
        self.key = artifact.key_of(made)
        self.folder = cache_folder() / "written" / self.key[:32]
        self._made = made

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for this process; another one that wants it waits."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            artifact.sweep(self.folder)
            if not (self.folder / "made.json").is_file():
                artifact.write_text(self.folder / "made.json", json.dumps(self._made, indent=1, sort_keys=True) + "\n")
            yield

    def read(self, batch: int) -> list[Json] | None:
        """Return the texts of a batch; None where it is not written, or not what was written."""
        path = self._path(batch)
        if not path.is_file():
            return None
        first, _, rest = path.read_text(encoding="utf-8").partition("\n")
        if first != _checksum(rest):
            return None
        return [json.loads(line) for line in rest.splitlines()]

    def write(self, batch: int, texts: Sequence[Json]) -> None:
        """Write a batch so that a kill leaves all of it or nothing."""
        lines = "".join(json.dumps(text, ensure_ascii=True, sort_keys=True) + "\n" for text in texts)
        artifact.write_text(self._path(batch), _checksum(lines) + "\n" + lines)

    def scores(self, name: str, batch: int) -> dict[str, float]:
        """Return the scores that were given to texts of a batch, by the sha256 of the text."""
        try:
            found = json.loads(self._score_path(name, batch).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_scores(self, name: str, batch: int, scores: dict[str, float]) -> None:
        """Remember the scores of texts of a batch."""
        path = self._score_path(name, batch)
        path.parent.mkdir(exist_ok=True)
        artifact.write_text(path, json.dumps(scores, sort_keys=True) + "\n")

    def _path(self, batch: int) -> Path:
        return self.folder / f"{batch:06}.jsonl"

    def _score_path(self, name: str, batch: int) -> Path:
        return self.folder / f"scores-{name[:16]}" / f"{batch:06}.json"


def _checksum(text: str) -> str:
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest()})
