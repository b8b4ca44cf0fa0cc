"""From finished artifacts to results.json, plots and report.html: what was measured is remembered, so that a killed run goes on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import psutil

from compress import artifact
from compress.benchmark.bits_per_byte import left_out_words, unreadable
from compress.benchmark.measure import measure_quality, quality_names
from compress.benchmark.options import BenchmarkOptions
from compress.benchmark.size import graph_precision, parameters, size_bytes
from compress.benchmark.speed import available_cores, measure_speed
from compress.benchmark.teacher import TeacherLogits
from compress.contract import Json, Measurement, measurement_from_json
from compress.data.load import RecipeData, fingerprint_tokenizer, written_parts
from compress.models.decoder import context_of
from compress.models.folder import read_config
from compress.models.kind import is_causal
from compress.models.quantized import precision
from compress.recipe import Recipe
from compress.report.page import write_page
from compress.report.plots import draw
from compress.report.results import SCHEMA, perplexity_increase, write_results
from compress.report.table import markdown, table
from compress.run import SCRATCH, Node, Run, load_state, save_state, version_notes
from compress.training.finish import read_log
from compress.versions import versions

Measurements = dict[str, Measurement]
MEASURE_REVISION = 4


def measure_and_report(run: Run, nodes: list[Node]) -> Json:
    """Measure every artifact, and write results.json, table.md, plots/ and report.html into the run folder."""
    for note in version_notes(nodes):
        run.listener.say(note)
    shown = [node for node in nodes if _is_shown(node)]
    options = run.recipe.head.benchmark
    measured: dict[str, Measurements] = {_name(node): {} for node in shown}
    if options:
        if run.recipe.head.data.evaluation:
            run.data.write(["evaluation"], run.listener.task)
        _measure_quality(run, shown, options, measured)
        _measure_speed(run, shown, options, measured)
    results = _results(run, nodes, shown, measured)
    write_results(results, run.folder / "results.json")
    artifact.write_text(run.folder / "table.md", markdown(table(results)))
    with run.listener.task("report"):
        draw(results, run.folder / "plots")
        write_page(results, run.folder / "plots", run.folder / "report.html")
    return results


def _is_shown(node: Node) -> bool:
    """A start with random weights, or one that is the teacher itself, is no row of its own."""
    if node.id != "start":
        return True
    return bool(node.made["options"].get("every")) if node.made else node.source != "teacher"


def _name(node: Node) -> str:
    return f"{node.gives}/{node.id}"


def _measure_quality(run: Run, shown: list[Node], options: BenchmarkOptions, measured: dict[str, Measurements]) -> None:
    if not quality_names(options):
        return
    teacher = next((node for node in shown if node.id == "teacher" and node.gives == "torch"), None)
    evaluation = _evaluation_data(run, options)
    left_out = _left_out(run, shown, options, evaluation)
    scratch = run.folder / SCRATCH / "benchmark"
    remembered = 0
    with TeacherLogits(teacher.folder if teacher else run.folder, scratch) as logits:
        for node in shown:
            asked: Json = {
                "revision": MEASURE_REVISION,
                "artifact": _content(node),
                "format": node.gives,
                "options": options.model_dump(mode="json", exclude={"latency"}),
                "evaluation": evaluation.fingerprint("evaluation") if evaluation else None,
                "teacher": teacher.key if teacher else None,
                "left_out": sorted(left_out),
                "processor": _processor(),
                "versions": versions(),
            }
            name = f"quality-{artifact.key_of(asked)}"
            found = load_state(run, name)
            if found is None:
                with run.listener.task(f"measuring {node.label}") as progress:
                    corpus = evaluation("evaluation", node.folder) if evaluation else None
                    values = measure_quality(
                        node.folder, options, corpus, logits if teacher else None, left_out, progress
                    )
                found = {key: value.to_json() for key, value in values.items()}
                save_state(run, name, found)
            else:
                remembered += 1
            measured[_name(node)] |= {key: measurement_from_json(entry) for key, entry in found.items()}
    if remembered:
        run.listener.say(f"quality: {remembered} of {len(shown)} rows as measured before")


def _left_out(run: Run, shown: list[Node], options: BenchmarkOptions, evaluation: RecipeData | None) -> frozenset[int]:
    """Return the numbers of the documents that no row is measured on in bits per byte, because some row cannot read them."""
    if evaluation is None or not options.bits_per_byte:
        return frozenset()
    folders = [node.folder for node in shown if is_causal(read_config(node.folder))]
    asked: Json = {
        "revision": MEASURE_REVISION,
        "evaluation": evaluation.fingerprint("evaluation"),
        "documents": options.bits_per_byte.documents,
        "contexts": [context_of(read_config(folder), folder) for folder in folders],
        "tokenizers": [fingerprint_tokenizer(folder, evaluation.options.join) for folder in folders],
        "versions": versions(),
    }
    name = f"unreadable-{artifact.key_of(asked)}"
    found = load_state(run, name)
    if found is None:
        with run.listener.task("reading the evaluation data"):
            numbers = unreadable(partial(evaluation, "evaluation"), folders, options.bits_per_byte.documents)
        found = {"documents": sorted(numbers)}
        save_state(run, name, found)
    if said := left_out_words(found["documents"], options.bits_per_byte.documents):
        run.listener.say(said)
    return frozenset(found["documents"])


def _evaluation_data(run: Run, options: BenchmarkOptions) -> RecipeData | None:
    if not run.data.has("evaluation"):
        return None
    join = options.perplexity.join if options.perplexity else None
    return run.data.joined(join) if join else run.data


def _content(node: Node) -> str:
    """Return what tells the artifact's bytes: made again under other versions, they may be others under the same key."""
    found = artifact.read(node.folder) if node.made else None
    return artifact.key_of({"files": found.files}) if found else node.key


