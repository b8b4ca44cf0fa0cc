"""Options of the verb `quantize`. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compress.options import Options


class QuantizeOptions(Options):
    """Put every matrix, embedding and lm_head included, on an integer grid in blocks along the input axis."""

    bits: Literal[4, 8] = Field(description="bits of a code")
    method: Literal["rtn"] = Field("rtn", description="rtn: round to nearest, with the scale that a search finds best")
    block: Literal[16, 32, 64, 128, 256] = Field(32, description="weights that share a scale")
    symmetric: bool = Field(True, description="true: no zero points; false: a zero point for each block")
    leave_out: tuple[str, ...] = Field((), description="patterns (as in a shell) of weights that stay in float; each must match one")
