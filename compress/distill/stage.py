"""Distill: fit the student to a teacher that runs beside it, or to what is stored of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from compress.contract import Context, Outcome
from compress.distill.features import Features
from compress.distill.objective import Distillation
from compress.distill.on_policy import OnPolicy
from compress.distill.options import HIDDEN_LOSSES, RELATION_LOSSES, DistillOptions
from compress.distill.rewriting import Rewriter
from compress.distill.stored import open_stores
from compress.distill.teachers import LiveTeacher, StoredTeacher
from compress.errors import StageError
from compress.models import quantized
from compress.models.folder import load_model, load_tokenizer, special_ids
from compress.models.pruning_record import Record, read_record
from compress.models.vocabulary import TeacherTokens, teacher_tokens
from compress.training.defaults import kind_of, resolve_precision
from compress.training.finish import finish_training
from compress.training.loop import fit
from compress.training.rounding import open_student
from compress.training.windows import load_examples

_SAME_DIRECTION = 0.5


def run(options: DistillOptions, context: Context) -> Outcome:
    """Fit the source model to the teacher on data.train; a quantized one through its rounding.

    For a student whose vocabulary was cut the teacher reads the ids that its tokens had, and the chance that it gives to a
    token without an id now goes to the one with which its spelling begins. On stories3M with 2,048 of 4,096 tokens, 0.1 M
    tokens of distillation: bits per byte 68.7 -> 64.5 % above the uncut model's, with the chance left out 67.9, and 67.4 by
    cross-entropy alone.
    """
    if context.teacher is None:
        raise StageError("distill needs a teacher, the recipe has none; add teacher: {model: …}, or use train")
    _refuse_zero_points(options, context.source)
    tokens = vocabulary(context)
    examples = load_examples(context, options)
    if options.rewrite and options.steps(len(examples.ids)) * options.batch <= len(examples.ids):
        raise StageError(
            f"rewrite is for text that comes again, and {options.tokens or 0:,} tokens are less than one pass over data.train; give more "
            "tokens, epochs above 1, or leave rewrite out"
        )
    student = open_student(context.source, context.device, options.zero_points == "learn", context.origin)
    if options.teacher_logits == "stored":
        stores = open_stores(options, context, context.teacher, examples, tokens)
        objective = Distillation(options, StoredTeacher(stores))
    elif options.weights().keys() == {"cross_entropy"}:
        objective = Distillation(options, None)
    else:
        teacher = _load_teacher(options, context, context.teacher, student)
        if kind_of(student, examples, context.source) != "fresh":
            options = options.resolved(shares_states(student, teacher, tokens, read_record(context.source)))
        objective = _live(options, context, student, teacher, tokens)
    outcome = finish_training(student, fit(student, examples, options, objective, context), context)
    return Outcome({**outcome.facts, "loss": options.weights()})


def _refuse_zero_points(options: DistillOptions, source: Path) -> None:
    if options.zero_points != "learn":
        return
    schemes = quantized.read_schemes(source).weights.values() if quantized.is_quantized(source) else ()
    if not any(not scheme.symmetric for scheme in schemes):
        what = "has symmetric blocks" if schemes else "is not quantized"
        raise StageError(
            f"zero_points: learn needs a model quantized with symmetric: false, and {source} {what}; leave it out"
        )


@torch.no_grad()
def shares_states(student: Any, teacher: Any, tokens: TeacherTokens | None, record: Record | None) -> bool:
    """Return whether the student's hidden states are the teacher's, or the channels of them that pruning kept: whether the
    embeddings of its tokens still point where the teacher's do, with a mean cosine above a half."""
    own, other = (model.get_input_embeddings().weight.float() for model in (student, teacher))
    reads = torch.tensor(tokens.reads, device=other.device) if tokens else torch.arange(len(own), device=other.device)
    wanted = other[reads]
    if own.shape[1] != wanted.shape[1]:
        kept = torch.tensor(record["hidden"].kept) if record and "hidden" in record else torch.zeros(0)
        if len(kept) != wanted.shape[1] or int(kept.sum()) != own.shape[1]:
            return False
        wanted = wanted[:, kept.to(wanted.device)]
    return float(functional.cosine_similarity(own, wanted, dim=-1).mean()) > _SAME_DIRECTION


def _live(
    options: DistillOptions, context: Context, student: Any, teacher: Any, tokens: TeacherTokens | None
) -> Distillation:
    features, writer = None, None
    try:
        if options.weights().keys() & {*HIDDEN_LOSSES, *RELATION_LOSSES}:
            features = Features(options, student, teacher, read_record(context.source), context.seed)
            features.modules.to(context.device)
        elif unused := next((name for name in ("layers", "fade") if getattr(options, name) is not None), None):
            raise ValueError(
                f"{unused} is for losses of hidden states and attention, and none is meant here; name one in loss"
            )
        answers = LiveTeacher(teacher, tokens, options.temperature, features.asked if features else {})
    except ValueError as error:
        raise StageError(f"distill: {error}") from error
    if options.on_policy:
        writer = OnPolicy(options.on_policy, context.seed, special_ids(context.source).eos)
    rewriter = Rewriter(options.rewrite, context.seed, answers, _specials(context.source)) if options.rewrite else None
    return Distillation(options, answers, features, writer, rewriter)


def _specials(folder: Path) -> list[int]:
    """Return the tokens that are no text: those that the tokenizer calls special, and BOS, EOS and PAD."""
    named = special_ids(folder)
    added = load_tokenizer(folder).get_added_tokens_decoder()
    found = {named.bos, named.pad, *named.eos, *(number for number, token in added.items() if token.special)}
    return sorted(one for one in found if one is not None)


def _load_teacher(options: DistillOptions, context: Context, folder: Path, student: Any) -> Any:
    """Return the teacher in the number format of the forward pass: what is not learned needs no more."""
    teacher = load_model(folder, context.device)
    if resolve_precision(options, student, context.device) == "bf16":
        for parameter in teacher.parameters():  # not its buffers: the frequencies of positions need float32
            parameter.data = parameter.data.to(torch.bfloat16)
    return teacher


def vocabulary(context: Context) -> TeacherTokens | None:
    """Return how the teacher's tokens map to the student's, None where they are the same.

    Raises StageError where token ids mean something else to the teacher, before any weight is loaded.
    """
    try:
        return teacher_tokens(context.teacher or context.source, context.source)
    except ValueError as error:
        raise StageError(f"distill: {error}") from error
