"""A student with some of the teacher's layers, one out of n: DistilBERT's way to begin."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compress.contract import Json
from compress.models.families import Config, parameters_of, shape_of
from compress.models.folder import load_model, read_config, save_model
from compress.models.pruning_record import write_record
from compress.models.skeleton import empty_model
from compress.models.student import every_config, layers_kept

_SCORE = "every"


def take_layers(teacher: Path, every: int, folder: Path) -> Json:
    """Write the teacher with its layers 0, n, 2n, ... alone into `folder`; all else is copied. Return what was kept, for the report.

    Each layer keeps its kind, sliding or full attention say, whatever number it has now. The layers kept are also written into
    pruning.safetensors; they were not scored.

    Paper: Sanh et al., arXiv 1910.01108, section 2; see layers_kept for which layers.
    Memory: the teacher in float32; the student shares its tensors.

    Raises ValueError where the teacher's layers cannot be taken.
    """
    every_config(every, read_config(teacher))
    source = load_model(teacher)
    # the whole config, with what config.json leaves to the class: which kind each layer is
    config = source.config.to_dict()
    layers = shape_of(config).layers
    kept = layers_kept(every, layers)
    model = _filled(source, every_config(every, config), kept)
    chosen = np.isin(np.arange(layers), kept)
    write_record(folder, {"layers": np.full(layers, np.nan)}, {"layers": chosen}, {"layers": _SCORE})
    save_model(model, folder, teacher)
    return {"layers": {"before": layers, "after": len(kept), "kept": kept}}


def _filled(source: Any, config: dict[str, Any], kept: list[int]) -> Any:
    model = empty_model(config)
    own, others = _names_by_layer(config), _names_by_layer(source.config.to_dict())
    for position, index in [(None, None), *enumerate(kept)]:
        for name, other in zip(own[position], others[index], strict=True):
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, nn.Parameter(source.get_parameter(other).detach()))
    model.tie_weights()
    if empty := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise ValueError(f"the family table says nothing of {', '.join(empty[:3])}, which cannot be copied")
    if getattr(source, "generation_config", None) is not None:
        model.generation_config = copy.deepcopy(source.generation_config)
    return model


def _names_by_layer(config: Config) -> dict[int | None, list[str]]:
    """Return the names of the parameters that are no other's, of each layer and (None) outside, in the table's order."""
    found: dict[int | None, list[str]] = {None: []}
    for parameter in parameters_of(config):
        if not parameter.shared:
            found.setdefault(parameter.layer, []).append(parameter.name)
    return found
