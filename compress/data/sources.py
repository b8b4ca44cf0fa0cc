"""From a source to documents: local files, hub datasets and the built-in stories, all as segments of text."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from compress.artifact import key_of, sha256_of
from compress.data import stories
from compress.data.corpus import Question
from compress.data.options import Source
from compress.errors import StageError

FORMATS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
BUILTIN_DOCUMENTS = 20_000
RenderChat = Callable[[list[dict[str, Any]], bool], str]


@dataclass(frozen=True)
class Document:
    """A text in segments; the flag says whether the segment's tokens are learned and scored."""

    segments: tuple[tuple[str, bool], ...]
    question: Question | None = None

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(text for text, _ in self.segments)


def expand_files(source: Source) -> list[Path]:
    """Return the files of a local source in a fixed order; patterns such as data/*.jsonl are expanded.

    Raises StageError for a pattern without a file and for a format that is not read.
    """
    paths: list[Path] = []
    for pattern in source.files or []:
        found = [Path(pattern)] if Path(pattern).is_file() else sorted(map(Path, glob.glob(pattern)))  # noqa: PTH207 - the pattern may be absolute
        if not found:
            raise StageError(
                f"data file {pattern}: there is no such file; look at the path (it is relative to the recipe file)"
            )
        paths += found
    for path in paths:
        if path.suffix.lower() not in FORMATS:
            raise StageError(f"data file {path}: format '{path.suffix}' is not read; use one of {', '.join(FORMATS)}")
    if len({FORMATS[path.suffix.lower()] for path in paths}) > 1:
        raise StageError(f"data files {', '.join(map(str, paths))}: one source holds one format; make a source of each")
    return paths


def fingerprint_source(source: Source) -> str:
    """Return a fingerprint of the documents that the source gives: contents of files, commit of a hub dataset, revision of the stories."""
    how = source.model_dump(exclude_none=True, exclude={"files"})
    if source.files:
        return key_of(how | {"files": [sha256_of(path) for path in expand_files(source)]})
    if source.dataset:
        return key_of(how | {"commit": _hub_builder(source).hash})
    return key_of(how | {"revision": stories.REVISION})


def read_documents(source: Source, render_chat: RenderChat | None = None) -> Iterator[Document]:
    """Yield the documents of a source, stripped; empty ones are left out."""
    found = (document for document in _all_documents(source, render_chat) if document.text.strip())
    limit = source.documents if not source.builtin else None
    return islice(found, limit)


def _all_documents(source: Source, render_chat: RenderChat | None) -> Iterator[Document]:
    if source.builtin:
        for story in stories.stories(source.seed or 0, source.documents or BUILTIN_DOCUMENTS, source.start or 0):
            yield Document(((story.text, True),), Question(story.context, story.answer, story.choices))
        return
    for row in _rows(source):
        if source.separator and source.files and "text" in row:
            for part in row["text"].split(source.separator):
                yield Document(((part.strip(), True),))
        else:
            yield _document(row, source, render_chat)


def _document(row: dict[str, Any], source: Source, render_chat: RenderChat | None) -> Document:
    if source.messages:
        return Document(tuple(_chat_segments(_column(row, source.messages), render_chat)))
    if source.prompt and source.completion:
        return Document(((_text(row, source.prompt), False), (_text(row, source.completion), True)))
    return Document(((_text(row, source.text or "text").strip(), True),))


def _column(row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise StageError(
            f"data: no column '{name}'; the columns are {', '.join(map(repr, row))}. Name it with text:, prompt: or messages:"
        )
    return row[name]


def _text(row: dict[str, Any], name: str) -> str:
    value = _column(row, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise StageError(f"data: column '{name}' holds {type(value).__name__}, text is needed")
    return value


def _chat_segments(messages: Any, render: RenderChat | None) -> Iterator[tuple[str, bool]]:
    """Render a chat turn by turn, so that exactly what the assistant says is learned."""
    if render is None:
        raise StageError(
            "data: messages need a model with a chat template; this tokenizer has none. Use prompt and completion"
        )
    if not isinstance(messages, list) or not all(isinstance(turn, dict) and "role" in turn for turn in messages):
        raise StageError("data: messages must be a list of {role, content} in every row")
    done = ""
    for index, turn in enumerate(messages):
        if turn["role"] != "assistant":
            continue
        asked, answered = render(messages[:index], True), render(messages[: index + 1], False)
        if not (asked.startswith(done) and answered.startswith(asked)):
            raise StageError(
                "data: this chat template rewrites earlier turns, so answers cannot be told apart; use prompt and completion"
            )
        yield asked[len(done) :], False
        yield answered[len(asked) :], True
        done = answered


def _rows(source: Source) -> Iterator[dict[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    if source.dataset:
        _hub_builder(source)
        loaded = datasets.load_dataset(
            source.dataset, source.subset, split=source.split or "train", revision=source.revision
        )
        yield from loaded
        return
    paths = expand_files(source)
    kind = FORMATS[paths[0].suffix.lower()]
    options: dict[str, Any] = {"sample_by": "document"} if kind == "text" else {}
    if paths[0].suffix.lower() == ".tsv":
        options["sep"] = "\t"
    # streamed: a copy in the dataset cache would be written for each file, and is of no use here
    files = [str(path) for path in paths]
    yield from datasets.load_dataset(kind, data_files=files, split="train", streaming=True, **options)


def _hub_builder(source: Source) -> Any:
    import datasets

    try:
        return datasets.load_dataset_builder(source.dataset, source.subset, revision=source.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise StageError(
            f"dataset {source.dataset}: cannot be opened ({error}). Without a network, give local files: "
            "--set 'data.train={files: [stories.txt], separator: \"<|endoftext|>\"}'"
        ) from error


def sample_order(count: int, seed: int) -> list[int]:
    """Return a permutation of range(count) that follows from the seed on every machine."""
    return sorted(range(count), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())
