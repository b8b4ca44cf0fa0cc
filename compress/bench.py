"""`compress bench`: the benchmark of one folder, outside a recipe."""

from __future__ import annotations

from pathlib import Path

from compress.benchmark.measure import measure
from compress.benchmark.options import BenchmarkOptions, LatencyOptions
from compress.benchmark.size import parameters, size_bytes
from compress.contract import Json
from compress.data.load import RecipeData
from compress.data.options import DataOptions, Source
from compress.models.decoder import format_of
from compress.models.quantized import precision
from compress.rows import environment, onnx_precision
from compress.run import Listener


def measure_one(
    folder: Path,
    text: Path | None,
    separator: str | None,
    teacher: Path | None,
    threads: int | None,
    listener: Listener,
) -> Json:
    """Return results of one row (and of the teacher as the other, where one is given).

    Raises ArtifactError where a folder does not open.
    """
    source = Source(files=[str(text)], separator=separator) if text else None
    data = RecipeData(DataOptions(evaluation=source), 0)
    options = BenchmarkOptions(agreement=teacher is not None, latency=LatencyOptions(threads=threads))
    rows = []
    for identity, place in (("teacher", teacher), (folder.resolve().name, folder)):
        if place is None:
            continue
        kind = format_of(place)
        with listener.task(f"measuring {identity}") as progress:
            corpus = data("evaluation", place) if source else None
            found = measure(place, options, corpus, teacher, progress)
        rows.append(
            {
                "id": identity,
                "source": None,
                "stage": "bench",
                "format": kind,
                "precision": precision(place) if kind == "torch" else onnx_precision(place),
                "parameters": parameters(place),
                "size_bytes": size_bytes(place),
                "measurements": {name: value.to_json() for name, value in found.items()},
                "seconds": None,
                "peak_memory_bytes": None,
                "path": str(place),
            }
        )
    return {
        "schema": 1,
        "recipe": {"name": "bench", "text": "", "overrides": []},
        "environment": environment("cpu"),
        "data": {"evaluation": data.fingerprint("evaluation")} if source else {},
        "rows": rows,
        "stages": [],
        "limits": [],
    }
