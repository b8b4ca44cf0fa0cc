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
    """What the first stage starts from: the teacher, another model, or a fresh Llama with random weights."""

    init: Literal["teacher", "scratch"] | None = Field(
        None, description="teacher: a copy of the teacher; scratch: random weights"
    )
    model: Text | None = Field(None, description="a local folder or a hub id")
    revision: str | None = Field(None, description="commit, branch or tag of the hub model")
    layers: Count | None = Field(None, description="scratch: decoder layers")
    hidden: Count | None = Field(None, description="scratch: residual width")
    ffn: Count | None = Field(None, description="scratch: width of the feed-forward layer")
    heads: Count | None = Field(None, description="scratch: query heads")
    kv_heads: Count | None = Field(None, description="scratch: key and value heads (default: heads)")
    context: Count | None = Field(None, description="scratch: longest sequence in tokens (default 512)")
    vocab: Annotated[int, Field(ge=300)] | None = Field(
        None,
        description="scratch: train a byte-level BPE tokenizer of this size on train (default: the teacher's tokenizer)",
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
        if self.model is None and self.revision:
            raise ValueError("revision can stand beside model only")
        if self.init == "scratch":
            if missing := {"layers", "hidden", "ffn", "heads"} - given:
                raise ValueError(f"init: scratch needs {', '.join(sorted(missing))}")
            self._check_heads()
        return self

    def _check_heads(self) -> None:
        heads, kv_heads = self.heads or 1, self.kv_heads or self.heads or 1
        if heads % kv_heads:
            raise ValueError(f"heads ({heads}) must be a multiple of kv_heads ({kv_heads})")
        if (self.hidden or 0) % heads or (self.hidden or 0) // heads % 2:
            raise ValueError(f"hidden ({self.hidden}) must be an even multiple of heads ({heads})")