def _measure_speed(run: Run, shown: list[Node], options: BenchmarkOptions, measured: dict[str, Measurements]) -> None:
    """Measure all artifacts in one round, because the machine drifts and ratios are what counts."""
    if not options.latency:
        return
    asked: Json = {
        "revision": MEASURE_REVISION,
        "artifacts": [[_name(node), _content(node)] for node in shown],
        "options": options.latency.model_dump(mode="json") | {"threads": options.latency.threads or available_cores()},
        "machine": _machine(),
        "versions": versions(),
    }
    name = f"speed-{artifact.key_of(asked)}"
    found = load_state(run, name)
    if found is None:
        with run.listener.task("measuring speed and memory") as progress:
            values = measure_speed({_name(node): node.folder for node in shown}, options.latency, progress)
        found = {row: {key: value.to_json() for key, value in entry.items()} for row, entry in values.items()}
        save_state(run, name, found)
    else:
        run.listener.say("speed and memory: as measured before; --fresh makes and measures everything again")
    for row, entry in found.items():
        measured[row] |= {key: measurement_from_json(value) for key, value in entry.items()}


def _results(run: Run, nodes: list[Node], shown: list[Node], measured: Mapping[str, Measurements]) -> Json:
    head = run.recipe.head
    rows = [_row(run, node, measured[_name(node)]) for node in shown]
    parts = [part for part in ("train", "validation", "calibration", "evaluation") if run.data.has(part)]
    folders = [node.folder for node in shown]
    return {
        "schema": SCHEMA,
        "recipe": {
            "name": head.name,
            "text": run.recipe.text,
            "file": run.recipe.path.name,
            "overrides": list(run.recipe.overrides),
        },
        "environment": environment(run.device),
        "data": {part: run.data.fingerprint(part, folders if part == "evaluation" else ()) for part in parts},
        "rows": rows,
        "stages": [_stage(run, node) for node in nodes if node.made],
        "written": _written(run),
        "limits": limits(run.recipe, rows),
    }


def _written(run: Run) -> list[Json]:
    """Return what the teacher wrote for each part; the run remembers it, should the store be emptied."""
    found = []
    reports = run.data.reports()
    for part in written_parts(run.recipe.head.data):
        name = f"written-{run.data.fingerprint(part)}"
        if part in reports:
            save_state(run, name, reports[part])
        if report := reports.get(part) or load_state(run, name):
            found.append({"part": part, **report})
    return found


def _row(run: Run, node: Node, measurements: Measurements) -> Json:
    state = load_state(run, f"stage-{node.key}") or {} if node.made else {}
    return {
        "id": node.id,
        "source": node.source,
        "stage": node.word,
        "format": node.gives,
        "precision": _precision(node),
        "parameters": parameters(node.folder),
        "size_bytes": size_bytes(node.folder),
        "measurements": {name: value.to_json() for name, value in measurements.items()},
        "seconds": state.get("seconds"),
        "peak_memory_bytes": state.get("peak_memory_bytes"),
        "path": _relative(node.folder, run.folder),
    }


def _precision(node: Node) -> str:
    return precision(node.folder) if node.gives == "torch" else onnx_precision(node.folder)


def onnx_precision(folder: Path) -> str:
    """Return the precision that export noted of an ONNX folder; where nobody did, that of the graph."""
    found = artifact.read(folder)
    return str(found.facts["precision"]) if found and "precision" in found.facts else graph_precision(folder)


def _relative(folder: Path, start: Path) -> str:
    try:
        return Path(os.path.relpath(folder.resolve(), start.resolve())).as_posix()
    except ValueError:  # another drive on Windows
        return folder.resolve().as_posix()


def _stage(run: Run, node: Node) -> Json:
    found = artifact.read(node.folder)
    state = load_state(run, f"stage-{node.key}") or {}
    return {
        "id": node.id,
        "word": node.word,
        "format": node.gives,
        "seconds": state.get("seconds"),
        "peak_memory_bytes": state.get("peak_memory_bytes"),
        "facts": dict(found.facts) if found else {},
        "skipped": list(found.skipped) if found else [],
        "log": read_log(node.folder),
    }


def limits(recipe: Recipe, rows: list[Json]) -> list[Json]:
    """Return each limit of the recipe with what was found: on the ONNX row where there is one, else on the torch row."""
    found = []
    for identity, limit in recipe.head.limits.items():
        own = [row for row in rows if row["id"] == identity]
        row = next((row for row in own if row["format"] == "onnx"), own[0] if own else None)
        for name, bound in limit.model_dump(exclude_none=True).items():
            value = _limited(name, row, rows) if row else None
            at_least = name == "decode_tokens_per_second"
            met = value is not None and (value >= bound if at_least else value <= bound)
            found.append({"id": identity, "name": name, "limit": bound, "found": value, "met": met})
    return found


def _limited(name: str, row: Json, rows: list[Json]) -> float | None:
    if name == "size_mb":
        return float(row["size_bytes"]) / 1e6
    teacher = next((other for other in rows if other["id"] == "teacher"), None)
    if name == "perplexity_increase":
        return perplexity_increase(row, teacher)
    if name == "accuracy_drop":
        now, before = _value(row, "accuracy"), _value(teacher, "accuracy")
        return before - now if now is not None and before is not None else None
    return _value(row, name)


def _value(row: Json | None, name: str) -> float | None:
    value = row["measurements"].get(name, {}).get("value") if row else None
    return None if value is None else float(value)


def environment(device: str) -> Json:
    """Return the machine and the versions under which a run was measured."""
    return _machine() | {"device": device, "versions": versions()}


def _machine() -> Json:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
