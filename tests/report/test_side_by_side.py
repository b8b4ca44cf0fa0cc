"""The artifacts side by side: weights by class, bits per weight, and panels for what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from compress.report.compare import compare
from compress.report.plots import draw
from compress.report.results import bits_of, write_results
from compress.report.side_by_side import draw_side_by_side, lines_of, size_of
from compress.report.table import table

Json = dict[str, Any]


@pytest.fixture
def told(results: Json) -> Json:
    """Results whose exports and whose quantize stage tell what the weights take."""
    exports = {"teacher": 8_000_000, "student": 6_000_000, "int4": 500_000}
    results["stages"] = [stage for stage in results["stages"] if stage["word"] != "export"]
    for id, size in exports.items():
        sizes = {"embedding": size, "attention": size // 4, "ffn": size // 2, "norm": 1000}
        stage = {"id": id, "word": "export", "seconds": 1.0, "peak_memory_bytes": 1, "skipped": [], "log": []}
        results["stages"].append({**stage, "facts": {"weight_bytes": sizes}})
    results["stages"][1]["facts"] = {"bits_per_weight": 5.125, "megabytes": {"embedding": 0.5, "ffn": 0.25}}
    return results


def drawn(results: Json) -> Any:
    lines = lines_of(results)
    figure = Figure(figsize=size_of(lines), layout="constrained")
    FigureCanvasAgg(figure)
    draw_side_by_side(figure, lines)
    figure.canvas.draw()
    return figure


def test_lines_have_megabytes_by_class_and_bits(told: Json) -> None:
    lines = lines_of(told)
    assert [line.label for line in lines] == ["teacher", "student", "int4"]
    assert lines[2].megabytes == {"embedding": 0.5, "attention": 0.125, "ffn": 0.25, "other": 0.001}
    assert [line.bits for line in lines] == [32.0, 32.0, 5.125]
    assert lines[2].values["top1_agreement"] == 0.875
    assert lines[2].values["kl_to_teacher"] is None


def test_bars_are_stacked_and_panels_are_those_that_were_measured(told: Json) -> None:
    figure = drawn(told)
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes]
    assert titles == ["Weights by class", "Perplexity", "Top-1 agreement", "Decode"]
    first = figure.axes[0]
    bars = [(bar.get_x(), bar.get_width()) for bar in first.patches[-4:]]
    np.testing.assert_allclose(bars, [(0.0, 0.5), (0.5, 0.125), (0.625, 0.25), (0.875, 0.001)])
    assert [text.get_text() for text in first.texts] == [
        "32.0 bits · 14.0 MB",
        "32.0 bits · 10.5 MB",
        "5.12 bits · 0.876 MB",
    ]
    for axes in figure.axes:
        right = axes.get_window_extent().x1
        assert all(text.get_window_extent().x1 < right + 20 for text in axes.texts)


def test_what_is_far_off_ends_at_the_edge_and_what_is_missing_is_a_dash(told: Json) -> None:
    told["rows"][5]["measurements"]["perplexity"]["value"] = 10432.0
    told["rows"][5]["measurements"]["decode_tokens_per_second"]["value"] = None
    del told["stages"][-1]["facts"]["weight_bytes"]
    figure = drawn(told)
    assert [text.get_text() for text in figure.axes[1].texts] == ["6.000", "6.600", "10,432 →"]
    assert figure.axes[1].get_xlim()[1] < 10
    assert figure.axes[3].texts[2].get_text() == "–"
    assert figure.axes[0].texts[2].get_text() == "5.12 bits · not told"


def test_without_onnx_rows_the_quantized_torch_rows_are_shown(told: Json) -> None:
    told["rows"] = [row for row in told["rows"] if row["format"] == "torch"]
    (line,) = lines_of(told)
    assert (line.label, line.megabytes, line.bits) == ("int4", {"embedding": 0.5, "ffn": 0.25}, 5.125)
    assert len(drawn(told).axes) == 4


def test_without_quantized_rows_or_facts_there_is_no_plot(told: Json, tmp_path: Path) -> None:
    (tmp_path / "side-by-side.svg").touch()
    told["rows"] = told["rows"][:4]
    assert lines_of(told) == []
    told["stages"] = []
    draw(told, tmp_path)
    assert not (tmp_path / "side-by-side.svg").exists()


def test_bits_come_from_the_quantize_stage_that_a_row_descends_from(told: Json) -> None:
    healed = {**told["rows"][5], "id": "healed", "source": "int4"}
    told["rows"].append(healed)
    assert bits_of(told, healed) == 5.125
    assert bits_of(told, {**healed, "source": "student", "id": "other"}) is None
    assert bits_of(told, {**told["rows"][0], "size_bytes": 2 * told["rows"][0]["parameters"]}) == 16.0
    assert bits_of(told, {**told["rows"][1], "precision": "fp16"}) == 16.0


def test_the_table_has_bits_where_a_quantized_row_tells_them(told: Json) -> None:
    built = table(told)
    place = built.headers.index("Bits per weight")
    assert [row[place] for row in built.rows] == ["32.00"] * 4 + ["5.12"] * 2
    del told["stages"][1]["facts"]["bits_per_weight"]
    assert "Bits per weight" not in table(told).headers


def test_the_page_and_a_comparison_show_it(told: Json, tmp_path: Path) -> None:
    told["stages"][1]["skipped"] = [
        {
            "name": "lm_head.weight",
            "reason": "left out by 'lm_head': stays float32, 3.15 MB, 61.0% of the matrices' bytes",
        }
    ]
    for name in ("one", "two"):
        write_results({**told, "recipe": {"name": name, "text": ""}}, tmp_path / name / "results.json")
    merged = compare([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    assert [line.label for line in lines_of(merged)] == [f"{id} ·{run}" for run in "AB" for id in ("teacher", "student", "int4")]  # fmt: skip
    assert [line.bits for line in lines_of(merged)] == [32.0, 32.0, 5.125] * 2
    text = (tmp_path / "out" / "report.html").read_text()
    assert 'id="plot-side-by-side"' in text
    assert "Bits per weight count scales" in text
    assert text.count("lm_head.weight: left out by &#39;lm_head&#39;: stays float32, 3.15 MB, 61.0% of the") == 2
