"""What benchmark measures. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from compress.options import NEEDED, Options

Count = Annotated[int, Field(ge=1)]


def _false(value: Any) -> Any:
    # to pydantic 0 is the same literal
    if value is not False:
        raise PydanticCustomError(NEEDED, "{words}", {"words": "false"})
    return value


Off = Annotated[Literal[False], BeforeValidator(_false)]


class PerplexityOptions(Options):
    """Windows of joined documents; the first token of each window is read, not scored."""

    join: Literal["bos", "eos", "none"] | None = Field(
        None, description="token in front of each document (default: as data.join)"
    )
    length: Annotated[int, Field(ge=2)] = Field(256, description="tokens in a window")
    windows: Count = Field(96, description="how many windows, from the start of the evaluation text")


class AccuracyOptions(Options):
    """Questions that the text settles, right when the true answer is the most probable of the choices; of a classifier
    labelled texts, right when the label is."""

    questions: Count = Field(200, description="how many questions")
    examples: Count = Field(10_000, description="how many labelled texts, at most")


class BitsPerByteOptions(Options):
    """Documents one by one from BOS; those over the context are left out."""

    documents: Count = Field(100, description="how many documents, from the start of the evaluation text")


class LatencyOptions(Options):
    """Speed for a batch of one."""

    prompt: Annotated[int, Field(ge=2)] = Field(128, description="tokens of the prompt")
    new: Annotated[int, Field(ge=2)] = Field(64, description="tokens to decode")
    repeats: Annotated[int, Field(ge=5)] = Field(5, description="measured runs, after the warm-up")
    warmup: Count = Field(2, description="runs before the measured ones")
    threads: Count | None = Field(None, description="threads (default: the machine's cores)")


class BenchmarkOptions(Options):
    """Which measurements are taken of every artifact; `false` leaves one out."""

    perplexity: PerplexityOptions | Off = Field(
        default_factory=PerplexityOptions, description="how surprised the model is by the evaluation text, a token"
    )
    bits_per_byte: BitsPerByteOptions | Off = Field(
        default_factory=BitsPerByteOptions, description="the same a byte, which compares tokenizers"
    )
    agreement: bool = Field(True, description="KL to the teacher and top-1 agreement, on the windows of perplexity")
    teacher_logits: Literal["live", "stored"] = Field(
        "live",
        description="for agreement the teacher runs in every run, or its likeliest tokens are stored once for all recipes "
        "in $COMPRESS_CACHE: KL is then an estimate within 1 %",
    )
    accuracy: AccuracyOptions | Off = Field(
        default_factory=AccuracyOptions,
        description="share of questions answered right ({builtin: stories} has them), or of labelled texts classified right",
    )
    latency: LatencyOptions | Off = Field(
        default_factory=LatencyOptions, description="speed, first token, load time and memory"
    )
