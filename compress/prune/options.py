"""Options of the verb `prune`, and what they make of a config. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from compress.data.options import Windows
from compress.models.families import cut_config, family_of, shape_of
from compress.options import Options, must_be

# An integer is a count, a float a fraction; the fraction must leave something.
Amount = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)],
    must_be("a count such as 1, or a fraction such as 0.25"),
]

# A fraction of a width of at least _ROUNDED_FROM keeps a multiple of _MULTIPLE columns: runtimes multiply those fast.
_MULTIPLE = 8
_ROUNDED_FROM = 64


class Removal(Options):
    """How much of each axis is removed: an integer is a count, a float in (0, 1) a fraction."""

    layers: Amount | None = Field(None, description="whole decoder layers, those with the least block influence first")
    ffn: Amount | None = Field(
        None,
        description="columns of every feed-forward layer, those with the least activation first; "
        f"a count is exact, a fraction keeps the nearest multiple of {_MULTIPLE} of a width from {_ROUNDED_FROM} on",
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.layers is None and self.ffn is None:
            raise ValueError("needs at least one of layers, ffn")
        return self


class PruneOptions(Options):
    """Cut the layers and feed-forward columns that matter least on calibration text; an ordinary smaller model is left."""

    remove: Removal = Field(description="what to remove, by axis")
    calibration: Windows = Field(default_factory=Windows, description="text on which the scores are taken")


def counted(amount: int | float | None, of: int) -> int:
    """Return how many of `of` an amount removes: a count as it is, a fraction rounded to the nearest."""
    if amount is None:
        return 0
    return amount if isinstance(amount, int) else round(amount * of)


def counted_ffn(amount: int | float | None, width: int) -> int:
    """Return how many of `width` feed-forward columns an amount removes.

    A count is exact. A fraction keeps the nearest multiple of 8 where the width is at least 64 (0.25 of 512 keeps 384,
    0.33 keeps 344); below that it is rounded to the nearest column.
    """
    if not isinstance(amount, float) or width < _ROUNDED_FROM:
        return counted(amount, width)
    return width - min(width, max(_MULTIPLE, _MULTIPLE * round(width * (1 - amount) / _MULTIPLE)))


def plan(options: PruneOptions, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config.json that prune will give, as far as it is known before scores are taken.

    Sizes are exact. Lists with an entry per layer have the right length, with the entries of the first layers: scores
    decide later which layers stay.

    Raises ValueError with everything that is wrong: an unknown family or mixture of experts, an axis from which nothing
    or too much is removed, calibration windows longer than the model's context.
    """
    family_of(config)
    shape = shape_of(config)
    remove = options.remove
    problems = [_quantized(config)]
    if remove.layers is not None:
        problems.append(_problem("layers", remove.layers, counted(remove.layers, shape.layers), shape.layers))
    if remove.ffn is not None:
        problems.append(_problem("ffn", remove.ffn, counted_ffn(remove.ffn, shape.ffn), shape.ffn))
    length = options.calibration.length
    if shape.context is not None and length > shape.context:
        problems.append(
            f"calibration.length {length} is longer than the model's context of {shape.context} tokens; "
            f"use at most {shape.context}"
        )
    if found := [problem for problem in problems if problem]:
        raise ValueError("; ".join(found))
    kept = range(shape.layers - counted(remove.layers, shape.layers))
    return cut_config(config, kept, shape.ffn - counted_ffn(remove.ffn, shape.ffn))


def _quantized(config: dict[str, Any]) -> str:
    if not config.get("quantization_config"):
        return ""
    return "the weights are quantized (config.json: quantization_config); prune the float model, quantize afterwards"


def _problem(axis: str, amount: int | float, removed: int, available: int) -> str:
    unit = "layers" if axis == "layers" else "feed-forward columns"
    if removed >= available:
        return f"remove.{axis} {amount} would remove {removed} of {available} {unit}; at least 1 must stay: " + (
            f"use a count of at most {available - 1}" if available > 1 else "leave it out"
        )
    if removed == 0:
        return (
            f"remove.{axis} {amount} removes 0 of {available} {unit}: nothing to remove; leave it out or give a count"
        )
    return ""
