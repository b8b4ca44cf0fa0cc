"""From a source to documents: local files, hub datasets and the built-in stories, all as segments of text."""

from __future__ import annotations

import glob
import hashlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from compress.artifact import key_of, sha256_of
from compress.data import stories
from compress.data.corpus import Question
from compress.data.given import Given
from compress.errors import StageError
from compress.models.origin import hub_is_reachable

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
    label: int | str | None = None

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(text for text, _ in self.segments)

    @property
    def learned(self) -> str:
        """The text that is learned and scored."""
        return "".join(text for text, learned in self.segments if learned)


def expand_files(source: Given) -> list[Path]:
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
    formats = {path.suffix.lower() for path in paths}
    if len({(FORMATS[suffix], suffix == ".tsv") for suffix in formats}) > 1:
        raise StageError(f"data files {', '.join(map(str, paths))}: one source holds one format; make a source of each")
    if source.label and FORMATS[paths[0].suffix.lower()] == "text":
        raise StageError(f"data file {paths[0]}: a text file has no column '{source.label}'; labels stand in tables")
    if source.separator and FORMATS[paths[0].suffix.lower()] != "text":
        raise StageError(f"data file {paths[0]}: a separator stands in text files; here each row is a document")
    return paths


def fingerprint_source(source: Given) -> str:
    """Return a fingerprint of the documents that the source gives: contents of files, commit of a hub dataset, revision of the stories.

    Where files stand, what they are called and when they were written does not count; their format does.
    """
    how = source.model_dump(exclude_none=True, exclude={"files"})
    if source.files:
        paths = expand_files(source)
        return key_of(how | {"format": _format(paths), "files": [sha256_of(path) for path in paths]})
    if source.dataset:
        return key_of(how | {"commit": _hub_builder(source).hash})
    return key_of(how | {"revision": stories.REVISION})


def _format(paths: list[Path]) -> str:
    suffix = paths[0].suffix.lower()
    return "tsv" if suffix == ".tsv" else FORMATS[suffix]


def read_documents(source: Given, render_chat: RenderChat | None = None) -> Iterator[Document]:
    """Yield the documents of a source, stripped; those without text to learn are left out.

    Raises StageError where the source does not open, or a row is not what the options say.
    """
    found = (document for document in _all_documents(source, render_chat) if document.learned.strip())
    limit = source.documents if not source.builtin else None
    return islice(found, limit)


def _all_documents(source: Given, render_chat: RenderChat | None) -> Iterator[Document]:
    if source.builtin:
        for story in stories.stories(source.seed or 0, source.documents or BUILTIN_DOCUMENTS, source.start or 0):
            yield Document(((story.text, True),), Question(story.context, story.answer, story.choices))
        return
    for number, row in enumerate(read_rows(source), 1):
        try:
            document = _document(row, source, render_chat)
        except StageError as error:
            raise StageError(f"row {number}: {error}") from error
        if source.separator:
            yield from (Document(((part.strip(), True),)) for part in document.text.split(source.separator))
        else:
            yield document


def _document(row: dict[str, Any], source: Given, render_chat: RenderChat | None) -> Document:
    if source.messages:
        return Document(tuple(_chat_segments(_column(row, source.messages), render_chat)))
    prompt, completion = source.prompt, source.completion
    unnamed = not source.text and not prompt and not source.label
    if unnamed and "text" not in row and {"prompt", "completion"} <= row.keys():
        prompt, completion = "prompt", "completion"
    if prompt and completion:
        return Document(((_text(row, prompt), False), (_text(row, completion), True)))
    segments = ((_text(row, source.text or "text").strip(), True),)
    return Document(segments, label=_label(row, source.label) if source.label else None)


def _label(row: dict[str, Any], name: str) -> int | str:
    value = _column(row, name)
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int):
        return int(value)
    found = "nothing" if value in (None, "") else type(value).__name__
    raise StageError(f"column '{name}' holds {found}; a label is a whole number or a name")


