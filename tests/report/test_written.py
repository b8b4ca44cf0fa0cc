"""The page shows what the teacher wrote: counts at each filter, samples, nothing unescaped."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from compress.report.compare import merge
from compress.report.page import write_page
from compress.report.results import write_results
from compress.report.written import said, written_data

HOSTILE = "<script>alert(1)</script>"
WRITTEN: dict[str, Any] = {
    "part": "train",
    "texts": 1200,
    "prompts_too_long": 200,
    "ended": 600,
    "tokens": 54321,
    "documents": 1000,
    "kept": 700,
    "filters": [
        {
            "name": "length",
            "options": {"min": 20.0, "unit": "words"},
            "before": 1000,
            "after": 900,
            "values": {"0": 1.0, "0.05": 15.0, "0.5": 120.0, "0.95": 1180.0, "1": 2000.0},
            "dropped": [
                {"name": "4", "origin": "", "prompt": "", "text": "Too short", "reason": "2 words, less than 20"}
            ],
        },
        {"name": "exact_duplicates", "options": {}, "before": 900, "after": 900, "dropped": []},
    ],
    "samples": [{"name": "7", "origin": "3", "prompt": "Write.", "text": f"A fox. {HOSTILE}"}],
}


def test_counts_values_and_samples_are_told() -> None:
    (data,) = written_data({"written": [WRITTEN]})
    assert data["title"] == "data.train"
    assert data["rows"] == [
        ("length", "min 20, unit words", "1,000", "900", "10.0", "15 · 120 · 1,180 words"),
        ("exact_duplicates", "–", "900", "900", "0.0", "–"),
    ]
    assert data["dropped"][0]["filter"] == "length"
    assert said(WRITTEN) == (
        "The teacher wrote 1,000 texts of 54,321 tokens (60 % of them ended by themselves); 200 prompts had no room in its "
        "context. They gave 1,000 documents, and 700 are used."
    )


def test_a_run_without_written_data_has_no_section(results: dict[str, Any], tmp_path: Path) -> None:
    assert written_data(results) == []
    write_page(results, tmp_path, tmp_path / "report.html")
    assert 'id="written"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_shows_it_escaped(results: dict[str, Any], tmp_path: Path) -> None:
    write_page(results | {"written": [WRITTEN]}, tmp_path, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<section id="written">' in text
    assert "2 words, less than 20" in text
    assert "A fox. &lt;script&gt;" in text
    assert HOSTILE not in text


@pytest.mark.parametrize("both", [True, False])
def test_compared_runs_keep_theirs_apart(results: dict[str, Any], tmp_path: Path, both: bool) -> None:
    for name in ("one", "two"):
        own = copy.deepcopy(results)
        own["recipe"]["name"] = name
        if both or name == "one":
            own["written"] = [WRITTEN]
        write_results(own, tmp_path / name / "results.json")
    merged = merge([tmp_path / "one", tmp_path / "two"])
    titles = [data["title"] for data in written_data(merged)]
    assert titles == (["one: data.train", "two: data.train"] if both else ["one: data.train"])
