"""Options of the verb `quantize`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from compress.data.options import Count
from compress.options import Options, must_be

Bits = Literal[2, 4, 8]
Block = Literal[16, 32, 64, 128, 256]
Activations = Literal["none", "dynamic", "static"]
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
    activations: Activations | None = Field(None, description="as for all")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("needs at least one of bits, block, symmetric, activations")
        if self.activations in ("dynamic", "static"):
            if self.bits not in (None, 8):
                raise ValueError(f"activations {self.activations} need bits: 8, got {self.bits}")
            if self.block is not None or self.symmetric is False:
                raise ValueError(
                    f"activations {self.activations} go with one scale for each output channel and no zero points; "
                    "leave block and symmetric out"
                )
        return self


class Calibration(Options):
    """How much calibration text is read."""

    windows: Count = Field(256, description="windows of tokens")
    length: Count = Field(256, description="tokens of a window")


class GptqOptions(Options):
    """How GPTQ goes."""

    # less is lost in float64 where few tokens say little of many channels
    damping: Annotated[float, Field(ge=1e-6, le=1)] = Field(
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


class AutoRoundOptions(Options):
    """How AutoRound goes."""

    iterations: Annotated[int, Field(ge=1)] = Field(200, description="steps for each layer")


class QuantizeOptions(Options):
    """Put every matrix, embedding and lm_head included, on an integer grid in blocks along the input axis."""

    bits: Annotated[Bits | Budget, _BITS] | None = Field(
        None, description="bits of a code, or {budget: 4.5} for a choice by weight"
    )
    size_mb: Positive | None = Field(
        None, description="megabytes (1,000,000 bytes) of all weights as stored, in place of bits: a choice by weight"
    )
    method: Literal["rtn", "gptq", "awq", "autoround"] = Field(
        "rtn",
        description="rtn: round to nearest, with the scale that a search finds best; gptq: on calibration text, layer by layer, "
        "each weight rounded so that others make its error good; awq: channels scaled so that those that carry most are rounded "
        "least; autoround: rounding learned by the package auto-round (extra [autoround])",
    )
    block: Block | None = Field(32, description="weights that share a scale; null: all of an output channel")
    symmetric: bool = Field(True, description="true: no zero points; false: a zero point for each block")
    weights: dict[str, WeightOptions] = Field(
        default_factory=dict,
        description="patterns (as in a shell) of weights that are treated otherwise, such as "
        '{"*embed_tokens*": {bits: 8}}: bits, block, symmetric, activations; what later patterns say holds; each must match one',
    )
    activations: Activations = Field(
        "none",
        description="none: what the runtime makes of inputs by itself; dynamic: inputs in 8 bits, range taken as it runs, for each "
        "token (MatMulInteger); static: range known from calibration text (QuantizeLinear, for NPUs); both need bits: 8",
    )
    smooth: bool | None = Field(
        None,
        description="large input channels made smaller by scales folded into the weights (SmoothQuant, scales searched); by default with "
        "activations dynamic and static; true with none: for the rounding that ONNX Runtime makes in blocks",
    )
    leave_out: tuple[str, ...] = Field(
        (), description="patterns (as in a shell) of weights that stay in float; each must match one"
    )
    calibration: Calibration = Field(Calibration(), description="for all but plain rounding")
    sensitivity: Literal["fisher", "kl"] = Field(
        "fisher",
        description="where bits are chosen by weight, what a weight costs: fisher: estimated from one backward pass; kl: measured, "
        "one weight at a time",
    )
    gptq: GptqOptions = Field(GptqOptions(), description="how gptq goes")
    autoround: AutoRoundOptions = Field(AutoRoundOptions(), description="how autoround goes")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.bits is None) == (self.size_mb is None):
            raise ValueError("needs exactly one of bits, size_mb")
        for name in ("gptq", "autoround"):
            if self.method != name and name in self.model_fields_set:
                raise ValueError(f"{name} says how that method goes, and method is {self.method}; leave it out")
        if not self.chooses and "sensitivity" in self.model_fields_set:
            raise ValueError("sensitivity is for a choice by weight (bits: {budget: …} or size_mb); leave it out")
        if self.chooses and "block" in self.model_fields_set:
            raise ValueError("block is chosen by weight too; leave it out, or say it for some of them (weights)")
        self._check_activations()
        if not self.reads_text and "calibration" in self.model_fields_set:
            raise ValueError("calibration: nothing here reads text; leave it out, or use method: gptq")
        return self

    def _check_activations(self) -> None:
        if not self.rounds_inputs:
            if self.smooth and self.method == "autoround":
                raise ValueError(
                    "method autoround reads the model as it is, not smoothed; use gptq or rtn, or leave smooth out"
                )
            return
        if self.method in ("awq", "autoround"):
            asked = [self.activations, *(other.activations for other in self.weights.values())]
            found = next(each for each in asked if each in ("dynamic", "static"))
            what = "learns" if self.method == "autoround" else "scales channels for"
            raise ValueError(
                f"method {self.method} {what} weights alone, not with activations {found}; use gptq or rtn"
            )
        if self.activations == "none":
            return
        if self.chooses:
            raise ValueError(
                f"activations {self.activations} need bits: 8, so that there is no choice by weight; use one of both"
            )
        if self.bits != 8:
            raise ValueError(f"activations {self.activations} need bits: 8, got {self.bits}")
        if not self.symmetric:
            raise ValueError(f"activations {self.activations} go with weights without zero points; leave symmetric out")
        if "block" in self.model_fields_set and self.block is not None:
            raise ValueError(
                f"activations {self.activations} go with one scale for each output channel; leave block out"
            )

    @property
    def has_blocks(self) -> bool:
        """Whether some weights are in blocks, their inputs what the runtime makes of them."""
        return "none" in (self.activations, *(other.activations for other in self.weights.values()))

    @property
    def rounds_inputs(self) -> bool:
        """Whether the inputs of some weights are rounded to 8 bits."""
        asked = [self.activations, *(other.activations for other in self.weights.values())]
        return any(each in ("dynamic", "static") for each in asked)

    @property
    def smooths(self) -> bool:
        """Whether channels are scaled for inputs that are rounded."""
        return self.rounds_inputs if self.smooth is None else self.smooth

    @property
    def scales_channels(self) -> bool:
        """Whether weights are scaled before they are rounded, so that they are no longer those of the model that came in."""
        return self.method == "awq" or self.smooths

    @property
    def reads_text(self) -> bool:
        """Whether calibration text is needed."""
        static = "static" in (self.activations, *(other.activations for other in self.weights.values()))
        return self.method != "rtn" or self.chooses or static or self.smooths

    @property
    def chooses(self) -> bool:
        """Whether bits are chosen by weight."""
        return self.size_mb is not None or isinstance(self.bits, Budget)
