"""Least-squares repair: the projections of a cut model are fitted again, layer by layer, to what the uncut model does.

In each layer, in this order: the attention's inputs, its output, the feed-forward's inputs, its output. An input projection
is fitted to give what the uncut one gives on the uncut stream; an output projection to bring the cut model's stream to the
uncut one, so that errors of earlier layers are corrected instead of carried on (behind a norm of its own, as in Gemma, to give
what the uncut one gives). Each fit reads what the cut model, repaired so far, really sees. No gradient is taken.

Memory: both streams and what one layer sees, about 40 bytes for each calibration token and channel.

Paper: He et al., arXiv 1707.06168, section 3.1 (least-squares reconstruction after channel selection, whole model by following
the cut model's inputs). Departures: the target of an output projection is the uncut residual stream, input projections are
fitted too, and a ridge holds every fit to the cut weights. On stories3M, ffn 512 -> 341, perplexity of held-out training text:
output of the projection itself as target 10.27, stream as target 9.02, input projections too 8.81.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from compress.contract import Progress
from compress.models.families import family_of
from compress.models.family import Weight
from compress.models.layers import layers_of, matrix, row_of
from compress.models.streams import Call, Trace, first_streams, forward, layer_calls, whole_batches
from compress.prune.cut import Cut
from compress.prune.gauss_newton import FeedForward, refined
from compress.prune.least_squares import Moments, as_rows

# One token in this many says how long a Gauss-Newton step is.
_HELD_OUT = 8
_ATTENTION_IN = ("q", "kv", "qkv", "qkv_by_head")
_FFN_IN = ("ffn", "gate_up")


class Repair:
    """A repair at work: the streams of the uncut and of the cut model, after the layers done so far, batch by batch.

    uncut_ids, cut_ids   the same text as token ids of either model. Shapes: [N, T].
    through_activation   whether the feed-forward's inputs take a Gauss-Newton step, then its output is fitted once more
    """

    def __init__(self, cut: Cut, uncut_ids: Tensor, cut_ids: Tensor, through_activation: bool) -> None:
        self._cut, self._family = cut, family_of(cut.config)
        self._through_activation = through_activation
        uncut_ids, cut_ids = whole_batches(uncut_ids), whole_batches(cut_ids)
        self._calls: list[Call] = layer_calls(cut.uncut, self._family, uncut_ids)
        self._uncut_layers = layers_of(cut.uncut, self._family)
        self._uncut = first_streams(cut.uncut, self._family, uncut_ids)
        cut.fill_outside()
        self._stream = first_streams(cut.model, self._family, cut_ids)

    def run(self, progress: Progress) -> Any:
        """Fill and repair every layer, and return the cut model."""
        kept, total = self._cut.layers, self._cut.before.layers
        self._pass_over(range(kept[0]))
        for position, index in enumerate(kept):
            following = [*kept, total][position + 1]
            self._layer(position, index, range(index + 1, following))
            progress(following, total, "layers")
        return self._cut.model

    def _pass_over(self, dropped: range) -> None:
        for index in dropped:
            layer, call = self._uncut_layers[index], self._calls[index]
            self._uncut = [forward(layer, stream, call) for stream in self._uncut]
            self._cut.release(index)

    def _layer(self, position: int, index: int, dropped: range) -> None:
        """Fill the layer at `position` from the uncut one at `index`, and repair it; the layers after that are dropped."""
        family, call, uncut = self._family, self._calls[index], self._uncut_layers[index]
        attention_in, ffn_in = self._reading(_ATTENTION_IN), self._reading(_FFN_IN)
        given, gave = (attention_in[0].path, ffn_in[0].path), (family.attention_out, family.ffn_out)
        before = self._uncut
        traces = [Trace(uncut, stream, call, given, gave) for stream in before]
        self._uncut = [trace.after for trace in traces if trace.after is not None]
        self._cut.fill_layer(position)
        originals = {row.path: _with_bias(uncut.get_submodule(row.path), row) for row in (*attention_in, *ffn_in)}
        self._cut.release(index)
        self._pass_over(dropped)
        layer = layers_of(self._cut.model, family)[position]
        self._fit_inputs(layer, position, attention_in, originals, traces, call)
        self._fit_output(layer, family.attention_out, self._attention_targets(before, traces), call)
        self._fit_inputs(layer, position, ffn_in, originals, traces, call)
        targets = self._ffn_targets(traces)
        self._fit_output(layer, family.ffn_out, targets, call)
        if self._through_activation:
            self._refine(layer, targets, call)
            self._fit_output(layer, family.ffn_out, targets, call)
        self._stream = [forward(layer, stream, call) for stream in self._stream]

    def _reading(self, outputs: tuple[str, ...]) -> list[Weight]:
        """Return the rows of a layer's projections that read the residual stream and give one of these axes."""
        matrices = (row for row in self._family.layer if len(row.axes) == 2)
        return [row for row in matrices if row.axes[row.incoming] == "hidden" and row.axes[1 - row.incoming] in outputs]

    def _fit_inputs(
        self,
        layer: Any,
        position: int,
        rows: list[Weight],
        originals: dict[str, Tensor],
        traces: list[Trace],
        call: Call,
    ) -> None:
        """Fit projections that read the same input to give what the uncut ones give for the uncut stream."""
        path = rows[0].path
        biased = layer.get_submodule(path).bias is not None
        moments = Moments(biased)
        for stream, trace in zip(self._stream, traces, strict=True):
            moments.add(Trace(layer, stream, call, until=path).given[path], trace.given[path], biased)
        for row in rows:
            module = layer.get_submodule(row.path)
            index = self._cut.index(row.axes[1 - row.incoming], position)
            original = originals[row.path] if index is None else originals[row.path][index]
            _set(module, row, moments.fit(_with_bias(module, row), original))

    def _fit_output(self, layer: Any, path: str, targets: Any, call: Call) -> None:
        """Fit a projection that writes to the stream; `targets(batch, trace)` says what it should give."""
        row, module = row_of(self._family, path), layer.get_submodule(path)
        moments = Moments(module.bias is not None)
        for batch, trace in self._traces(layer, path, call):
            moments.add(trace.given[path], targets(batch, trace))
        _set(module, row, moments.fit(_with_bias(module, row)))

    def _traces(self, layer: Any, path: str, call: Call) -> Iterator[tuple[int, Trace]]:
        """Yield what the cut model's layer sees up to the projection at `path`, batch by batch."""
        given: tuple[str, ...] = ()
        gave: tuple[str, ...] = ()
        if path == self._family.ffn_out:
            given, gave = (self._reading(_FFN_IN)[0].path,), (self._family.attention_out,)
        for batch, stream in enumerate(self._stream):
            yield batch, Trace(layer, stream, call, given, gave, until=path)

    def _refine(self, layer: Any, targets: Any, call: Call) -> None:
        """Move the feed-forward's inputs by a Gauss-Newton step."""
        family, rows = self._family, self._reading(_FFN_IN)
        first, out = layer.get_submodule(rows[0].path), layer.get_submodule(family.ffn_out)
        inputs, wanted = [], []
        for batch, trace in self._traces(layer, family.ffn_out, call):
            inputs.append(as_rows(trace.given[rows[0].path], first.bias is not None))
            constant = 0 if out.bias is None else out.bias.detach()
            wanted.append((targets(batch, trace) - constant).flatten(0, -2))
        weights = [_with_bias(layer.get_submodule(row.path), row) for row in rows]
        fused = rows[0].axes[1 - rows[0].incoming] == "gate_up"
        matrices = tuple(weights[0].chunk(2)) if fused else tuple(weights)
        activation = ACT2FN[self._cut.config[family.activation]]
        ffn = FeedForward(matrices, matrix(out, row_of(family, family.ffn_out)), activation)
        held_out = max(1, sum(len(rows) for rows in inputs) // _HELD_OUT)
        better = refined(ffn, torch.cat(inputs), torch.cat(wanted), held_out).inputs
        fitted = [torch.cat(better)] if fused else list(better)
        for row, weight in zip(rows, fitted, strict=True):
            _set(layer.get_submodule(row.path), row, weight)

    def _attention_targets(self, before: list[Tensor], traces: list[Trace]) -> Any:
        out = self._family.attention_out

        def targets(batch: int, _trace: Trace) -> Tensor:
            gave = traces[batch].gave[out]
            if self._family.residual == "norm":
                return self._channels(gave)
            return self._channels(before[batch] + gave) - self._stream[batch]

        return targets

    def _ffn_targets(self, traces: list[Trace]) -> Any:
        family = self._family
        ffn_in = self._reading(_FFN_IN)[0].path

        def targets(batch: int, trace: Trace) -> Tensor:
            gave = traces[batch].gave[family.ffn_out]
            if family.residual == "norm":
                return self._channels(gave)
            if family.residual == "together":
                return self._channels(traces[batch].given[ffn_in] + gave) - trace.given[ffn_in]
            return self._channels(self._uncut[batch]) - self._stream[batch] - trace.gave[family.attention_out]

        return targets

    def _channels(self, stream: Tensor) -> Tensor:
        index = self._cut.index("hidden", 0)
        return stream if index is None else stream[..., index.to(stream.device)]


def _with_bias(module: Any, row: Weight) -> Tensor:
    """Return weight and bias as one matrix. Shapes: [out, in], or [out, in + 1] with a bias."""
    weight = matrix(module, row)
    bias = module.bias
    return weight if bias is None else torch.cat([weight, bias.detach()[:, None]], 1)


def _set(module: Any, row: Weight, fitted: Tensor) -> None:
    kept: Tensor = module.weight
    fitted = fitted.to(kept.device, kept.dtype)
    if module.bias is not None:
        module.bias = nn.Parameter(fitted[:, -1].contiguous())
        fitted = fitted[:, :-1]
    module.weight = nn.Parameter((fitted if row.incoming == 1 else fitted.T).contiguous())
