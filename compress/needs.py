"""What the parts of a recipe need of each other: stages of teacher and data, limits of ids and measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress.document import Document
from compress.explain import suggest
from compress.steps import Step

if TYPE_CHECKING:
    from compress.recipe import Head

_AGAINST_TEACHER = ("perplexity_increase", "kl_to_teacher", "accuracy_drop")


def find_needs(document: Document, head: Head, steps: Sequence[Step], broken: frozenset[str]) -> None:
    """Add to the document what is missing. Of parts that are `broken` nothing is said: that is said already."""
    has_teacher = head.teacher is not None or "teacher" in broken
    has_train = head.data.train is not None or "data" in broken
    if "student" not in broken:
        _student(document, head, has_teacher, has_train)
    for part in ("train", "validation", "calibration", "evaluation"):
        source = getattr(head.data, part)
        if source is not None and source.writer and not has_teacher:
            message = f"data.{part}: from teacher needs a teacher, the recipe has none"
            document.complain(("data", part, "from"), message)
    for step in steps:
        if not has_teacher and (step.stage.teacher or step.source == "teacher"):
            what = "needs" if step.stage.teacher else "from teacher needs"
            document.complain(step.path, f"{step.where} {what} a teacher, the recipe has none")
        for part in step.stage.needs_of(step.options) if step.valid else ():
            if not has_train and getattr(head.data, part) is None:
                needed = part if part == "train" else f"{part} (or data.train, from which it is taken)"
                document.complain(step.path, f"{step.where} needs data.{needed}, the recipe has none")


def _student(document: Document, head: Head, has_teacher: bool, has_train: bool) -> None:
    student = head.student
    if not has_teacher and student.init == "teacher":
        document.complain(("student",), "the recipe needs 'teacher' (or a student of its own)")
    if not has_teacher and student.init == "scratch" and student.vocab is None:
        message = "student: init: scratch without a teacher needs vocab, for a tokenizer of its own"
        document.complain(("student",), message)
    if student.vocab and not has_train:
        message = "student.vocab: a tokenizer is trained on data.train, the recipe has none"
        document.complain(("student", "vocab"), message)


def check_limits(document: Document, head: Head, known: set[str], broken: frozenset[str]) -> None:
    """Add to the document limits on ids that are not `known`, and on what will not be measured."""
    for identity, limits in head.limits.items():
        path = ("limits", identity)
        if identity not in known:
            document.complain(path, f"limits: there is no id '{identity}'.{suggest(identity, known)}")
            continue
        if identity == "start" and head.student.model is None and "student" not in broken:
            document.complain(path, "limits.start: start is no artifact of its own here; set the limit on a stage's id")
            continue
        for name in limits.model_dump(exclude_none=True):
            if missing := _missing(name, head, broken):
                message = f"limits.{identity}.{name} can never be met: {missing}"
                document.complain((*path, name), message)


def _missing(name: str, head: Head, broken: frozenset[str]) -> str:
    """Return why what a limit is set on will not be measured; empty where it will."""
    if name == "size_mb" or broken & {"benchmark", "data", "teacher"}:
        return ""
    options = head.benchmark
    if not options:
        return "benchmark is false"
    if name == "decode_tokens_per_second":
        return "" if options.latency else "benchmark.latency is false"
    part = {"kl_to_teacher": "agreement", "accuracy_drop": "accuracy"}.get(name, "perplexity")
    if getattr(options, part) is False:
        return f"benchmark.{part} is false"
    if head.data.evaluation is None:
        return "there is no data.evaluation to measure it on"
    if name in _AGAINST_TEACHER and head.teacher is None:
        return "there is no teacher to compare with"
    if name == "accuracy_drop" and not (head.data.evaluation.builtin or head.data.evaluation.label):
        return "accuracy needs the questions of {builtin: stories}, or of a classifier a column of labels (label:)"
    return ""
