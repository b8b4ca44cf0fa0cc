"""A tokenized part of the data: documents, windows, questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Question:
    """A text whose continuation is settled: `context + " " + answer`; `choices` holds the answer once."""

    context: str
    answer: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """A whole text and its class: the number, or the name that the model's id2label gives it."""

    text: str
    label: int | str


@dataclass(frozen=True)
class Corpus:
    """Documents as one run of token ids.

    ids        [N] every document with its joining token in front
    counted    [N] True where a token is learned and scored (False: joining token of a chat, prompt)
    starts     [documents + 1] where each document starts in ids
    byte_counts [documents] UTF-8 bytes of each document's text
    examples   the documents once more as labelled texts, where the source names a column of labels
    """

    ids: Ids
    counted: Mask
    starts: Ids
    byte_counts: Ids
    questions: tuple[Question, ...]
    fingerprint: str
    examples: tuple[Example, ...] = ()

    def __len__(self) -> int:
        return len(self.byte_counts)

    def windows(self, length: int, count: int | None = None) -> tuple[Ids, Mask]:
        """Return the first `count` windows: ids [windows, length] and counted of the same shape; a rest is dropped."""
        available = len(self.ids) // length
        number = available if count is None else min(count, available)
        end = number * length
        return self.ids[:end].reshape(number, length), self.counted[:end].reshape(number, length)

    def documents(self) -> Iterator[tuple[Ids, Mask, int]]:
        """Yield each document's ids [T] with its joining token, its counted mask [T], and its bytes."""
        for index, size in enumerate(self.byte_counts):
            part = slice(int(self.starts[index]), int(self.starts[index + 1]))
            yield self.ids[part], self.counted[part], int(size)
