"""Documents that are given: local files, a hub dataset, or the built-in stories. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from compress.options import Options

Count = Annotated[int, Field(ge=1)]
COLUMNS = ("text", "prompt", "completion", "messages", "label")
Text = Annotated[str, Field(min_length=1)]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Files = Annotated[list[Text], Field(min_length=1), BeforeValidator(_listed, json_schema_input_type=Text | list[Text])]


class Given(Options):
    """Documents of one origin, in columns or as whole texts."""

    files: Files | None = Field(
        None,
        description="a local .txt, .md, .jsonl, .json, .csv, .tsv or .parquet file, a pattern such as data/*.txt, or a list",
    )
    dataset: Text | None = Field(None, description="a dataset id of the hub")
    builtin: Literal["stories"] | None = Field(None, description="the seeded generator of children's stories")
    subset: str | None = Field(None, description="configuration of the hub dataset")
    split: str | None = Field(None, description="split of the hub dataset (default train)")
    revision: str | None = Field(None, description="commit, branch or tag of the hub dataset")
    separator: Text | None = Field(
        None, description="what stands between documents in text files; without it a file is one document"
    )
    text: str | None = Field(None, description="column that holds a document (default text)")
    prompt: str | None = Field(None, description="column of the prompt; its tokens are read, not learned")
    completion: str | None = Field(None, description="column of the completion")
    messages: str | None = Field(
        None, description="column of a chat: the chat template is applied, only answers are learned"
    )
    label: Text | None = Field(
        None,
        description="column of a text's class, for the accuracy of a classifier: its number, or its name in the model's id2label",
    )
    seed: int | None = Field(None, ge=0, description="seed of the built-in stories (default 0)")
    start: int | None = Field(None, ge=0, description="number of the first built-in story (default 0)")
    documents: Count | None = Field(
        None, description="use at most this many documents (built-in stories: how many, default 20000)"
    )

    # what may stand beside each origin; a class that adds options of its own says beside which they stand
    beside: ClassVar[dict[str, frozenset[str]]] = {
        "files": frozenset({"separator", *COLUMNS, "documents"}),
        "dataset": frozenset({"subset", "split", "revision", *COLUMNS, "documents"}),
        "builtin": frozenset({"seed", "start", "documents"}),
    }

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        names = {name: field.alias or name for name, field in type(self).model_fields.items()}
        given = {names[name] for name in names if getattr(self, name) != type(self).model_fields[name].default}
        origins = [name for name in self.beside if name in given]
        if len(origins) != 1:
            raise ValueError(f"needs exactly one of {', '.join(self.beside)}, got {' and '.join(origins) or 'none'}")
        allowed = self.beside[origins[0]]
        if wrong := sorted(given - allowed - {origins[0]}):
            raise ValueError(
                f"{', '.join(wrong)} cannot stand beside {origins[0]}; with {origins[0]} use {', '.join(sorted(allowed))}"
            )
        return self

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = [name for name in ("text", "prompt", "messages") if getattr(self, name) is not None]
        if len(forms) > 1:
            raise ValueError(f"needs one of text, prompt + completion, messages, got {' and '.join(forms)}")
        if (self.prompt is None) != (self.completion is None):
            raise ValueError("prompt and completion stand together")
        if self.label is not None and (beside := [name for name in ("prompt", "messages") if getattr(self, name)]):
            raise ValueError(f"label stands beside text, the column of whole texts, not beside {beside[0]}")
        if self.label is not None and self.separator is not None:
            raise ValueError("label cannot stand beside separator: labels are a column, and a text file has none")
        return self
