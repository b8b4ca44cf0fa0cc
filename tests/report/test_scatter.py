"""The Pareto front, what is drawn, and what is said not to be."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from compress.report.scatter import (
    CROWD,
    DECODE,
    NOT_DRAWN,
    QUALITIES,
    SIZE,
    Dot,
    choose_quality,
    collect,
    draw_scatter,
    has_dots,
    letters_of,
    pareto_front,
    split_far,
)
from tests.references.pareto import slow_front

Json = dict[str, Any]
PERPLEXITY, BITS, _, ACCURACY = QUALITIES


def drawn(results: Json, cost: Any) -> tuple[Any, list[str]]:
    """Return the figure and every text in it."""
    figure = Figure(figsize=(8.6, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    draw_scatter(figure, results, cost)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    return figure, [*texts, *(text.get_text() for text in figure.texts)]


@pytest.mark.parametrize("seed", range(20))
def test_the_front_equals_the_slow_one(seed: int) -> None:
    rng = random.Random(seed)
    # Few values, so that ties and equal points occur.
    points = [(float(rng.randint(0, 6)), float(rng.randint(0, 6))) for _ in range(rng.randint(0, 25))]
    front = pareto_front(points)
    assert set(front) == slow_front(points)
    assert [points[i] for i in front] == sorted(points[i] for i in front)


def test_a_broken_model_is_off_the_scale_and_squashes_nothing(results: Json) -> None:
    for row in results["rows"][2:4]:
        row["measurements"]["perplexity"]["value"] = 10432.0
    dots, _ = collect(results, PERPLEXITY, SIZE)
    near, far = split_far(dots, PERPLEXITY)
    assert [dot.label for dot in far] == ["student", "student"]
    assert max(dot.y for dot in near) == 7.2
    figure, texts = drawn(results, SIZE)
    strip, main = figure.axes
    assert main.get_ylim()[1] < 8
    assert "student  10,432" in texts
    assert strip.get_ylabel() == "off the\nscale"


def test_most_points_are_never_off_the_scale_and_accuracy_has_no_far_side() -> None:
    dots = [Dot(1.0, y, "a", "onnx", "int8") for y in (1.0, 1.0, 9000.0, 9001.0)]
    assert len(split_far(dots, PERPLEXITY)[0]) == 4
    assert split_far([*dots, dots[0]], PERPLEXITY)[1] == dots[2:]
    assert split_far([*dots, dots[0]], ACCURACY)[1] == []
    assert split_far([Dot(1.0, 0.0, "a", "onnx", "int8")] * 3, QUALITIES[2])[1] == []


def test_rows_without_values_are_listed(results: Json) -> None:
    del results["rows"][5]
    decode = results["rows"][4]["measurements"]["decode_tokens_per_second"]
    decode.update(value=None, reason="killed")
    dots, left_out = collect(results, PERPLEXITY, DECODE)
    assert len(dots) == 4
    assert left_out == ["int4 (torch)"]
    figure, _ = drawn(results, DECODE)
    assert figure.get_supxlabel() == "Not drawn, a value is missing: int4 (torch)."


def test_without_any_value_there_are_no_dots(results: Json) -> None:
    assert has_dots(results, DECODE)
    for row in results["rows"]:
        del row["measurements"]["decode_tokens_per_second"]
    assert not has_dots(results, DECODE)
    assert has_dots(results, SIZE)


def test_a_quantized_torch_row_is_drawn_only_where_its_onnx_row_is_not(results: Json) -> None:
    def dots() -> list[tuple[str, str]]:
        return [(dot.label, dot.format) for dot in collect(results, PERPLEXITY, DECODE)[0]]

    assert dots()[-3:] == [("student", "torch"), ("student", "onnx"), ("int4", "onnx")]
    figure, _ = drawn(results, DECODE)
    assert figure.get_supxlabel() == NOT_DRAWN
    results["rows"][5]["measurements"]["decode_tokens_per_second"]["value"] = None
    assert dots()[-1] == ("int4", "torch")
    del results["rows"][5]
    assert dots()[-1] == ("int4", "torch")


def test_torch_and_onnx_in_one_place_share_a_label(results: Json) -> None:
    _, texts = drawn(results, SIZE)
    # The fp32 rows coincide; of int4 only the ONNX row is drawn.
    assert [texts.count(id) for id in ("teacher", "student", "int4")] == [1, 1, 1]
    results["rows"][3]["size_bytes"] //= 2
    assert drawn(results, SIZE)[1].count("student") == 2


def test_in_a_crowd_torch_points_lose_their_labels_and_the_plot_says_so(
    results: Json, row: Callable[..., Json]
) -> None:
    for i in range(CROWD):
        for format, size in (("torch", 9.0), ("onnx", 1.5)):
            results["rows"].append(row(f"q{i}", "student", format, "fp32", (size, 6.1 + 0.1 * i, 700.0)))
    figure, texts = drawn(results, SIZE)
    assert texts.count("q3") == 1
    assert "A torch point without a name has that of the ONNX point" in figure.get_supxlabel()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("cost", [SIZE, DECODE])
def test_one_and_two_rows(results: Json, count: int, cost: Any) -> None:
    results["rows"] = results["rows"][:count]
    figure, texts = drawn(results, cost)
    assert "teacher" in texts
    assert len(figure.axes) == 1


def test_quality_is_what_most_rows_have(results: Json) -> None:
    assert choose_quality(results) is PERPLEXITY
    for row in results["rows"]:
        del row["measurements"]["perplexity"]
        row["measurements"]["accuracy"] = {"value": 0.75, "unit": "fraction", "conditions": {}}
    assert choose_quality(results) is ACCURACY
    assert collect(results, ACCURACY, SIZE)[0][0].y == 75
    figure, _ = drawn(results, SIZE)
    assert figure.axes[0].get_ylabel() == "Accuracy (%; higher is better)"


def test_runs_on_different_data_are_drawn_by_bits_per_byte(results: Json) -> None:
    for row in results["rows"]:
        row["measurements"]["bits_per_byte"] = {"value": 0.7, "unit": "bits", "conditions": {}}
    results["runs"] = [{"name": "a", "data": {"evaluation": "x"}}, {"name": "b", "data": {"evaluation": "x"}}]
    assert choose_quality(results) is PERPLEXITY
    results["runs"][1]["data"]["evaluation"] = "y"
    assert choose_quality(results) is BITS
    assert letters_of(results) == {"a": "A", "b": "B"}
