"""pruning.safetensors: the scores by which `prune` cut a model, and which parts it kept. Imports no torch.

For each axis that was cut, with the sizes before the cut:

scores.AXIS  float  layers [L], ffn [L, F], heads [L, H], hidden [D], vocab [V]; NaN for what was not scored
kept.AXIS    bool   the same shape; all False in the rows of a removed layer
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from compress.errors import ArtifactError

FILE = "pruning.safetensors"
AXES = ("layers", "ffn", "heads", "hidden", "vocab")
_BY_LAYER = ("ffn", "heads")
# One key only: safetensors writes several in an order that changes from run to run.
_METADATA = "score"


@dataclass(frozen=True)
class AxisRecord:
    """What was kept along one axis, by a score with this name. Shapes: see the top of the file; both the same."""

    score: str
    scores: npt.NDArray[np.floating[Any]]
    kept: npt.NDArray[np.bool_]


Record = dict[str, AxisRecord]


def write_record(
    folder: Path, scores: Mapping[str, npt.ArrayLike], kept: Mapping[str, npt.ArrayLike], names: Mapping[str, str]
) -> Path:
    """Write pruning.safetensors. The arguments are by axis: arrays, or torch tensors on the CPU. The bytes are repeatable.

    Raises ValueError for an unknown axis, for axes or shapes that differ, and for scores that are not floating point.
    """
    if not set(scores) == set(kept) == set(names) <= set(AXES):
        raise ValueError(
            f"scores of {sorted(scores)}, kept of {sorted(kept)}, names of {sorted(names)}; axes are {AXES}"
        )
    tensors: dict[str, npt.NDArray[Any]] = {}
    for axis in scores:
        record = AxisRecord(names[axis], np.asarray(scores[axis]), np.asarray(kept[axis]))
        _check(axis, record)
        tensors[f"scores.{axis}"] = np.ascontiguousarray(record.scores)
        tensors[f"kept.{axis}"] = np.ascontiguousarray(record.kept)
    path = folder / FILE
    save_file(tensors, path, metadata={_METADATA: json.dumps(dict(names), sort_keys=True, separators=(",", ":"))})
    return path


def read_record(folder: Path) -> Record | None:
    """Return the record of a folder by axis, in the order of AXES; None where the folder has none.

    Raises ArtifactError where the file is there but cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            names = json.loads(file.metadata()[_METADATA])
            record = {
                axis: AxisRecord(str(names[axis]), file.get_tensor(f"scores.{axis}"), file.get_tensor(f"kept.{axis}"))
                for axis in AXES
                if axis in names
            }
        for axis, entry in record.items():
            _check(axis, entry)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(f"{path}: not readable ({error}); prune the model again") from error
    return record


def _check(axis: str, record: AxisRecord) -> None:
    scores, kept = record.scores, record.kept
    dimensions = 2 if axis in _BY_LAYER else 1
    if scores.ndim != dimensions or scores.shape != kept.shape or not scores.size:
        raise ValueError(
            f"{axis}: scores {scores.shape} and kept {kept.shape} need one shape of {dimensions} dimensions"
        )
    if not np.issubdtype(scores.dtype, np.floating) or kept.dtype != np.bool_:
        raise ValueError(f"{axis}: scores are {scores.dtype} and kept is {kept.dtype}; needs floats and bool")
