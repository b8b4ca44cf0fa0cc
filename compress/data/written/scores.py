"""Scores that models give to written documents; each is computed once and lies beside the text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from compress.artifact import fingerprint_folder, key_of
from compress.data.sources import Document
from compress.data.written.documents import Item
from compress.data.written.labels import class_names, class_number
from compress.data.written.store import Store
from compress.data.written.texts import Writer
from compress.models.encoder import open_encoder
from compress.models.folder import load_tokenizer, read_config

REVISION = 1
_ROWS = 32


class Scores:
    """Perplexities and qualities of a batch's documents, from the store or from the models."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self._store, self._writer = store, writer
        self._classifiers: dict[tuple[Path, str | int], Callable[[Sequence[Document]], list[float]]] = {}

    def perplexities(self, items: Sequence[Item], batch: int) -> list[float]:
        """Return the perplexity of each document under the teacher."""
        name = key_of({"perplexity": self._writer.teacher.key, "revision": REVISION})
        return self._remembered(name, items, batch, self._writer.perplexities)

    def qualities(self, items: Sequence[Item], batch: int, folder: Path, label: str | int) -> list[float]:
        """Return the probability of a class for each document, or what a classifier with one output says."""
        name = key_of({"quality": fingerprint_of(folder), "label": label, "revision": REVISION})

        def score(documents: Sequence[Document]) -> list[float]:
            if (folder, label) not in self._classifiers:
                self._classifiers[folder, label] = _classifier(folder, label)
            return self._classifiers[folder, label](documents)

        return self._remembered(name, items, batch, score)

    def _remembered(
        self, name: str, items: Sequence[Item], batch: int, score: Callable[[Sequence[Document]], list[float]]
    ) -> list[float]:
        known = self._store.scores(name, batch)
        digests = [_digest(item.document) for item in items]
        missing = {digest: item for digest, item in zip(digests, items, strict=True) if digest not in known}
        if missing:
            values = score([item.document for item in missing.values()])
            # a last bit that depends on what stood beside a text in a batch decides nothing
            known |= {digest: float(f"{value:.6g}") for digest, value in zip(missing, values, strict=True)}
            self._store.write_scores(name, batch, known)
        return [known[digest] for digest in digests]


def _digest(document: Document) -> str:
    return hashlib.sha256(repr(document.segments).encode()).hexdigest()[:32]


@cache
def fingerprint_of(folder: Path) -> str:
    """Return the fingerprint of a classifier's folder."""
    return fingerprint_folder(folder)


def _classifier(folder: Path, label: str | int) -> Callable[[Sequence[Document]], list[float]]:
    encoder, tokenizer = open_encoder(folder), load_tokenizer(folder)
    tokenizer.enable_truncation(max_length=encoder.context)
    names = class_names(read_config(folder))

    def scores(documents: Sequence[Document]) -> list[float]:
        rows = [one.ids for one in tokenizer.encode_batch([document.learned for document in documents])]
        order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), index))
        found: dict[int, float] = {}
        for start in range(0, len(order), _ROWS):
            taken = order[start : start + _ROWS]
            lengths = np.array([len(rows[index]) for index in taken])
            ids = np.full((len(taken), lengths.max()), encoder.pad, dtype=np.int64)
            for place, index in enumerate(taken):
                ids[place, : lengths[place]] = rows[index]
            logits = encoder.outputs(ids, lengths).astype(np.float64)
            values = _probabilities(logits, class_number(label, names, logits.shape[1], folder))
            found |= dict(zip(taken, values.tolist(), strict=True))
        return [found[index] for index in range(len(rows))]

    return scores


def _probabilities(logits: Any, number: int) -> Any:
    """Return the probability of a class [B] of logits [B, classes]; of one output, the output."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights[:, number] / weights.sum(axis=1)
