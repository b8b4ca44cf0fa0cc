"""A row under measurement: how its batches are cut, what its text starts with, and log-probabilities of sequences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.benchmark.scoring import Float64s, Ids, token_log_probabilities
from compress.contract import Measurement, Progress, silent
from compress.data.corpus import Corpus
from compress.models.decoder import Decoder
from compress.models.folder import special_ids

if TYPE_CHECKING:
    from compress.models.torch_encoder import TorchEncoder

_BATCH_BYTES = 256_000_000
_BATCH_ROWS = 64
_BYTES_PER_LOGIT = 4
SHARE_UNIT = "share"


@dataclass(frozen=True)
class Row:
    """An artifact that is being measured: its folder, and the folder opened."""

    folder: Path
    decoder: Decoder


def rows_per_batch(tokens: int, vocabulary: int) -> int:
    """Return how many sequences make a batch whose float32 logits stay under 256 MB; at least 1, at most 64."""
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // (tokens * vocabulary * _BYTES_PER_LOGIT)))


def runtime(decoder: Decoder | TorchEncoder) -> str:
    """Return what runs the model, with its version."""
    package = "onnxruntime" if decoder.format == "onnx" else "torch"
    return f"{package} {version(package)}"


def joining_token(corpus: Corpus, folder: Path) -> tuple[str, int | None]:
    """Return which token stands in front of the corpus's documents, by name (bos, eos, none) and id."""
    special = special_ids(folder)
    first = {int(corpus.ids[start]) for start in corpus.starts[:-1] if start < len(corpus.ids)}
    if len(first) == 1:
        token = first.pop()
        if token == special.bos:
            return "bos", token
        if token in special.eos:
            return "eos", token
    return "none", None


def missing(unit: str, reason: str, conditions: Mapping[str, Any] | None = None) -> Measurement:
    """Return a Measurement without a value, which says why."""
    return Measurement(None, unit, conditions or {}, reason=reason)


def refuse_ids(ids: Ids, decoder: Decoder | TorchEncoder) -> str:
    """Return why these ids cannot be read by the model, or an empty string."""
    largest = int(ids.max())
    if largest < decoder.vocabulary:
        return ""
    found = f"the text holds token {largest}, the model has tokens 0 to {decoder.vocabulary - 1}"
    return f"{found}: the tokenizer is not its own"


def finite(value: float, unit: str, conditions: Mapping[str, Any]) -> Measurement:
    """Return a Measurement of the value, without it where it is infinite or not a number."""
    if math.isfinite(value):
        return Measurement(value, unit, conditions)
    return missing(unit, f"not finite ({value}): the model's logits are broken", conditions)


def log_probabilities(
    decoder: Decoder,
    sequences: Sequence[Ids],
    firsts: Sequence[int] | None = None,
    progress: Progress = silent,
    unit: str = "",
) -> list[Float64s]:
    """Return ln p of each sequence's tokens from `firsts` on, by default of all but the first, in the order given.

    Sequences are sorted by length and run in right-padded batches whose logits stay under 256 MB.
    """
    starts = [1] * len(sequences) if firsts is None else firsts
    order = sorted(range(len(sequences)), key=lambda index: (-len(sequences[index]), index))
    found: dict[int, Float64s] = {}
    while len(found) < len(order):
        longest = len(sequences[order[len(found)]])
        batch = order[len(found) : len(found) + rows_per_batch(longest, decoder.vocabulary)]
        lengths = np.array([len(sequences[index]) for index in batch], dtype=np.int64)
        ids = np.zeros((len(batch), longest), dtype=np.int64)
        for place, index in enumerate(batch):
            ids[place, : lengths[place]] = sequences[index]
        logits = decoder.logits(ids, lengths)
        for place, index in enumerate(batch):
            first, end = starts[index], int(lengths[place])
            found[index] = token_log_probabilities(logits[place, first - 1 : end - 1], ids[place, first:end])
        progress(len(found), len(order), unit)
    return [found[index] for index in range(len(sequences))]
