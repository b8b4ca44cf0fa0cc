"""Rewriting: text that is learned again has some of its tokens replaced by what the teacher would have said there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from compress.distill.teachers import LiveTeacher
from compress.models.top_logits import uniforms
from compress.training.losses import UNCOUNTED
from compress.training.objective import Batch

_PURPOSE = 0x2E3D


class Rewriter:
    """Replaces a share of the counted tokens of windows that were learned before by the teacher's draws at temperature 1.

    Each draw goes by the text as it was, so that one pass of the teacher's body is enough; the student is then taught on the
    new text, which it cannot know by heart. Which tokens, and every draw, follow from the seed, the step and the window's
    number: a resume, and another number of processes, write the same text.

    share     of the tokens, 0 to 1
    specials  tokens that are neither replaced nor put in place of others
    """

    def __init__(self, share: float, seed: int, teacher: LiveTeacher, specials: Sequence[int]) -> None:
        self._share = share
        self._seed = seed ^ _PURPOSE
        self._teacher = teacher
        self._specials = sorted(set(specials))

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch, or one with new tokens where its windows were learned before."""
        if batch.part != "train" or batch.again is None or not bool(batch.again.any()):
            return batch
        numbers = (batch.windows + (batch.step << 32)).cpu().numpy()
        # two numbers for each place: whether the token goes, and which one comes; each fills its half of 0 to 1
        drawn = torch.from_numpy(uniforms(self._seed, numbers, batch.targets.shape[1], 2)).to(batch.ids.device)
        chosen = (drawn[..., 0] * 2 < self._share) & batch.again[:, None] & (batch.targets != UNCOUNTED)
        chosen &= ~self._special(batch.targets)
        new = self._teacher.draw(batch.ids, chosen, (drawn[..., 1] * 2 - 1)[chosen])
        old = batch.targets[chosen]
        new = torch.where(self._special(new), old, new)
        ids, targets = batch.ids.clone(), batch.targets.clone()
        targets[chosen] = new
        ids[:, 1:][chosen] = new
        return dataclasses.replace(batch, ids=ids, targets=targets)

    def _special(self, tokens: Tensor) -> Tensor:
        return torch.isin(tokens, torch.tensor(self._specials, dtype=tokens.dtype, device=tokens.device))
