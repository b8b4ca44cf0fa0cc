"""The options that train and distill share. Imports no torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from compress.options import Options

Count = Annotated[int, Field(ge=1)]
Tracker = Literal["tensorboard", "wandb", "mlflow"]


class TrainingOptions(Options):
    """How long, how fast, in which pieces."""

    tokens: Count | None = Field(
        None, description="tokens to learn from; the data is repeated as often as that takes. Or epochs"
    )
    epochs: Annotated[float, Field(gt=0)] | None = Field(None, description="passes over the data, instead of tokens")
    length: Annotated[int, Field(ge=8)] = Field(256, description="tokens in a window")
    batch: Count = Field(8, description="windows in a step, over all processes and accumulated pieces")
    accumulate: Count = Field(1, description="pieces into which a step is cut, to save memory; divides batch")
    optimizer: Literal["muon", "adamw"] | None = Field(
        None,
        description="muon: Muon for the layers' matrices, AdamW for embedding, head and norms; adamw: AdamW for all "
        "(default: muon, for a quantized model adamw)",
    )
    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="peak learning rate (default: by what the model is: fresh, pruned or quantized; of a quantized one it is that of the "
        "codes, and scales have their own); with muon 2e-3 and 1e-3, with adamw 1e-3 and 5e-4, 0.25 % of a code's step",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine",
        description="how the learning rate falls to zero; for a quantized model twice: while codes are learned, and scales alone",
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.05, description="share of the steps in which the learning rate rises"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="decoupled weight decay")
    clip: Annotated[float, Field(gt=0)] = Field(1.0, description="largest norm of the gradient")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="number format of the forward and backward pass; weights stay fp32. auto: bf16 where the device is faster with it",
    )
    checkpoints: Annotated[int, Field(ge=0)] = Field(
        10, description="how often, over the run, the state is saved for a resume and validated, besides the end"
    )
    patience: Count | None = Field(
        None,
        description="stop after so many validations without a lower loss, and keep the weights of the lowest; the schedule is that of the "
        "whole run; of a quantized model those count whose codes no longer change",
    )
    report_to: tuple[Tracker, ...] = Field(
        (), description="where curves go besides the report; each needs its own package", exclude=True
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate ({self.accumulate}) must divide batch ({self.batch})")
        if (self.tokens is None) == (self.epochs is None):
            given = f"both: {self.tokens} and {self.epochs:g}" if self.tokens and self.epochs else "none"
            raise ValueError(f"needs tokens or epochs, such as tokens: 1_000_000, got {given}")
        if self.patience is not None and not self.checkpoints:
            raise ValueError("patience counts validations, and checkpoints: 0 makes none; leave one of them out")
        return self

    @property
    def tokens_per_step(self) -> int:
        """Return the tokens of one step, counted or not."""
        return self.batch * self.length

    def steps(self, windows: int) -> int:
        """Return the number of steps that tokens, or epochs over so many windows, take; at least one."""
        if self.tokens is not None:
            return math.ceil(self.tokens / self.tokens_per_step)
        return max(1, round((self.epochs or 0) * windows / self.batch))

    def tokens_to_read(self) -> int | None:
        """Return how many tokens of the data are enough; None where all of it is passed over."""
        return None if self.tokens is None else self.tokens + self.length
