"""Weights rounded on calibration text: the embedding, then layer by layer, then the head; what is none of these to the nearest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress.contract import Progress, silent
from compress.errors import StageError
from compress.models.quantized import QuantizedWeight
from compress.models.scheme import Scheme
from compress.quantize.autoround import autoround
from compress.quantize.embedding import round_embedding
from compress.quantize.finished import Finished, put
from compress.quantize.fisher import measure_curvature
from compress.quantize.gptq import Settings, gptq
from compress.quantize.grids import Grids
from compress.quantize.layerwise import Layerwise, Method
from compress.quantize.options import QuantizeOptions
from compress.quantize.rtn import Rounded, round_to_nearest
from compress.quantize.scaling import Awq

# Tokens on which the curvature of the embedding is measured: more than these change its codes little, and take a backward pass each.
_CURVATURE_TOKENS = 1 << 13

# (name, weight [N, K], moments of its inputs [K, K]) -> its codes.
RoundOne = Callable[[str, Tensor, Tensor], Rounded]


@dataclass(frozen=True)
class Calibration:
    """Text to calibrate on, the folder of the model, where what is done is kept, and the seed. Shapes: ids [N, T]."""

    ids: Tensor
    source: Path
    scratch: Path
    seed: int


def round_on_text(
    model: Any, grids: Grids, options: QuantizeOptions, calibration: Calibration, progress: Progress
) -> dict[str, QuantizedWeight]:
    """Round the weights of these grids in place by gptq, awq or autoround, and return what is stored.

    Raises StageError where a weight or an input is not finite.
    """
    schemes, finished = grids.schemes, Finished(calibration.scratch / "layers")
    one = _round_one(options, schemes)

    def round_weight(name: str, weight: Tensor, moments: Tensor) -> QuantizedWeight | None:
        return grids.stored(name, one(name, weight, moments)) if name in schemes else None

    prepare = Awq(model, schemes).prepare if options.method == "awq" else None
    target = options.gptq.target if options.method == "gptq" else "own"
    done: dict[str, QuantizedWeight] = {}
    work = (
        Layerwise(model, calibration.ids, Method(round_weight, target, prepare))
        if options.method != "autoround"
        else None
    )
    embedding, head = embedding_and_head(model)
    if embedding in schemes:
        done |= _embedding(model, grids, one, calibration, finished)
    if work is None:
        done |= _autoround(model, grids, options, calibration, finished)
    else:
        work.run(finished, progress)
        if head in schemes and head != embedding and work.gives_head:
            work.round_head(head)
        done |= work.stored
    return done | to_nearest(model, grids, [name for name in schemes if name not in done])


def embedding_and_head(model: Any) -> tuple[str, str]:
    """Return the names of the input embedding and of the head, the same where they are tied; the head's is empty where there is none."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), name)
    head = model.get_output_embeddings()
    return names[id(model.get_input_embeddings().weight)], "" if head is None else names[id(head.weight)]


def to_nearest(
    model: Any, grids: Grids, names: Sequence[str], progress: Progress = silent
) -> dict[str, QuantizedWeight]:
    """Round weights to the nearest value, in place, and return what is stored.

    Raises StageError where a weight is not finite.
    """
    found: dict[str, QuantizedWeight] = {}
    weights = {name: model.get_parameter(name).detach() for name in names}
    total, done = sum(weight.numel() for weight in weights.values()), 0
    for name, weight in weights.items():
        scheme = grids.schemes[name]
        with _explained(name):
            rounded = round_to_nearest(weight, scheme.bits, scheme.block, scheme.symmetric)
        found[name] = grids.stored(name, rounded)
        put(weight, found[name])
        done += weight.numel()
        progress(done, total, "weights", name)
    return found


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise StageError(f"{name}: {error}; the model is damaged, train or load it again") from error


def _round_one(options: QuantizeOptions, schemes: Mapping[str, Scheme]) -> RoundOne:
    settings = Settings(options.gptq.damping, options.gptq.activation_order, options.gptq.refine)

    def one(name: str, weight: Tensor, moments: Tensor) -> Rounded:
        scheme = schemes[name]
        grid = (scheme.bits, scheme.block, scheme.symmetric)
        with _explained(name):
            if options.method == "awq":
                return round_to_nearest(weight, *grid, moments.diagonal())
            return gptq(weight, moments, grid, settings)

    return one


def _embedding(
    model: Any, grids: Grids, one: RoundOne, calibration: Calibration, finished: Finished
) -> dict[str, QuantizedWeight]:
    """Round the embedding for its uses; without a head there is no loss to take them from, and it is rounded to nearest."""
    name, head = embedding_and_head(model)
    if finished.has("embedding"):
        return finished.read("embedding", model)
    if not head:
        return {}
    windows = max(1, _CURVATURE_TOKENS // calibration.ids.shape[1])
    curvature = measure_curvature(model, calibration.ids[:windows], calibration.seed).embedding
    weight = model.get_parameter(name).detach()
    entry = grids.stored(
        name, round_embedding(weight, curvature, head == name, lambda rows, seen: one(name, rows, seen))
    )
    put(weight, entry)
    finished.write("embedding", {name: entry}, {})
    return {name: entry}


def _autoround(
    model: Any, grids: Grids, options: QuantizeOptions, calibration: Calibration, finished: Finished
) -> dict[str, QuantizedWeight]:
    """Round what AutoRound knows: projections of the layers, and a head of its own."""
    if finished.has("autoround"):
        return finished.read("autoround", model)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    schemes = {name: scheme for name, scheme in grids.schemes.items() if id(model.get_parameter(name)) not in tables}
    if not schemes:
        return {}
    rounded = autoround(calibration.source, calibration.ids, schemes, calibration.seed, options.autoround.iterations)
    found = {name: grids.stored(name, each) for name, each in rounded.items()}
    for name, entry in found.items():
        put(model.get_parameter(name), entry)
    finished.write("autoround", found, {})
    return found
