"""Distill: fit the student to a live teacher, mixed with cross-entropy on the data."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.artifact import sha256_of
from compress.contract import Context, Outcome
from compress.distill.losses import forward_kl, mix
from compress.distill.options import DistillOptions
from compress.errors import StageError
from compress.models.folder import load_model, read_config
from compress.training.finish import finish_training
from compress.training.loop import fit, load_examples
from compress.training.losses import UNCOUNTED, cross_entropy


def run(options: DistillOptions, context: Context) -> Outcome:
    """Fit the source model to the teacher on data.train."""
    if context.teacher is None:
        raise StageError("distill needs a teacher, the recipe has none; add teacher: {model: …}, or use train")
    check_vocabulary(context)
    examples = load_examples(context, options)
    model = load_model(context.source, context.device)
    weights = options.weights()
    teacher = load_model(context.teacher, context.device).requires_grad_(False) if "forward_kl" in weights else None

    def loss_sum(logits: Tensor, ids: Tensor, targets: Tensor) -> Tensor:
        terms = {}
        if teacher is not None:
            with torch.no_grad():
                teacher_logits = teacher(input_ids=ids, use_cache=False).logits[:, :-1]
            terms["forward_kl"] = forward_kl(logits, teacher_logits, targets != UNCOUNTED, options.temperature)
        if "cross_entropy" in weights:
            terms["cross_entropy"] = cross_entropy(logits, targets)
        return mix(terms, weights)

    return finish_training(model, fit(model, examples, options, loss_sum, context), context)


def check_vocabulary(context: Context) -> None:
    """Refuse a teacher whose token ids mean something else than the student's, before any weight is loaded."""
    teacher = context.teacher or context.source
    sizes = [read_config(folder)["vocab_size"] for folder in (teacher, context.source)]
    if sizes[0] != sizes[1]:
        raise StageError(
            f"distill: the teacher has {sizes[0]} tokens, the student {sizes[1]}; both must have the same tokenizer. Start from a student "
            "with the teacher's tokenizer"
        )
    if sha256_of(teacher / "tokenizer.json") != sha256_of(context.source / "tokenizer.json"):
        raise StageError(
            "distill: teacher and student have different tokenizer.json; both must have the same tokenizer"
        )
