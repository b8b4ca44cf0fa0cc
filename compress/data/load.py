"""The recipe's data: parts, slices taken out of train, and their tokens for the model at hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compress.artifact import key_of, sha256_of
from compress.contract import Json, Progress, silent
from compress.data.chat import ChatRenderer, chat_renderer
from compress.data.corpus import Corpus, Example, Question
from compress.data.options import DataOptions, Source
from compress.data.sources import Document, fingerprint_source, read_documents, sample_order
from compress.data.written.texts import Teacher
from compress.data.written.write import fingerprint_written, written_documents, written_report
from compress.errors import StageError
from compress.models.folder import load_tokenizer, special_ids

PARTS = ("train", "validation", "calibration", "evaluation")
SLICES = ("validation", "calibration")
_SLICE_SHARE = 20
_SLICE_LIMIT = {"validation": 256, "calibration": 1024}
_FEW = 2 * _SLICE_SHARE
_PIECE = 2_000


class RecipeData:
    """The parts of a recipe's data. Call it with a part and a model folder to get a Corpus.

    `teacher` writes the sources that are from teacher; set it before anything is asked of them.
    """

    def __init__(self, options: DataOptions, seed: int, teacher: Teacher | None = None) -> None:
        self.options = options
        self.seed = seed
        self.teacher = teacher
        self._documents: dict[tuple[str, str], list[Document]] = {}
        self._corpora: dict[str, Corpus] = {}
        self._sources: dict[str, str] = {}

    def has(self, part: str) -> bool:
        """Say whether the part is given, or can be taken out of train."""
        return self._source(part) is not None

    def fingerprint(self, part: str, tokenizer_folders: Sequence[Path] = ()) -> str:
        """Return what determines the text of a part: its source, and for slices of train their seed.

        With `tokenizer_folders`, their tokenizers count too, each kind once and in any order.
        """
        source, owner = self._need(part), self._owner(part)
        if owner not in self._sources:
            self._sources[owner] = (
                fingerprint_written(source, self._writer(owner)) if source.writer else fingerprint_source(source)
            )
        made: dict[str, Any] = {"source": self._sources[owner], "join": self.options.join}
        if owner == "train":
            made |= {"part": part, "seed": self.seed, "taken": self._taken}
        if tokenizer_folders:
            made["tokenizers"] = sorted(
                {fingerprint_tokenizer(folder, self.options.join) for folder in tokenizer_folders}
            )
        return key_of(made)

    def __call__(self, part: str, tokenizer_folder: Path, tokens: int | None = None) -> Corpus:
        """Return the tokenized part; with `tokens`, no more documents than give that many.

        Raises StageError and ArtifactError, which name the part, where it cannot be read or tokenized.
        """
        source = self._need(part)
        chat = chat_renderer(tokenizer_folder) if source.messages else None
        how = {
            "text": self.fingerprint(part),
            "tokenizer": fingerprint_tokenizer(tokenizer_folder, self.options.join),
            "template": chat.template if chat else "",
            "tokens": tokens,
        }
        key = key_of(how)
        if key not in self._corpora:
            documents = self._read(part, chat)
            self._corpora[key] = tokenize(documents, tokenizer_folder, self.options.join, key, tokens)
        return self._corpora[key]

    def write(self, parts: Iterable[str], task: Callable[[str], AbstractContextManager[Progress]]) -> None:
        """Let the teacher write what these parts are made of, where it has not: each under a task, which shows how far it is.

        Raises StageError, which names the part, where that does not work.
        """
        for owner in dict.fromkeys(map(self._owner, parts)):
            source: Source | None = getattr(self.options, owner)
            if source is not None and source.writer and (owner, "") not in self._documents:
                with task(f"data.{owner}: the teacher writes") as progress:
                    self._documents[owner, ""] = self._load(owner, None, progress)

    def reports(self) -> dict[str, Json]:
        """Return what was written and filtered for each part that the teacher has written."""
        parts = written_parts(self.options)
        found = {part: written_report(getattr(self.options, part), self._writer(part)) for part in parts}
        return {part: report for part, report in found.items() if report is not None}

    def joined(self, join: Literal["bos", "eos", "none"]) -> RecipeData:
        """Return the same data with another joining token."""
        return RecipeData(self.options.model_copy(update={"join": join}), self.seed, self.teacher)

    def texts(self, part: str) -> Iterable[str]:
        """Yield the text of each document of a part that needs no chat template: to train a tokenizer on."""
        return (document.text for document in self._read(part, None))

    @cached_property
    def _taken(self) -> tuple[str, ...]:
        return tuple(part for part in SLICES if getattr(self.options, part) is None)

    def _source(self, part: str) -> Source | None:
        source: Source | None = getattr(self.options, part)
        return self.options.train if source is None and part in SLICES else source

    def _need(self, part: str) -> Source:
        source = self._source(part)
        if source is None:
            raise StageError(f"data.{part} is needed here and the recipe has none; add it under data:")
        return source

    def _owner(self, part: str) -> str:
        return "train" if getattr(self.options, part) is None else part

    def _read(self, part: str, chat: ChatRenderer | None) -> list[Document]:
        owner = self._owner(part)
        key = owner, chat.template if chat else ""
        if key not in self._documents:
            self._documents[key] = self._load(owner, chat)
        documents = self._documents[key]
        if not documents:
            raise StageError(f"data.{owner}: there is no text in it")
        return self._slice(documents, part) if owner == "train" else documents

    def _load(self, owner: str, chat: ChatRenderer | None, progress: Progress = silent) -> list[Document]:
        source = self._need(owner)
        try:
            if source.writer:
                return written_documents(source, self._writer(owner), progress)
            return list(read_documents(source, chat))
        except StageError as error:
            raise StageError(f"data.{owner}: {error}") from error

    def _writer(self, owner: str) -> Teacher:
        if self.teacher is None:
            raise StageError(f"data.{owner}: from teacher needs a teacher, and there is none here")
        return self.teacher

    def _slice(self, documents: list[Document], part: str) -> list[Document]:
        """Cut validation and calibration, where they have no source of their own, out of train's documents."""
        if len(documents) < _FEW and self._taken:
            documents = [piece for document in documents for piece in _pieces(document)]
        if len(documents) <= len(self._taken):
            raise StageError(
                f"data.train: {len(documents)} piece(s) of text are too few to take {' and '.join(self._taken)} out; "
                "give more text, a separator, or data.validation and data.calibration"
            )
        order = sample_order(len(documents), self.seed)
        share = max(1, len(documents) // _SLICE_SHARE)
        begun, bounds = 0, {}
        for name in self._taken:
            bounds[name] = begun, begun + min(_SLICE_LIMIT[name], share)
            begun = bounds[name][1]
        start, end = bounds.get(part, (begun, len(documents)))
        return [documents[index] for index in order[start:end]]


def written_parts(options: DataOptions) -> list[str]:
    """Return the parts that the teacher writes."""
    sources = {part: getattr(options, part) for part in PARTS}
    return [part for part, source in sources.items() if source is not None and source.writer]


def _pieces(document: Document) -> list[Document]:
    """Cut a long plain document at line ends into pieces of about 2,000 characters; a long line is cut at spaces."""
    if len(document.segments) > 1 or len(document.text) < 2 * _PIECE:
        return [document]
    pieces, current = [], ""
    for part in (part for line in document.text.splitlines(keepends=True) for part in _short(line)):
        current += part
        if len(current) >= _PIECE:
            pieces.append(current)
            current = ""
    return [Document(((text.strip(), True),)) for text in [*pieces, current] if text.strip()]


def _short(line: str) -> list[str]:
    return [line] if len(line) < 2 * _PIECE else re.findall(rf"(?s).{{1,{_PIECE}}}(?=\s|\Z)|.{{1,{_PIECE}}}", line)


def tokenize(
    documents: list[Document], folder: Path, join: str | None, fingerprint: str, tokens: int | None = None
) -> Corpus:
    """Return the documents as one run of ids, each with the joining token in front."""
    tokenizer, special = load_tokenizer(folder), special_ids(folder)
    joining = joining_token(folder, join)
    # training gives the joining token a loss, as the model's own training did; a chat's prompt has none
    ids: list[np.ndarray[Any, Any]] = []
    counted: list[np.ndarray[Any, Any]] = []
    byte_counts: list[int] = []
    total = 0
    for start in range(0, len(documents), 512):
        batch = documents[start : start + 512]
        encoded = iter(
            tokenizer.encode_batch(
                [text for document in batch for text, _ in document.segments], add_special_tokens=False
            )
        )
        for document in batch:
            parts = [(next(encoded).ids, learned) for _, learned in document.segments]
            flat = [token for part, _ in parts for token in part]
            flags = [learned for part, learned in parts for _ in part]
            if joining is not None and flat[:1] != [special.bos]:
                flat, flags = [joining, *flat], [len(parts) == 1, *flags]
            ids.append(np.array(flat, dtype=np.int64))
            counted.append(np.array(flags, dtype=np.bool_))
            byte_counts.append(len(document.text.encode()))
            total += len(flat)
        if tokens is not None and total >= tokens:
            break
    starts = np.concatenate([[0], np.cumsum([len(part) for part in ids])]).astype(np.int64)
    questions = tuple(_questions(documents[: len(ids)]))
    return Corpus(
        np.concatenate(ids),
        np.concatenate(counted),
        starts,
        np.array(byte_counts, dtype=np.int64),
        questions,
        fingerprint,
        tuple(_examples(documents[: len(ids)])),
    )


def _examples(documents: list[Document]) -> Iterable[Example]:
    return (Example(document.text, document.label) for document in documents if document.label is not None)


def _questions(documents: list[Document]) -> Iterable[Question]:
    return (document.question for document in documents if document.question is not None)


def fingerprint_tokenizer(folder: Path, join: str | None) -> str:
    """Return what determines the ids of a text: tokenizer.json and the special tokens."""
    file = folder / "tokenizer.json"
    made = {
        "file": sha256_of(file) if file.is_file() else "",
        "bos": special_ids(folder).bos,
        "joining": joining_token(folder, join),
    }
    return key_of(made)


def joining_token(folder: Path, join: str | None) -> int | None:
    """Return the id that stands in front of each document: BOS where the model has one, else EOS, unless `join` says which.

    Raises StageError where `join` names a token that the model does not have.
    """
    special = special_ids(folder)
    end = special.eos[0] if special.eos else None
    if join == "none":
        return None
    if join is None:
        return special.bos if special.bos is not None else end
    found = special.bos if join == "bos" else end
    if found is None:
        raise StageError(
            f"data.join is {join}, but the model in {folder} has no {join.upper()} token; use another join"
        )
    return found
