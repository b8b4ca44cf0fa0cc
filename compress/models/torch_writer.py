"""Write many texts at once with a torch model: batched sampling with a cache. A pure function of weights, prompts and seed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from compress.models.generate import Sampling

Stop = Callable[[Sequence[int]], bool]
# Sampling looks at so many of the most probable tokens first, and at so many times more where they are too few.
_FEW, _MORE = 64, 16
# Rows that ended are taken out of the batch once they are this share of it: taking out copies the cache.
_ENDED_SHARE = 1 / 8
_GROWTH = 64


def write_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    new: int,
    sampling: Sampling,
    ends: Collection[int] = (),
    stop: Stop | None = None,
) -> list[list[int]]:
    """Return for each prompt at most `new` token ids that follow it, sampled in one batch.

    A row ends with a token of `ends`, which is the last of the row, or where `stop` says so of the row's new ids: so a row
    that is shorter than `new` and than the context ended by itself. The draws of row r, token t come from
    `sampling.seed` alone: what a row draws does not depend on when others end.

    Shapes: the model reads [rows still writing, T] with T from the shortest prompt on; rows with longer prompts are fed
    the rest of theirs token by token, so that no row is padded and none needs a mask.
    Memory: cache 2 · L · B · K · T · head width numbers. Numerics: in the precision of the weights; the draw in float64.

    Raises ValueError for an empty prompt or one that fills the model's context.
    """
    if not prompts or new < 1:
        return [[] for _ in prompts]
    context = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    if not all(0 < len(prompt) < context for prompt in prompts):
        raise ValueError(f"prompts must have 1 to {context - 1} tokens, got {sorted({len(p) for p in prompts})}")
    rows = _Rows(prompts, min(new, context), context, frozenset(ends), stop)
    uniforms = torch.from_numpy(np.random.default_rng(sampling.seed).random((len(prompts), new)))
    # no inference mode: buffers that the model renews while it writes are read in training again
    with torch.no_grad():
        _write(model, rows, sampling, uniforms)
    return rows.written


class _Rows:
    """What was written, row by row; which rows are in the batch, and which of them have ended."""

    def __init__(
        self, prompts: Sequence[Sequence[int]], new: int, context: int, ends: frozenset[int], stop: Stop | None
    ) -> None:
        self.prompts, self.ends, self.stop = prompts, ends, stop
        self.limits = [min(new, context - len(prompt)) for prompt in prompts]
        self.written: list[list[int]] = [[] for _ in prompts]
        self.batch = list(range(len(prompts)))
        self.ended: set[int] = set()

    def writing(self, length: int) -> list[int]:
        """Return the places in the batch whose prompts end before this length and that have not ended."""
        return [
            place for place, row in enumerate(self.batch) if len(self.prompts[row]) <= length and row not in self.ended
        ]

    def take(self, place: int, token: int) -> None:
        """Add a token to the row at a place of the batch."""
        row = self.batch[place]
        self.written[row].append(token)
        stopped = token in self.ends or (self.stop is not None and self.stop(self.written[row]))
        if stopped or len(self.written[row]) == self.limits[row]:
            self.ended.add(row)

    def following(self, length: int) -> list[int]:
        """Return the token at this length of each row of the batch, of its prompt or written; rows that ended say anything."""
        found = []
        for row in self.batch:
            prompt, written = self.prompts[row], self.written[row]
            found.append(
                prompt[length] if length < len(prompt) else written[min(length - len(prompt), len(written) - 1)]
            )
        return found

    def drop_ended(self) -> list[int]:
        """Take the rows that ended out of the batch, and return the places of the others."""
        kept = [place for place, row in enumerate(self.batch) if row not in self.ended]
        self.batch = [self.batch[place] for place in kept]
        self.ended.clear()
        return kept


def _write(model: Any, rows: _Rows, sampling: Sampling, uniforms: torch.Tensor) -> None:
    cache = _growing_cache(model)
    last_only = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
    length = min(len(prompt) for prompt in rows.prompts)
    ids = torch.tensor([list(prompt[:length]) for prompt in rows.prompts], device=model.device)
    while True:
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, **last_only).logits[:, -1]
        if places := rows.writing(length):
            numbers = [rows.batch[place] for place in places]
            drawn = uniforms[numbers, [length - len(rows.prompts[row]) for row in numbers]]
            for place, token in zip(places, draw(logits[places], sampling, drawn).tolist(), strict=True):
                rows.take(place, token)
        if len(rows.ended) == len(rows.batch):
            return
        if len(rows.ended) >= _ENDED_SHARE * len(rows.batch):
            cache.batch_select_indices(torch.tensor(rows.drop_ended(), device=model.device))
        ids = torch.tensor(rows.following(length), device=model.device)[:, None]
        length += 1


def draw(logits: torch.Tensor, sampling: Sampling, uniforms: torch.Tensor) -> torch.Tensor:
    """Return one token for each row of logits [n, V], by inverting the cumulative distribution at `uniforms` [n] in [0, 1).

    The same maths as `generate.choose`: temperature, then top_k, then top_p, tokens in falling order of probability.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    width = logits.shape[-1]
    limit = min(width, sampling.top_k or width)
    uniforms = uniforms.to(logits.device)
    tokens = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    left, count = torch.arange(len(logits), device=logits.device), min(limit, sampling.top_k or _FEW)
    while len(left):
        found, known = _draw_among(logits[left], sampling, uniforms[left], count)
        tokens[left] = found
        left, count = left[~known], min(limit, count * _MORE)
    return tokens


