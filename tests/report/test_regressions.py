"""What got worse is said, and what is only noise is not."""

from __future__ import annotations

from typing import Any

from compress.report.regressions import find_missed, find_regressions

Json = dict[str, Any]


def set_value(row: Json, name: str, value: float | None) -> None:
    row["measurements"][name]["value"] = value


def test_a_run_in_which_all_got_better_has_no_regression(results: Json) -> None:
    assert find_regressions(results) == []


def test_a_quantized_row_is_held_against_fp32_of_the_same_model(results: Json) -> None:
    # 1,100 is faster than the teacher's 1,000, and still slower than the student's 1,250.
    set_value(results["rows"][5], "decode_tokens_per_second", 1100.0)
    (found,) = find_regressions(results)
    assert (found.row, found.name) == (5, "decode_tokens_per_second")
    assert found.message == "Slower than fp32: int4 (ONNX) decodes 1,100 tokens/s, 0.88x of student (ONNX, fp32)"


def test_where_the_student_was_not_exported_the_teacher_is_taken(results: Json) -> None:
    set_value(results["rows"][5], "decode_tokens_per_second", 1100.0)
    del results["rows"][3]
    assert find_regressions(results) == []
    set_value(results["rows"][4], "decode_tokens_per_second", 900.0)
    (found,) = find_regressions(results)
    assert found.message == "Slower than fp32: int4 (ONNX) decodes 900 tokens/s, 0.90x of teacher (ONNX, fp32)"


def test_an_fp32_row_is_held_against_the_teacher(results: Json) -> None:
    set_value(results["rows"][3], "decode_tokens_per_second", 500.0)
    assert [found.row for found in find_regressions(results)] == [3]


def test_a_difference_within_the_noise_is_none(results: Json) -> None:
    set_value(results["rows"][5], "decode_tokens_per_second", 1250.0 * 0.951)
    assert find_regressions(results) == []
    set_value(results["rows"][5], "decode_tokens_per_second", 1250.0 * 0.949)
    assert len(find_regressions(results)) == 1


def test_a_larger_file_is_a_regression(results: Json) -> None:
    results["rows"][5]["size_bytes"] = 9_500_000
    (found,) = find_regressions(results)
    assert found.name == "size_bytes"
    assert found.message == "Larger than fp32: int4 (ONNX) takes 9.5 MB, student (ONNX, fp32) 9 MB"


def test_an_export_that_changes_the_quality_is_a_regression(results: Json) -> None:
    set_value(results["rows"][5], "perplexity", 14.4)
    (found,) = find_regressions(results)
    assert found.message == ("Worse than its torch row: int4 (ONNX) has perplexity 14.4, its torch row 7.2 (+100.0 %)")


def test_missing_values_are_no_regression(results: Json) -> None:
    for row in results["rows"]:
        for name in ("perplexity", "decode_tokens_per_second"):
            set_value(row, name, None)
        row["size_bytes"] = None
    assert find_regressions(results) == []


def test_missed_limits_are_said_with_both_numbers(results: Json) -> None:
    assert find_missed(results) == []
    results["limits"] += [
        {"id": "int4", "name": "perplexity_increase", "limit": 0.05, "found": 0.2, "met": False},
        {"id": "int4", "name": "size_mb", "limit": 1, "found": None, "met": False, "run": "a"},
    ]
    assert find_missed(results) == [
        "Limit missed: int4: perplexity_increase is 0.2, the limit is 0.05",
        "Limit missed: a: int4: size_mb was not measured, the limit is 1",
    ]
