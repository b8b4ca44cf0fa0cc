"""Accuracy of a classifier on labelled texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from compress.benchmark.options import AccuracyOptions
from compress.benchmark.row import SHARE_UNIT, missing, refuse_ids, runtime
from compress.contract import Measurement, Progress, silent
from compress.data.corpus import Corpus
from compress.models.encoder import open_encoder, refuse_encoder
from compress.models.folder import load_tokenizer, read_config
from compress.models.kind import class_name, is_classifier

if TYPE_CHECKING:
    from compress.benchmark.scoring import Ids, Logits
    from compress.models.torch_encoder import TorchEncoder

_BATCH_ROWS = 64
_BATCH_TOKENS = 8_192


@dataclass(frozen=True)
class Reading:
    """Texts as a classifier reads them: the ids of each, special tokens placed by the tokenizer, and how many were cut."""

    sequences: list[Ids]
    truncated: int


def measure_classification(
    folder: Path, corpus: Corpus, options: AccuracyOptions, progress: Progress = silent
) -> Measurement:
    """Return the share of labelled texts whose label has the largest logit, the first of equals; texts over the context are
    cut there, and counted.

    Raises ArtifactError when the folder does not open.
    """
    if refusal := _refuse(folder, corpus):
        return missing(SHARE_UNIT, refusal)
    encoder, config = open_encoder(folder), read_config(folder)
    asked = corpus.examples[: options.examples]
    reading = read_texts(folder, [example.text for example in asked], encoder.context)
    if refusal := next((said for ids in reading.sequences if (said := refuse_ids(ids, encoder))), ""):
        return missing(SHARE_UNIT, refusal)
    logits = classify(encoder, reading.sequences, progress)
    classes = logits.shape[1]
    if classes < 2:
        return missing(SHARE_UNIT, f"{class_name(config)} has one output: it gives a number, no class")
    if not np.isfinite(logits).all():
        return missing(SHARE_UNIT, "not finite: the model's logits are broken")
    names = class_names(config, classes)
    labels = [class_number(example.label, names) for example in asked]
    if None in labels:
        strange = asked[labels.index(None)].label
        known = ", ".join(f"{number} {name}" for number, name in list(names.items())[:5])
        return missing(SHARE_UNIT, f"label {strange!r} of the evaluation data is none of the model's: {known}")
    share = float(np.mean(logits.argmax(-1) == np.array(labels)))
    return Measurement(
        share,
        SHARE_UNIT,
        {
            "examples": len(asked),
            "examples_asked": options.examples,
            "truncated_at_context": reading.truncated,
            "context": encoder.context,
            "runtime": runtime(encoder),
            "standard_error": math.sqrt(share * (1 - share) / len(asked)),
            "chance": 1 / classes,
            "most_frequent": max(Counter(labels).values()) / len(asked),
        },
    )


def _refuse(folder: Path, corpus: Corpus) -> str:
    """Return why nothing is measured, or an empty string."""
    config = read_config(folder)
    if not is_classifier(config):
        return f"{class_name(config)} is no classifier of texts"
    if refusal := refuse_encoder(folder):
        return refusal
    kind = config.get("problem_type")
    if kind not in (None, "single_label_classification"):
        return f"accuracy is that of one class for each text, and this model's problem_type is {kind}"
    if not corpus.examples:
        return "the evaluation data has no labels; name their column with label:"
    return "" if (folder / "tokenizer.json").is_file() else "the folder has no tokenizer.json"


def read_texts(folder: Path, texts: Sequence[str], context: int) -> Reading:
    """Return texts as ids, with the special tokens of the folder's tokenizer, cut to `context` tokens."""
    tokenizer = load_tokenizer(folder)
    tokenizer.enable_truncation(max_length=context)
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=True)
    sequences = [np.array(one.ids, dtype=np.int64) for one in encoded]
    return Reading(sequences, sum(bool(one.overflowing) for one in encoded))


def classify(encoder: TorchEncoder, sequences: Sequence[Ids], progress: Progress = silent) -> Logits:
    """Return float32 logits [texts, classes], in right-padded batches of texts of about one length."""
    order = sorted(range(len(sequences)), key=lambda index: (-len(sequences[index]), index))
    found: dict[int, npt.NDArray[np.float32]] = {}
    while len(found) < len(order):
        longest = max(1, len(sequences[order[len(found)]]))
        rows = max(1, min(_BATCH_ROWS, _BATCH_TOKENS // longest))
        batch = order[len(found) : len(found) + rows]
        lengths = np.array([len(sequences[index]) for index in batch], dtype=np.int64)
        ids = np.full((len(batch), longest), encoder.pad, dtype=np.int64)
        for place, index in enumerate(batch):
            ids[place, : lengths[place]] = sequences[index]
        found |= dict(zip(batch, encoder.outputs(ids, lengths), strict=True))
        progress(len(found), len(order), "texts")
    return np.stack([found[index] for index in range(len(sequences))])


def class_names(config: Mapping[str, Any], classes: int) -> dict[int, str]:
    """Return the name of each class as config.json's id2label gives it, LABEL_0 and so on where it does not."""
    given = config.get("id2label")
    names = given if isinstance(given, dict) else {}
    return {number: str(names.get(str(number), f"LABEL_{number}")) for number in range(classes)}


def class_number(label: int | str, names: Mapping[int, str]) -> int | None:
    """Return the number of the class that a label means: a class's name, or its number; None where it is neither."""
    if isinstance(label, str):
        named = next((number for number, name in names.items() if name == label), None)
        if named is not None or not label.isdecimal():
            return named
        label = int(label)
    return label if label in names else None
