"""results.json: what a run found, in one file. Read, checked, written atomically.

{
 "schema": 1,
 "recipe": {"name", "text", "file"?, "overrides": ["path=value", ...]},
 "environment": {...},                  machine, system and versions; values are plain JSON, mappings may nest
 "data": {"evaluation": fingerprint, ...},
 "rows": [{
   "id",                                an ONNX row keeps the id of its torch source
   "source",                            id of the parent that the stage started from, or null
   "stage",                             the word: prune, distill, ...; "teacher" or "start" for what was there
   "format": "torch" | "onnx",
   "precision": "fp32" | "int8" | "int4" | "int2" | "mixed",
   "parameters", "size_bytes",          integers; null where unknown
   "measurements": {name: {"value", "unit", "conditions", "samples"?, "reason"?}},
   "seconds", "peak_memory_bytes",      of the stage that made the row
   "path"                               relative to results.json, with "/"
 }],
 "stages": [{"id", "word", "seconds", "peak_memory_bytes", "facts": {...}, "skipped": [{"name", "reason"}],
             "log": [{"step", "tokens", "loss", ...}]}],
 "limits": [{"id", "name", "limit", "found", "met"}],
 "written": [{"part", "texts", "prompts_too_long", "ended", "tokens", "documents", "kept",
              "filters": [{"name", "options", "before", "after", "values"?: {quantile: value}, "dropped": [sample]}],
              "samples": [sample]}]?     data that the teacher wrote; a sample is {"name", "origin", "prompt", "text", "reason"?}
}

Measurements: perplexity, bits_per_byte, kl_to_teacher (nats a token), top1_agreement and accuracy (0 to 1),
first_token_ms, prefill_tokens_per_second, decode_tokens_per_second, peak_rss_bytes, load_seconds.
A value of null has a reason. In what `compress compare` makes, every row, stage, limit and written part has the key "run", and "runs"
holds each run's name, path, recipe, environment and data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress import artifact
from compress.contract import Json
from compress.errors import ArtifactError

SCHEMA = 1
FILE = "results.json"
TEACHER = "teacher"
FORMATS = {"torch": "torch", "onnx": "ONNX"}
FLOATS = {"fp32": 32.0, "fp16": 16.0, "bf16": 16.0}
"""Precisions that are no quantization, with the bits of a weight."""
_KEYS = ("recipe", "environment", "data", "rows", "stages", "limits")
_ROW_KEYS = ("id", "format", "precision", "measurements")


def read_results(path: Path) -> Json:
    """Return the results of a run: `path` is a results.json or the run folder that holds one.

    Raises ArtifactError where there is none, where it is not readable, or where its schema is another.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise ArtifactError(f"{path}: no {FILE} here; give a run folder that `compress apply` has finished")
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{file}: not readable as JSON ({error}); apply the recipe again") from error
    found = results.get("schema") if isinstance(results, dict) else None
    if found != SCHEMA:
        raise ArtifactError(f"{file}: schema {found}, this version reads {SCHEMA}; apply the recipe again")
    missing = _missing(results)
    if missing:
        raise ArtifactError(f"{file}: {missing} is missing; apply the recipe again")
    return dict(results)


