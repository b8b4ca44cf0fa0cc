"""What of the written documents is kept: filters in the order of the recipe, with counts, values and samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from compress.contract import Json
from compress.data.written.documents import Item
from compress.data.written.duplicates import ExactIndex, NearIndex
from compress.data.written.options import SHORT, Bounds, Filter, LengthBounds, NearDuplicates, Quality, Repetition
from compress.data.written.repetition import worst_repetition
from compress.data.written.scores import Scores
from compress.data.written.texts import Writer

Verdict = tuple[str, float | None]
"""Why a document is dropped, empty where it is kept; and the value that decided, where it is a number."""
Judge = Callable[[Sequence[Item], int], list[Verdict]]
KEPT_SAMPLES, DROPPED_SAMPLES = 6, 3
_SAMPLE_CHARACTERS = 1_500
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class Chain:
    """Filters, one after another. What an earlier one drops a later one does not see."""

    def __init__(self, filters: Sequence[tuple[Filter, Judge]], seed: int) -> None:
        self._filters = filters
        self._counts = [[0, 0] for _ in filters]
        self._values: list[list[float]] = [[] for _ in filters]
        self._samples = [_Samples(seed, DROPPED_SAMPLES) for _ in filters]

    def keep(self, items: Sequence[Item], batch: int) -> list[Item]:
        """Return the documents of a batch that every filter keeps."""
        left = list(items)
        for index, (_, judge) in enumerate(self._filters):
            verdicts = judge(left, batch)
            self._values[index] += [value for _, value in verdicts if value is not None]
            self._counts[index][0] += len(left)
            for item, (reason, _) in zip(left, verdicts, strict=True):
                if reason:
                    self._samples[index].offer(item, reason)
            left = [item for item, (reason, _) in zip(left, verdicts, strict=True) if not reason]
            self._counts[index][1] += len(left)
        return left

    def to_json(self) -> list[Json]:
        """Return what each filter did: documents before and after, values from the least to the largest, samples of dropped ones."""
        found = []
        for index, (options, _) in enumerate(self._filters):
            name, values = options.name, self._values[index]
            said = options.model_dump(mode="json", exclude_none=True)[name]
            if "model" in said:
                said["model"] = Path(said["model"]).name
            entry: Json = {
                "name": name,
                "options": said,
                "before": self._counts[index][0],
                "after": self._counts[index][1],
                "dropped": self._samples[index].to_json(),
            }
            if values:
                entry["values"] = {f"{share:g}": _rounded(np.quantile(values, share)) for share in _QUANTILES}
            found.append(entry)
        return found


class _Samples:
    """A few documents, drawn by seed and name: which ones does not depend on how many come."""

    def __init__(self, seed: int, count: int) -> None:
        self._seed, self._count = seed, count
        self._found: list[tuple[str, Item, str]] = []

    def offer(self, item: Item, reason: str = "") -> None:
        place = hashlib.sha256(f"{self._seed}:{item.name}".encode()).hexdigest()
        self._found = sorted([*self._found, (place, item, reason)], key=lambda one: one[0])[: self._count]

    def to_json(self) -> list[Json]:
        return [sample_json(item) | ({"reason": reason} if reason else {}) for _, item, reason in self._found]


def kept_samples(items: Sequence[Item], seed: int) -> list[Json]:
    """Return a few of the documents that were kept, drawn by the seed."""
    samples = _Samples(seed, KEPT_SAMPLES)
    for item in items:
        samples.offer(item)
    return samples.to_json()


def sample_json(item: Item) -> Json:
    """Return a document as a report shows it: the prompt that is read, and what is learned."""
    read = "".join(text for text, learned in item.document.segments if not learned)
    learned = item.document.learned
    cut = learned if len(learned) <= _SAMPLE_CHARACTERS else learned[:_SAMPLE_CHARACTERS] + " …"
    return {"name": item.name, "origin": item.origin, "prompt": read[:_SAMPLE_CHARACTERS], "text": cut}


def open_judges(
    filters: Sequence[Filter], writer: Writer, scores: Scores, seeds: Callable[[], Iterable[str]]
) -> list[Judge]:
    """Return what judges, for each filter; `seeds` gives the documents that prompts are taken from."""
    made: list[Judge] = []
    for each in filters:
        if each.length:
            made.append(_length(each.length, writer))
        elif each.finished:
            made.append(_one_by_one(_finished))
        elif each.repetition:
            made.append(_repetition(each.repetition))
        elif each.exact_duplicates:
            made.append(_exact(ExactIndex()))
        elif each.near_duplicates:
            made.append(_near(each.near_duplicates, seeds))
        elif each.perplexity:
            made.append(_perplexity(each.perplexity, scores))
        elif each.quality:
            made.append(_quality(each.quality, scores))
    return made


def _one_by_one(judge: Callable[[Item], Verdict]) -> Judge:
    return lambda items, batch: [judge(item) for item in items]


def _finished(item: Item) -> Verdict:
    return ("" if item.ended else "it did not end by itself"), None


def _length(options: LengthBounds, writer: Writer) -> Judge:
    def count(text: str) -> int:
        if options.unit == "tokens":
            return len(writer.tokenizer.encode(text, add_special_tokens=False).ids)
        return len(text.split()) if options.unit == "words" else len(text)

    def judge(item: Item) -> Verdict:
        found = count(item.document.learned)
        return _outside(options, found, f"{found} {options.unit}"), float(found)

    return _one_by_one(judge)


def _outside(bounds: Bounds, value: float, said: str) -> str:
    if bounds.min is not None and not value >= bounds.min:
        return f"{said}, less than {bounds.min:g}"
    if bounds.max is not None and not value <= bounds.max:
        return f"{said}, more than {bounds.max:g}"
    return ""


def _repetition(options: Repetition) -> Judge:
    def judge(item: Item) -> Verdict:
        found, said = worst_repetition(item.document.learned)
        return (f"{found:.2f} times Gopher's limit: so much {said}" if found > options.scale else ""), found

    return _one_by_one(judge)


def _exact(index: ExactIndex) -> Judge:
    def judge(item: Item) -> Verdict:
        # with the prompt: two questions with one short answer are no duplicates
        found = index.find_or_add(" ".join(text for text, _ in item.document.segments), item.name)
        return (f"the same as text {found}" if found is not None else ""), None

    return _one_by_one(judge)


def _near(options: NearDuplicates, seeds: Callable[[], Iterable[str]]) -> Judge:
    index = NearIndex(options.similarity, options.words)
    for number, text in enumerate(seeds() if options.seeds else ()):
        index.find_or_add(text, f"document {number} of the prompts")

    def judge(item: Item) -> Verdict:
        # without the prompt, most of which may be a template that all have
        if len(item.document.learned.split()) < SHORT * options.words:
            return "", None
        found = index.find_or_add(item.document.learned, f"text {item.name}")
        return (f"{found[1]:.2f} similar to {found[0]}" if found else ""), None

    return _one_by_one(judge)


def _perplexity(options: Bounds, scores: Scores) -> Judge:
    def judge(items: Sequence[Item], batch: int) -> list[Verdict]:
        found = scores.perplexities(items, batch)
        return [(_outside(options, value, f"perplexity {value:.4g}"), value) for value in found]

    return judge


def _quality(options: Quality, scores: Scores) -> Judge:
    name = Path(options.model).name

    def judge(items: Sequence[Item], batch: int) -> list[Verdict]:
        found = scores.qualities(items, batch, Path(options.model), options.label)
        return [(_outside(options, value, f"{name} gives {options.label} {value:.4g}"), value) for value in found]

    return judge


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
