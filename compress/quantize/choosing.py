"""`bits: {budget: …}` and `size_mb`: the grid of each weight chosen by what rounding it costs the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from compress.contract import Json, Progress
from compress.errors import StageError
from compress.models.scheme import Scheme, stored_bytes, weight_class
from compress.quantize.choose import Candidate, choose
from compress.quantize.facts import significant
from compress.quantize.fisher import measure_curvature
from compress.quantize.open_grids import allowed_bytes, grids_of
from compress.quantize.options import QuantizeOptions
from compress.quantize.schemes import Assignment, Matrix
from compress.quantize.sensitivity import Weights, estimated, measured

RECORD = "sensitivity.json"


@dataclass(frozen=True)
class Text:
    """Calibration windows, and the seed of what is drawn. Shapes: ids [N, T]."""

    ids: Tensor
    seed: int


class Choice:
    """What can be chosen for the weights of a model.

    A weight that is no linear layer, embedding or head keeps what the options say of all: nothing is known of what it costs.
    So does one whose inputs are rounded: it has one grid.
    """

    def __init__(self, model: Any, weights: Weights, matrices: Sequence[Matrix], assignment: Assignment) -> None:
        self._model, self._weights = model, weights
        self._matrices, self._assignment = matrices, assignment

    def make(self, options: QuantizeOptions, text: Text, progress: Progress) -> Json:
        """Return the record of the choice, as it is written to sensitivity.json.

        Raises StageError where even the smallest choice is larger than what is asked for.
        """
        curvature = measure_curvature(self._model, text.ids, text.seed, linears=True, progress=progress)
        known = {*curvature.diagonals, self._weights.embedding, self._weights.head}
        grids = {
            matrix.name: grids_of(options, matrix, self._assignment.schemes[matrix.name])
            for matrix in self._matrices
            if matrix.name in known and self._is_open(matrix)
        }
        costs = estimated(self._weights, grids, curvature)
        if options.sensitivity == "kl":
            costs = measured(self._model, self._weights, grids, text.ids, costs, progress)
        fixed = {name: scheme for name, scheme in self._assignment.schemes.items() if name not in grids}
        vectors = sum(weight.numel() for weight in self._model.parameters() if weight.ndim < 2)
        limit = allowed_bytes(options, self._matrices, self._assignment, vectors) - sum(
            stored_bytes(scheme) for scheme in fixed.values()
        )
        if limit < 0:
            raise StageError(
                f"quantize: what is not chosen takes {-limit:,} bytes more than are allowed; allow more, or leave fewer weights in float"
            )
        candidates = [
            [Candidate(stored_bytes(scheme), cost) for scheme, cost in zip(grids[name], costs[name], strict=True)]
            for name in grids
        ]
        try:
            found = choose(candidates, limit)
        except ValueError as error:
            raise StageError(f"quantize: {error}; allow more, or leave fewer weights in float") from error
        return _record(options.sensitivity, grids, costs, dict(zip(grids, found, strict=True)))

    def _is_open(self, matrix: Matrix) -> bool:
        scheme = self._assignment.schemes.get(matrix.name)
        return scheme is not None and scheme.activations == "none"


def schemes_of(record: Json, before: Mapping[str, Scheme]) -> dict[str, Scheme]:
    """Return the schemes with what the record of a choice says of them."""
    said = {entry["name"]: {key: entry[key] for key in ("bits", "block", "symmetric")} for entry in record["weights"]}
    return {name: replace(scheme, **said.get(name, {})) for name, scheme in before.items()}


def _record(
    sensitivity: str,
    grids: Mapping[str, Sequence[Scheme]],
    costs: Mapping[str, Sequence[float]],
    found: Mapping[str, int],
) -> Json:
    """`kl` is in nats a token, of the weight alone; by `bits/block`."""
    entries = [
        {
            "name": name,
            "class": weight_class(name),
            "shape": list(schemes[0].shape),
            "bits": schemes[found[name]].bits,
            "block": schemes[found[name]].block,
            "symmetric": schemes[found[name]].symmetric,
            "kl": {
                f"{scheme.bits}/{scheme.block}": significant(cost)
                for scheme, cost in zip(schemes, costs[name], strict=True)
            },
        }
        for name, schemes in grids.items()
    ]
    total = sum(costs[name][at] for name, at in found.items())
    return {"sensitivity": sensitivity, "kl_of_choice": significant(total), "weights": entries}
