"""The other end of `worker.py`: starts a worker process, asks it, and tells its last words when it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from compress.contract import Json
from compress.errors import StageError

_SOURCE = Path(__file__).resolve().parents[2]
_LAST_WORDS = 2000
_EXIT_SECONDS = 30


class WorkerProcess:
    """A live worker for one artifact, made by `open_worker`."""

    def __init__(self, folder: Path, process: subprocess.Popen[str], errors: IO[bytes]) -> None:
        self.folder = folder
        self._process = process
        self._errors = errors

    def ask(self, do: str, **request: Any) -> Json:
        """Return the answer to a request.

        Raises StageError when the artifact is refused or the process ends.
        """
        requests, answers = self._process.stdin, self._process.stdout
        if requests is None or answers is None:
            raise RuntimeError("the worker was started without pipes")
        try:
            requests.write(json.dumps({"do": do, **request}) + "\n")
            requests.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise StageError(
                f"{self.folder}: the process that measures speed ended ({do}, exit {code}): {self._said()}"
            )
        answer: Json = json.loads(line)
        if "error" in answer:
            raise StageError(f"{self.folder}: speed cannot be measured ({do}): {answer['error']}")
        return answer

    def _said(self) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - _LAST_WORDS))
        return self._errors.read().decode("utf-8", "replace").strip() or "it said nothing; was it killed for memory?"


@contextmanager
def open_worker(folder: Path, threads: int) -> Iterator[WorkerProcess]:
    """Start a worker process for an artifact; it is ended on leaving, and killed where an error leaves it."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "compress.benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            env=_environment(threads),
        )
        try:
            yield WorkerProcess(folder, process, errors)
        except BaseException:
            process.kill()
            raise
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        # Closing stdin ends a worker that lives; what a dead one has not read is lost.
        with suppress(BrokenPipeError):
            if stream is not None:
                stream.close()
    try:
        process.wait(_EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment(threads: int) -> dict[str, str]:
    paths = [str(_SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(threads),
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
