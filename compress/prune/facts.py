"""What artifact.json and the report say of a cut. Follows from the inputs alone."""

from __future__ import annotations

from typing import Any

from compress.contract import Json
from compress.models.families import Shape, count_parameters
from compress.prune.rounds import Tally

_DIGITS = 6
_SIZES = {"layers": "layers", "ffn": "ffn", "heads": "heads", "hidden": "hidden", "vocab": "vocabulary"}


def facts_of(
    tally: Tally, names: dict[str, str], before: dict[str, Any], after: dict[str, Any], sizes: tuple[Shape, Shape]
) -> Json:
    """Return, for each axis that was cut, its score's name, its sizes and what was kept; and parameters by class.

    kept_share is the share (0-1) of the scores' sum that is kept: of squared scores for ffn and heads, layer by layer.
    """
    facts: Json = {}
    for axis, name in names.items():
        old, new = (getattr(shape, _SIZES[axis]) for shape in sizes)
        facts[axis] = {"score": name, "before": old, "after": new}
        scores, kept = tally.scores[axis], tally.kept(axis)
        if axis == "layers":
            removed = [index for index in range(old) if index not in tally.layers]
            facts[axis] |= {"kept": tally.layers, "removed": removed, "scores": _rounded(scores.tolist())}
        elif axis in ("ffn", "heads"):
            rows = [(scores[layer].nan_to_num().square(), kept[layer]) for layer in tally.layers]
            facts[axis]["kept_share"] = _rounded([_share(squares, mine) for squares, mine in rows])
        else:
            facts[axis]["kept_share"] = _rounded([_share(scores.nan_to_num(), kept)])[0]
    if sizes[0].kv_heads != sizes[1].kv_heads:
        facts["heads"] |= {"kv_heads_before": sizes[0].kv_heads, "kv_heads_after": sizes[1].kv_heads}
    facts["parameters"] = {"before": by_class(before), "after": by_class(after)}
    return facts


def by_class(config: dict[str, Any]) -> dict[str, int]:
    """Return the number of parameters by class, and their total."""
    counts = count_parameters(config)
    return {**counts, "total": sum(counts.values())}


def _share(weights: Any, kept: Any) -> float:
    total = float(weights.sum())
    return float(weights[kept].sum()) / total if total else 1.0


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]
