"""What a model learns: an Objective gives, for a batch, the sum of each loss term over the counted tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from compress.models.head import split
from compress.training.chunked import chunked_loss
from compress.training.losses import UNCOUNTED, cross_entropy_rows


@dataclass(frozen=True)
class Batch:
    """Windows of one part of the data.

    Shapes: ids [B, T], targets [B, T-1] with UNCOUNTED where a token does not count, windows [B] numbers of the windows in
    their part.
    step: the step of the training, from 0; in validation 0.
    written: the model wrote the targets itself, so that they are no data.
    again: [B] bool, whether a window's text was learned in an earlier pass.
    progress: the share of the training's steps that are done; in validation 1.
    """

    ids: Tensor
    targets: Tensor
    windows: Tensor
    part: Literal["train", "validation"] = "train"
    step: int = 0
    written: bool = False
    again: Tensor | None = None
    progress: float = 1.0


Sums = tuple[Tensor, dict[str, Tensor]]
"""The weighted total, a scalar with a graph, and every term's detached sum over the counted tokens, nats."""


class Objective(Protocol):
    """What a model learns from a batch.

    weights  of each term in the total; terms of other names are measured only
    modules  what is learned besides the model, such as projections
    by_window  whether it knows the data's windows by their numbers, so that no text may be cut anew
    """

    by_window: bool

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each term."""
        ...

    @property
    def modules(self) -> nn.ModuleDict:
        """What is learned besides the model."""
        ...

    def sums(self, model: Any, batch: Batch) -> Sums:
        """Return the weighted total and the terms of a batch."""
        ...

    def prepare(self, model: Any, batch: Batch) -> Batch:
        """Return the batch that is learned in place of this one; the same one unless the model writes its own text."""
        ...


class CrossEntropy:
    """The data's cross-entropy."""

    def __init__(self) -> None:
        self.weights: Mapping[str, float] = {"cross_entropy": 1.0}
        self.by_window = False
        self.modules = nn.ModuleDict()

    def prepare(self, model: Any, batch: Batch) -> Batch:
        """Return the batch."""
        return batch

    def sums(self, model: Any, batch: Batch) -> Sums:
        """Return the cross-entropy of a batch's counted targets."""
        body, tail = split(model)
        counted = batch.targets != UNCOUNTED
        rows = body(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1][counted]
        targets = batch.targets[counted]

        def rows_loss(logits: Tensor, part: slice) -> Sums:
            total = cross_entropy_rows(logits, targets[part])
            return total, {"cross_entropy": total.detach()}

        return chunked_loss(rows, tail, rows_loss)


class Learner(nn.Module):
    """A model with its objective, as one module: whatever wraps it for several processes sees one forward pass."""

    def __init__(self, model: Any, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.extra = objective.modules
        self._objective = [objective]  # in a list: a teacher must be no part of what is saved and shared out

    def forward(self, batch: Batch) -> Sums:
        """Return what the objective gives for a batch."""
        return self._objective[0].sums(self.model, batch)