def _draw_among(
    logits: torch.Tensor, sampling: Sampling, uniforms: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw with the `count` most probable tokens alone: tokens [n], and [n] whether that gives what the whole row would."""
    values, order = logits.topk(count, dim=-1)
    highest = values[:, :1]
    weights = ((values - highest).double() / sampling.temperature).exp()
    whole = sampling.top_k is not None or count == logits.shape[-1]
    among = weights if whole else ((logits - highest).float() / sampling.temperature).exp()
    total = among.sum(-1, keepdim=True, dtype=torch.float64)
    sums = (weights / total).cumsum(-1)
    allowed = torch.full_like(uniforms, count, dtype=torch.int64)
    mass = sums[:, -1] if whole else torch.ones_like(uniforms)
    if sampling.top_p is not None:
        before = torch.cat([torch.zeros_like(sums[:, :1]), sums[:, :-1]], dim=-1)
        # The token that reaches top_p belongs to the set, so at least one is left.
        allowed = (before < sampling.top_p).sum(-1)
        mass = sums.gather(-1, allowed[:, None] - 1)[:, 0]
    places = torch.searchsorted(sums, (uniforms * mass)[:, None], right=True)[:, 0]
    known = torch.ones_like(places, dtype=torch.bool)
    if not whole:
        known = (allowed < count) if sampling.top_p is not None else (places < count)
    return order.gather(-1, places.minimum(allowed - 1)[:, None])[:, 0], known


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's cache in a buffer with room to grow: a step writes one token, where DynamicLayer copies them all."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add keys and values [B, K, T, head width], and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        needed = used + key_states.shape[-2]
        if self._room is None or needed > self._room[0].shape[-2]:
            grown = needed + max(_GROWTH, needed // 2)
            self._room = (self._copy(self.keys, key_states, grown), self._copy(self.values, value_states, grown))
        keys, values = self._room
        keys[:, :, used:needed] = key_states
        values[:, :, used:needed] = value_states
        self.keys, self.values = keys[:, :, :needed], values[:, :, :needed]
        return self.keys, self.values

    @staticmethod
    def _copy(old: torch.Tensor, like: torch.Tensor, length: int) -> torch.Tensor:
        grown = like.new_empty(*like.shape[:-2], length, like.shape[-1])
        if old.numel():
            grown[:, :, : old.shape[-2]] = old
        return grown

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows of the batch."""
        if self._room is not None:
            used = self.get_seq_length()
            keys, values = (room[indices] for room in self._room)
            self._room = keys, values
            self.keys, self.values = keys[:, :, :used], values[:, :, :used]


def _growing_cache(model: Any) -> Any:
    """Return the model's own cache; layers that would copy themselves at each step get room to grow."""
    cache = DynamicCache(config=model.config)
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[index] = _GrowingLayer()
    return cache
