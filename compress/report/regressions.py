"""What got worse, said loudly: slower or larger than fp32, changed by the export, limits missed."""

from __future__ import annotations

from dataclasses import dataclass

from compress.contract import Json
from compress.report.results import TEACHER, ancestors_of, find_row, megabytes_of, title_of, value_of

NOISE = 0.05
"""Speeds that differ by less than this fraction are taken as equal: repeated runs on a shared machine vary as much."""
EXPORT = 0.01
"""An ONNX row whose perplexity is above its torch row's by more than this fraction was changed on the way out."""

_SPEEDS = {
    "decode_tokens_per_second": "decodes {found} tokens/s, {ratio:.2f}x of {base}",
    "prefill_tokens_per_second": "reads its prompt at {found} tokens/s, {ratio:.2f}x of {base}",
}


@dataclass(frozen=True)
class Regression:
    """One thing that got worse: the row's index in results["rows"], the measurement (or size_bytes), a sentence."""

    row: int
    name: str
    message: str


def find_regressions(results: Json) -> list[Regression]:
    """Return every regression, in the order of the rows.

    An ONNX row is held against the fp32 ONNX row of the same model: a quantized one against the nearest fp32 ancestor
    that was exported, an fp32 one against the teacher. It must not be slower (by more than NOISE) nor larger. Its
    perplexity is held against its own torch row.
    """
    found: list[Regression] = []
    for index, row in enumerate(results["rows"]):
        if row["format"] != "onnx":
            continue
        base = _baseline(results, row)
        if base is not None:
            found += _slower(index, row, base) + _larger(index, row, base)
        found += _changed_by_export(index, row, find_row(results, row["id"], "torch", row.get("run")))
    return found


def find_missed(results: Json) -> list[str]:
    """Return one sentence for each limit that was missed."""
    sentences = []
    for limit in results["limits"]:
        if not limit["met"]:
            run = f"{limit['run']}: " if limit.get("run") else ""
            was = "was not measured" if limit["found"] is None else f"is {_plain(limit['found'])}"
            sentences.append(
                f"Limit missed: {run}{limit['id']}: {limit['name']} {was}, the limit is {_plain(limit['limit'])}"
            )
    return sentences


def _baseline(results: Json, row: Json) -> Json | None:
    names = [TEACHER] if row["precision"] == "fp32" else ancestors_of(results, row)
    for name in names:
        base = None if name == row["id"] else find_row(results, name, "onnx", row.get("run"))
        if base is not None and base["precision"] == "fp32":
            return base
    return None


def _slower(index: int, row: Json, base: Json) -> list[Regression]:
    found = []
    for name, sentence in _SPEEDS.items():
        speed, before = value_of(row, name), value_of(base, name)
        if speed is not None and before and speed < (1 - NOISE) * before:
            said = sentence.format(found=_plain(speed), ratio=speed / before, base=_base_title(base))
            found.append(Regression(index, name, f"Slower than fp32: {title_of(row)} {said}"))
    return found


def _larger(index: int, row: Json, base: Json) -> list[Regression]:
    size, before = megabytes_of(row), megabytes_of(base)
    if size is None or before is None or size <= before:
        return []
    said = f"{title_of(row)} takes {_plain(size)} MB, {_base_title(base)} {_plain(before)} MB"
    return [Regression(index, "size_bytes", f"Larger than fp32: {said}")]


def _changed_by_export(index: int, row: Json, torch: Json | None) -> list[Regression]:
    perplexity, before = value_of(row, "perplexity"), None if torch is None else value_of(torch, "perplexity")
    if perplexity is None or not before or perplexity <= (1 + EXPORT) * before:
        return []
    change = 100 * (perplexity / before - 1)
    said = f"{title_of(row)} has perplexity {_plain(perplexity)}, its torch row {_plain(before)} ({change:+.1f} %)"
    return [Regression(index, "perplexity", f"Worse than its torch row: {said}")]


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _base_title(base: Json) -> str:
    return title_of({**base, "run": None}).replace("(ONNX)", "(ONNX, fp32)")