def write_results(results: Json, path: Path) -> None:
    """Write results.json so that a kill leaves the old file or the new; the schema number is put in.

    Raises ValueError for a NaN or an infinity: such a measurement is null, with a reason.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**results, "schema": SCHEMA}, indent=1, allow_nan=False, ensure_ascii=False)
    artifact.write_text(path, text + "\n")


def value_of(row: Json, name: str) -> float | None:
    """Return a measured value, or None where it is missing or null."""
    value = row["measurements"].get(name, {}).get("value")
    return None if value is None else float(value)


def reason_of(row: Json, name: str) -> str:
    """Return why a measurement has no value; empty where nobody said."""
    return str(row["measurements"].get(name, {}).get("reason", ""))


def perplexity_increase(row: Json, teacher: Json | None) -> float | None:
    """Return how much a row's perplexity lies above the teacher's, as a fraction; None where it cannot be told."""
    now, before = (None if one is None else value_of(one, "perplexity") for one in (row, teacher))
    if now is None or not before or teacher is None or other_vocabulary(row, teacher):
        return None
    return now / before - 1


def other_vocabulary(row: Json, teacher: Json) -> bool:
    """Say whether two perplexities are by tokens of vocabularies of different sizes: longer tokens are harder to guess."""
    sizes = {
        one["measurements"].get("perplexity", {}).get("conditions", {}).get("vocabulary") for one in (row, teacher)
    }
    return len(sizes - {None}) > 1


def megabytes_of(row: Json) -> float | None:
    """Return the size on disk in MB (10^6 bytes)."""
    size = row.get("size_bytes")
    return None if size is None else size / 1e6


def find_row(results: Json, id: str | None, format: str, run: str | None = None) -> Json | None:
    """Return the row of that id and format (in that run, where runs were merged)."""
    for row in results["rows"]:
        if row["id"] == id and row["format"] == format and row.get("run") == run:
            return dict(row)
    return None


def find_stage(results: Json, id: str, word: str, run: str | None = None) -> Json | None:
    """Return the stage of that id and word (in that run, where runs were merged)."""
    for stage in results["stages"]:
        if stage["id"] == id and stage["word"] == word and stage.get("run") == run:
            return dict(stage)
    return None


def bits_of(results: Json, row: Json) -> float | None:
    """Return the bits that a weight takes on average, with scales, zero points and matrices left in float; None where nobody said.

    A quantized row has those of the quantize stage that it descends from: export packs its codes, and training keeps its
    grids. A float torch row may be stored in 16 bits.
    """
    bits = FLOATS.get(row["precision"])
    if bits is not None:
        size, count = row.get("size_bytes"), row.get("parameters")
        return 16.0 if row["format"] == "torch" and size and count and 8 * size / count < 20 else bits
    for id in [row["id"], *ancestors_of(results, row)]:
        stage = find_stage(results, id, "quantize", row.get("run"))
        found = ((stage or {}).get("facts") or {}).get("bits_per_weight")
        if isinstance(found, int | float):
            return float(found)
    return None


def teacher_of(results: Json, row: Json, same_format: bool) -> Json | None:
    """Return the teacher's row to compare with: of the same format, else (where allowed) of the other one."""
    formats = [row["format"], *(other for other in FORMATS if other != row["format"] and not same_format)]
    found = (find_row(results, TEACHER, format, row.get("run")) for format in formats)
    return next((teacher for teacher in found if teacher is not None), None)


def ancestors_of(results: Json, row: Json) -> list[str]:
    """Return the ids that a row descends from, the nearest first; the teacher ends the list."""
    parents: dict[str, str] = {}
    for other in results["rows"]:
        source = other.get("source")
        if other.get("run") == row.get("run") and source not in (None, other["id"]):
            parents.setdefault(other["id"], source)
    chain: list[str] = []
    id = parents.get(row["id"])
    while id is not None and id != row["id"] and id not in chain:
        chain.append(id)
        id = parents.get(id)
    return chain if TEACHER in chain or row["id"] == TEACHER else [*chain, TEACHER]


def title_of(row: Json) -> str:
    """Return the name of a row in a sentence: `int4 (ONNX)`, with its run where runs were merged."""
    run = f"{row['run']}: " if row.get("run") else ""
    return f"{run}{row['id']} ({FORMATS.get(row['format'], row['format'])})"


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested JSON as (dotted name, text), in the given order."""
    for key, entry in value.items():
        name = f"{prefix}{key}"
        if isinstance(entry, Mapping) and entry:
            yield from flatten(entry, name + ".")
        else:
            yield name, plain_text(entry)


def plain_text(value: object) -> str:
    """Return a JSON value as a reader wants it: numbers with six significant digits, lists with commas."""
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain_text(entry) for entry in value) or "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text}" for name, text in flatten(value)) or "–"
    return str(value)


def _missing(results: Json) -> str:
    for key in _KEYS:
        if key not in results:
            return f"'{key}'"
    for index, row in enumerate(results["rows"]):
        for key in _ROW_KEYS:
            if key not in row:
                return f"'rows[{index}].{key}'"
    return ""
