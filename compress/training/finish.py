"""What train and distill do after the fit: save the model and its log, and say how it went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress.artifact import write_text
from compress.contract import Context, Json, Outcome
from compress.models.folder import save_model

LOG_FILE = "log.jsonl"


def finish_training(model: Any, log: list[Json], context: Context) -> Outcome:
    """Write the model, its tokenizer and log.jsonl into the target folder."""
    save_model(model.cpu(), context.target, context.source)
    write_text(context.target / LOG_FILE, "".join(json.dumps(entry) + "\n" for entry in log))
    losses = [entry["loss"] for entry in log if "loss" in entry]
    validation = [entry["validation_loss"] for entry in log if "validation_loss" in entry]
    facts: Json = {"tokens": log[-1]["tokens"] if log else 0, "steps": log[-1]["step"] if log else 0}
    if losses:
        facts |= {"first_loss": losses[0], "last_loss": losses[-1]}
    if validation:
        facts["validation_loss"] = validation[-1]
    return Outcome(facts)


def read_log(folder: Path) -> list[Json]:
    """Return the log of a trained model's folder; a folder that was not trained has none."""
    file = folder / LOG_FILE
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
