"""Channel scales searched and folded over a whole model: SmoothQuant before 8-bit activations, AWQ before rounding.

The folds change no output of the model, so that the float stream of calibration text is the same before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from compress.contract import Progress
from compress.errors import StageError
from compress.models.families import family_of
from compress.models.folding import ScalingGroup, fold, groups_of, tie
from compress.models.grid import Grid, in_blocks, max_abs_grid, min_max_grid, round_to_codes, values
from compress.models.layers import layers_of
from compress.models.rounded_inputs import rounded_by_row, rounded_in_blocks
from compress.models.scheme import Scheme
from compress.models.streams import Trace, batch_size, first_streams, layer_calls
from compress.quantize import awq, smooth
from compress.quantize.rtn import round_to_nearest
from compress.quantize.targets import Moments

# Windows that the search looks at, each a call of its own: on stories3M 8 cost 1.26 % of perplexity, 2 cost 1.46 %.
_WINDOWS = 8

Rounded = Callable[[Tensor], Tensor]


def smooth_model(
    model: Any, schemes: Mapping[str, Scheme], ids: Tensor, progress: Progress, in_blocks: bool = False
) -> None:
    """Fold, in place, the scales that suit weights whose inputs are rounded to 8 bits.

    Inputs whose readers all have activations `none` are left alone; with `in_blocks` they are smoothed for the rounding that ONNX
    Runtime makes by itself, in the blocks of the weights. Shapes: ids [N, T]. Memory: one layer's inputs of 8 windows.
    Raises StageError where an input is not finite.
    """
    config = model.config.to_dict()
    family = family_of(config)
    groups = groups_of(family, config)
    schemes = {name: scheme for name, scheme in schemes.items() if in_blocks or scheme.activations != "none"}
    ids = ids[: batch_size(min(len(ids), _WINDOWS))]
    calls, (stream,) = layer_calls(model, family, ids), first_streams(model, family, ids)
    names = {id(module): name for name, module in model.named_modules()}
    layers = layers_of(model, family)
    for index, layer in enumerate(layers):
        inside = [group for group in groups if group.inside == "layer"]
        trace = Trace(layer, stream, calls[index], [group.consumers[0] for group in inside])
        for group in inside:
            given = trace.given[group.consumers[0]]
            # OPT's feed-forward is given all tokens of a batch in a row.
            _smooth(layer, group, given.reshape(len(stream), -1, given.shape[-1]), (schemes, names))
        assert trace.after is not None
        stream = trace.after
        progress(index + 1, len(layers), "layers", "channel scales")
    for group in (group for group in groups if group.inside == "model"):
        norm = model.get_submodule(group.producer)
        with torch.no_grad():
            _smooth(model, group, norm(stream), (schemes, names))


def _smooth(
    inside: Any, group: ScalingGroup, inputs: Tensor, known: tuple[Mapping[str, Scheme], Mapping[int, str]]
) -> None:
    schemes, names = known
    modules = [inside.get_submodule(path) for path in group.consumers]
    found = [schemes.get(f"{names[id(module)]}.weight") for module in modules]
    rounded = [(module, scheme) for module, scheme in zip(modules, found, strict=True) if scheme is not None]
    if not rounded:
        return
    _, scheme = rounded[0]
    # A range that is known holds all calls together.
    static = scheme.activations == "static"
    try:
        scales = smooth.search_scales(
            [module.weight for module, _ in rounded],
            inputs.flatten(0, 1)[None] if static else inputs,
            smooth.Rounding(plain_values(scheme), smooth.by_call if static else rounding_of(scheme)),
            lambda scales: tie(scales, group),
        )
    except ValueError as error:
        raise StageError(f"{names[id(modules[0])]}: {error}; the model or the calibration text is damaged") from error
    fold(inside, group, scales)


def rounding_of(scheme: Scheme) -> Rounded:
    """Return what becomes of inputs by token, or in the blocks of weights whose activations are the runtime's."""
    if scheme.activations == "dynamic":
        return rounded_by_row
    return lambda inputs: rounded_in_blocks(inputs, scheme.block)


def plain_values(scheme: Scheme) -> Rounded:
    """Return what rounds a matrix [n, K] on a scheme's plain grid: of 8 bits as good as the searched one, and many times quicker."""

    def values_of(weight: Tensor) -> Tensor:
        blocks = in_blocks(weight, scheme.block)
        grid = max_abs_grid(blocks, scheme.bits) if scheme.symmetric else min_max_grid(blocks, scheme.bits)
        return values(round_to_codes(blocks, grid), grid).flatten(1)[:, : weight.shape[1]]

    return values_of


def rounded_values(scheme: Scheme) -> Rounded:
    """Return what makes of a matrix [n, K] its values on the grid of a scheme."""

    def values_of(weight: Tensor) -> Tensor:
        found = round_to_nearest(weight, scheme.bits, scheme.block, scheme.symmetric)
        grid = Grid(scheme.bits, found.scales, found.zeros.float())
        return values(found.codes.float(), grid).flatten(1)[:, : weight.shape[1]]

    return values_of


class Awq:
    """AWQ's scales for a layer, folded in before its weights are rounded."""

    def __init__(self, model: Any, schemes: Mapping[str, Scheme]) -> None:
        config = model.config.to_dict()
        self._groups = [group for group in groups_of(family_of(config), config) if group.inside == "layer"]
        self._schemes = schemes
        self._names = {id(module): name for name, module in model.named_modules()}

    def prepare(self, layer: Any, inputs: Mapping[str, Moments]) -> None:
        """Search and fold the scales of every group of a layer; `inputs` are the moments of what its projections read.

        Raises StageError where a weight or an input is not finite.
        """
        for group in self._groups:
            modules = [layer.get_submodule(path) for path in group.consumers]
            found = [(module, self._schemes.get(f"{self._names[id(module)]}.weight")) for module in modules]
            rounded = [(module, scheme) for module, scheme in found if scheme is not None]
            if not rounded:
                continue
            moments = inputs[group.consumers[0]]
            try:
                scales = awq.search_scales(
                    [module.weight for module, _ in rounded],
                    moments.read(),
                    moments.mean_sizes(),
                    rounded_values(rounded[0][1]),
                    lambda scales, group=group: tie(scales, group),  # type: ignore[misc]
                )
            except ValueError as error:
                raise StageError(
                    f"{self._names[id(modules[0])]}: {error}; the model or the calibration text is damaged"
                ) from error
            fold(layer, group, scales)
