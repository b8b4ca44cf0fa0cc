"""`compress bench`: the benchmark of one folder, outside a recipe."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from compress.benchmark.bits_per_byte import left_out_words, unreadable
from compress.benchmark.measure import measure
from compress.benchmark.options import BenchmarkOptions, LatencyOptions
from compress.benchmark.size import parameters, size_bytes
from compress.contract import Json
from compress.data.load import RecipeData
from compress.data.options import DataOptions, Source
from compress.data.sources import expand_files
from compress.errors import CommandError, StageError
from compress.models.decoder import format_of
from compress.models.quantized import precision
from compress.rows import environment, onnx_precision
from compress.run import Listener

TEACHER = "teacher"


def measure_one(
    folder: Path,
    text: Path | None,
    separator: str | None,
    teacher: Path | None,
    threads: int | None,
    listener: Listener,
) -> Json:
    """Return results of one row (and of the teacher as the other, where one is given).

    Raises CommandError where the options do not fit together, ArtifactError where a folder does not open.
    """
    data = RecipeData(DataOptions(evaluation=_source(text, separator)), 0)
    if teacher is not None and text is None:
        raise CommandError("--teacher needs --text: KL and agreement are measured on a text")
    options = BenchmarkOptions(agreement=teacher is not None, latency=LatencyOptions(threads=threads))
    places = {folder: folder.resolve().name} if teacher is None else {teacher: TEACHER, folder: _name(folder)}
    formats = {place: format_of(place) for place in places}
    left_out = _left_out(data, places, options, listener) if text else frozenset()
    rows = []
    for place, identity in places.items():
        with listener.task(f"measuring {identity}") as progress:
            corpus = data("evaluation", place) if text else None
            found = measure(place, options, corpus, teacher, left_out, progress)
        rows.append(
            {
                "id": identity,
                "source": None,
                "stage": "bench",
                "format": formats[place],
                "precision": precision(place) if formats[place] == "torch" else onnx_precision(place),
                "parameters": parameters(place),
                "size_bytes": size_bytes(place),
                "measurements": {name: value.to_json() for name, value in found.items()},
                "seconds": None,
                "peak_memory_bytes": None,
                "path": place.as_posix(),
            }
        )
    return {
        "schema": 1,
        "recipe": {"name": "bench", "text": "", "overrides": []},
        "environment": environment("cpu"),
        "data": {"evaluation": data.fingerprint("evaluation", list(places))} if text else {},
        "rows": rows,
        "stages": [],
        "limits": [],
    }


def _left_out(
    data: RecipeData, folders: Iterable[Path], options: BenchmarkOptions, listener: Listener
) -> frozenset[int]:
    if not options.bits_per_byte:
        return frozenset()
    documents = options.bits_per_byte.documents
    found = unreadable(partial(data, "evaluation"), folders, documents)
    if said := left_out_words(found, documents):
        listener.say(said)
    return found


def _name(folder: Path) -> str:
    """Return the name of a folder beside a teacher; one that is called so itself gets another."""
    name = folder.resolve().name
    return name if name != TEACHER else "artifact"


def _source(text: Path | None, separator: str | None) -> Source | None:
    if text is None:
        if separator is not None:
            raise CommandError("--separator needs --text, in which it stands between documents")
        return None
    if not text.is_file():
        raise CommandError(f"--text {text}: there is no such file")
    source = Source(files=[str(text)], separator=separator or None)
    try:
        expand_files(source)
    except StageError as error:
        raise CommandError(f"--text: {error}") from error
    return source
