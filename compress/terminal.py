"""What a user sees of a run while it works: news and progress, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from compress.contract import Progress

_PLAIN_SECONDS = 10


class Terminal:
    """Tells the user, on stderr, what the pipeline does."""

    def say(self, message: str) -> None:
        """Write one line of news."""
        typer.echo(message, err=True)

    @contextmanager
    def task(self, label: str) -> Iterator[Progress]:
        """Show a bar with rate and time left; where stderr is no terminal, a line now and then."""
        if not sys.stderr.isatty():
            yield _plain_progress(label)
            return
        from rich import progress as rich
        from rich.console import Console

        bar = rich.Progress(
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.TextColumn("{task.fields[rate]}"),
            rich.TimeRemainingColumn(),
            rich.TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        with bar:
            task = bar.add_task(label, total=None, rate="", note="")

            def progress(done: float, total: float, unit: str = "", note: str = "") -> None:
                speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
                rate = f"{speed:,.1f} {unit}/s" if speed and speed < 100 else f"{speed:,.0f} {unit}/s" if speed else ""
                bar.update(task, completed=done, total=total, rate=rate, note=note)

            yield progress


def _plain_progress(label: str) -> Progress:
    started = last = time.monotonic()

    def progress(done: float, total: float, unit: str = "", note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _PLAIN_SECONDS or not done:
            return
        last = now
        rate, left = done / (now - started), (total - done) * (now - started) / done
        words = f"{label}: {done:,.0f} of {total:,.0f} {unit}, {rate:,.1f} {unit}/s, {left:.0f} s left"
        typer.echo(words + (f", {note}" if note else ""), err=True)

    return progress
