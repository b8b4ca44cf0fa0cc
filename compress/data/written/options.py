"""Options of data that the teacher writes. Imports no torch."""

from __future__ import annotations

import re
from string import Formatter
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from compress.data.given import Count, Files, Given, Text
from compress.options import Options

Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
WHOLE_TEXTS = {origin: names - {"prompt", "completion", "messages", "label"} for origin, names in Given.beside.items()}
ASK = (
    "Read this text:\n\n{chunk}\n\nWrite three questions that the text answers, each with its answer, in this form:\n"
    "Q: the question\nA: the answer"
)
PAIRS = r"Q:\s*(?P<question>.+?)\s*\n\s*A:\s*(?P<answer>.+?)\s*(?=\n\s*Q:|\Z)"
ALPACA = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
ALPACA_WITHOUT_INPUT = "### Instruction:\n{instruction}\n\n### Response:\n"


def fields_of(template: str) -> set[str]:
    """Return the names in braces of a template; {{ and }} are braces.

    Raises ValueError for what is no template.
    """
    names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    if wrong := sorted(name for name in names if not name.isidentifier()):
        raise ValueError(f"{{{wrong[0]}}} is no name; write {{{{ and }}}} for braces that are text")
    return names


class Openings(Given):
    """The beginnings of given documents, which a base model continues; without tokens and words, whole documents."""

    tokens: Count | None = Field(None, description="so many tokens of each document are the opening")
    words: Count | None = Field(None, description="so many words of each document are the opening")

    beside: ClassVar[dict[str, frozenset[str]]] = {
        origin: names | {"tokens", "words"} for origin, names in WHOLE_TEXTS.items()
    }

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.tokens and self.words:
            raise ValueError("needs tokens or words, not both")
        return self


class Instructions(Given):
    """A list of instructions: a table with a column of them, or a text file with one in each line."""

    instruction: Text = Field("instruction", description="column of the instruction")
    input: Text = Field("input", description="column of what the instruction is about; it may be missing or empty")
    template: Text | None = Field(
        None,
        description="prompt for teachers without chat template, with {instruction} and {input} (default: that of Alpaca)",
    )

    beside: ClassVar[dict[str, frozenset[str]]] = {
        origin: (names | {"instruction", "input", "template"}) - {"text"} for origin, names in WHOLE_TEXTS.items()
    }

    @field_validator("template")
    @classmethod
    def _has_the_instruction(cls, value: str | None) -> str | None:
        if value is not None and not {"instruction"} <= fields_of(value) <= {"instruction", "input"}:
            raise ValueError("needs {instruction}, and may have {input}")
        return value


class Chunks(Given):
    """Documents in pieces: the teacher is asked for questions and answers about each."""

    tokens: Count = Field(256, description="tokens in a piece")
    ask: Text = Field(ASK, description="what the teacher is asked, with {chunk}")
    pairs: Text = Field(
        PAIRS, description="regular expression with the groups question and answer; each match is a document"
    )

    beside: ClassVar[dict[str, frozenset[str]]] = {
        origin: names | {"tokens", "ask", "pairs"} for origin, names in WHOLE_TEXTS.items()
    }

    @field_validator("ask")
    @classmethod
    def _has_the_chunk(cls, value: str) -> str:
        if fields_of(value) != {"chunk"}:
            raise ValueError("needs {chunk}, and no other name in braces")
        return value

    @field_validator("pairs")
    @classmethod
    def _has_both_groups(cls, value: str) -> str:
        try:
            groups = re.compile(value).groupindex
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        if missing := [name for name in ("question", "answer") if name not in groups]:
            raise ValueError(f"needs the group (?P<{missing[0]}>…)")
        return value


