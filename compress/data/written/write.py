"""Documents that the teacher writes: texts batch by batch into the store, filters over them, and a report. Written once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from compress import artifact
from compress.contract import Json, Progress, silent
from compress.data.options import ATTEMPTS, NEW_TOKENS, Source
from compress.data.sources import Document
from compress.data.written.documents import Item, document_from_json, items_of
from compress.data.written.filters import Chain, kept_samples, open_judges
from compress.data.written.options import SamplingOptions
from compress.data.written.prompts import PromptList, fingerprint_prompts
from compress.data.written.scores import Scores, fingerprint_of
from compress.data.written.store import Store
from compress.data.written.texts import Teacher, Writer
from compress.errors import StageError
from compress.versions import versions

WRITE_REVISION, FILTER_REVISION = 1, 1
DOCUMENTS, REPORT = "documents.jsonl", "report.json"


def fingerprint_written(source: Source, teacher: Teacher) -> str:
    """Return what determines the documents of a source that the teacher writes. Nothing is written for it."""
    return artifact.key_of(_kept_by(source, teacher))


def written_documents(source: Source, teacher: Teacher, progress: Progress = silent) -> list[Document]:
    """Return the documents of a source: from the store, or written now. A kill loses at most the batch at work.

    Raises StageError where prompts or words cannot be read, and where the filters leave too little.
    """
    lines = (_folder(source, teacher, progress) / DOCUMENTS).read_text(encoding="utf-8").splitlines()
    return [document_from_json(json.loads(line)) for line in lines]


def written_report(source: Source, teacher: Teacher) -> Json | None:
    """Return what was written and what the filters did; None where it is not in the store."""
    folder = _kept_folder(Store(_written_by(source, teacher)), source, teacher)
    found = artifact.read(folder)
    if found is None or artifact.damage(found):
        return None
    report: Json = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return report


def _written_by(source: Source, teacher: Teacher) -> Json:
    """What determines the texts. How many there are does not: another recipe that asks for more goes on where one ended."""
    if source.prompts is None:
        raise ValueError("a source without prompts")
    return {
        "revision": WRITE_REVISION,
        "teacher": teacher.key,
        "device": teacher.device,
        "prompts": fingerprint_prompts(source.prompts),
        "chat": source.chat,
        "new_tokens": source.new_tokens or NEW_TOKENS,
        "sampling": (source.sampling or SamplingOptions()).model_dump(mode="json"),
        "stop": list(source.stop or ()),
        "seed": source.seed or 0,
        "once": source.documents is None,
    }


def _kept_by(source: Source, teacher: Teacher) -> Json:
    filters = []
    for each in source.kept_filters:
        options = each.model_dump(mode="json", exclude_none=True)
        if each.quality:
            options["quality"]["model"] = fingerprint_of(Path(each.quality.model))
        filters.append(options)
    return {
        "revision": FILTER_REVISION,
        "texts": artifact.key_of(_written_by(source, teacher)),
        "documents": source.documents,
        "attempts": source.attempts or ATTEMPTS,
        "prompt_is": source.prompt_role,
        "filters": filters,
    }


def _kept_folder(store: Store, source: Source, teacher: Teacher) -> Path:
    return store.folder / f"kept-{fingerprint_written(source, teacher)[:32]}"


def _folder(source: Source, teacher: Teacher, progress: Progress) -> Path:
    """Return the folder of the documents, made where it is not there or damaged."""
    store = Store(_written_by(source, teacher))
    folder = _kept_folder(store, source, teacher)
    with store.lock():
        found = artifact.read(folder)
        if found is None or artifact.damage(found):
            with artifact.temporary_folder(folder) as temporary:
                items, report = _Work(store, source, teacher).make(progress)
                lines = "".join(json.dumps(item.to_json(), sort_keys=True) + "\n" for item in items)
                artifact.write_text(temporary / DOCUMENTS, lines)
                artifact.write_text(temporary / REPORT, json.dumps(report, indent=1) + "\n")
                said: Json = {"facts": {}, "skipped": [], "versions": versions()}
                artifact.finish(temporary, folder, _kept_by(source, teacher), said)
    return folder


class _Work:
    """One making of the documents of a source, with the store locked."""

    def __init__(self, store: Store, source: Source, teacher: Teacher) -> None:
        self.store, self.source = store, source
        self.writer = Writer(teacher, source)
        self.prompts = PromptList(source, teacher.folder)
        self.batch_size = self.writer.sampling.batch
        judges = open_judges(source.kept_filters, self.writer, Scores(store, self.writer), self.prompts.seeds)
        self.chain = Chain(list(zip(source.kept_filters, judges, strict=True)), source.seed or 0)
        self.kept: list[Item] = []
        self.texts = self.too_long = self.ended = self.tokens = self.documents = 0

    def make(self, progress: Progress) -> tuple[list[Item], Json]:
        """Return the documents and the report.

        Raises StageError where there are too few.
        """
        wanted = self.source.documents
        last = (self.prompts.count or 0) if wanted is None else wanted * (self.source.attempts or ATTEMPTS)
        for batch in count():
            numbers = range(batch * self.batch_size, (batch + 1) * self.batch_size)
            if wanted is None:
                numbers = numbers[: max(0, last - numbers.start)]
            if numbers.start >= last or (wanted is not None and len(self.kept) >= wanted):
                break
            self._take(batch, numbers)
            note = f"{len(self.kept):,} of {self.documents:,} documents kept"
            progress(*((self.texts, last, "texts") if wanted is None else (len(self.kept), wanted, "documents")), note)
        if len(self.kept) < (wanted or 1):
            raise StageError(self._too_few(wanted))
        self.kept = self.kept[:wanted]
        return self.kept, self._report()

    def _take(self, batch: int, numbers: Sequence[int]) -> None:
        texts = self.store.read(batch)
        if texts is None:
            texts = self.writer.write(batch, [self.prompts[number] for number in numbers])
            self.store.write(batch, texts)
        items: list[Item] = []
        for number, text in zip(numbers, texts, strict=True):
            self.texts += 1
            if "too_long" in text:
                self.too_long += 1
                continue
            self.ended += text["ended"]
            self.tokens += text["tokens"]
            items += items_of(text, number, self.source, self.prompts.chat)
        self.documents += len(items)
        self.kept += self.chain.keep(items, batch)

    def _report(self) -> Json:
        return {
            "texts": self.texts,
            "prompts_too_long": self.too_long,
            "ended": self.ended,
            "tokens": self.tokens,
            "documents": self.documents,
            "filters": self.chain.to_json(),
            "kept": len(self.kept),
            "samples": kept_samples(self.kept, self.source.seed or 0),
        }

    def _too_few(self, wanted: int | None) -> str:
        counts: list[Any] = [("documents", self.documents)]
        counts += [(entry["name"], entry["after"]) for entry in self.chain.to_json()]
        left = ", ".join(f"{name} {number:,}" for name, number in counts)
        short = f", of them {self.too_long:,} without room in its context" if self.too_long else ""
        begun = (
            f"of {self.texts:,} prompts{short}, the teacher's texts and the filters left {len(self.kept):,} documents"
        )
        if wanted is None:
            return f"{begun} ({left}); loosen the filters, or look at the prompts"
        attempts = self.source.attempts or ATTEMPTS
        return (
            f"{begun}, {wanted:,} are asked for, and attempts ({attempts}) allows no more ({left}); "
            "loosen the filters, raise attempts, or ask for fewer documents"
        )
