"""Perplexity, and divergence from the teacher, over windows of joined documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from compress.benchmark.options import PerplexityOptions
from compress.benchmark.row import SHARE_UNIT, Row, finite, joining_token, missing, refuse_ids, rows_per_batch, runtime
from compress.benchmark.scoring import Ids, Logits, Score, score
from compress.benchmark.teacher import TeacherLogits
from compress.contract import Measurement, Progress, silent
from compress.data.corpus import Corpus, Mask
from compress.models.decoder import Decoder
from compress.models.teacher_store import TeacherStore
from compress.models.top_logits import TopRows

PERPLEXITY_UNIT, KL_UNIT = "", "nats/token"
Answers = Callable[[slice], Logits | TopRows]
"""What the teacher answers for a slice of the windows, for all tokens but the last of each: [B, T-1, …]."""
_NO_TEACHER = "there is no teacher to compare with"


def measure_perplexity(
    row: Row,
    corpus: Corpus,
    options: PerplexityOptions,
    teacher: TeacherLogits | None = None,
    progress: Progress = silent,
    stored: bool = False,
) -> dict[str, Measurement]:
    """Return perplexity, and with a teacher kl_to_teacher and top1_agreement, over the same windows.

    Tokens 2..T of each window are scored where counted; perplexity is exp of the mean negative log-likelihood. Where the
    teacher has other rows of padding, kl_to_teacher and top1_agreement are those among the common tokens.
    stored: the teacher's answers come from the store of all recipes, and kl_to_teacher is an estimate.

    Raises ArtifactError where the store cannot be written.
    """
    windows, counted = corpus.windows(options.length, options.windows)
    conditions = {
        "length": options.length,
        "windows": len(windows),
        "windows_asked": options.windows,
        "join": joining_token(corpus, row.folder)[0],
        "vocabulary": row.decoder.vocabulary,
        "runtime": runtime(row.decoder),
    }
    refusal = _refuse_windows(windows, counted, row.decoder)
    if refusal:
        return _windows_result(refusal, "" if teacher else _NO_TEACHER, Score(), conditions, {})
    difference = teacher.difference(row.folder, row.decoder.vocabulary) if teacher else _NO_TEACHER
    known: Answers | None = None
    common, shared, source = None, {}, {}
    if teacher and not difference:
        common = teacher.common(row.folder, row.decoder.vocabulary)
        shared = {} if common is None else {"common_tokens": len(common)}
        known = partial(_live_answers, teacher, windows)
    if teacher and not difference and stored:
        store = teacher.store(windows, common, progress)
        known = partial(_stored_answers, store)
        source = {"teacher_logits": f"stored, {store.contents.layout}"}
    total = _score_windows(row.decoder, (windows, counted), known, common, progress)
    return _windows_result("", difference, total, conditions | {"tokens": total.tokens} | shared, source)


def _live_answers(teacher: TeacherLogits, windows: Ids, part: slice) -> Logits:
    return teacher.logits(windows, part)[:, :-1]


def _stored_answers(store: TeacherStore, part: slice) -> TopRows:
    return store.answers(np.arange(part.start, part.stop))


def _refuse_windows(windows: Ids, counted: Mask, decoder: Decoder) -> str:
    if not len(windows):
        return f"the evaluation text has fewer than {windows.shape[1]} tokens: not one window"
    if windows.shape[1] > decoder.context:
        return f"windows of {windows.shape[1]} tokens are longer than the context of {decoder.context}"
    if not counted[:, 1:].any():
        return "no token of the windows is counted"
    return refuse_ids(windows, decoder)


def _score_windows(
    decoder: Decoder,
    text: tuple[Ids, Mask],
    teacher: Answers | None,
    common: Ids | None,
    progress: Progress,
) -> Score:
    windows, counted = text
    size = rows_per_batch(windows.shape[1], decoder.vocabulary)
    total = Score()
    for start in range(0, len(windows), size):
        part = slice(start, min(start + size, len(windows)))
        logits = decoder.logits(windows[part])
        known = teacher(part) if teacher else None
        for place, (ids, flags, own) in enumerate(zip(windows[part], counted[part], logits, strict=True)):
            keep = flags[1:]
            total += score(own[:-1][keep], ids[1:][keep], None if known is None else known[place][keep], common)
        progress(part.stop, len(windows), "windows")
    return total


def _windows_result(
    refusal: str, difference: str, total: Score, conditions: Mapping[str, Any], source: Mapping[str, str]
) -> dict[str, Measurement]:
    if refusal:
        result = {"perplexity": missing(PERPLEXITY_UNIT, refusal, conditions)}
    else:
        result = {"perplexity": finite(_exp(total.nll / total.tokens), PERPLEXITY_UNIT, conditions)}
    conditions = {**conditions, **source}
    if refusal or difference:
        reason = difference or refusal
        return result | {
            "kl_to_teacher": missing(KL_UNIT, reason, conditions),
            "top1_agreement": missing(SHARE_UNIT, reason, conditions),
        }
    return result | {
        "kl_to_teacher": finite(total.kl / total.tokens, KL_UNIT, conditions),
        # What is no number has no most probable token.
        "top1_agreement": finite(total.agreed / total.tokens + 0 * total.nll, SHARE_UNIT, conditions),
    }


def _exp(nats: float) -> float:
    return math.inf if nats > 690 else math.exp(nats)
