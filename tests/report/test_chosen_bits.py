"""The picture of chosen bits: what stands in its cells, its place among the plots and on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from compress.errors import ArtifactError
from compress.report.chosen_bits import draw_choice, size_of
from compress.report.compare import compare
from compress.report.page import write_page
from compress.report.plots import draw
from compress.report.results import write_results
from compress.report.sensitivity import FILE, Record, read_record
from tests.report.test_sensitivity import entry, llama, save

Json = dict[str, Any]


def drawn(folder: Path, entries: list[Json], **changes: Any) -> tuple[Any, Record]:
    record = read_record(save(folder, entries, **changes))
    assert record
    figure = Figure(figsize=size_of(record), layout="constrained")
    FigureCanvasAgg(figure)
    draw_choice(figure, "mixed", record)
    figure.canvas.draw()
    return figure, record


def written(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.fixture
def mixed(results: Json, tmp_path: Path) -> Json:
    """The results of a run in tmp_path whose stage int4 chose bits by weight; little else is drawn of it."""
    results["stages"] = [stage for stage in results["stages"] if stage["word"] == "quantize"]
    for row in results["rows"]:
        row["measurements"] = {}
    save(tmp_path / "torch" / "int4", llama())
    return results


def test_cells_have_the_chosen_bits_and_a_bar_as_long(tmp_path: Path) -> None:
    entries = llama()
    entries[1] = entry("model.layers.0.mlp.down_proj.weight", "ffn", (2, 32))
    figure, _ = drawn(tmp_path, entries)
    layers, outside = figure.axes[:2]
    assert [label.get_text() for label in layers.get_yticklabels()] == ["q", "k", "v", "o", "gate", "down"]
    texts = {(round(text.get_position()[0]), round(text.get_position()[1])): text.get_text() for text in layers.texts}
    assert texts[0, 5] == "2/32"
    assert texts[1, 5] == "4/32"
    assert written(outside) == ["8/64"]
    bars = [line.get_segments()[0] for line in layers.collections if line.get_linewidth()[0] > 2]
    lengths = {(round(bar[:, 0].min() + 0.32), round(bar[0, 1] - 0.32)): bar[1, 0] - bar[0, 0] for bar in bars}
    assert lengths[0, 5] == pytest.approx(0.16)
    assert lengths[1, 5] == pytest.approx(0.32)


def test_the_legend_has_the_shares_and_the_notes_the_total(tmp_path: Path) -> None:
    figure, _ = drawn(tmp_path, llama(1))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "4 bits: 32 % of the weights",
        "8 bits: 68 % of the weights",
    ]
    said = " ".join(text.get_text().replace("\n", " ") for text in figure.texts)
    assert "KL of the choice: 0.25 nats a token, summed over the weights, each estimated from the curvature" in said
    figure, _ = drawn(tmp_path, llama(1), sensitivity="kl")
    said = " ".join(text.get_text().replace("\n", " ") for text in figure.texts)
    assert "each measured with that weight alone quantized" in said


def test_a_weight_without_the_grid_of_the_scale_is_starred_and_what_has_no_choice_blank(tmp_path: Path) -> None:
    entries = llama()
    entries[0]["kl"] = {"8/64": 1e-9}
    figure, _ = drawn(tmp_path, [*entries[:3], *entries[4:]])
    foot = figure.get_supxlabel().replace("\n", " ")
    assert written(figure.axes[1]) == ["8/64*"]
    assert "KL at the nearest that was: 8 bits in blocks of 64." in foot
    assert "Blank: nothing was chosen for it." in foot
    # What is starred does not stretch the scale.
    assert figure.axes[-1].get_ylim()[0] > 1e-3
    layers = figure.axes[0]
    (image,) = layers.images
    assert (image.get_array()[..., 3] == 0).sum() == 1
    figure, _ = drawn(tmp_path, entries[1:])
    assert "Star" not in figure.get_supxlabel()
    assert "Blank" not in figure.get_supxlabel()


def test_many_layers_have_bits_without_blocks_that_fit_their_cells(tmp_path: Path) -> None:
    figure, record = drawn(tmp_path, llama(30))
    layers = figure.axes[0]
    assert set(written(layers)) == {"4"}
    assert size_of(record) == size_of(drawn(tmp_path, llama(6))[1])
    cell = layers.get_window_extent().width / 30
    assert max(text.get_window_extent().width for text in layers.texts) < 0.6 * cell


@pytest.mark.parametrize("kind", ["only outside", "only layers", "all zero", "one value"])
def test_strange_records_are_drawn_all_the_same(tmp_path: Path, kind: str) -> None:
    entries = {"only outside": llama(0), "only layers": llama()[1:]}.get(kind, llama())
    for one in entries:
        if kind in ("all zero", "one value"):
            one["kl"] = {"4/32": 0.0 if kind == "all zero" else 0.5}
    figure, record = drawn(tmp_path, entries)
    assert len(figure.axes) == (2 if kind.startswith("only") else 3)
    assert sum(len(written(axes)) for axes in figure.axes) == len(record.weights)


def test_a_stage_that_chose_has_a_picture_with_the_same_bytes_each_time(mixed: Json, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in draw(mixed, tmp_path / "plots")}
    assert {"sensitivity-int4.png", "sensitivity-int4.svg"} < set(first)
    assert {path.name: path.read_bytes() for path in draw(mixed, tmp_path / "plots")} == first
    write_page(mixed, tmp_path / "plots", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    section = text[text.index('<section id="quantization">') : text.index('<section id="stages">')]
    assert section.count("<svg") == 1
    assert "quantize: int4: what rounding each weight costs, and the bits that were chosen for it" in section
    (tmp_path / "torch" / "int4" / FILE).unlink()
    draw(mixed, tmp_path / "plots")
    assert not list((tmp_path / "plots").glob("sensitivity-*"))
    write_page(mixed, tmp_path / "plots", tmp_path / "report.html")
    assert 'id="quantization"' not in (tmp_path / "report.html").read_text()


def test_a_damaged_record_is_refused_by_name(mixed: Json, tmp_path: Path) -> None:
    (tmp_path / "torch" / "int4" / FILE).write_text("no")
    with pytest.raises(ArtifactError, match=FILE):
        draw(mixed, tmp_path / "plots")


def test_two_runs_have_a_picture_each(mixed: Json, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_results({**mixed, "recipe": {"name": name, "text": ""}}, tmp_path / name / "results.json")
        save(tmp_path / name / "torch" / "int4", llama())
    compare([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / "plots").glob("sensitivity*.svg"))
    assert names == ["sensitivity-a-int4.svg", "sensitivity-b-int4.svg"]
    text = (tmp_path / "out" / "report.html").read_text()
    assert "quantize: int4 ·B: what rounding each weight costs" in text
