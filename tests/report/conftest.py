"""Results as a run of tinystories-edge leaves them: torch and ONNX rows with numbers that are easy to check by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Json = dict[str, Any]
WINDOWS = {"length": 256, "windows": 96}
HOSTILE = '<script>alert("x")</script> & $\\frac{1}{0}$'


def measured(value: float | None, unit: str, reason: str = "", **conditions: Any) -> Json:
    entry: Json = {"value": value, "unit": unit, "conditions": conditions}
    return entry | ({"reason": reason} if reason else {})


def make_row(id: str, source: str | None, format: str, precision: str, numbers: tuple[float, float, float]) -> Json:
    """`numbers`: size in MB, perplexity, decoded tokens/s."""
    megabytes, perplexity, decode = numbers
    return {
        "id": id,
        "source": source,
        "stage": "teacher" if source is None else "quantize",
        "format": format,
        "precision": precision,
        "parameters": 3_172_000,
        "size_bytes": int(megabytes * 1e6),
        "measurements": {
            "perplexity": measured(perplexity, "", **WINDOWS),
            "top1_agreement": measured(0.875, "fraction", **WINDOWS),
            "accuracy": measured(None, "fraction", "the text settles no questions"),
            "decode_tokens_per_second": measured(decode, "tokens/s", prompt=128, threads=2),
            "peak_rss_bytes": measured(85e6, "bytes"),
        },
        "seconds": None if source is None else 12.5,
        "peak_memory_bytes": 900_000_000,
        "path": f"{format}/{id}",
    }


def make_results() -> Json:
    rows = [
        make_row("teacher", None, "torch", "fp32", (12.0, 6.0, 200.0)),
        make_row("teacher", None, "onnx", "fp32", (12.0, 6.0, 1000.0)),
        make_row("student", "start", "torch", "fp32", (9.0, 6.6, 250.0)),
        make_row("student", "start", "onnx", "fp32", (9.0, 6.6, 1250.0)),
        make_row("int4", "student", "torch", "int4", (9.0, 7.2, 250.0)),
        make_row("int4", "student", "onnx", "int4", (1.5, 7.2, 2500.0)),
    ]
    log = [{"step": i, "tokens": 2048 * i, "loss": 4.0 / i, "learning_rate": 1e-3} for i in range(1, 6)]
    stages = [
        {"id": "student", "word": "distill", "seconds": 12.5, "peak_memory_bytes": 9e8, "facts": {"tokens": 2048}}
        | {"skipped": [], "log": log},
        {"id": "int4", "word": "quantize", "seconds": 2.0, "peak_memory_bytes": 9e8, "facts": {"bits": 4}}
        | {"skipped": [{"name": "norm", "reason": "1-D"}], "log": []},
        {
            "id": "int4",
            "word": "export",
            "seconds": 5.0,
            "peak_memory_bytes": 9e8,
            "facts": {},
            "skipped": [],
            "log": [],
        },
    ]
    return {
        "schema": 1,
        "recipe": {"name": "edge", "text": f"recipe: 1  # {HOSTILE}\n", "overrides": [f"name='{HOSTILE}'"]},
        "environment": {"machine": {"cpu": "Xeon", "cores": 2}, "versions": {"torch": "2.13.0"}},
        "data": {"evaluation": "e" * 64},
        "rows": rows,
        "stages": stages,
        "limits": [{"id": "int4", "name": "size_mb", "limit": 2, "found": 1.5, "met": True}],
    }


@pytest.fixture
def results() -> Json:
    return make_results()


@pytest.fixture
def row() -> Callable[..., Json]:
    return make_row
