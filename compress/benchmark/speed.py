"""Speed and memory of artifacts, each in a process of its own, with the repeats taken in turns against drift."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from compress.benchmark.options import LatencyOptions
from compress.benchmark.process import WorkerProcess, open_worker
from compress.contract import Json, Measurement, Progress, silent
from compress.errors import ArtifactError
from compress.models.encoder import refuse_encoder
from compress.models.folder import read_config
from compress.models.kind import class_name, is_causal

SPEED_UNITS = {
    "prefill_tokens_per_second": "tokens/s",
    "decode_tokens_per_second": "tokens/s",
    "first_token_ms": "ms",
    "peak_rss_bytes": "bytes",
    "load_seconds": "s",
}
_SEED = 0
# Artifacts stay loaded side by side while their peaks together need at most this share of the memory that is free.
_LIVE_SHARE = 0.5
# Threads of a runtime spin for a while after a run; the next artifact's turn waits for them to sleep.
_SETTLE_SECONDS = 0.05


@dataclass
class _Record:
    """What is known of one artifact so far. `new` None: it is no causal language model, and only reads."""

    folder: Path
    loaded: Json
    peak: Json | None
    loads: list[float]
    prompt: int
    new: int | None
    runs: list[Json] = field(default_factory=list)
    interleaved: int = 1


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measure_speed(
    folders: Mapping[str, Path], options: LatencyOptions, progress: Progress = silent
) -> dict[str, dict[str, Measurement]]:
    """Return load_seconds, peak_rss_bytes, first_token_ms and prefill and decode tokens/s of each artifact, by its id.

    What is no causal language model reads one text as long as its context, and decodes nothing.

    Batch of one. Peak memory comes from a process that only loads and generates once. The timed repeats go round all
    artifacts in turn, in live processes of which one works at a time, so that drift of the machine falls on all alike;
    artifacts that do not fit into half of the free memory together are measured one after another. Values are p50 of
    the samples; p95 is the time, or the rate, that 95 % of the runs keep.

    Raises StageError with the process's last words when an artifact cannot be loaded or run.
    """
    threads = options.threads or available_cores()
    shut = {name: reason for name, folder in folders.items() if (reason := _refuse(folder))}
    folders, asked = {name: folder for name, folder in folders.items() if name not in shut}, folders
    total = len(folders) * (1 + options.warmup + options.repeats)
    counter = iter(range(1, total + 1))

    def tick(name: str) -> None:
        progress(next(counter, total), total, "runs", name)

    records: dict[str, _Record] = {}
    for name, folder in folders.items():
        records[name] = _measure_memory(folder, options, threads)
        tick(name)
    able = [name for name, record in records.items() if record.peak is not None]
    for group in _groups(able, records):
        _run_in_turns({name: records[name] for name in group}, options, threads, tick)
    result = {name: _measurements(record, options, threads) for name, record in records.items()}
    result |= {name: _without(SPEED_UNITS, reason) for name, reason in shut.items()}
    return {name: result[name] for name in asked}


def _refuse(folder: Path) -> str:
    """Return why an artifact is not run here, or an empty string. What is no model folder its process refuses in words."""
    try:
        return "" if is_causal(read_config(folder)) else refuse_encoder(folder)
    except ArtifactError:
        return ""


def _measure_memory(folder: Path, options: LatencyOptions, threads: int) -> _Record:
    with open_worker(folder, threads) as worker:
        loaded = worker.ask("load", folder=str(folder.resolve()), threads=threads)
        decodes = is_causal(read_config(folder))
        lengths = (options.prompt, options.new) if decodes else (loaded["context"], None)
        record = _Record(folder, loaded, None, [loaded["seconds"]], *lengths)
        if record.prompt + (record.new or 0) <= loaded["context"]:
            _run(worker, record)
            record.peak = worker.ask("peak")
    return record


def _run(worker: WorkerProcess, record: _Record) -> Json:
    return worker.ask("run", prompt=record.prompt, new=record.new or 0, seed=_SEED)


def _groups(names: Sequence[str], records: Mapping[str, _Record]) -> Iterator[list[str]]:
    needed = sum(int((records[name].peak or {"bytes": 0})["bytes"]) for name in names)
    if needed <= _LIVE_SHARE * psutil.virtual_memory().available:
        yield list(names)
        return
    for name in names:
        yield [name]


def _run_in_turns(
    records: Mapping[str, _Record], options: LatencyOptions, threads: int, tick: Callable[[str], None]
) -> None:
    with ExitStack() as stack:
        workers = {name: stack.enter_context(open_worker(record.folder, threads)) for name, record in records.items()}
        for name, worker in workers.items():
            loaded = worker.ask("load", folder=str(records[name].folder.resolve()), threads=threads)
            records[name].loads.append(loaded["seconds"])
            records[name].interleaved = len(workers)
        for turn in range(options.warmup + options.repeats):
            for name, worker in workers.items():
                time.sleep(_SETTLE_SECONDS)
                run = _run(worker, records[name])
                if turn >= options.warmup:
                    records[name].runs.append(run)
                tick(name)


def _measurements(record: _Record, options: LatencyOptions, threads: int) -> dict[str, Measurement]:
    shared = {"threads": threads, "runtime": record.loaded["runtime"]}
    load = {"processes": len(record.loads), "imports": "not counted", "files": "read shortly before"}
    result = {"load_seconds": _statistics("load_seconds", record.loads, shared | load)}
    run: dict[str, Any] = shared | {"prompt": record.prompt, "new": record.new or 0, "batch": 1}
    if record.peak is None:
        asked = f"a prompt of {record.prompt} and {record.new} new tokens"
        reason = f"{asked} are more than the context of {record.loaded['context']}"
        return _without([name for name in SPEED_UNITS if name != "load_seconds"], reason, run) | result
    peak = run | {"method": record.peak["method"], "runs": 1}
    result["peak_rss_bytes"] = Measurement(float(record.peak["bytes"]), SPEED_UNITS["peak_rss_bytes"], peak)
    run |= {"repeats": options.repeats, "warmup": options.warmup, "in_turns_with": record.interleaved - 1}
    samples = {"prefill_tokens_per_second": [record.prompt / each["start_seconds"] for each in record.runs]}
    if record.new is None:
        reason = f"{class_name(read_config(record.folder))} generates no tokens"
        result |= _without(("decode_tokens_per_second", "first_token_ms"), reason, run)
    else:
        samples["decode_tokens_per_second"] = [record.new / each["steps_seconds"] for each in record.runs]
        samples["first_token_ms"] = [1000 * each["first_token_seconds"] for each in record.runs]
    return result | {name: _statistics(name, values, run) for name, values in samples.items()}


def _without(names: Iterable[str], reason: str, conditions: Mapping[str, Any] | None = None) -> dict[str, Measurement]:
    return {name: Measurement(None, SPEED_UNITS[name], conditions or {}, reason=reason) for name in names}


def _statistics(name: str, samples: Sequence[float], conditions: Mapping[str, Any]) -> Measurement:
    slow = 5 if name.endswith("per_second") else 95
    said = {"statistic": "p50", "p95": float(np.percentile(samples, slow)), **conditions}
    return Measurement(float(np.median(samples)), SPEED_UNITS[name], said, tuple(samples))
