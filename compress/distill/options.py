"""Options of the verb `distill`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from compress.training.options import TrainingOptions

LossName = Literal["forward_kl", "cross_entropy"]
Weight = Annotated[float, Field(ge=0)]


class DistillOptions(TrainingOptions):
    """Fit the student to the teacher's next-token distribution, mixed with the data's cross-entropy."""

    loss: LossName | dict[LossName, Weight] = Field(
        {"forward_kl": 0.9, "cross_entropy": 0.1},
        description="one loss, or losses with weights; KL terms are multiplied by temperature squared",
    )
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = Field(2e-4, description="peak learning rate of AdamW")
    temperature: Annotated[float, Field(gt=0, le=100)] = Field(
        1.0, description="softens teacher and student in the KL term"
    )

    @field_validator("loss")
    @classmethod
    def _some_weight(cls, value: LossName | dict[LossName, float]) -> LossName | dict[LossName, float]:
        if isinstance(value, dict) and not sum(value.values()):
            raise ValueError("needs at least one loss with a weight above 0")
        return value

    def weights(self) -> dict[str, float]:
        """Return the weight of each loss; losses of weight 0 are left out."""
        mix = {self.loss: 1.0} if isinstance(self.loss, str) else self.loss
        return {str(name): weight for name, weight in mix.items() if weight}
