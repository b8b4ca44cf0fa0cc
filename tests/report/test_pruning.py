"""The picture of what was pruned: its panels, where it is drawn, and its place on the page beside the parameters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from compress.errors import ArtifactError
from compress.models.pruning_record import FILE, AxisRecord, Record, read_record, write_record
from compress.report.compare import compare
from compress.report.heatmap import KEPT, REMOVED
from compress.report.page import write_page
from compress.report.plots import draw, recorded_stages
from compress.report.pruning import draw_cut, size_of
from compress.report.results import write_results

Json = dict[str, Any]
BEFORE = {"attention": 400, "embedding": 1000, "ffn": 600, "head": 0, "norm": 8, "total": 2008}
AFTER = {"attention": 400, "embedding": 1000, "ffn": 450, "head": 0, "norm": 8, "total": 1858}
SIZES = {"layers": (4,), "ffn": (4, 96), "heads": (4, 8), "hidden": (32,), "vocab": (300,)}


def make_record(folder: Path, seed: int = 0) -> Record:
    """Three quarters of each axis are kept; of the vocabulary, what was used at all. Layer 1 is removed."""
    rng = np.random.default_rng(seed)
    scores = {axis: rng.random(size) for axis, size in SIZES.items()}
    scores["layers"][1] = 0.0
    scores["vocab"] = np.maximum(0, np.round(1000 / np.arange(1.0, 301)) - 5)[rng.permutation(300)]
    kept = {axis: values >= np.quantile(values, 0.25, axis=-1, keepdims=True) for axis, values in scores.items()}
    kept["vocab"] = scores["vocab"] > 0
    for axis in ("ffn", "heads"):
        scores[axis][1], kept[axis][1] = np.nan, False
    names = dict.fromkeys(scores, "activation") | {"layers": "block_influence", "vocab": "usage"}
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder, scores, kept, names)
    record = read_record(folder)
    assert record
    return record


@pytest.fixture
def pruned(results: Json, tmp_path: Path) -> Json:
    """The results of a run in tmp_path whose stage `slim` has a record."""
    results["rows"].append({**results["rows"][2], "id": "slim", "stage": "prune", "path": "torch/slim"})
    facts = {"family": "llama", "parameters": {"before": BEFORE, "after": AFTER}}
    stage = {"id": "slim", "word": "prune", "seconds": 1.0, "peak_memory_bytes": 1e8}
    results["stages"].append({**stage, "facts": facts, "skipped": [], "log": []})
    make_record(tmp_path / "torch" / "slim")
    return results


def panels(record: Record) -> dict[str, Any]:
    figure = Figure(figsize=size_of(record), layout="constrained")
    FigureCanvasAgg(figure)
    draw_cut(figure, "slim", record)
    figure.canvas.draw()
    return {axes.get_title(loc="left").split(":")[0]: axes for axes in figure.axes if axes.get_title(loc="left")}


def test_every_axis_has_a_panel_that_says_how_many_were_kept(tmp_path: Path) -> None:
    titles = [axes.get_title(loc="left") for axes in panels(make_record(tmp_path)).values()]
    assert titles == [
        "Layers: 3 of 4 kept",
        "Attention heads: 6 of 8 kept in each of 3 layers",
        "Feed-forward columns (ffn): 72 of 96 kept in each of 3 layers",
        "Hidden channels: 24 of 32 kept",
        "Tokens (vocab): 181 of 300 kept",
    ]


def test_bars_of_layers_have_their_scores_and_removed_ones_are_hatched(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    scores = np.array([0.5, 0.2, np.nan, 0.4])
    record["layers"] = AxisRecord("block_influence", scores, np.array([True, False, False, True]))
    axes = panels({"layers": record["layers"]})["Layers"]
    bars = {bar.get_x() + bar.get_width() / 2: bar for bar in axes.patches}
    assert {round(place): bar.get_height() for place, bar in bars.items()} == {0: 0.5, 1: 0.2, 3: 0.4}
    assert [to_hex(bars[place].get_facecolor()) for place in sorted(bars)] == [KEPT, REMOVED, KEPT]
    assert [bars[place].get_hatch() for place in sorted(bars)] == [None, "///", None]


def test_curves_are_cut_where_the_kept_parts_end(tmp_path: Path) -> None:
    record = {"hidden": make_record(tmp_path)["hidden"]}
    axes = panels(record)["Hidden channels"]
    kept, removed = axes.patches
    assert (to_hex(kept.get_facecolor()), to_hex(removed.get_facecolor())) == (KEPT, REMOVED)
    assert (kept.get_data().edges[-1], removed.get_data().edges[0]) == (24, 24)
    expected = np.sort(record["hidden"].scores)[::-1]
    np.testing.assert_allclose(np.concatenate([kept.get_data().values, removed.get_data().values]), expected)
    assert [line.get_xdata()[0] for line in axes.lines] == [24]


def test_counts_are_drawn_on_a_logarithm_and_unused_tokens_are_said(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    axes = panels({"vocab": record["vocab"]})["Tokens (vocab)"]
    unused = int((record["vocab"].scores == 0).sum())
    assert axes.get_yscale() == "log"
    assert f"{unused} have a score of 0" in axes.get_xlabel()
    assert axes.get_ylabel() == "Uses in the text"


@pytest.mark.parametrize("kind", ["nothing scored", "all the same", "negative", "all removed", "one part"])
def test_strange_scores_are_drawn_all_the_same(kind: str) -> None:
    record = {}
    for axis, size in SIZES.items():
        shape = (1,) * len(size) if kind == "one part" else size
        value = {"nothing scored": np.nan, "all the same": 0.0, "negative": -1.0}.get(kind, 1.0)
        scores = np.full(shape, value) - (np.arange(shape[-1]) if kind == "negative" else 0)
        record[axis] = AxisRecord("taylor", scores, np.full(shape, kind != "all removed"))
    assert len(panels(record)) == len(SIZES)


def test_a_prune_stage_has_a_picture_with_the_same_bytes_each_time(pruned: Json, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in draw(pruned, tmp_path / "plots")}
    assert {"pruning-slim.png", "pruning-slim.svg"} < set(first)
    again = {path.name: path.read_bytes() for path in draw(pruned, tmp_path / "plots")}
    assert again == first


def test_without_scores_there_is_no_picture_and_an_old_one_goes(pruned: Json, tmp_path: Path) -> None:
    draw(pruned, tmp_path / "plots")
    (tmp_path / "torch" / "slim" / FILE).unlink()
    assert not [path for path in draw(pruned, tmp_path / "plots") if path.name.startswith("pruning")]
    assert not list((tmp_path / "plots").glob("pruning-*"))
    pruned["rows"][-1]["path"] = None
    pruned["stages"][-1]["facts"] = {}
    draw(pruned, tmp_path / "plots")
    write_page(pruned, tmp_path / "plots", tmp_path / "report.html")
    assert 'id="pruning"' not in (tmp_path / "report.html").read_text()


def test_damaged_scores_are_refused_by_name(pruned: Json, tmp_path: Path) -> None:
    (tmp_path / "torch" / "slim" / FILE).write_bytes(b"no")
    with pytest.raises(ArtifactError, match=FILE):
        draw(pruned, tmp_path / "plots")


def test_the_page_has_the_picture_and_the_parameters_by_class(pruned: Json, tmp_path: Path) -> None:
    draw(pruned, tmp_path / "plots")
    write_page(pruned, tmp_path / "plots", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    section = text[text.index('<section id="pruning">') : text.index('<section id="stages">')]
    assert section.count("<svg") == 1
    assert 'aria-label="prune: slim: what was kept and what was removed on each axis, by score"' in section
    rows = [re.findall(r">([^<>]+)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", section, flags=re.DOTALL)][1:]
    assert rows == [
        ["embedding", "1,000", "1,000", "0.0"],
        ["attention", "400", "400", "0.0"],
        ["ffn", "600", "450", "25.0"],
        ["norm", "8", "8", "0.0"],
        ["head", "0", "0", "–"],
        ["total", "2,008", "1,858", "7.5"],
    ]
    assert "parameters.before" not in text
    assert "<dt>family</dt>" in text
    # Pixels are in the page itself, and every other reference stays inside it.
    links = re.findall(r'href="([^"]{1,15})', section)
    assert {link for link in links if not link.startswith("#")} == {"data:image/png;"}


def test_the_table_stands_without_a_picture_and_other_facts_stay_facts(pruned: Json, tmp_path: Path) -> None:
    write_page(pruned, tmp_path / "nowhere", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<h3>prune: slim</h3>" in text
    assert ">1,858</td>" in text
    pruned["stages"][-1]["facts"] = {"parameters": 1858}
    write_page(pruned, tmp_path / "nowhere", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert 'id="pruning"' not in text
    assert "<dt>parameters</dt><dd>1,858</dd>" in text


def test_two_runs_have_a_picture_each(pruned: Json, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_record(other / "torch" / "slim", seed=1)
    write_results(pruned, tmp_path / "results.json")
    write_results({**pruned, "recipe": {"name": "b", "text": "", "overrides": []}}, other / "results.json")
    compare([tmp_path, other], tmp_path / "out")
    drawings = sorted(path.name for path in (tmp_path / "out" / "plots").glob("pruning-*.svg"))
    assert drawings == ["pruning-a-slim.svg", "pruning-b-slim.svg"]
    first, second = ((tmp_path / "out" / "plots" / name).read_bytes() for name in drawings)
    assert first != second


def test_an_id_from_elsewhere_does_not_lead_out_of_the_folder(pruned: Json) -> None:
    pruned["stages"][-1]["id"] = "../../slim"
    assert [name for name, _, _ in recorded_stages(pruned, "prune")] == ["pruning-------slim"]
