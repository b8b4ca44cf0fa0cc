"""GPTQ on a whole model: the embedding, then layer by layer, then the head; what is no part of these is rounded to nearest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.contract import Progress
from compress.errors import StageError
from compress.models.families import family_of
from compress.models.quantized import QuantizedWeight, Scheme, store
from compress.quantize.embedding import round_embedding
from compress.quantize.finished import Finished, put
from compress.quantize.fisher import measure_curvature
from compress.quantize.gptq import Settings, gptq
from compress.quantize.layerwise import Layerwise, Method
from compress.quantize.options import QuantizeOptions
from compress.quantize.rtn import Rounded, round_to_nearest

# Windows on which the curvature of the embedding is measured: 128 do what 256 do.
_CURVATURE_WINDOWS = 128


@dataclass(frozen=True)
class Calibration:
    """Text to calibrate on, where what is done is kept, and the seed. Shapes: ids [N, T]."""

    ids: Tensor
    scratch: Path
    seed: int


def round_by_layer(
    model: Any, schemes: Mapping[str, Scheme], options: QuantizeOptions, calibration: Calibration, progress: Progress
) -> dict[str, QuantizedWeight]:
    """Round the weights of these names in place, and return what is stored.

    Raises StageError where a weight or an input is not finite.
    """
    said = options.gptq
    settings = Settings(said.damping, said.activation_order, said.refine)

    def round_one(name: str, weight: Tensor, moments: Tensor) -> QuantizedWeight | None:
        if name not in schemes:
            return None
        scheme = schemes[name]
        return stored(scheme, _checked(name, weight, moments, scheme, settings))

    family = family_of(model.config.to_dict())
    work = Layerwise(model, family, calibration.ids, Method(round_one, said.target))
    finished = Finished(calibration.scratch / "layers")
    embedding, head = embedding_and_head(model)
    if embedding in schemes:
        work.stored |= _embedding(model, embedding, schemes[embedding], settings, calibration, finished)
    work.run(finished, progress)
    if head in schemes and head != embedding:
        work.round_head(head)
    return work.stored | _rest(model, {name: schemes[name] for name in schemes if name not in work.stored})


def embedding_and_head(model: Any) -> tuple[str, str]:
    """Return the names of the input embedding and of the head, the same where they are tied; the head's is empty where there is none."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), name)
    head = model.get_output_embeddings()
    return names[id(model.get_input_embeddings().weight)], "" if head is None else names[id(head.weight)]


def stored(scheme: Scheme, rounded: Rounded) -> QuantizedWeight:
    """Return a rounded weight as it is stored."""
    zeros = None if scheme.symmetric else rounded.zeros.cpu().numpy()
    return store(scheme, rounded.codes.cpu().numpy(), rounded.scales.cpu().numpy(), zeros)


def _checked(name: str, weight: Tensor, moments: Tensor, scheme: Scheme, settings: Settings) -> Rounded:
    try:
        return gptq(weight, moments, (scheme.bits, scheme.block, scheme.symmetric), settings)
    except ValueError as error:
        raise StageError(f"{name}: {error}; the model is damaged, train or load it again") from error


def _embedding(
    model: Any, name: str, scheme: Scheme, settings: Settings, calibration: Calibration, finished: Finished
) -> dict[str, QuantizedWeight]:
    """Round the embedding for its uses; without a head there is no loss to take them from, and it is rounded to nearest."""
    if finished.has("embedding"):
        return finished.read("embedding", model)
    _, head = embedding_and_head(model)
    if not head:
        return {}
    curvature = measure_curvature(model, calibration.ids[:_CURVATURE_WINDOWS], calibration.seed).embedding
    weight = model.get_parameter(name).detach()

    def rows(some: Tensor, moments: Tensor) -> Rounded:
        return _checked(name, some, moments, scheme, settings)

    entry = stored(scheme, round_embedding(weight, curvature, head == name, rows))
    put(weight, entry)
    finished.write("embedding", {name: entry}, {})
    return {name: entry}


def _rest(model: Any, schemes: Mapping[str, Scheme]) -> dict[str, QuantizedWeight]:
    found: dict[str, QuantizedWeight] = {}
    for name, scheme in schemes.items():
        weight = model.get_parameter(name).detach()
        rounded = round_to_nearest(weight, scheme.bits, scheme.block, scheme.symmetric)
        found[name] = stored(scheme, rounded)
        put(weight, found[name])
    return found
