"""Bits per byte over documents read one by one: quality that can be compared between tokenizers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from compress.benchmark.options import BitsPerByteOptions
from compress.benchmark.row import Row, finite, joining_token, log_probabilities, missing, refuse_ids, runtime
from compress.benchmark.scoring import Ids
from compress.contract import Measurement, Progress, silent
from compress.data.corpus import Corpus, Mask

BITS_PER_BYTE_UNIT = "bits/byte"


def measure_bits_per_byte(
    row: Row,
    corpus: Corpus,
    options: BitsPerByteOptions,
    context_limit: int | None = None,
    progress: Progress = silent,
) -> Measurement:
    """Return total bits / total UTF-8 bytes over documents read one by one from their joining token.

    Documents over `context_limit` tokens (the least context of the rows compared) or over the model's own context are
    left out. Comparable between tokenizers, where perplexity is not.
    """
    join = joining_token(corpus, row.folder)[0]
    limit = min(row.decoder.context, context_limit or row.decoder.context)
    documents = [document for _, document in zip(range(options.documents), corpus.documents(), strict=False)]
    kept = [(ids, size) for ids, _, size in documents if 2 <= len(ids) <= limit]
    conditions: dict[str, Any] = {
        "documents": len(kept),
        "documents_asked": options.documents,
        "left_out_over_context": sum(len(ids) > limit for ids, _, _ in documents),
        "context_limit": limit,
        "join": join,
        "runtime": runtime(row.decoder),
        "bytes": sum(size for _, size in kept),
    }
    refusal = _refuse_documents([flags for _, flags, _ in documents], kept, join)
    refusal = refusal or next((said for ids, _ in kept if (said := refuse_ids(ids, row.decoder))), "")
    if refusal:
        return missing(BITS_PER_BYTE_UNIT, refusal, conditions)
    sequences = [ids for ids, _ in kept]
    nats = -sum(float(found.sum()) for found in log_probabilities(row.decoder, sequences, None, progress, "documents"))
    return finite(nats / math.log(2) / conditions["bytes"], BITS_PER_BYTE_UNIT, conditions)


def _refuse_documents(flags: Iterable[Mask], kept: list[tuple[Ids, int]], join: str) -> str:
    if any(not counted[1:].all() for counted in flags):
        return "documents with prompts are not counted as a whole; bits per byte needs plain text"
    if not kept:
        return "no document fits the context"
    if join == "none":
        return "nothing stands in front of the documents, so the first token of each has no score; use join: bos or eos"
    return ""
