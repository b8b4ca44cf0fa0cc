"""Weights rounded layer by layer on calibration text, each for the inputs that the rounded model gives it.

Two streams run through the model side by side: the float one, which says what should come out, and that of the model rounded so
far. In each layer, in this order: the attention's inputs, its output, the feed-forward's inputs, its output, each seen after
those before it were rounded ("true sequential"). One model is in memory: a layer's float traces are taken before its weights change.

A layer that is done is written to `scratch`; a run that was stopped reads the layers that are there and goes on with the next.

Memory: the model, and of the calibration text 28 bytes for each token and channel and 4 for each token and feed-forward column
(up to 36 and 4 where norms stand behind projections); one layer's moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from compress.contract import Progress
from compress.errors import StageError
from compress.models.families import family_of
from compress.models.family import Family, Weight
from compress.models.layers import base_of, layers_of
from compress.models.quantized import QuantizedWeight
from compress.models.streams import Call, Trace, first_streams, forward, layer_calls, whole_batches
from compress.quantize.finished import Finished, put
from compress.quantize.targets import Moments, moved

Target = Literal["stream", "own"]
# (name of a weight, float weight [N, K], moments [K, K]) -> what is stored, or None where it stays in float.
Round = Callable[[str, Tensor, Tensor], QuantizedWeight | None]
# (layer, moments by path of a projection): what changes a layer without changing what it says.
Prepare = Callable[[Any, Mapping[str, Moments]], None]
_ATTENTION_IN = ("q", "kv", "qkv", "qkv_by_head")
_FFN_IN = ("ffn", "gate_up")


@dataclass(frozen=True)
class Method:
    """round    what becomes of a weight
    target   what a weight aims at: the float model's stream, or what its own float weights say of the inputs at hand
    prepare  what is done to a layer before its weights are rounded
    """

    round: Round
    target: Target = "stream"
    prepare: Prepare | None = None


class Layerwise:
    """A model whose layers are rounded one after another. Its weights change in place.

    ids   calibration windows. Shapes: [N, T].
    """

    def __init__(self, model: Any, ids: Tensor, method: Method) -> None:
        family = family_of(model.config.to_dict())
        self._model, self._family, self._method = model, family, method
        self._ids = whole_batches(ids)
        self._layers = layers_of(model, family)
        self._calls: list[Call] = layer_calls(model, family, self._ids)
        self._float = first_streams(model, family, self._ids)
        self._rounded: list[Tensor] = []
        # What the feed-forward's output projection of the layer at hand was given, batch by batch.
        self._seen: list[Trace] = []
        self.stored: dict[str, QuantizedWeight] = {}

    def run(self, finished: Finished, progress: Progress) -> None:
        """Round every layer; call it once the embedding is what it will be."""
        self._rounded = first_streams(self._model, self._family, self._ids)
        for index, layer in enumerate(self._layers):
            name = f"layer-{index:04d}"
            if finished.has(name):
                self._float = [forward(layer, stream, self._calls[index]) for stream in self._float]
                self.stored |= finished.read(name, self._model)
            else:
                found = self._layer(index, layer)
                finished.write(name, found, _others(layer, self._prefix(index), found))
                self.stored |= found
            self._rounded = [self._after(index, layer, batch) for batch in range(len(self._rounded))]
            self._seen = []
            progress(index + 1, len(self._layers), "layers")

    @property
    def gives_head(self) -> bool:
        """Whether the head reads what leaves the last norm: that of a masked language model has layers of its own before it."""
        return self._family.residual != "together"

    def round_head(self, name: str) -> None:
        """Round the head, which reads the last norm; call it after the layers."""
        norm = base_of(self._model, self._family).get_submodule(_last_norm(self._family))
        moments = Moments()
        with torch.no_grad():
            for stream, truth in zip(self._rounded, self._float, strict=True):
                moments.add(norm(stream), norm(truth))
        weight = self._model.get_parameter(name).detach()
        wanted = (
            None if self._method.target == "own" or moments.targets is None else weight @ moments.targets.to(weight)
        )
        self._set(name, weight, moments, wanted)

    def _layer(self, index: int, layer: Any) -> dict[str, QuantizedWeight]:
        family, call, before = self._family, self._calls[index], set(self.stored)
        attention_in, ffn_in = self._reading(_ATTENTION_IN), self._reading(_FFN_IN)
        # The stream after the layer says what the last projection should give, but where a norm stands between.
        ends = (family.attention_out, "" if family.residual == "after" else family.ffn_out)
        outputs = [self._row(path) for path in ends if path]
        given = tuple(rows[0].path for rows in (attention_in, ffn_in) if rows)
        traces = [Trace(layer, stream, call, given, [row.path for row in outputs]) for stream in self._float]
        if self._method.prepare:
            self._method.prepare(layer, self._inputs(index, layer))
        for rows, output in ((attention_in, family.attention_out), (ffn_in, family.ffn_out)):
            if rows:
                self._round_inputs(index, layer, rows, traces)
            if output:
                self._round_output(index, layer, output, traces)
        self._float = [trace.after for trace in traces if trace.after is not None]
        return {name: entry for name, entry in self.stored.items() if name not in before}

    def _inputs(self, index: int, layer: Any) -> dict[str, Moments]:
        """Return the moments of what every projection of a layer reads, in the rounded stream, before the layer is rounded."""
        rows = [
            row for row in self._family.layer if len(row.axes) == 2 and hasattr(layer.get_submodule(row.path), "weight")
        ]
        found = {row.path: Moments() for row in rows}
        for stream in self._rounded:
            trace = Trace(layer, stream, self._calls[index], list(found))
            for path, moments in found.items():
                moments.add(trace.given[path])
        return found

    def _round_inputs(self, index: int, layer: Any, rows: list[Weight], traces: list[Trace]) -> None:
        """Round projections that read one input; they aim at what the float ones say of the float input."""
        path, own = rows[0].path, self._method.target == "own"
        moments = Moments()
        for stream, trace in zip(self._rounded, traces, strict=True):
            seen = Trace(layer, stream, self._calls[index], until=path).given[path]
            moments.add(seen, None if own else trace.given[path])
        for row in rows:
            weight = layer.get_submodule(row.path).weight
            with torch.no_grad():
                wanted = None if moments.targets is None else weight @ moments.targets.to(weight)
            self._set(f"{self._prefix(index)}{row.path}.weight", weight, moments, wanted)

    def _round_output(self, index: int, layer: Any, path: str, traces: list[Trace]) -> None:
        """Round a projection that writes to the stream; it aims at the float stream."""
        module, own = layer.get_submodule(path), self._method.target == "own"
        bias = 0 if module.bias is None else module.bias.detach()
        moments = Moments()
        for batch, (stream, trace) in enumerate(zip(self._rounded, traces, strict=True)):
            given, gave = self._beside(path)
            seen = Trace(layer, stream, self._calls[index], given, gave, until=path)
            moments.add(seen.given[path], None if own else self._aim(path, batch, trace, seen) - bias)
            if path == self._family.ffn_out:
                self._seen.append(seen)
        self._set(f"{self._prefix(index)}{path}.weight", module.weight, moments, moments.targets)

    def _after(self, index: int, layer: Any, batch: int) -> Tensor:
        """Return the rounded stream after a layer that is done; most families need only the last projection for it."""
        stream, call, path = self._rounded[batch], self._calls[index], self._family.ffn_out
        if self._family.residual != "after" or not self._family.attention_out:
            return forward(layer, stream, call)
        given, gave = self._beside(path)
        # A run that goes on after a kill must add up in the same order.
        seen = self._seen[batch] if self._seen else Trace(layer, stream, call, given, gave, until=path)
        with torch.no_grad():
            last: Tensor = layer.get_submodule(path)(seen.given[path])
        return stream + seen.gave[self._family.attention_out] + last.reshape(stream.shape)

    def _beside(self, path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return whose input and output must be seen for the aim of an output projection."""
        if path != self._family.ffn_out:
            return (), ()
        given = (self._reading(_FFN_IN)[0].path,) if self._family.residual == "together" else ()
        return given, (self._family.attention_out,) if self._family.attention_out else ()

    def _aim(self, path: str, batch: int, trace: Trace, seen: Trace) -> Tensor:
        """Return what an output projection should give [B, T, D], for the rounded stream to become the float one."""
        family = self._family
        if family.residual == "norm":
            return trace.gave[path]
        if path == family.attention_out:
            return self._float[batch] + trace.gave[path] - self._rounded[batch]
        if family.residual == "together":
            entering = self._reading(_FFN_IN)[0].path
            return trace.given[entering] + trace.gave[path] - seen.given[entering]
        assert trace.after is not None
        return trace.after - self._rounded[batch] - seen.gave[family.attention_out]

    @torch.no_grad()
    def _set(self, name: str, weight: Tensor, moments: Moments, wanted: Tensor | None) -> None:
        inputs = moments.read()
        if not bool(torch.isfinite(inputs).all()):
            raise StageError(f"{name}: gets inputs that are not finite; the model or the calibration text is damaged")
        target = weight.detach() if wanted is None else moved(weight.detach(), inputs, wanted)
        if entry := self._method.round(name, target, inputs):
            self.stored[name] = entry
            put(weight, entry)

    def _prefix(self, index: int) -> str:
        base = self._family.base
        inside = f"{base}." if hasattr(self._model, base.partition(".")[0]) else ""
        return f"{inside}{self._family.layers}.{index}."

    def _row(self, path: str) -> Weight:
        return next(row for row in self._family.layer if row.path == path)

    def _reading(self, outputs: tuple[str, ...]) -> list[Weight]:
        """Return the rows of a layer's projections that read the residual stream and give one of these axes."""
        matrices = (row for row in self._family.layer if len(row.axes) == 2)
        return [row for row in matrices if row.axes[row.incoming] == "hidden" and row.axes[1 - row.incoming] in outputs]


def _others(layer: Any, prefix: str, stored: Mapping[str, QuantizedWeight]) -> dict[str, Tensor]:
    return {prefix + name: weight for name, weight in layer.named_parameters() if prefix + name not in stored}


def _last_norm(family: Family) -> str:
    return [row.path for row in family.outside if row.kind == "norm"][-1]
