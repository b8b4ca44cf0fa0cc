"""What train and distill do after the fit: save the model and its log, and say how it went."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.artifact import write_text
from compress.contract import Context, Json, Outcome
from compress.distributed import process
from compress.models.pruning_record import FILE as RECORD

if TYPE_CHECKING:
    from compress.training.loop import Fit

LOG_FILE = "log.jsonl"


def finish_training(model: Any, fitted: Fit, context: Context) -> Outcome:
    """Write the model, a quantized one with its new codes, its tokenizer and log.jsonl into the target folder; the first
    process of a launch alone does."""
    from compress.training.rounding import write_student  # torch: whoever reads a log has no use for it

    if not process().first:
        return Outcome()
    write_student(model.cpu(), context.target, context.source)
    if (context.source / RECORD).is_file():
        # which parts of the teacher the model still has: the next distillation compares them
        shutil.copyfile(context.source / RECORD, context.target / RECORD)
    write_text(context.target / LOG_FILE, "".join(json.dumps(entry) + "\n" for entry in fitted.log))
    return Outcome(facts_of(fitted))


def facts_of(fitted: Fit) -> Json:
    """Return what the report says of a fit: tokens and steps that were learned, and losses of the weights that are kept."""
    log, last = fitted.log, fitted.log[-1] if fitted.log else {"tokens": 0, "step": 0}
    losses = [entry for entry in log if "loss" in entry]
    validations = [entry for entry in log if "validation_loss" in entry]
    facts: Json = {"tokens": last["tokens"], "steps": last["step"], **fitted.chosen}
    if losses:
        facts |= {"first_loss": losses[0]["loss"], "last_loss": losses[-1]["loss"]}
    if fitted.kept is not None:
        facts["kept_step"] = fitted.kept
        validations = [entry for entry in validations if entry["step"] == fitted.kept]
    if validations:
        facts["validation_loss"] = validations[-1]["validation_loss"]
    return facts


def read_log(folder: Path) -> list[Json]:
    """Return the log of a trained model's folder; a folder that was not trained has none."""
    file = folder / LOG_FILE
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