def _column(row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise StageError(
            f"no column '{name}'; the columns are {', '.join(map(repr, row))}. Name it with text:, with prompt: and completion:, or with messages:"
        )
    return row[name]


def _text(row: dict[str, Any], name: str) -> str:
    value = _column(row, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise StageError(f"column '{name}' holds {type(value).__name__}, text is needed")
    return value


def _chat_segments(messages: Any, render: RenderChat | None) -> Iterator[tuple[str, bool]]:
    """Render a chat turn by turn, so that exactly what the assistant says is learned."""
    if render is None:
        raise StageError(
            "messages need a model with a chat template; this tokenizer has none. Use prompt and completion"
        )
    if not isinstance(messages, list) or not all(isinstance(turn, dict) and "role" in turn for turn in messages):
        raise StageError("messages must be a list of {role, content} in every row")
    # a column of mappings gives every turn every key, with null where it had none
    turns = [{name: value for name, value in turn.items() if value is not None} for turn in messages]
    done = ""
    for index, turn in enumerate(turns):
        if turn.get("role") != "assistant":
            continue
        asked, answered = render(turns[:index], True), render(turns[: index + 1], False)
        if not (asked.startswith(done) and answered.startswith(asked)):
            raise StageError(
                "this chat template rewrites earlier turns, so answers cannot be told apart; use prompt and completion"
            )
        yield asked[len(done) :], False
        yield answered[len(asked) :], True
        done = answered


def read_rows(source: Given) -> Iterator[dict[str, Any]]:
    """Yield the rows of files or of a hub dataset by column; a text file is one row with the column `text`.

    Raises StageError where the source does not open.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs as an error it raises too
    if source.dataset:
        _hub_builder(source)
        with _explained(f"dataset {source.dataset}"):
            yield from datasets.load_dataset(
                source.dataset, source.subset, split=source.split or "train", revision=source.revision
            )
        return
    paths = expand_files(source)
    kind = FORMATS[paths[0].suffix.lower()]
    for path in paths:
        if path.stat().st_size:
            with _explained(f"data file {path}"):
                yield from _csv_rows(path) if kind == "csv" else _file_rows(path, kind)


def _file_rows(path: Path, kind: str, **options: Any) -> Iterator[dict[str, Any]]:
    import datasets

    if kind == "text":
        options = {"sample_by": "document", "encoding": "utf-8-sig"}
    with tempfile.TemporaryDirectory() as cache:
        # streamed, and beside the user's cache: a copy or a lock for each file would be of no use to anybody
        yield from datasets.load_dataset(
            kind, data_files=[glob.escape(str(path))], split="train", streaming=True, cache_dir=cache, **options
        )


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    """Read the whole file at once, because a row with more cells than the header is a warning of the reader: it would be cut."""
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Length of header or names")
        try:
            # words such as "null" and "NA" are text
            return list(_file_rows(path, "csv", sep=separator, index_col=False, keep_default_na=False))
        except Warning as error:
            raise ValueError(
                "a row has more cells than the header; put text that holds the separator in quotes"
            ) from error


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what datasets and the readers below it raise for a file that is not as it should be into a message for the user."""
    import datasets

    try:
        yield
    except UnicodeDecodeError as error:
        raise StageError(
            f"{what}: not UTF-8 text ({error.reason} at byte {error.start}); convert it to UTF-8"
        ) from error
    except (OSError, ValueError, TypeError, datasets.exceptions.DatasetsError) as error:
        words = str(error).strip().partition("\n")[0]
        raise StageError(f"{what}: cannot be read ({type(error).__name__}: {words})") from error


def _hub_builder(source: Given) -> Any:
    import datasets

    if not hub_is_reachable():
        # the client would retry for half a minute, and then look into the cache too
        datasets.config.HF_HUB_OFFLINE = True
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
