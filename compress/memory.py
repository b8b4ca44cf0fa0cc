"""The peak memory of a piece of work, sampled."""

from __future__ import annotations

import threading
from typing import Self

import psutil

_INTERVAL_SECONDS = 0.05


class PeakMemory:
    """A context manager that samples the resident memory of this process 20 times a second; `peak_bytes` is the largest seen."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL_SECONDS):
            self._sample()

    def _sample(self) -> None:
        self.peak_bytes = max(self.peak_bytes, psutil.Process().memory_info().rss)
