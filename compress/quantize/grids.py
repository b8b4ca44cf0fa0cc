"""The grids that weights are put on, with the ranges of inputs that are known, and what is stored of a rounded weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compress.contract import Progress
from compress.errors import StageError
from compress.models.layers import hooked
from compress.models.quantized import QuantizedWeight, store
from compress.models.scheme import Scheme
from compress.quantize.rtn import Rounded

# Windows whose inputs say the range of static activations.
_WINDOWS = 64
_BATCH = 8

Range = tuple[float, float]


@dataclass(frozen=True)
class Grids:
    """Schemes by weight name, and the lowest and highest input of those whose activations are static."""

    schemes: Mapping[str, Scheme]
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def stored(self, name: str, rounded: Rounded) -> QuantizedWeight:
        """Return a rounded weight as it is stored."""
        scheme = self.schemes[name]
        zeros = None if scheme.symmetric else rounded.zeros.cpu().numpy()
        return store(scheme, rounded.codes.cpu().numpy(), rounded.scales.cpu().numpy(), zeros, self.ranges.get(name))


def measure_ranges(model: Any, schemes: Mapping[str, Scheme], ids: Tensor, progress: Progress) -> dict[str, Range]:
    """Return the lowest and highest input of every weight whose activations are static. Shapes: ids [N, T].

    Raises StageError where one is not finite, and for a weight that no linear layer multiplies its input with.
    """
    wanted = {name for name, scheme in schemes.items() if scheme.activations == "static"}
    if not wanted:
        return {}
    names: dict[int, str] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), name)
    found: dict[str, Range] = {}

    def note(name: str) -> Callable[[Any, tuple[Tensor, ...]], None]:
        def see(_module: Any, args: tuple[Tensor, ...]) -> None:
            low, high = found.get(name, (0.0, 0.0))
            lowest, highest = float(args[0].min()), float(args[0].max())
            if not (math.isfinite(lowest) and math.isfinite(highest)):
                raise StageError(
                    f"{name}: gets inputs that are not finite; the model or the calibration text is damaged"
                )
            found[name] = min(low, lowest), max(high, highest)

        return see

    def hooks() -> Iterator[Any]:
        for module in model.modules():
            name = names.get(id(getattr(module, "weight", None)), "")
            if name in wanted and isinstance(module, torch.nn.Linear):
                yield module.register_forward_pre_hook(note(name))

    with hooked(hooks()), torch.no_grad():
        total = min(len(ids), _WINDOWS)
        for done, batch in enumerate(torch.split(ids[:_WINDOWS], _BATCH)):
            model(input_ids=batch.to(model.device), use_cache=False)
            progress(min((done + 1) * _BATCH, total), total, "windows", "ranges of inputs")
    if missing := sorted(wanted - found.keys()):
        raise StageError(
            f"{missing[0]}: no linear layer multiplies an input with it, so that its activations cannot be static ({len(missing)} such "
            "weights); say activations: none of it (weights), or leave it out"
        )
    return found
