"""On-policy distillation: in a share of the steps the student is taught on text that it wrote itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from compress.models.generate import Sampling
from compress.models.torch_writer import write_batch
from compress.training.losses import UNCOUNTED
from compress.training.objective import Batch

_PROMPT_SHARE = 4


class OnPolicy:
    """Replaces the windows of a share of the steps by their beginnings and the student's continuations of them: of prompts
    that the data masks by the prompt and an answer, of other text by its first quarter and the rest.

    The tokens of the student are drawn at temperature 1, and only they count. Which steps, and every draw, follow from the
    seed and the number of the step: a resume writes the same text.

    share  of the steps, 0 to 1
    ends   tokens that end a text (EOS)
    Paper: Agarwal et al., GKD, arXiv 2306.13649 §3, Algorithm 1 (lambda is the share; no gradient through the sampling).
    """

    def __init__(self, share: float, seed: int, ends: Sequence[int]) -> None:
        self._share = share
        self._seed = seed
        self._ends = tuple(ends)

    def chosen(self, step: int) -> bool:
        """Return whether the student writes in a step."""
        return bool(np.random.default_rng([self._seed, 0x60D, step]).random() < self._share)

    def prepare(self, model: Any, batch: Batch) -> Batch:
        """Return the batch, or in its place the student's own text."""
        if batch.part != "train" or not self.chosen(batch.step):
            return batch
        length = batch.ids.shape[1]
        counted = batch.targets != UNCOUNTED
        # a prompt that the data masks is the prompt; text that is learned whole lends its first quarter
        first = counted.int().argmax(1).tolist()
        begun = [place + 1 if place else max(1, length // _PROMPT_SHARE) for place in first]
        # the number of the first window tells pieces and processes of one step apart
        drawn = np.random.default_rng([self._seed, 0x60D, batch.step, int(batch.windows[0])])
        sampling = Sampling(temperature=1.0, seed=int(drawn.integers(2**31)))
        prompts = [row[:end] for row, end in zip(batch.ids.tolist(), begun, strict=True)]
        was_training = model.training
        model.eval()
        written = write_batch(model, prompts, length - min(begun), sampling, self._ends)
        written = [new[: length - end] for new, end in zip(written, begun, strict=True)]
        model.train(was_training)
        return self._batch(batch, prompts, written)

    def _batch(self, batch: Batch, prompts: list[list[int]], written: list[list[int]]) -> Batch:
        ids = torch.zeros_like(batch.ids)
        targets = torch.full_like(batch.targets, UNCOUNTED)
        for row, (prompt, new) in enumerate(zip(prompts, written, strict=True)):
            end = len(prompt) + len(new)
            ids[row, :end] = torch.tensor([*prompt, *new], device=ids.device)
            targets[row, len(prompt) - 1 : end - 1] = ids[row, len(prompt) : end]
        return dataclasses.replace(batch, ids=ids, targets=targets, written=True)
