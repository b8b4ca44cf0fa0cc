"""The base of every options class: frozen, unknown keys refused, defaults documented. Imports no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Frozen options; a key that is not declared is an error, and a bool or a string is never taken for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
