"""What the heat map shows is what was kept: order, cuts, bins, blanks, scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from compress.models.pruning_record import AxisRecord
from compress.report.heatmap import CROSSES, draw_heat, grid_of, is_log, label_of, ramp, scale_of, texts_of, ticks_of

NAN = float("nan")


def entry(scores: Any, kept: Any, score: str = "activation") -> AxisRecord:
    return AxisRecord(score, np.asarray(scores, np.float64), np.asarray(kept, bool))


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    order = np.argsort(-scores, axis=-1)[..., :count]
    kept = np.zeros(scores.shape, bool)
    np.put_along_axis(kept, order, True, axis=-1)
    return kept


def drawn(record: AxisRecord) -> Any:
    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw_heat(axes, record, "Column", 0.02)
    figure.canvas.draw()
    return axes


def test_kept_parts_come_first_and_both_sides_fall() -> None:
    grid = grid_of(entry([[1, 4, 3, 2], [5, 6, 7, 8]], [[0, 1, 0, 1], [1, 0, 1, 0]]), ordered=True)
    assert grid.values.tolist() == [[4, 2, 3, 1], [7, 5, 8, 6]]
    assert grid.share.tolist() == [[1, 1, 0, 0]] * 2
    assert grid.cuts == (2, 2)
    assert grid.edges.tolist() == [0, 1, 2, 3, 4]


def test_in_their_own_order_parts_stay_where_they_are() -> None:
    grid = grid_of(entry([[1, 4, NAN]], [[0, 1, 0]]), ordered=False)
    np.testing.assert_array_equal(grid.values, [[1, 4, NAN]])
    assert grid.share.tolist() == [[0, 1, 0]]


def test_bins_hold_the_mean_of_their_parts_and_lose_none() -> None:
    scores = np.random.default_rng(0).random((3, 1000))
    grid = grid_of(entry(scores, highest(scores, 700)), ordered=True, bins=128)
    widths = np.diff(grid.edges)
    assert grid.values.shape == (3, 128)
    assert (grid.share @ widths).tolist() == pytest.approx([700] * 3)
    np.testing.assert_allclose(grid.values @ widths, scores.sum(axis=1))
    first = np.sort(scores, axis=1)[:, ::-1][:, : widths[0]].mean(axis=1)
    np.testing.assert_allclose(grid.values[:, 0], first)


def test_a_line_alone_has_its_cut_between_two_bins() -> None:
    scores = np.arange(1000.0)
    grid = grid_of(entry(scores, scores >= 333), ordered=True, bins=10)
    assert 667 in grid.edges
    assert set(grid.share[0].tolist()) == {0.0, 1.0}


def test_what_was_not_scored_stands_last_on_its_side_and_is_blank() -> None:
    grid = grid_of(entry([[NAN, 2, 1, NAN]], [[1, 1, 0, 0]]), ordered=True)
    np.testing.assert_array_equal(grid.values, [[2, NAN, 1, NAN]])


def test_wide_lines_mark_each_layer_s_cut_and_say_what_layer_is_gone() -> None:
    scores = np.random.default_rng(0).random((3, 100))
    kept = highest(scores, 60)
    kept[1], scores[1] = False, NAN
    axes = drawn(entry(scores, kept))
    (lines,) = axes.collections
    assert [(path[0, 0], path[0, 1], path[1, 1]) for path in lines.get_segments()] == [(60, -0.5, 0.5), (60, 1.5, 2.5)]
    assert [(text.get_text(), text.get_position()[1]) for text in axes.texts] == [("layer removed", 1)]
    (image,) = axes.images
    pixels = image.get_array()
    assert pixels.shape == (3, 100, 4)
    assert not pixels[1, :, 3].any()
    assert (pixels[0, :60, 2] > pixels[0, :60, 0]).all(), "kept is blue"
    assert (pixels[0, 60:, 2] < pixels[0, 60:, 0]).all(), "removed is orange"


def test_few_parts_stand_alone_with_the_removed_ones_crossed_out() -> None:
    scores = np.arange(32.0).reshape(4, 8)
    kept = scores % 3 > 0
    axes = drawn(entry(scores, kept))
    crossed = {(int(y), int(x)) for line in axes.lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
    assert crossed == set(zip(*map(np.ndarray.tolist, np.nonzero(~kept)), strict=True))
    assert [line.get_color() for line in axes.lines] == list(CROSSES)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [str(i) for i in range(8)]
    np.testing.assert_allclose(axes.images[0].get_array()[3, 7], ramp(True)(1.0))


def test_the_key_tells_name_and_numbers_of_the_score() -> None:
    axes = drawn(entry([[0.0, 0.5, 1.0]], [[0, 1, 1]], "block_influence"))
    inner, outer = axes.child_axes
    assert [tick.get_text() for tick in inner.get_yticklabels()] == []
    assert [tick.get_text() for tick in outer.get_yticklabels()] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert outer.get_ylabel() == "Block influence (1 − cosine)"
    assert label_of("reconstruction_error") == "Reconstruction error score"


@pytest.mark.parametrize(
    ("scores", "log"),
    [
        ([1, 2, 3], False),
        ([1, 2, 100], True),
        ([0, 1, 2, 100], True),
        ([-1, 2, 100], False),
        ([0, 0], False),
        ([NAN], False),
    ],
)
def test_the_scale_is_logarithmic_where_scores_are_skewed_and_can_be(scores: list[float], log: bool) -> None:
    norm = scale_of(np.asarray(scores, float))
    assert is_log(norm) is log
    assert norm.vmax > norm.vmin
    assert not log or norm.vmin > 0


def test_one_outlier_among_many_does_not_stretch_the_scale() -> None:
    scores = np.append(np.linspace(1, 2, 1000), 1e6)
    assert scale_of(scores).vmax < 2.1


@pytest.mark.parametrize(
    ("low", "high", "log"), [(1, 6781, True), (0.002, 0.3, True), (-2e-5, 1e-5, False), (1.2, 6.0, True)]
)
def test_ticks_are_few_and_their_texts_are_numbers(low: float, high: float, log: bool) -> None:
    ticks = ticks_of(low, high, log)
    assert 2 <= len(ticks) <= 8
    assert [float(text.replace(",", "")) for text in texts_of(ticks)] == pytest.approx(ticks)


def test_colours_run_from_light_to_dark_and_kept_is_never_taken_for_removed() -> None:
    steps = np.linspace(0, 1, 11)
    for kept in (True, False):
        lightness = ramp(kept)(steps)[:, :3] @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(lightness) < 0).all()
    assert np.abs(ramp(True)(steps) - ramp(False)(steps)).max(axis=1).min() > 0.1
    assert to_rgb("#0072b2") == pytest.approx(ramp(True)(0.5)[:3], abs=0.01)
