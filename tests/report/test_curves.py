"""Training curves: what a log says, by panel and against tokens; old logs, missing terms and several stages in the same axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from compress.report.curves import PANELS, Curve, curves_of, draw_curves, size_of
from compress.report.plots import draw

Json = dict[str, Any]


def entry(step: int, **values: float) -> Json:
    return {"step": step, "tokens": 2048 * step, **values}


def stage(word: str, id: str, log: list[Json], **more: Any) -> Json:
    return {
        "id": id,
        "word": word,
        "seconds": 1.0,
        "peak_memory_bytes": None,
        "facts": {},
        "skipped": [],
        "log": log,
    } | more


TRAIN = [
    entry(1, loss=3.0, cross_entropy=3.0, learning_rate=1e-3, gradient_norm=1.0),
    entry(2, loss=2.0, cross_entropy=2.0, learning_rate=1e-3, gradient_norm=1.0),
    entry(2, validation_loss=2.5, validation_cross_entropy=2.5),
]
DISTILL = [
    entry(1, loss=1.0, forward_kl=0.9, cross_entropy=1.9, learning_rate=1e-3, gradient_norm=1.0),
    entry(1, validation_loss=0.8, validation_forward_kl=0.7, validation_cross_entropy=1.7),
]


@pytest.fixture
def drawn() -> Callable[..., Any]:
    def make(results: Json) -> Any:
        curves, unit = curves_of(results)
        figure = Figure(figsize=size_of(curves), layout="constrained")
        FigureCanvasAgg(figure)
        draw_curves(figure, curves, unit)
        return figure

    return make


def test_every_value_stands_at_its_tokens(results: Json) -> None:
    results["stages"] = [
        stage("train", "fresh", TRAIN),
        stage("distill", "student", DISTILL),
        stage("export", "int4", []),
    ]
    curves, unit = curves_of(results)
    assert unit == "tokens"
    assert curves == [
        Curve(
            "train: fresh",
            {"loss": [(2048, 3.0), (4096, 2.0)], "perplexity": [(2048, math.exp(3)), (4096, math.exp(2))]},
            {"loss": [(4096, 2.5)], "perplexity": [(4096, math.exp(2.5))]},
        ),
        Curve(
            "distill: student",
            {"loss": [(2048, 1.0)], "kl": [(2048, 0.9)], "perplexity": [(2048, math.exp(1.9))]},
            {"loss": [(2048, 0.8)], "kl": [(2048, 0.7)], "perplexity": [(2048, math.exp(1.7))]},
        ),
    ]


def test_other_losses_have_the_divergence_at_validation_points_alone(results: Json) -> None:
    log = [
        entry(1, loss=0.5, reverse_kl=0.5),
        entry(1, validation_loss=0.5, validation_reverse_kl=0.5, validation_forward_kl=0.6),
    ]
    results["stages"] = [stage("distill", "student", log)]
    [curve], _ = curves_of(results)
    assert curve.training == {"loss": [(2048, 0.5)]}
    assert curve.validation == {"loss": [(2048, 0.5)], "kl": [(2048, 0.6)]}


@pytest.mark.parametrize(("word", "panels"), [("train", ["loss", "perplexity"]), ("distill", ["loss"])])
def test_in_old_logs_only_the_loss_of_train_is_a_cross_entropy(
    results: Json, drawn: Any, word: str, panels: list[str]
) -> None:
    results["stages"] = [stage(word, "old", [entry(1, loss=2.0), entry(2, loss=1.0), entry(2, validation_loss=1.5)])]
    [curve], _ = curves_of(results)
    assert [list(curve.training), list(curve.validation)] == [panels, panels]
    titles = [axes.get_title(loc="left") for axes in drawn(results).axes]
    assert titles == [PANELS[panel] for panel in panels]


def test_logs_without_tokens_are_drawn_against_steps(results: Json, drawn: Any) -> None:
    log = [{"step": step, "loss": 1.0 / step} for step in (1, 2)]
    results["stages"] = [stage("train", "old", log), stage("train", "new", TRAIN)]
    curves, unit = curves_of(results)
    assert (unit, curves[0].training["loss"]) == ("step", [(1.0, 1.0), (2.0, 0.5)])
    assert curves[1].validation["loss"] == [(2.0, 2.5)]
    assert drawn(results).axes[0].get_xlabel() == "Step"


@pytest.mark.parametrize(
    "log", [[], [{"step": 1}], [entry(1, loss=math.nan, validation_loss=math.inf)], [{"loss": 1.0}]]
)
def test_a_log_that_says_nothing_has_no_curve(results: Json, log: list[Json], tmp_path: Path) -> None:
    results["stages"] = [stage("train", "a", log)]
    assert curves_of(results)[0] == []
    assert not [path for path in draw(results, tmp_path) if path.stem == "training"]


def test_an_endless_perplexity_is_left_out(results: Json) -> None:
    results["stages"] = [stage("train", "a", [entry(1, loss=800.0)])]
    [curve], _ = curves_of(results)
    assert curve.training == {"loss": [(2048, 800.0)]}


def test_stages_stand_in_the_same_axes_each_with_its_own_line(results: Json, drawn: Any) -> None:
    results["stages"] = [
        stage("train", "first", TRAIN),
        stage("train", "second", TRAIN),
        stage("distill", "student", DISTILL),
    ]
    figure = drawn(results)
    loss, kl, perplexity = figure.axes
    assert [len(axes.lines) for axes in (loss, kl, perplexity)] == [6, 2, 6]
    colours = [line.get_color() for line in loss.lines]
    assert colours[::2] == colours[1::2]
    assert len(set(colours)) == 3
    assert [line.get_marker() for line in loss.lines[:2]] == ["None", "o"]
    assert kl.lines[0].get_color() == colours[4]
    [legend] = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["train: first", "train: second", "distill: student", "training", "validation"]


def test_many_stages_are_told_apart_and_their_legend_has_room(results: Json, drawn: Any) -> None:
    results["stages"] = [stage("distill", f"a-name-that-is-rather-long-{index}", DISTILL) for index in range(16)]
    figure = drawn(results)
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 16
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x1 <= figure.bbox.x1
    assert box.y0 >= max(axes.get_tightbbox().y1 for axes in figure.axes)


def test_the_first_steps_do_not_press_the_rest_together(results: Json, drawn: Any) -> None:
    log = [entry(step, loss=9.0 if step < 5 else 2.0 - step / 1000) for step in range(1, 200)]
    log += [entry(step, validation_loss=2.1 - step / 1000) for step in range(50, 200, 50)]
    results["stages"] = [stage("distill", "student", log)]
    low, high = drawn(results).axes[0].get_ylim()
    assert 1.7 < low < 1.82
    assert 2.05 < high < 2.2


def test_runs_that_are_compared_are_marked(results: Json) -> None:
    results["runs"] = [{"name": "one"}, {"name": "two"}]
    results["stages"] = [stage("train", "a", TRAIN, run="one"), stage("train", "a", TRAIN, run="two")]
    assert [curve.label for curve in curves_of(results)[0]] == ["train: a ·A", "train: a ·B"]


def test_the_same_logs_give_the_same_bytes(results: Json, tmp_path: Path) -> None:
    results["stages"] = [stage("train", "first", TRAIN), stage("distill", "student", DISTILL)]
    files = [[path for path in draw(results, tmp_path / name) if path.stem == "training"] for name in "ab"]
    assert [path.suffix for path in files[0]] == [".png", ".svg"]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
