"""Options of the verb `distill`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from compress.training.options import TrainingOptions

LossName = Literal[
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "skewed_kl",
    "skewed_reverse_kl",
    "cross_entropy",
    "hidden_mse",
    "hidden_cosine",
    "attention",
    "value_relation",
]
Weight = Annotated[float, Field(ge=0)]
Pair = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=2, max_length=2)]

LOGITS_LOSSES = ("forward_kl", "reverse_kl", "jensen_shannon", "skewed_kl", "skewed_reverse_kl")
HIDDEN_LOSSES = ("hidden_mse", "hidden_cosine")
RELATION_LOSSES = ("attention", "value_relation")
HIDDEN_WEIGHT = 16.0
_USERS = {
    "beta": ("jensen_shannon",),
    "skew": ("skewed_kl", "skewed_reverse_kl"),
    "temperature": LOGITS_LOSSES,
}
_STORED_LOSSES = ("forward_kl", "cross_entropy")


def _listed(names: tuple[str, ...]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


class DistillOptions(TrainingOptions):
    """Fit the student to the teacher: its next-token distribution, its hidden states, its attention; mixed with the data's cross-entropy."""

    loss: LossName | dict[LossName, Weight] | None = Field(
        None,
        description="one loss, or losses with weights such as {forward_kl: 1, hidden_mse: 16}; KL terms are multiplied by temperature squared "
        "(default: forward_kl; 16 parts of hidden_mse with it for a pruned or quantized student, whose states are the teacher's, "
        "unless teacher_logits: stored)",
    )
    temperature: Annotated[float, Field(gt=0, le=100)] = Field(
        1.0, description="softens teacher and student in the losses of logits"
    )
    beta: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="jensen_shannon: the teacher's share of the mixture; near 0 it is like forward KL"
    )
    skew: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="skewed_kl, skewed_reverse_kl: the share that is mixed in from the other side"
    )
    fade: bool | None = Field(
        None,
        description="whether the weights of losses of hidden states and attention fall linearly to 0 over the run "
        "(default: true where the recipe names no loss, else false)",
    )
    layers: tuple[Pair, ...] | None = Field(
        None,
        description="layers that are compared, pairs [student's, teacher's] from 0 (default: hidden_mse all, others the last)",
    )
    teacher_logits: Literal["live", "stored"] = Field(
        "live",
        description="live: the teacher runs beside the student; stored: its top logits are written once and read, "
        "so that later passes have the same windows",
    )
    top_k: Annotated[int, Field(ge=1, le=1000)] = Field(
        50, description="teacher_logits: stored: the most probable tokens that are kept of each position"
    )
    on_policy: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of the steps in which the student writes the text on which it is taught"
    )
    rewrite: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="share of the tokens that the teacher replaces, by draws of its own, in text that is learned again: helps where "
        "little text is passed over often",
    )
    zero_points: Literal["keep", "learn"] = Field(
        "keep", description="of a quantized student without symmetric blocks; its weights and scales are always learned"
    )

    @field_validator("loss")
    @classmethod
    def _some_weight(cls, value: LossName | dict[LossName, float] | None) -> LossName | dict[LossName, float] | None:
        if isinstance(value, dict) and not sum(value.values()):
            raise ValueError("needs at least one loss with a weight above 0")
        return value

    @model_validator(mode="after")
    def _losses_fit(self) -> Self:
        names = set(self.weights())
        if self.teacher_logits == "stored":
            if other := sorted(names - {*_STORED_LOSSES}):
                raise ValueError(
                    f"teacher_logits: stored knows {' and '.join(_STORED_LOSSES)}, got {', '.join(other)}; use those, or "
                    "teacher_logits: live"
                )
            if self.temperature != 1:
                raise ValueError("teacher_logits: stored keeps the teacher at temperature 1; leave temperature out")
            for option in ("on_policy", "rewrite"):
                if getattr(self, option):
                    raise ValueError(f"{option} asks the teacher about new text; it needs teacher_logits: live")
        if self.rewrite:
            self._refuse_rewriting(names)
        if self.on_policy and not names & {*LOGITS_LOSSES}:
            raise ValueError(f"on_policy needs a loss of logits: {', '.join(LOGITS_LOSSES)}")
        self._refuse_unused(names)
        if self.layers is not None and self.loss is not None and not names & {*HIDDEN_LOSSES, *RELATION_LOSSES}:
            inner = ", ".join((*HIDDEN_LOSSES, *RELATION_LOSSES))
            raise ValueError(
                f"layers is for {inner}, and the loss is {', '.join(sorted(names))}; add one of them, or leave layers out"
            )
        return self

    def _refuse_rewriting(self, names: set[str]) -> None:
        if names == {"cross_entropy"}:
            raise ValueError("rewrite needs a teacher, and cross_entropy alone asks none; leave it out")
        if self.on_policy:
            raise ValueError("rewrite changes the data's text and on_policy writes other text; give one of them")
        if self.epochs is not None and self.epochs <= 1:
            raise ValueError(
                f"rewrite is for text that comes again, and epochs: {self.epochs:g} passes over it once; give more, or leave rewrite out"
            )

    def _refuse_unused(self, names: set[str]) -> None:
        given = self.model_fields_set
        inside = names & {*HIDDEN_LOSSES, *RELATION_LOSSES}
        if self.fade is not None and not inside and (self.loss is not None or self.teacher_logits == "stored"):
            inner = ", ".join((*HIDDEN_LOSSES, *RELATION_LOSSES))
            raise ValueError(
                f"fade is for {inner}, and the loss is {', '.join(sorted(names))}; add one of them, or leave fade out"
            )
        if self.fade and inside == names:
            raise ValueError(f"fade would leave nothing to learn at the end; add one of {', '.join(LOGITS_LOSSES)}")
        for option, users in _USERS.items():
            if option in given and not names & {*users}:
                raise ValueError(
                    f"{option} is for {_listed(users)}, and the loss is {', '.join(sorted(names))}; leave it out"
                )
        if "top_k" in given and self.teacher_logits == "live":
            raise ValueError("top_k is for teacher_logits: stored; a live teacher gives all of its logits")
        if self.layers is not None and self.teacher_logits == "stored":
            raise ValueError("layers needs a live teacher: a store holds no hidden states")

    def weights(self) -> dict[str, float]:
        """Return the weight of each loss; losses of weight 0 are left out. Where the recipe names none: forward KL."""
        mix = {self.loss or "forward_kl": 1.0} if not isinstance(self.loss, dict) else self.loss
        return {str(name): weight for name, weight in mix.items() if weight}

    def resolved(self, shares_states: bool) -> DistillOptions:
        """Return the options with the loss that is meant where the recipe names none.

        shares_states  the student's hidden states are the teacher's, as those of a pruned or quantized student are
        """
        if self.loss is not None or not shares_states or self.teacher_logits == "stored":
            return self
        fade = True if self.fade is None else self.fade
        return self.model_copy(update={"loss": {"forward_kl": 1.0, "hidden_mse": HIDDEN_WEIGHT}, "fade": fade})
