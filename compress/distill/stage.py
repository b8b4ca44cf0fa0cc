"""Distill: fit the student to a teacher that runs beside it, or to what is stored of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from compress.contract import Context, Outcome
from compress.distill.features import Features
from compress.distill.objective import Distillation
from compress.distill.on_policy import OnPolicy
from compress.distill.options import HIDDEN_LOSSES, RELATION_LOSSES, DistillOptions
from compress.distill.stored import open_stores
from compress.distill.teachers import LiveTeacher, StoredTeacher
from compress.errors import StageError
from compress.models.families import shape_of
from compress.models.folder import load_model, read_config, special_ids
from compress.models.pruning_record import read_record
from compress.models.vocabulary import TeacherTokens, teacher_tokens
from compress.training.defaults import kind_of, resolve_precision
from compress.training.finish import finish_training
from compress.training.loop import fit
from compress.training.rounding import open_student
from compress.training.windows import load_examples


def run(options: DistillOptions, context: Context) -> Outcome:
    """Fit the source model to the teacher on data.train; a quantized one through its rounding.

    For a student whose vocabulary was cut the teacher reads the ids that its tokens had, and the chance that it gives to a
    token without an id now goes to the one with which its spelling begins. On stories3M with 2,048 of 4,096 tokens, 0.1 M
    tokens of distillation: bits per byte 68.7 -> 64.5 % above the uncut model's, with the chance left out 67.9, and 67.4 by
    cross-entropy alone.
    """
    if context.teacher is None:
        raise StageError("distill needs a teacher, the recipe has none; add teacher: {model: …}, or use train")
    tokens = vocabulary(context)
    examples = load_examples(context, options)
    student = open_student(context.source, context.device, options.zero_points == "learn", context.origin)
    options = options.resolved(
        kind_of(student, examples) == "trained" and _shares_states(context.teacher, context.source)
    )
    if options.teacher_logits == "stored":
        objective = Distillation(
            options, StoredTeacher(open_stores(options, context, context.teacher, examples, tokens))
        )
    elif options.weights().keys() == {"cross_entropy"}:
        objective = Distillation(options, None)
    else:
        objective = _live(options, context, context.teacher, student, tokens)
    outcome = finish_training(student, fit(student, examples, options, objective, context), context)
    return Outcome({**outcome.facts, "loss": options.weights()})


def _shares_states(teacher: Path, student: Path) -> bool:
    """Return whether the student's hidden states are the teacher's, or the channels of them that pruning kept."""
    configs = [read_config(folder) for folder in (teacher, student)]
    if configs[0].get("model_type") != configs[1].get("model_type"):
        return False
    own, other = shape_of(configs[1]).hidden, shape_of(configs[0]).hidden
    record = read_record(student) or {}
    return own == other or ("hidden" in record and len(record["hidden"].kept) == other)


def _live(
    options: DistillOptions, context: Context, folder: Path, student: Any, tokens: TeacherTokens | None
) -> Distillation:
    teacher = _load_teacher(options, context, folder, student)
    features = None
    if options.weights().keys() & {*HIDDEN_LOSSES, *RELATION_LOSSES}:
        try:
            features = Features(options, student, teacher, read_record(context.source), context.seed)
        except ValueError as error:
            raise StageError(f"distill: {error}") from error
        features.modules.to(context.device)
    writer = None
    if options.on_policy:
        writer = OnPolicy(options.on_policy, context.seed, special_ids(context.source).eos)
    asked = features.asked if features else {}
    return Distillation(options, LiveTeacher(teacher, tokens, options.temperature, asked), features, writer)


def _load_teacher(options: DistillOptions, context: Context, folder: Path, student: Any) -> Any:
    """Return the teacher in the number format of the forward pass: what is not learned needs no more."""
    teacher = load_model(folder, context.device)
    low = resolve_precision(options, student, context.device) == "bf16"
    return teacher.to(torch.bfloat16) if low else teacher


def vocabulary(context: Context) -> TeacherTokens | None:
    """Return how the teacher's tokens map to the student's, None where they are the same.

    Raises StageError where token ids mean something else to the teacher, before any weight is loaded.
    """
    try:
        return teacher_tokens(context.teacher or context.source, context.source)
    except ValueError as error:
        raise StageError(f"distill: {error}") from error
