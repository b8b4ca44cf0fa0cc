"""The benchmark's entry: every measurement of an artifact, quality and speed apart so that each can be kept."""

from __future__ import annotations

from pathlib import Path

from compress.benchmark.accuracy import measure_accuracy
from compress.benchmark.bits_per_byte import BITS_PER_BYTE_UNIT, measure_bits_per_byte
from compress.benchmark.classification import measure_classification
from compress.benchmark.options import BenchmarkOptions, PerplexityOptions
from compress.benchmark.perplexity import KL_UNIT, PERPLEXITY_UNIT, measure_perplexity
from compress.benchmark.row import SHARE_UNIT, Row, missing
from compress.benchmark.speed import SPEED_UNITS, measure_speed
from compress.benchmark.teacher import TeacherLogits
from compress.contract import Measurement, Progress, silent
from compress.data.corpus import Corpus
from compress.models.decoder import format_of, open_decoder
from compress.models.folder import read_config
from compress.models.kind import is_causal, not_causal

QUALITY_UNITS = {
    "perplexity": PERPLEXITY_UNIT,
    "bits_per_byte": BITS_PER_BYTE_UNIT,
    "kl_to_teacher": KL_UNIT,
    "top1_agreement": SHARE_UNIT,
    "accuracy": SHARE_UNIT,
}
NAMES = (*QUALITY_UNITS, *SPEED_UNITS)


def quality_names(options: BenchmarkOptions) -> tuple[str, ...]:
    """Return the names of the quality measurements that the options ask for."""
    wanted = {
        "perplexity": options.perplexity is not False,
        "bits_per_byte": options.bits_per_byte is not False,
        "kl_to_teacher": options.agreement,
        "top1_agreement": options.agreement,
        "accuracy": options.accuracy is not False,
    }
    return tuple(name for name in QUALITY_UNITS if wanted[name])


def measure_quality(
    folder: Path,
    options: BenchmarkOptions,
    evaluation: Corpus | None,
    teacher: TeacherLogits | None = None,
    left_out: frozenset[int] = frozenset(),
    progress: Progress = silent,
) -> dict[str, Measurement]:
    """Return what the options ask for of perplexity, bits_per_byte, kl_to_teacher, top1_agreement and accuracy.

    `evaluation` is tokenized with the folder's own tokenizer. `teacher` is shared between rows. Documents whose numbers are in
    `left_out` are left out of bits per byte: those that some row compared cannot read. Of a model that is no causal language
    model only accuracy is measured.

    Raises ArtifactError when the folder does not open, or the teacher's answers cannot be stored.
    """
    names = quality_names(options)
    if evaluation is None or not len(evaluation.ids):
        return {name: missing(QUALITY_UNITS[name], "there is no evaluation data") for name in names}
    if not names:
        return {}
    format_of(folder)
    if not is_causal(config := read_config(folder)):
        result = {name: missing(QUALITY_UNITS[name], not_causal(config)) for name in names}
        if options.accuracy is not False:
            result["accuracy"] = measure_classification(folder, evaluation, options.accuracy, progress)
        return result
    row = Row(folder, open_decoder(folder))
    result = {}
    if options.perplexity is not False or options.agreement:
        windows = options.perplexity or PerplexityOptions()
        shown = teacher if options.agreement else None
        stored = options.teacher_logits == "stored"
        result |= measure_perplexity(row, evaluation, windows, shown, progress, stored)
    if options.bits_per_byte is not False:
        result["bits_per_byte"] = measure_bits_per_byte(row, evaluation, options.bits_per_byte, left_out, progress)
    if options.accuracy is not False:
        result["accuracy"] = measure_accuracy(row, evaluation, options.accuracy, progress)
    return {name: result[name] for name in names}


def measure(
    folder: Path,
    options: BenchmarkOptions,
    evaluation: Corpus | None,
    teacher: Path | None = None,
    left_out: frozenset[int] = frozenset(),
    progress: Progress = silent,
) -> dict[str, Measurement]:
    """Return every measurement that the options ask for, of one artifact folder, torch or ONNX; see `measure_quality`.

    Raises ArtifactError when the folder does not open, StageError when its speed cannot be measured.
    """
    shared = TeacherLogits(teacher) if teacher and options.agreement else None
    result = measure_quality(folder, options, evaluation, shared, left_out, progress)
    if options.latency is not False:
        result |= measure_speed({folder.name: folder}, options.latency, progress)[folder.name]
    return result
