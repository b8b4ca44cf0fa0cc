"""A recipe whose stages only copy: for tests of what stands around a stage."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compress import pipeline
from compress.artifact import write_text
from compress.contract import Context, Outcome, Progress, Skipped, silent
from compress.options import Options
from compress.recipe import read_recipe
from compress.stages import STAGES

TEXT = """\
recipe: 1
name: fake
teacher: {model: teacher}
data: {train: {files: [train.txt], separator: "---"}}
stages:
  - prune:    {id: small, remove: {layers: 1}}
  - train:    {id: student, tokens: 64}
  - quantize: {id: int8, bits: 8}
  - quantize: {id: int4, from: student, bits: 4}
benchmark: false
"""
ALL = ["small", "student", "int8", "int4"]

made: list[str] = []
"""The ids that were made since the list was cleared."""
instead: dict[str, Callable[[Context], None]] = {}
"""What happens in the middle of making an id."""


def copy(options: Options, context: Context) -> Outcome:
    """Copy the source's model, and add a file that follows from options and seed."""
    identity = context.target.name.removeprefix(".tmp-")
    made.append(identity)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json"):
        shutil.copyfile(context.source / name, context.target / name)
    if identity in instead:
        instead[identity](context)
    write_text(context.target / "note.json", f"{options.model_dump_json()} {context.seed}\n")
    return Outcome({"copied": True}, (Skipped("lm_head.weight", "a test"),))


class Lines:
    """A Listener that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    @contextmanager
    def task(self, label: str) -> Iterator[Progress]:
        yield silent


def prepare(folder: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a teacher and text, and put fakes in place of the stages."""
    for word in ("prune", "train", "quantize"):
        monkeypatch.setitem(STAGES, word, dataclasses.replace(STAGES[word], run="tests.fake_stages:copy"))
    monkeypatch.setattr(pipeline, "measure_and_report", lambda run, nodes: {"ids": [node.id for node in nodes]})
    instead.clear()
    shutil.copytree(teacher, folder / "teacher")
    (folder / "train.txt").write_text("one---two---three---four")
    return folder


def apply(place: Path, fresh: bool = False, text: str = TEXT, **replacements: str) -> tuple[list[str], str]:
    """Apply the recipe with words replaced; return which ids were made, and the lines that were said."""
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    (place / "recipe.yaml").write_text(text)
    made.clear()
    lines = Lines()
    pipeline.apply(read_recipe(place / "recipe.yaml"), place / "run", lines, fresh)
    return list(made), "\n".join(lines.said)


def leftovers(place: Path) -> list[str]:
    """Return the temporary names in the run folder."""
    return [path.name for path in (place / "run").rglob("*") if path.name.startswith((".tmp-", ".old-"))]
