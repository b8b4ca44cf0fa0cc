"""The windows that a model learns from and is validated on, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from compress.contract import Context
from compress.data.corpus import Ids, Mask
from compress.errors import StageError
from compress.models.folder import read_config
from compress.models.kind import is_causal, not_causal
from compress.training.losses import UNCOUNTED
from compress.training.options import TrainingOptions
from compress.training.trackers import refuse_missing

_VALIDATION_WINDOWS = 32
Part = Literal["train", "validation"]


@dataclass(frozen=True)
class Examples:
    """Windows to learn from and windows to validate on: ids [N, T] and counted [N, T]; each window has a counted target."""

    ids: Ids
    counted: Mask
    validation_ids: Ids
    validation_counted: Mask

    @property
    def can_validate(self) -> bool:
        """Whether there is a window to validate on: a short validation text has none."""
        return len(self.validation_ids) > 0

    def part(self, part: Part) -> tuple[Ids, Mask]:
        """Return the windows of a part."""
        return (self.ids, self.counted) if part == "train" else (self.validation_ids, self.validation_counted)


def load_examples(context: Context, options: TrainingOptions) -> Examples:
    """Return the windows of train and validation with the tokenizer of the model at hand; those without a counted target are
    left out, as there is nothing to learn from them.

    Raises StageError when train has less than one window, and for a model that is no causal language model: it sees the token
    that it would learn to predict. MissingExtra, or StageError, for a tracker that is not installed: all of this is known
    before a weight is loaded.
    """
    refuse_missing(options.report_to)
    config = read_config(context.source)
    if not is_causal(config):
        raise StageError(
            f"{context.source}: {not_causal(config)}, and only those learn the next token; leave the stage out"
        )
    if context.data is None:
        raise StageError("training needs data.train, the recipe has none")
    train = context.data("train", context.source, options.tokens_to_read())
    ids, counted = train.windows(options.length)
    if not len(ids):
        raise StageError(
            f"data.train has {len(train.ids)} tokens, one window takes {options.length}; give more text or a smaller length"
        )
    ids, counted = _with_targets(ids, counted)
    if not len(ids):
        raise StageError(
            f"data.train has no token to learn in {len(train.ids)} tokens: all of them are prompts; look at its columns"
        )
    if options.tokens is not None:
        # what the budget does not reach is not asked of a stored teacher either
        seen = options.steps(len(ids)) * options.batch
        ids, counted = ids[:seen], counted[:seen]
    validation = context.data("validation", context.source, _VALIDATION_WINDOWS * options.length)
    return Examples(ids, counted, *_with_targets(*validation.windows(options.length, _VALIDATION_WINDOWS)))


def _with_targets(ids: Ids, counted: Mask) -> tuple[Ids, Mask]:
    found = counted[:, 1:].any(1)
    return (ids, counted) if found.all() else (ids[found], counted[found])


class WindowSequence(Dataset[dict[str, Tensor]]):
    """Every window that will be seen, in order: pass after pass over the data, each in its own seeded order.

    Each pass after the first cuts the text anew, at another place, so that no window is learned by heart; where every token
    counts and `fixed` does not forbid it, as stored answers do.

    starts  where each window starts in the run of all windows' ids
    """

    def __init__(self, examples: Examples, length: int, seed: int, fixed: bool = False) -> None:
        self.ids, self.counted = examples.ids.reshape(-1), examples.counted.reshape(-1)
        available, self.size = examples.ids.shape
        random = np.random.default_rng([seed, 0xC0FFEE])
        recut = available > 1 and not fixed and bool(self.counted.all())
        self.first_pass = available
        passes: list[Ids] = []
        missing = length
        while missing > 0:
            offset = int(random.integers(self.size)) if recut and passes else 0
            number = available - (offset > 0)
            passes.append(random.permutation(number) * self.size + offset)
            missing -= number
        self.starts = np.concatenate(passes)[:length]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start = int(self.starts[index])
        place = slice(start, start + self.size)
        ids, counted = torch.from_numpy(self.ids[place]), torch.from_numpy(self.counted[place])
        labels = torch.where(counted, ids, torch.full_like(ids, UNCOUNTED))
        labels[0] = UNCOUNTED  # nothing stands before it: the Trainer counts labels, and this is no target
        again = torch.tensor(index >= self.first_pass)
        return {"input_ids": ids, "labels": labels, "windows": torch.tensor(start // self.size), "again": again}


def stack(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return windows as one batch."""
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
