"""Options of the verb `prune`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from compress.data.options import Windows
from compress.options import Options

# An integer is a count, a float a fraction; the fraction must leave something.
Amount = Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)]


class Removal(Options):
    """How much of each axis is removed: an integer is a count, a float in (0, 1) a fraction."""

    layers: Amount | None = Field(None, description="whole decoder layers, those with the least block influence first")
    ffn: Amount | None = Field(None, description="columns of every feed-forward layer, those with the least activation first")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.layers is None and self.ffn is None:
            raise ValueError("needs at least one of layers, ffn")
        return self


class PruneOptions(Options):
    """Cut layers and feed-forward columns that matter least on calibration text; the rest is an ordinary smaller model."""

    remove: Removal = Field(description="what to remove, by axis")
    calibration: Windows = Field(default_factory=Windows, description="text on which the scores are taken")


def counted(amount: int | float | None, of: int) -> int:
    """Return how many of `of` an amount removes: a count as it is, a fraction rounded to the nearest."""
    if amount is None:
        return 0
    return amount if isinstance(amount, int) else round(amount * of)
