"""A live teacher's answers as records of top logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.contract import Progress, silent
from compress.errors import StageError
from compress.models.teacher_store import Contents, TeacherStore, fingerprint_windows
from compress.models.top_logits import Float64s, Ids, Records, TopLayout, TopLogits, encode, uniforms

# On the CPU what stays in its caches, on a GPU what is worth its launches.
_CHUNK_LOGITS = {"cpu": 2**20, "gpu": 2**25}
_CALL_LOGITS = 2**26


class TopTeacher:
    """Makes records of what a teacher answers.

    logits       returns the logits [B, T-1, V], for the tokens 1 to T-1, of windows [B, T]
                 it is not called where a store is whole, so that it may load the teacher when it is
    layout       what is kept of each answer; its vocabulary is V
    seed         of what is drawn from the rest
    temperature  divides the logits first: chances and weights are those at the temperature
    device       where the windows are put
    """

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        layout: TopLayout,
        seed: int = 0,
        temperature: float = 1.0,
        device: str = "cpu",
    ) -> None:
        self.logits, self.layout, self.seed = logits, layout, seed
        self.temperature, self.device = float(temperature), device

    def store(self, ids: Ids, made: Mapping[str, Any], progress: Progress = silent) -> TeacherStore:
        """Return the store of the answers for windows [N, T], written first where it is not whole.

        made: what else determines the answers: the fingerprint of the teacher, its precision, the map of tokens where there is
        one. Windows, seed, temperature and layout are added here.

        Raises ArtifactError where it cannot be written, StageError where the teacher's logits are not numbers.
        """
        own = {"windows": fingerprint_windows(ids), "seed": self.seed, "temperature": self.temperature}
        contents = Contents(self.layout, len(ids), ids.shape[1] - 1, {**made, **own})

        def write(part: slice) -> Records:
            windows = torch.from_numpy(ids[part]).to(self.device)
            return self.encode_windows(windows, np.arange(part.start, part.stop))

        return TeacherStore.open_or_write(contents, write, progress)

    def encode_windows(self, ids: Tensor, windows: Ids) -> Records:
        """Return the records [B, T-1, record_bytes] of windows [B, T] with the numbers `windows` [B].

        The teacher is asked for at most 256 MB of float32 logits at once, for one window at least.

        Raises StageError where the teacher's logits are not numbers.
        """
        rows, positions = ids.shape[0], ids.shape[1] - 1
        step = max(1, _CALL_LOGITS // (positions * self.layout.vocabulary))
        found = np.zeros((rows, positions, self.layout.record_bytes), dtype=np.uint8)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            drawn = uniforms(self.seed, windows[part], positions, self.layout.drawn)
            with torch.no_grad():
                answers = self.logits(ids[part])
                records = encode_logits(
                    answers.flatten(0, 1),
                    self.layout,
                    drawn.reshape(len(drawn) * positions, self.layout.drawn),
                    self.temperature,
                )
            found[part] = records.reshape(-1, positions, self.layout.record_bytes)
        return found


def encode_logits(logits: Tensor, layout: TopLayout, drawn: Float64s, temperature: float = 1.0) -> Records:
    """Return the records [n, record_bytes] of a teacher's logits [n, V].

    `drawn` [n, drawn] are numbers in [0, 1): where in the mass of the rest, in a fixed order, the drawn tokens stand.
    Of equally probable tokens the one with the lower id comes first.

    Numerics: chances in float32, sums in float64.
    Memory: twice a chunk of 4 MB besides the logits, of 128 MB on a GPU.

    Raises ValueError where V is not the layout's, StageError where the logits are not numbers.
    """
    if logits.shape[-1] != layout.vocabulary:
        raise ValueError(f"the layout has a vocabulary of {layout.vocabulary:,}, the logits {logits.shape[-1]:,}")
    step = max(1, _CHUNK_LOGITS["cpu" if logits.device.type == "cpu" else "gpu"] // layout.vocabulary)
    points = torch.from_numpy(np.ascontiguousarray(drawn))
    found = [
        _answers(logits[start : start + step].detach(), layout, points[start : start + step], temperature)
        for start in range(0, len(logits), step)
    ]
    if not found:
        return np.zeros((0, layout.record_bytes), dtype=np.uint8)
    return encode(layout, TopLogits(*(torch.cat(parts).numpy() for parts in zip(*found, strict=True))))


def _answers(logits: Tensor, layout: TopLayout, points: Tensor, temperature: float) -> tuple[Tensor, ...]:
    """Return the fields of TopLogits, on the CPU."""
    rows, grid = _grid(logits, layout, temperature)
    top, ids = _top(rows, grid, layout.kept)
    first = top[:, :1]
    if not torch.isfinite(first).all():
        raise StageError(
            "the teacher's logits are not finite numbers; look at the teacher, or ask it with precision: fp32"
        )
    rows.sub_(first).exp_().scatter_(-1, ids, 0.0)
    mass, places = _draw(grid, points.to(logits.device))
    # with nothing in the rest a place can be past the end
    places.clamp_max_(layout.vocabulary - 1)
    inside = (top - first).double().exp().sum(-1)
    total = first + (inside + mass).log()[:, None]
    drawn = logits.gather(-1, places).double() / temperature
    return tuple(part.cpu() for part in (ids, top - total, mass.log() - inside.log(), places, drawn - total))


def _grid(logits: Tensor, layout: TopLayout, temperature: float) -> tuple[Tensor, Tensor]:
    """Return a float32 copy of logits [n, V] at the temperature, and a view of it as [n, depth, columns].

    What is added at the end to fill the view is -inf.
    """
    vocabulary = layout.vocabulary
    depth = max(1, round(math.sqrt(vocabulary / layout.kept)))
    columns = -(-vocabulary // depth)
    rows = torch.empty(len(logits), depth * columns, device=logits.device)
    rows[:, vocabulary:] = -math.inf
    rows[:, :vocabulary] = logits
    if temperature != 1.0:
        rows /= temperature
    return rows, rows.view(len(logits), depth, columns)


def _top(rows: Tensor, grid: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Return the largest values [n, kept] of each row, from the first down, and where they stand.

    They all stand in the columns with the largest maxima: half the time of topk over a whole row of 4,096, or of 151,936.
    """
    depth, columns = grid.shape[1:]
    if columns > kept and depth > 1:
        best = grid.amax(1).topk(kept, dim=-1, sorted=False).indices
        candidates = grid.gather(2, best[:, None].expand(-1, depth, -1)).flatten(1)
        top, places = candidates.topk(kept, dim=-1)
        ids = (places // kept) * columns + best.gather(1, places % kept)
    else:
        top, ids = rows.topk(kept, dim=-1)
    # topk promises no order among equals
    ids, order = ids.sort(dim=-1)
    top, order = top.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return top, ids.gather(-1, order)


def _draw(grid: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mass [n] in a grid [n, depth, columns], and the places [n, drawn] at which `points` of it are reached.

    A column is found first, then the place in it: a sum over a whole row in float64 would take longer than all else.
    """
    depth, columns = grid.shape[1:]
    ends = grid.sum(1).cumsum(-1, dtype=torch.float64)
    mass = ends[:, -1:]
    reached = points * mass
    column = torch.searchsorted(ends, reached, right=True).clamp_max_(columns - 1)
    starts = torch.where(column > 0, ends.gather(-1, (column - 1).clamp_min(0)), 0.0)
    share = (reached - starts) / (ends.gather(-1, column) - starts)
    inner = grid.gather(2, column[:, None].expand(-1, depth, -1)).transpose(1, 2).cumsum(-1, dtype=torch.float64)
    row = torch.searchsorted(inner, share[..., None] * inner[..., -1:], right=True)[..., 0].clamp_max_(depth - 1)
    return mass[:, 0], row * columns + column
