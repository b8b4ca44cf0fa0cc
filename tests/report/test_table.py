"""The table: differences worked out by hand, columns that exist, reasons as footnotes."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest
import rich.table
from rich.console import Console

from compress.report.table import Table, column_widths, fit, markdown, table

Json = dict[str, Any]


def cells(built: Table, header: str) -> list[str]:
    place = built.headers.index(header)
    return [row[place] for row in built.rows]


def test_differences_to_the_teacher(results: Json) -> None:
    built = table(results)
    # 6.6/6 = 1.1; 7.2/6 = 1.2; 9/12 = 0.75; 1.5/12 = 0.125; decode: torch against 200, ONNX against 1,000.
    assert cells(built, "Perplexity (% vs teacher)") == ["0.0", "0.0", "+10.0", "+10.0", "+20.0", "+20.0"]
    assert cells(built, "Size (× teacher)") == ["1.00", "1.00", "0.75", "0.75", "0.75", "0.12"]
    assert cells(built, "Decode (× teacher)") == ["1.00", "1.00", "1.25", "1.25", "1.25", "2.50"]
    assert cells(built, "Size (MB)") == ["12.00", "12.00", "9.00", "9.00", "9.00", "1.50"]
    assert cells(built, "Perplexity")[-1] == "7.200"
    assert cells(built, "Top-1 agreement (%)")[-1] == "87.5"
    assert cells(built, "Peak memory (MB)")[-1] == "85"
    assert cells(built, "Parameters (M)")[-1] == "3.17"
    assert cells(built, "Decode (tokens/s)") == ["200", "1,000", "250", "1,250", "250", "2,500"]


def test_columns_are_those_that_were_measured(results: Json) -> None:
    headers = table(results).headers
    assert "Accuracy (%)" not in headers
    assert "Bits per byte" not in headers
    assert "Run" not in headers
    results["rows"][0]["measurements"]["accuracy"] = {"value": 0.5, "unit": "fraction", "conditions": {}}
    assert "Accuracy (%)" in table(results).headers


def test_reasons_are_footnotes_said_once(results: Json) -> None:
    results["rows"][0]["measurements"]["accuracy"] = {"value": 0.5, "unit": "fraction", "conditions": {}}
    del results["rows"][1]["measurements"]["accuracy"]
    built = table(results)
    assert cells(built, "Accuracy (%)") == ["50.0", "– [1]", "– [2]", "– [2]", "– [2]", "– [2]"]
    assert built.footnotes == ("[1] not measured", "[2] Accuracy: the text settles no questions")


def test_perplexity_by_tokens_of_another_vocabulary_is_not_compared(results: Json) -> None:
    for row in results["rows"]:
        row["measurements"]["perplexity"]["conditions"]["vocabulary"] = 2048 if row["id"] == "student" else 4096
    changes = dict(
        zip(cells(table(results), "Artifact"), cells(table(results), "Perplexity (% vs teacher)"), strict=True)
    )
    assert changes["teacher"] == "0.0"
    assert changes["student"].startswith("– [")
    assert (
        "Perplexity: the teacher has another vocabulary, and perplexity is by token; compare bits per byte"
        in "".join(table(results).footnotes)
    )


def test_without_a_teacher_of_the_format_speed_has_no_ratio_but_quality_has(results: Json) -> None:
    del results["rows"][1]
    built = table(results)
    assert cells(built, "Perplexity (% vs teacher)")[2] == "+10.0"
    assert cells(built, "Decode (× teacher)")[2] == "– [2]"
    assert built.footnotes[1] == "[2] Decode: no teacher of this format to compare with, or the teacher has no value"


def test_without_any_teacher_there_are_no_difference_columns(results: Json) -> None:
    results["rows"] = results["rows"][2:]
    assert not [header for header in table(results).headers if "teacher" in header]


def test_a_regression_is_marked_in_its_cell_and_said(results: Json) -> None:
    results["rows"][5]["measurements"]["decode_tokens_per_second"]["value"] = 500.0
    built = table(results)
    place = built.headers.index("Decode (tokens/s)")
    assert built.worse == (frozenset(),) * 5 + (frozenset({place}),)
    assert built.rows[5][place] == "500 ▼"
    assert len(built.warnings) == 1
    assert markdown(built).startswith("> **Slower than fp32: int4 (ONNX) decodes 500 tokens/s, 0.40x of student")


def test_markdown_is_a_table_whose_lines_have_one_width(results: Json) -> None:
    built = table(results)
    lines = markdown(built).splitlines()
    assert len(lines) == 2 + len(built.rows)
    assert len({len(line) for line in lines}) == 1
    assert lines[0].startswith("| Artifact | Format | Precision |")
    assert lines[1].startswith("| -------- | ------ | --------- | -------------: |")


def test_markdown_cannot_be_broken_by_a_name(results: Json) -> None:
    results["rows"][0]["id"] = "a|b\n<i>[x](y)"
    text = markdown(table(results))
    assert "| a\\|b \\<i\\>\\[x\\](y) |" in text


def test_a_huge_perplexity_stays_readable(results: Json) -> None:
    results["rows"][2]["measurements"]["perplexity"]["value"] = 10432.4
    built = table(results)
    assert cells(built, "Perplexity")[2] == "10,432"
    assert cells(built, "Perplexity (% vs teacher)")[2] == "+173,773"


def test_no_rows_and_rows_without_measurements(results: Json) -> None:
    results["rows"] = [{**results["rows"][0], "measurements": {}, "size_bytes": None, "parameters": None}]
    assert table(results).rows == (("teacher", "torch", "fp32"),)
    results["rows"] = []
    assert table(results).headers == ("Artifact", "Format", "Precision")
    assert markdown(table(results)).count("\n") == 2


def test_a_narrow_terminal_gets_fewer_columns_and_is_told_which(results: Json) -> None:
    whole = table(results)
    assert fit(results, 300) == whole
    narrow = fit(results, 60)
    assert set(narrow.headers) < set(whole.headers)
    assert {"Artifact", "Size (MB)", "Perplexity", "Decode (tokens/s)"} <= set(narrow.headers)
    left_out = [header for header in whole.headers if header not in narrow.headers]
    expected = f"Left out for width: {', '.join(left_out)}. A wider terminal or --json shows them."
    assert narrow.footnotes[-1] == expected


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_fitted_table_is_drawn_without_cutting_a_word(results: Json, width: int) -> None:
    built = fit(results, width)
    drawing = rich.table.Table()
    for header, least in zip(built.headers, column_widths(built), strict=True):
        drawing.add_column(header, min_width=least)
    for row in built.rows:
        drawing.add_row(*row)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(drawing)
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_tables_load_neither_matplotlib_nor_jinja_nor_torch() -> None:
    code = (
        "import sys, compress.report.table, compress.report.results, compress.report.compare, compress.report.plots, "
        "compress.report.page; print([m for m in ('matplotlib', 'jinja2', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
