"""Options of the verb `prune`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from compress.data.options import Count
from compress.options import Options, must_be

# An integer is a count, a float a fraction; the fraction must leave something.
Amount = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)],
    must_be("a count such as 1, or a fraction such as 0.25"),
]
# How many are kept: a fraction of what is there, or a number.
Kept = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)],
    must_be("a number such as 2_500_000, or a fraction such as 0.6"),
]
AXES = ("layers", "ffn", "heads", "hidden", "vocab")
WidthScore = Literal["activation", "magnitude", "taylor", "random"]
LayerScore = Literal["block_influence", "perplexity", "magnitude", "taylor", "random"]


class Groups(Options):
    """Whole key/value groups: a key/value head with every query head that reads it."""

    kv_groups: Amount = Field(description="how many key/value heads go, each with all of its query heads")


class Removal(Options):
    """How much of each axis is removed: an integer is a count, a float in (0, 1) a fraction."""

    layers: Amount | None = Field(None, description="whole layers")
    ffn: Amount | None = Field(
        None,
        description="columns of every feed-forward layer; a count is exact, a fraction keeps a multiple of 8 where the width "
        "is 64 or more",
    )
    heads: Amount | Groups | None = Field(
        None,
        description="query heads of every layer, equally many of every key/value group, or whole groups where only that fits "
        "or {kv_groups: n} asks for it; where config.json has no head_dim the hidden width shrinks along",
    )
    hidden: Amount | None = Field(
        None,
        description="channels of the residual stream, the same in every layer; a count is exact, a fraction keeps the nearest "
        "width that the family takes, a multiple of 8 where it is 64 or more",
    )
    vocab: Amount | None = Field(
        None, description="tokens that the training text uses least; what is left still encodes any text without loss"
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if all(getattr(self, axis) is None for axis in AXES):
            raise ValueError(f"needs at least one of {', '.join(AXES)}")
        return self


class Target(Options):
    """What is left of the whole model; a balanced mix of axes follows from config.json alone."""

    parameters: Kept | None = Field(
        None, description="parameters kept, embedding and head counted: a number, or a fraction of what there is"
    )
    size_mb: Annotated[float, Field(gt=0)] | Annotated[int, Field(gt=0)] | None = Field(
        None, description="megabytes (1,000,000 bytes) of the kept weights in float32"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.parameters is None) == (self.size_mb is None):
            raise ValueError("needs exactly one of parameters, size_mb")
        return self


class Scores(Options):
    """How parts are ranked, axis by axis. Tokens are always ranked by how often the text uses them."""

    layers: LayerScore = Field(
        "block_influence",
        description="block_influence (how much a layer turns the residual stream), perplexity (leave one out), magnitude, "
        "taylor (gradient times weight) or random",
    )
    ffn: WidthScore = Field("activation", description="activation, magnitude, taylor or random")
    heads: WidthScore = Field("activation", description="activation, magnitude, taylor or random")
    hidden: WidthScore = Field("activation", description="activation, magnitude, taylor or random")


def _every_axis(value: Any) -> Any:
    if value not in get_args(WidthScore):
        return value
    widths = dict.fromkeys(("ffn", "heads", "hidden"), value)
    return {**widths, "layers": "block_influence" if value == "activation" else value}


AxisScores = Annotated[Scores, BeforeValidator(_every_axis, json_schema_input_type=WidthScore | Scores)]


class RepairWindows(Options):
    """A number of windows of a number of tokens: more than other verbs take, as a repair fits every weight."""

    windows: Count | None = Field(
        None, description="how many windows (default 256; fewer for models over 35 M parameters, but at least 8)"
    )
    length: Annotated[int, Field(ge=2)] = Field(256, description="tokens in a window")


class PruneOptions(Options):
    """Cut the parts that matter least on calibration text, and repair what reads them; an ordinary smaller model is left."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["remove"]}, {"required": ["keep"]}]})

    remove: Removal | None = Field(None, description="what to remove, by axis")
    keep: Target | None = Field(None, description="what to keep of the whole, instead of remove")
    score: AxisScores = Field(
        default_factory=Scores,
        description="one name for every axis (activation, magnitude, taylor, random), or a name for each",
    )
    repair: Literal["auto", "gauss_newton", "least_squares", "none"] = Field(
        "auto",
        description="least_squares fits every projection of the cut model to what the uncut model does on calibration text, layer "
        "by layer, without training; gauss_newton fits the feed-forward's inputs through their activation too, which is better and "
        "slower; auto is gauss_newton where there are 16 calibration tokens for each channel of the hidden width",
    )
    rounds: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description="cut in this many equal steps, with new scores before each"
    )
    calibration: RepairWindows = Field(
        default_factory=RepairWindows,
        description="text on which scores are taken and repairs fitted",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.remove is None) == (self.keep is None):
            raise ValueError("needs exactly one of remove, keep")
        return self
