"""The options that train and distill share. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from compress.options import Options

Count = Annotated[int, Field(ge=1)]


class TrainingOptions(Options):
    """How long, how fast, in which pieces."""

    tokens: Count = Field(description="tokens to learn from; the data is repeated as often as that takes")
    length: Annotated[int, Field(ge=8)] = Field(256, description="tokens in a window")
    batch: Count = Field(8, description="windows in a step, over all accumulated pieces")
    accumulate: Count = Field(1, description="pieces into which a step is cut, to save memory; divides batch")
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = Field(1e-3, description="peak learning rate of AdamW")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the learning rate falls to zero"
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.05, description="share of the steps in which the learning rate rises"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="decoupled weight decay")
    clip: Annotated[float, Field(gt=0)] = Field(1.0, description="largest norm of the gradient")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="number format of the forward and backward pass; weights stay fp32"
    )
    checkpoints: Annotated[int, Field(ge=0)] = Field(
        10, description="how often, over the run, the state is saved for a resume and validated"
    )

    @model_validator(mode="after")
    def _whole_pieces(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate ({self.accumulate}) must divide batch ({self.batch})")
        return self
