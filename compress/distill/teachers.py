"""Where the teacher's answers come from: the teacher itself, or a store of its top logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compress.distill.losses import gather_chances
from compress.models.head import prove_split, split
from compress.models.teacher_store import TeacherStore
from compress.models.vocabulary import TeacherTokens
from compress.training.objective import Batch

_NOTHING = -1e4
_DRAWN_ROWS = 256

Rows = Callable[[slice], Tensor]


@dataclass(frozen=True)
class TeacherRows:
    """A teacher's answers for the counted tokens of a batch.

    logits  gives logits [m, V] of the student's tokens for a slice of the rows; None from a store
    stored  (ids, log_chances, weights), each [n, m], from a store; None from a live teacher
    output  what the teacher's body gave, with hidden states where they were asked for; None from a store
    """

    logits: Rows | None = None
    stored: tuple[Tensor, Tensor, Tensor] | None = None
    output: Any = None


class LiveTeacher:
    """A teacher that runs beside the student.

    asked  what else its body is to give: output_hidden_states

    Raises ValueError for a model whose logits are not its head's product with the hidden states.
    """

    def __init__(
        self,
        model: Any,
        tokens: TeacherTokens | None,
        temperature: float,
        asked: dict[str, bool] | None = None,
    ) -> None:
        self.model = model.requires_grad_(False)
        device = next(model.parameters()).device
        self._shared = tokens.shared if tokens else None
        self._size = len(tokens.reads) if tokens else 0
        moved = tokens if tokens and self._shared is None else None
        self._reads = torch.tensor(moved.reads, device=device) if moved else None
        self._answers = torch.tensor(moved.answers, device=device) if moved else None
        self._temperature = temperature
        self._asked = asked or {}
        prove_split(model)
        self._body, self._tail = split(model)

    @torch.no_grad()
    def answer(self, batch: Batch, counted: Tensor) -> TeacherRows:
        """Return the answers at `counted` [B, T-1] of a batch."""
        ids = batch.ids if self._reads is None else self._reads[batch.ids]
        output = self._body(input_ids=ids, use_cache=False, **self._asked)
        rows = output.last_hidden_state[:, :-1][counted]

        def logits(part: slice) -> Tensor:
            with torch.no_grad():
                return self._mapped(self._tail(rows[part]))

        return TeacherRows(logits=logits, output=output)

    def window_logits(self, ids: Tensor) -> Tensor:
        """Return the logits [B, T-1, V] of the student's tokens for windows [B, T]: what a store is written from."""
        with torch.no_grad():
            asked = ids if self._reads is None else self._reads[ids]
            return self._mapped(self._tail(self._body(input_ids=asked, use_cache=False).last_hidden_state[:, :-1]))

    @torch.no_grad()
    def draw(self, ids: Tensor, chosen: Tensor, uniform: Tensor) -> Tensor:
        """Return tokens of the student drawn from the teacher's answers, by the inverse of their cumulated chances.

        Shapes: ids [B, T]; chosen [B, T-1] bool, of the token that follows, n of them; uniform [n] in [0, 1) -> [n].
        Memory: [n, V] float32, in pieces of at most 256 rows.
        """
        asked = ids if self._reads is None else self._reads[ids]
        rows = self._body(input_ids=asked, use_cache=False).last_hidden_state[:, :-1][chosen]
        found = [torch.zeros(0, dtype=ids.dtype, device=ids.device)]
        for start in range(0, len(rows), _DRAWN_ROWS):
            part = slice(start, start + _DRAWN_ROWS)
            below = uniform[part]
            chances = self._mapped(self._tail(rows[part]), 1.0).float().softmax(-1).cumsum(-1)
            # sums of floats end a little beside 1, and what stands behind the end has no chance
            total = chances[:, -1:].contiguous()
            drawn = torch.searchsorted(chances, below.float()[:, None] * total, right=True)
            found.append(torch.minimum(drawn, torch.searchsorted(chances, total))[:, 0])
        return torch.cat(found).to(ids.dtype)

    def _mapped(self, logits: Tensor, temperature: float | None = None) -> Tensor:
        if self._answers is not None:
            return gather_chances(logits, self._answers, self._size, temperature or self._temperature)
        if self._shared is not None:
            # the rows behind the tokenizer's ids are padding: the student's own get nothing
            padding = self._size - self._shared
            return functional.pad(logits[..., : self._shared], (0, padding), value=_NOTHING)
        return logits


class StoredTeacher:
    """A teacher whose top logits were written once, for the windows of each part."""

    def __init__(self, stores: dict[str, TeacherStore]) -> None:
        self._stores = stores

    def answer(self, batch: Batch, counted: Tensor) -> TeacherRows:
        """Return what is stored at `counted` [B, T-1] of a batch."""
        found = self._stores[batch.part].rows(batch.windows.cpu().numpy())
        ids, log_chances, weights = (torch.from_numpy(part).to(counted.device)[counted] for part in found)
        return TeacherRows(stored=(ids.long(), log_chances, weights))