class Prompts(Options):
    """What the teacher is given to write on: one of openings, template, instructions, chunks."""

    openings: Openings | Literal["bos"] | None = Field(
        None, description="beginnings of documents, for base models; bos: nothing but the token that begins a text"
    )
    template: Files | None = Field(
        None, description="one text or several, with names in braces; one is drawn for each prompt"
    )
    words: dict[str, Text | Annotated[list[Text], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="for each name in braces a list of words, or a text file with one in each line; one is drawn for each prompt",
    )
    instructions: Instructions | None = Field(None, description="a list of instructions, such as Alpaca's")
    chunks: Chunks | None = Field(None, description="documents to ask questions and answers about")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = ("openings", "template", "instructions", "chunks")
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(kinds)}, got {' and '.join(given) or 'none'}")
        named = {name for template in self.template or [] for name in fields_of(template)}
        if missing := sorted(named - self.words.keys()):
            raise ValueError(f"template names {{{missing[0]}}}, and words has no '{missing[0]}'")
        if unused := sorted(self.words.keys() - named):
            raise ValueError(f"words.{unused[0]} stands in no template")
        return self

    @property
    def kind(self) -> str:
        """Which of the kinds it is."""
        return next(name for name in ("openings", "template", "instructions", "chunks") if getattr(self, name))


class SamplingOptions(Options):
    """How the teacher draws each token."""

    temperature: Annotated[float, Field(ge=0, le=100)] = Field(1.0, description="divides the logits; 0 is greedy")
    top_k: Count | None = Field(None, description="draw among so many of the most probable tokens")
    top_p: Share | None = Field(None, description="draw among the fewest tokens whose probability reaches this share")
    batch: Count = Field(64, description="texts that are written at the same time")


class Bounds(Options):
    """A least and a largest value; at least one of them."""

    min: float | None = Field(None, description="what is less is dropped")
    max: float | None = Field(None, description="what is more is dropped")

    @model_validator(mode="after")
    def _some_bound(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("needs min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:g}) is more than max ({self.max:g})")
        return self


class LengthBounds(Bounds):
    """How long a text is."""

    unit: Literal["words", "tokens", "characters"] = Field("words", description="what is counted")


class Nothing(Options):
    """A filter without options."""


class Repetition(Options):
    """How much of a text is said again: Gopher's limits for lines and n-grams of words."""

    scale: Positive = Field(1.0, description="multiplies the limits: less is stricter")


SHORT = 4
"""Texts of fewer words than so many n-grams have are left to exact_duplicates: one word would decide."""


class NearDuplicates(Options):
    """How much of a text stands in one that was kept: the Jaccard similarity of their n-grams of words."""

    similarity: Share = Field(0.75, description="what is at least as similar to a kept text is dropped")
    words: Count = Field(5, description="words in an n-gram")
    seeds: bool = Field(False, description="compare with the documents that the prompts are taken from too")


class Quality(Bounds):
    """What a classifier of texts says of a text."""

    model: Text = Field(description="folder of a sequence classifier")
    label: Text | Annotated[int, Field(ge=0)] = Field(
        description="the class whose probability is meant: its number, or its name in id2label"
    )


def _named(value: Any) -> Any:
    """Let a filter stand by its name alone."""
    if isinstance(value, str):
        return {value: {}}
    return {name: {} if options is None else options for name, options in value.items()} if isinstance(value, dict) else value  # fmt: skip


class Filter(Options):
    """One filter, by its name."""

    length: LengthBounds | None = Field(None, description="drop what is too short or too long")
    finished: Nothing | None = Field(None, description="drop what did not end by itself")
    repetition: Repetition | None = Field(None, description="drop what says the same again and again")
    exact_duplicates: Nothing | None = Field(
        None, description="drop what was kept before, but for case, spaces and punctuation"
    )
    near_duplicates: NearDuplicates | None = Field(None, description="drop what is nearly a text that was kept before")
    perplexity: Bounds | None = Field(None, description="drop what the teacher finds too likely or too unlikely")
    quality: Quality | None = Field(None, description="drop what a classifier does not think well of")

    @model_validator(mode="after")
    def _one_filter(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"needs exactly one of {names}, got {' and '.join(given) or 'none'}")
        return self

    @property
    def name(self) -> str:
        """Which filter it is."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)


NamedFilter = Annotated[Filter, BeforeValidator(_named)]
EVERYWHERE = (Filter(repetition=Repetition()), Filter(exact_duplicates=Nothing()), Filter(near_duplicates=NearDuplicates()))  # fmt: skip
OF_STORIES = (Filter(length=LengthBounds(min=20)), *EVERYWHERE)
