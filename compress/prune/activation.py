"""Scores from one pass over calibration text: hooks feed the running sums of scores.py. Memory: one batch's activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from compress.contract import Progress
from compress.models.families import Shape, shape_of
from compress.models.family import Family, Weight
from compress.models.layers import BATCH, base_of, hooked, layers_of, matrix, row_of, run_base, stream_in, stream_out
from compress.prune.scores import BlockInfluence, ColumnEnergy, HeadEnergy, channel_shares


class ActivationScores:
    """The running sums of one pass. `wanted` names the axes that are scored: layers, ffn, heads, hidden."""

    def __init__(self, model: Any, family: Family, wanted: set[str]) -> None:
        self._model, self._family, self._wanted = model, family, wanted
        shape: Shape = shape_of(model.config.to_dict())
        self._layers = layers_of(model, family)
        self._influences = [BlockInfluence() for _ in self._layers]
        self._columns = [ColumnEnergy(shape.ffn) for _ in self._layers]
        self._heads = [HeadEnergy(shape.heads, shape.head_dim) for _ in self._layers]
        self._readers = list(self._reading()) if "hidden" in wanted else []
        self._reads = [ColumnEnergy(shape.hidden) for _ in self._readers]
        self._end = ColumnEnergy(shape.hidden)

    def run(self, ids: Tensor, progress: Progress) -> None:
        """Take in windows of token ids. Shapes: ids [N, T]."""
        with hooked(self._hooks()), torch.no_grad():
            done = 0
            for batch in torch.split(ids, BATCH):
                run_base(self._model, self._family, batch)
                done += len(batch)
                progress(done, len(ids), "windows")

    def layers(self) -> Tensor:
        """Return the block influence of every layer. Shapes: [L], float64."""
        return torch.tensor([each.score() for each in self._influences], dtype=torch.float64)

    def ffn(self) -> Tensor:
        """Return the energy of every feed-forward column. Shapes: [L, F], float64."""
        return self._outgoing(self._family.ffn_out, self._columns)

    def heads(self) -> Tensor:
        """Return the energy of every query head. Shapes: [L, H], float64."""
        return self._outgoing(self._family.attention_out, self._heads)

    def hidden(self) -> Tensor:
        """Return the share of every residual channel in what the layers and the head read. Shapes: [D], float64."""
        energies = [
            sums.score(matrix(module, row)) for (module, row), sums in zip(self._readers, self._reads, strict=True)
        ]
        head = self._model.get_output_embeddings()
        if head is not None and head.weight.shape[1] == len(energies[0]):
            energies.append(self._end.score(head.weight))
        return channel_shares(energies)

    def _outgoing(self, path: str, sums: list[Any]) -> Tensor:
        row = row_of(self._family, path)
        weights = [matrix(layer.get_submodule(path), row) for layer in self._layers]
        return torch.stack([each.score(weight) for each, weight in zip(sums, weights, strict=True)])

    def _reading(self) -> Iterator[tuple[Any, Weight]]:
        """Yield every projection of a layer that reads the residual stream."""
        for layer in self._layers:
            for row in self._family.layer:
                if len(row.axes) == 2 and row.axes[row.incoming] == "hidden":
                    yield layer.get_submodule(row.path), row

    def _hooks(self) -> Iterator[Any]:
        if "layers" in self._wanted:
            for layer, influence in zip(self._layers, self._influences, strict=True):
                yield layer.register_forward_hook(_between(influence.add), with_kwargs=True)
        watched: tuple[tuple[str, str, Sequence[Any]], ...] = (
            ("ffn", self._family.ffn_out, self._columns),
            ("heads", self._family.attention_out, self._heads),
        )
        for axis, path, sums in watched:
            if axis in self._wanted:
                for layer, each in zip(self._layers, sums, strict=True):
                    yield layer.get_submodule(path).register_forward_pre_hook(_entering(each.add))
        for (module, _), reads in zip(self._readers, self._reads, strict=True):
            yield module.register_forward_pre_hook(_entering(reads.add))
        if self._readers:
            yield base_of(self._model, self._family).register_forward_hook(
                lambda _module, _args, output: self._end.add(output[0])
            )


def _between(add: Callable[[Tensor, Tensor], None]) -> Callable[..., None]:
    def see(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        add(stream_in(args, kwargs), stream_out(output))

    return see


def _entering(add: Callable[[Tensor], None]) -> Callable[..., None]:
    def see(_module: Any, args: tuple[Any, ...]) -> None:
        add(args[0])

    return see
