"""Accuracy on questions that the text settles: the model must find the true answer the most probable of the choices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.benchmark.options import AccuracyOptions
from compress.benchmark.row import SHARE_UNIT, Row, joining_token, log_probabilities, missing, refuse_ids, runtime
from compress.benchmark.scoring import Ids
from compress.contract import Measurement, Progress, silent
from compress.data.corpus import Corpus, Question
from compress.models.folder import load_tokenizer, read_config
from compress.models.kind import class_name

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Candidate:
    """Ids of a context followed by one choice; tokens from `first` on belong to the choice."""

    ids: Ids
    first: int


def candidates(tokenizer: Tokenizer, question: Question, joining: int | None) -> list[Candidate]:
    """Return each choice of a question as `joining token, context + " " + choice + "."`.

    Context and choice are tokenized together, as text is; what goes beyond the tokens shared with the context alone
    belongs to the choice, so that a token across the border is scored.
    """
    front = [] if joining is None else [joining]
    plain = front + tokenizer.encode(question.context, add_special_tokens=False).ids
    found = []
    for choice in question.choices:
        whole = front + tokenizer.encode(f"{question.context} {choice}.", add_special_tokens=False).ids
        pairs = zip(plain, whole[:-1], strict=False)
        shared = next(
            (index for index, (left, right) in enumerate(pairs) if left != right), min(len(plain), len(whole) - 1)
        )
        # Without a joining token the first token has nothing before it to be predicted from.
        found.append(Candidate(np.array(whole, dtype=np.int64), max(shared, 1)))
    return found


def measure_accuracy(row: Row, corpus: Corpus, options: AccuracyOptions, progress: Progress = silent) -> Measurement:
    """Return the share of questions whose true answer has the highest sum of log-probabilities among the choices.

    On equal sums the true answer does not count. Questions over the model's context are left out and counted.
    """
    join, joining = joining_token(corpus, row.folder)
    asked = corpus.questions[: options.questions]
    conditions: dict[str, Any] = {
        "questions": 0,
        "questions_asked": options.questions,
        "join": join,
        "runtime": runtime(row.decoder),
    }
    if corpus.examples:
        reason = f"labels are for classifiers, and {class_name(read_config(row.folder)) or 'this model'} is none"
        return missing(SHARE_UNIT, reason, conditions)
    if not asked:
        return missing(SHARE_UNIT, "the evaluation data has no settled questions", conditions)
    if not (row.folder / "tokenizer.json").is_file():
        return missing(SHARE_UNIT, "the folder has no tokenizer.json", conditions)
    tokenizer = load_tokenizer(row.folder)
    tokenized = [(question, candidates(tokenizer, question, joining)) for question in asked]
    kept = [entry for entry in tokenized if all(len(one.ids) <= row.decoder.context for one in entry[1])]
    conditions |= {"questions": len(kept), "left_out_over_context": len(asked) - len(kept)}
    if not kept:
        return missing(SHARE_UNIT, f"every question is longer than the context of {row.decoder.context}", conditions)
    flat = [one for _, choices in kept for one in choices]
    if refusal := next((said for one in flat if (said := refuse_ids(one.ids, row.decoder))), ""):
        return missing(SHARE_UNIT, refusal, conditions)
    firsts = [one.first for one in flat]
    scores = iter(log_probabilities(row.decoder, [one.ids for one in flat], firsts, progress, "choices"))
    sums = [[float(next(scores).sum()) for _ in choices] for _, choices in kept]
    if not all(math.isfinite(value) for choices in sums for value in choices):
        return missing(SHARE_UNIT, "not finite: the model's logits are broken", conditions)
    right = sum(_is_right(question, values) for (question, _), values in zip(kept, sums, strict=True))
    share = right / len(kept)
    chance = float(np.mean([1 / len(question.choices) for question, _ in kept]))
    error = math.sqrt(share * (1 - share) / len(kept))
    return Measurement(share, SHARE_UNIT, conditions | {"standard_error": error, "chance": chance})


def _is_right(question: Question, sums: list[float]) -> bool:
    true = question.choices.index(question.answer)
    return all(sums[true] > value for index, value in enumerate(sums) if index != true)
