"""Bits per byte over documents read one by one: quality that can be compared between tokenizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from compress.benchmark.options import BitsPerByteOptions
from compress.benchmark.row import Row, finite, joining_token, log_probabilities, missing, refuse_ids, runtime
from compress.benchmark.scoring import Ids
from compress.contract import Measurement, Progress, silent
from compress.data.corpus import Corpus, Mask
from compress.models.decoder import context_of
from compress.models.folder import read_config
from compress.models.kind import is_causal

BITS_PER_BYTE_UNIT = "bits/byte"


def measure_bits_per_byte(
    row: Row,
    corpus: Corpus,
    options: BitsPerByteOptions,
    left_out: frozenset[int] = frozenset(),
    progress: Progress = silent,
) -> Measurement:
    """Return total bits / total UTF-8 bytes over documents read one by one from their joining token.

    Documents over the model's context are left out, and those whose numbers are in `left_out`: what any of the rows
    compared cannot read (see `unreadable`) no row is measured on. Comparable between tokenizers, where perplexity is not.
    """
    join = joining_token(corpus, row.folder)[0]
    documents = list(islice(corpus.documents(), options.documents))
    skipped = _over(corpus, row.decoder.context, options.documents) | (left_out & set(range(len(documents))))
    kept = [(ids, size) for number, (ids, _, size) in enumerate(documents) if number not in skipped]
    conditions: dict[str, Any] = {
        "documents": len(kept),
        "documents_asked": options.documents,
        "left_out_over_context": len(skipped),
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


def unreadable(read: Callable[[Path], Corpus], folders: Iterable[Path], documents: int) -> frozenset[int]:
    """Return the numbers of those of the first `documents` that are over the context of any causal language model among
    `folders`, each counted in the tokens of its own tokenizer.

    read   the evaluation data in the tokens of a folder; its documents are the same ones for every folder
    """
    found: set[int] = set()
    for folder in folders:
        config = read_config(folder)
        if is_causal(config):
            found |= _over(read(folder), context_of(config, folder), documents)
    return frozenset(found)


def left_out_words(left_out: Collection[int], documents: int) -> str:
    """Return the sentence for documents that no row is measured on; empty where every row can read all of them."""
    if not left_out:
        return ""
    count = f"{len(left_out)} of the first {documents} documents"
    return f"bits per byte: {count} are over the context of a row, and left out of all rows"


def _over(corpus: Corpus, context: int, documents: int) -> frozenset[int]:
    """Return the numbers of documents over the context; one of a single token has nothing to predict, and counts too."""
    found = enumerate(islice(corpus.documents(), documents))
    return frozenset(number for number, (ids, _, _) in found if not 2 <= len(ids) <= context)


def _refuse_documents(flags: Iterable[Mask], kept: list[tuple[Ids, int]], join: str) -> str:
    if any(not counted[1:].all() for counted in flags):
        return "documents with prompts are not counted as a whole; bits per byte needs plain text"
    if not kept:
        return "no document fits the context"
    if join == "none":
        return "nothing stands in front of the documents, so the first token of each has no score; use join: bos or eos"
    return ""
