"""Stages that only copy: for tests of what stands around a stage."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from compress.artifact import write_text
from compress.contract import Context, Outcome, Skipped
from compress.options import Options

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
