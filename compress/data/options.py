"""Where text comes from. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from compress.options import Options

Count = Annotated[int, Field(ge=1)]
COLUMNS = ("text", "prompt", "completion", "messages", "label")
Text = Annotated[str, Field(min_length=1)]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Files = Annotated[list[Text], Field(min_length=1), BeforeValidator(_listed, json_schema_input_type=Text | list[Text])]


class Source(Options):
    """One source of documents: local files, a hub dataset, or the built-in stories."""

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

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        origins = [name for name in ("files", "dataset", "builtin") if getattr(self, name) is not None]
        if len(origins) != 1:
            raise ValueError(f"needs exactly one of files, dataset, builtin, got {' and '.join(origins) or 'none'}")
        origin = origins[0]
        allowed = {
            "files": {"separator", *COLUMNS, "documents"},
            "dataset": {"subset", "split", "revision", *COLUMNS, "documents"},
            "builtin": {"seed", "start", "documents"},
        }[origin]
        given = {name for name in type(self).model_fields if getattr(self, name) is not None} - {origin}
        if wrong := sorted(given - allowed):
            raise ValueError(
                f"{', '.join(wrong)} cannot stand beside {origin}; with {origin} use {', '.join(sorted(allowed))}"
            )
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
