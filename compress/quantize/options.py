"""Options of the verb `quantize`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from compress.data.options import Count
from compress.options import Options, must_be

Bits = Literal[2, 4, 8]
Block = Literal[16, 32, 64, 128, 256]
Positive = Annotated[float, Field(gt=0)] | Annotated[int, Field(gt=0)]
_BITS = must_be("2, 4 or 8, or {budget: …}")


class Budget(Options):
    """Bits chosen for each weight, so that all matrices together stay within an average."""

    budget: Positive = Field(
        description="bits of a weight on the average of all matrices, scales, zero points and what stays in float counted"
    )


class WeightOptions(Options):
    """What is otherwise for the weights that a pattern matches; what is not said is as for all."""

    bits: Bits | None = Field(None, description="bits of a code")
    block: Block | None = Field(None, description="weights that share a scale")
    symmetric: bool | None = Field(None, description="true: no zero points; false: a zero point for each block")
    activations: Literal["none", "dynamic", "static"] | None = Field(None, description="as for all")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("needs at least one of bits, block, symmetric, activations")
        return self


class Calibration(Options):
    """How much calibration text is read."""

    windows: Count = Field(256, description="windows of tokens")
    length: Count = Field(256, description="tokens of a window")


class GptqOptions(Options):
    """How GPTQ goes."""

    damping: Annotated[float, Field(gt=0, le=1)] = Field(
        0.01, description="part of the mean of the Hessian's diagonal that is added to it"
    )
    activation_order: bool = Field(True, description="channels that carry most are rounded first")
    target: Literal["stream", "own"] = Field(
        "stream",
        description="stream: weights aim at the float model's stream, so that errors of earlier layers are made good; "
        "own: at what the float weights say of the inputs at hand",
    )
    refine: Annotated[int, Field(ge=0, le=16)] = Field(
        2, description="rounds of scales fitted to the codes, and codes to the scales; 0: GPTQ as published"
    )


class QuantizeOptions(Options):
    """Put every matrix, embedding and lm_head included, on an integer grid in blocks along the input axis."""

    bits: Annotated[Bits | Budget, _BITS] | None = Field(
        None, description="bits of a code, or {budget: 4.5} for a choice by weight"
    )
    size_mb: Positive | None = Field(
        None, description="megabytes (1,000,000 bytes) of all matrices as stored, in place of bits: a choice by weight"
    )
    method: Literal["rtn", "gptq"] = Field(
        "rtn",
        description="rtn: round to nearest, with the scale that a search finds best; gptq: on calibration text, layer by layer, "
        "each weight rounded so that others make its error good",
    )
    block: Block = Field(32, description="weights that share a scale")
    symmetric: bool = Field(True, description="true: no zero points; false: a zero point for each block")
    weights: dict[str, WeightOptions] = Field(
        default_factory=dict,
        description="patterns (as in a shell) of weights that are treated otherwise, such as "
        '{"*embed_tokens*": {bits: 8}}; the last one that matches holds; each must match one',
    )
    leave_out: tuple[str, ...] = Field(
        (), description="patterns (as in a shell) of weights that stay in float; each must match one"
    )
    calibration: Calibration = Field(Calibration(), description="for gptq, and for a choice by weight")
    sensitivity: Literal["fisher", "kl"] = Field(
        "fisher",
        description="where bits are chosen by weight, what a weight costs: fisher: estimated from one backward pass; kl: measured, "
        "one weight at a time",
    )
    gptq: GptqOptions = Field(GptqOptions(), description="how gptq goes")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.bits is None) == (self.size_mb is None):
            raise ValueError("needs exactly one of bits, size_mb")
        if self.method != "gptq" and "gptq" in self.model_fields_set:
            raise ValueError(f"gptq says how that method goes, and method is {self.method}; leave it out")
        if not self.chooses and "sensitivity" in self.model_fields_set:
            raise ValueError("sensitivity is for a choice by weight (bits: {budget: …} or size_mb); leave it out")
        if self.method == "rtn" and not self.chooses and "calibration" in self.model_fields_set:
            raise ValueError("calibration: method rtn reads no text; leave it out, or use method: gptq")
        return self

    @property
    def reads_text(self) -> bool:
        """Whether calibration text is needed."""
        return self.method != "rtn" or self.chooses

    @property
    def chooses(self) -> bool:
        """Whether bits are chosen by weight."""
        return self.size_mb is not None or isinstance(self.bits, Budget)
