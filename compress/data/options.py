"""Where text comes from. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compress.data.given import COLUMNS as COLUMNS
from compress.data.given import Count as Count
from compress.data.given import Files, Given
from compress.data.written.options import EVERYWHERE, OF_STORIES, Filter, NamedFilter, Prompts, SamplingOptions
from compress.options import Options

NEW_TOKENS, ATTEMPTS = 256, 4
WRITTEN = frozenset(
    {"prompts", "chat", "new_tokens", "sampling", "stop", "prompt_is", "filters", "documents", "attempts", "seed"}
)


class Source(Given):
    """One source of documents: local files, a hub dataset, the built-in stories, or what the teacher writes."""

    writer: Literal["teacher"] | None = Field(
        None, alias="from", description="teacher: the teacher writes the documents"
    )
    prompts: Prompts | None = Field(None, description="from teacher: what it is given to write on")
    chat: bool | None = Field(
        None,
        description="from teacher: put prompts into its chat template (default: where it has one, but for openings)",
    )
    new_tokens: Count | None = Field(
        None, description=f"from teacher: tokens of a text at most (default {NEW_TOKENS}); it ends before at EOS"
    )
    sampling: SamplingOptions | None = Field(None, description="from teacher: how tokens are drawn")
    stop: Files | None = Field(None, description="from teacher: texts before which a text ends")
    prompt_is: Literal["learned", "read", "dropped"] | None = Field(
        None,
        description="from teacher: what becomes of the prompt in a document (default: openings are learned, others read)",
    )
    filters: list[NamedFilter] | None = Field(
        None,
        description="from teacher: what is dropped, in this order (default: length from 20 words for openings and "
        "templates, repetition, exact_duplicates, near_duplicates; []: nothing)",
    )
    attempts: Count | None = Field(
        None,
        description=f"from teacher: texts written at most for each of `documents`, for the filters to drop (default {ATTEMPTS})",
    )

    seed: int | None = Field(
        None, ge=0, description="seed of the built-in stories, or of what the teacher writes (default 0)"
    )
    documents: Count | None = Field(
        None,
        description="use at most this many documents (built-in stories: how many, default 20000; from teacher: how many "
        "the filters are to leave, default: each prompt is answered once)",
    )

    beside: ClassVar[dict[str, frozenset[str]]] = Given.beside | {"from": WRITTEN}

    @model_validator(mode="after")
    def _what_to_write(self) -> Self:
        if self.writer is None:
            return self
        if self.prompts is None:
            raise ValueError("from teacher needs prompts")
        if self.documents is None and (self.prompts.template or self.prompts.openings == "bos"):
            what = "templates give" if self.prompts.template else "bos gives"
            raise ValueError(f"needs documents: {what} prompts without end")
        if self.documents is None and self.attempts:
            raise ValueError("attempts stands beside documents: without it each prompt is answered once")
        if self.prompts.chunks and self.prompt_is == "learned":
            raise ValueError("prompt_is: the questions about chunks are read or dropped")
        return self

    @property
    def kept_filters(self) -> tuple[Filter, ...]:
        """The filters as given, or the default ones."""
        if self.filters is not None:
            return tuple(self.filters)
        return OF_STORIES if self.prompts and self.prompts.kind in ("openings", "template") else EVERYWHERE

    @property
    def prompt_role(self) -> str:
        """What becomes of the prompt in a document: learned, read or dropped."""
        return self.prompt_is or ("learned" if self.prompts and self.prompts.openings else "read")


class DataOptions(Options):
    """The parts of the data. Validation and calibration default to seeded slices taken out of train."""

    train: Source | None = Field(None, description="what is learned from")
    validation: Source | None = Field(None, description="loss during training (default: a slice of train)")
    calibration: Source | None = Field(None, description="scores of prune and quantize (default: a slice of train)")
    evaluation: Source | None = Field(None, description="what benchmark measures on; nothing is fitted or chosen on it")
    join: Literal["bos", "eos", "none"] | None = Field(
        None,
        description="token in front of each document when documents are joined into windows (default: bos if the tokenizer has one, else eos)",
    )


class Windows(Options):
    """A number of windows of a number of tokens."""

    windows: Count = Field(128, description="how many windows")
    length: Annotated[int, Field(ge=2)] = Field(256, description="tokens in a window")
