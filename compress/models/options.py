"""Where teacher and student come from. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from compress.options import Options

Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]


class TeacherOptions(Options):
    """A model folder, a hub id, or the embedded teacher."""

    model: Text | None = Field(None, description="a local folder or a hub id")
    revision: str | None = Field(None, description="commit, branch or tag of the hub model")
    builtin: Literal["storyteller"] | None = Field(None, description="the embedded teacher of about 3 M parameters")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.model is None) == (self.builtin is None):
            found = "both" if self.model else "none"
            raise ValueError(f"needs exactly one of model, builtin, got {found}")
        if self.builtin and self.revision:
            raise ValueError("revision cannot stand beside builtin")
        return self


class StudentOptions(Options):
    """What the first stage starts from: the teacher, some of its layers, another model, or random weights.

    `init: scratch` makes a smaller model of the teacher's family: sizes that are not given are the teacher's. With vocab, a
    tokenizer of its own, it makes a Llama.
    """

    init: Literal["teacher", "scratch"] | None = Field(
        None, description="teacher: a copy of the teacher; scratch: random weights, in the teacher's family"
    )
    every: Annotated[int, Field(ge=2)] | None = Field(
        None, description="teacher: keep its layers 0, n, 2n, ... only, as DistilBERT does with n = 2"
    )
    model: Text | None = Field(None, description="a local folder or a hub id")
    revision: str | None = Field(None, description="commit, branch or tag of the hub model")
    layers: Count | None = Field(None, description="scratch: layers (default: the teacher's)")
    hidden: Count | None = Field(None, description="scratch: residual width (default: the teacher's)")
    ffn: Count | None = Field(None, description="scratch: width of the feed-forward layer (default: the teacher's)")
    heads: Count | None = Field(None, description="scratch: query heads (default: the teacher's)")
    kv_heads: Count | None = Field(
        None,
        description="scratch: key and value heads (default: the teacher's; heads, where the teacher has as many, or with vocab)",
    )
    context: Count | None = Field(
        None, description="scratch: longest sequence in tokens (default: the teacher's; with vocab 512)"
    )
    vocab: Annotated[int, Field(ge=300)] | None = Field(
        None,
        description="scratch: a Llama with a byte-level BPE tokenizer of this size, trained on train (default: the teacher's "
        "tokenizer); needs layers, hidden, ffn and heads",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.init is None) == (self.model is None):
            found = "both" if self.model else "none"
            raise ValueError(f"needs exactly one of init, model, got {found}")
        shape = {"layers", "hidden", "ffn", "heads", "kv_heads", "context", "vocab"}
        given = {name for name in shape if getattr(self, name) is not None}
        if self.init != "scratch" and given:
            raise ValueError(f"{', '.join(sorted(given))} can stand beside init: scratch only")
        if self.init != "teacher" and self.every:
            raise ValueError("every can stand beside init: teacher only")
        if self.model is None and self.revision:
            raise ValueError("revision can stand beside model only")
        if self.vocab and (missing := {"layers", "hidden", "ffn", "heads"} - given):
            raise ValueError(f"init: scratch with vocab needs {', '.join(sorted(missing))}")
        return self
