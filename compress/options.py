"""The base of every options class: frozen, unknown keys refused, defaults documented. Imports no torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

NEEDED = "needed"


class Options(BaseModel):
    """Frozen options; a key that is not declared is an error, and a bool or a string is never taken for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def must_be(words: str) -> WrapValidator:
    """Return a mark for an option whose error is said in these words: `… must be <words>, got …`."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError(NEEDED, "{words}", {"words": words}) from error

    return WrapValidator(check)
