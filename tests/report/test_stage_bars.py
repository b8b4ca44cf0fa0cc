"""What a stage is held against, and that the bars say all of it."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from compress.report.stage_bars import Step, draw_stage_bars, steps_of

Json = dict[str, Any]


def test_a_stage_is_held_against_its_source_and_an_export_against_torch(results: Json) -> None:
    student, int4, export = steps_of(results)
    # ONNX: 9/12, 6.6/6 and 1250/1000; `start` has no row, so it is the teacher.
    assert student == Step("distill: student", 0.75, 6.6 / 6, 1.25, 12.5)
    assert int4 == Step("quantize: int4", 1.5 / 9, 7.2 / 6.6, 2.0, 2.0)
    assert export == Step("export: int4", 1.5 / 9, 1.0, 10.0, 5.0)


def test_without_onnx_on_both_sides_torch_is_held_against_torch(results: Json) -> None:
    del results["rows"][3]
    _, int4, _ = steps_of(results)
    assert (int4.size, int4.decode) == (1.0, 1.0)


def test_missing_rows_and_values_are_none_not_zero(results: Json) -> None:
    results["rows"] = results["rows"][4:]
    student, int4, _ = steps_of(results)
    assert student == Step("distill: student", None, None, None, 12.5)
    assert int4.size is None


def test_without_stages_the_rows_tell(results: Json) -> None:
    results["stages"] = []
    told = [(step.label, step.size, step.seconds) for step in steps_of(results)]
    assert told == [("quantize: student", 0.75, 12.5), ("quantize: int4", 1.5 / 9, 12.5)]
    results["rows"] = results["rows"][:1]
    assert steps_of(results) == []


def test_bars_are_clipped_but_their_numbers_are_whole() -> None:
    figure = Figure(figsize=(10, 3), layout="constrained")
    FigureCanvasAgg(figure)
    draw_stage_bars(figure, [Step("prune: p", 0.5, 1729.0, 1.0, None), Step("distill: s", None, 0.0006, 0.9, 812.4)])
    texts = [text.get_text().strip() for axes in figure.axes for text in axes.texts]
    assert {"0.50", "1,729 →", "1.00", "← 0.0006", "0.90", "812", "not measured"} == set(texts)
    perplexity = figure.axes[1]
    assert [bar.get_width() for bar in perplexity.patches] == [1.0, -1.0]


def test_what_no_stage_has_measured_has_no_panel() -> None:
    figure = Figure(figsize=(10, 3), layout="constrained")
    FigureCanvasAgg(figure)
    draw_stage_bars(figure, [Step("quantize: a", 0.5, None, None, 1.0), Step("export: a", None, None, None, 2.0)])
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == ["Size", "Time spent"]
