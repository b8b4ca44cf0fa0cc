"""The stored answers that a distillation reads: written by the teacher where nobody has written them before."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from torch import Tensor

from compress.artifact import fingerprint_folder, key_of
from compress.contract import Context
from compress.distill.options import DistillOptions
from compress.distill.teachers import LiveTeacher
from compress.models.folder import load_model, read_config
from compress.models.teacher_store import TeacherStore
from compress.models.top_logits import TopLayout
from compress.models.torch_teacher import TopTeacher
from compress.models.vocabulary import TeacherTokens
from compress.training.windows import Examples


def open_stores(
    options: DistillOptions, context: Context, teacher: Path, examples: Examples, tokens: TeacherTokens | None
) -> dict[str, TeacherStore]:
    """Return the store of the training windows and that of the validation windows, by part.

    The teacher is loaded only where one of them has to be written, in float32, and goes afterwards.

    Raises ArtifactError where a store cannot be written.
    """

    @cache
    def live() -> LiveTeacher:
        return LiveTeacher(load_model(teacher, context.device), tokens, 1.0)

    def logits(ids: Tensor) -> Tensor:
        return live().window_logits(ids)

    layout = TopLayout(int(read_config(context.source)["vocab_size"]), options.top_k)
    asked = TopTeacher(logits, layout, context.seed, device=context.device)
    made = {
        "teacher": fingerprint_folder(teacher),
        "precision": "fp32",
        "device": context.device,
        "tokens": key_of({"reads": tokens.reads, "answers": tokens.answers}) if tokens else None,
    }
    stores = {"train": asked.store(examples.ids, made, context.progress)}
    if examples.can_validate:
        stores["validation"] = asked.store(examples.validation_ids, made, context.progress)
    return stores
