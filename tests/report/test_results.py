"""results.json: read what was written, refuse what cannot be read, and walk the tree of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.errors import ArtifactError
from compress.report.results import (
    ancestors_of,
    flatten,
    plain_text,
    read_results,
    reason_of,
    teacher_of,
    title_of,
    value_of,
    write_results,
)

Json = dict[str, Any]


def test_reads_what_was_written_from_the_file_and_from_its_folder(results: Json, tmp_path: Path) -> None:
    file = tmp_path / "run" / "results.json"
    write_results(results, file)
    assert read_results(file) == results
    assert read_results(tmp_path / "run") == results
    assert [path.name for path in file.parent.iterdir()] == ["results.json"]


def test_writes_the_same_bytes_twice_and_puts_the_schema_in(results: Json, tmp_path: Path) -> None:
    del results["schema"]
    for name in ("a.json", "b.json"):
        write_results(results, tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text())["schema"] == 1


def test_nan_is_refused_and_the_old_file_stays(results: Json, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write_results(results, file)
    results["rows"][0]["measurements"]["perplexity"]["value"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_results(results, file)
    assert read_results(file)["rows"][0]["measurements"]["perplexity"]["value"] == 6.0


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        read_results(tmp_path)
    assert (
        str(caught.value) == f"{tmp_path}: no results.json here; give a run folder that `compress apply` has finished"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ('{"schema": 2}', "schema 2, this version reads 1"),
        ("[]", "schema None, this version reads 1"),
        ('{"schema": 1, "recipe": {}}', "'environment' is missing"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(ArtifactError) as caught:
        read_results(file)
    assert str(caught.value) == f"{file}: {message}; apply the recipe again"


def test_a_row_without_a_format_is_named(results: Json, tmp_path: Path) -> None:
    del results["rows"][1]["format"]
    write_results(results, tmp_path / "results.json")
    with pytest.raises(ArtifactError, match=r"'rows\[1\]\.format' is missing"):
        read_results(tmp_path)


def test_the_teacher_is_of_the_same_format_or_of_the_other_where_allowed(results: Json) -> None:
    onnx = results["rows"][5]
    found = teacher_of(results, onnx, same_format=True)
    assert found is not None
    assert found["format"] == "onnx"
    del results["rows"][1]
    assert teacher_of(results, onnx, same_format=True) is None
    other = teacher_of(results, onnx, same_format=False)
    assert other is not None
    assert other["format"] == "torch"


def test_ancestors_are_nearest_first_and_a_circle_ends(results: Json) -> None:
    assert ancestors_of(results, results["rows"][5]) == ["student", "start", "teacher"]
    assert ancestors_of(results, results["rows"][0]) == []
    for row in results["rows"][2:4]:
        row["source"] = "int4"
    assert ancestors_of(results, results["rows"][5]) == ["student", "teacher"]


def test_an_onnx_row_that_names_itself_as_source_has_its_torch_row_s_ancestors(results: Json) -> None:
    results["rows"][5]["source"] = "int4"
    assert ancestors_of(results, results["rows"][5]) == ["student", "start", "teacher"]


def test_values_reasons_and_titles(results: Json) -> None:
    row = results["rows"][5]
    assert value_of(row, "perplexity") == 7.2
    assert value_of(row, "accuracy") is None
    assert value_of(row, "never_measured") is None
    assert reason_of(row, "accuracy") == "the text settles no questions"
    assert title_of(row) == "int4 (ONNX)"
    assert title_of({**row, "run": "a"}) == "a: int4 (ONNX)"


def test_nested_json_becomes_dotted_lines() -> None:
    nested = {"a": {"b": 1234567, "c": [1, True, None]}, "d": 0.123456789, "e": {}, "f": [{"g": 1}]}
    assert list(flatten(nested)) == [
        ("a.b", "1,234,567"),
        ("a.c", "1, yes, –"),
        ("d", "0.123457"),
        ("e", "–"),
        ("f", "g 1"),
    ]
    assert plain_text("text") == "text"
