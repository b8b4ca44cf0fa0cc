"""Comparison of runs: told apart, warned about, refused with words."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from compress.errors import ArtifactError
from compress.report.compare import compare, merge, name_runs
from compress.report.results import write_results
from compress.report.table import table

Json = dict[str, Any]


def save(results: Json, folder: Path, **changes: Any) -> Path:
    write_results({**copy.deepcopy(results), **changes}, folder / "results.json")
    return folder


def test_two_runs_make_table_plots_and_page(results: Json, tmp_path: Path) -> None:
    one = save(results, tmp_path / "runs" / "one")
    other = save(results, tmp_path / "runs" / "other", recipe={"name": "longer", "text": "recipe: 1", "overrides": []})
    merged = compare([one, other / "results.json"], tmp_path / "out")
    assert [row["run"] for row in merged["rows"]] == ["edge"] * 6 + ["longer"] * 6
    assert merged["warnings"] == []
    assert merged["rows"][-1]["path"] == f"{other.as_posix()}/onnx/int4"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["plots", "report.html", "table.md"]
    assert len(list((tmp_path / "out" / "plots").iterdir())) == 8
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.startswith("| Run    | Artifact |")
    assert "Comparison of edge and longer" in (tmp_path / "out" / "report.html").read_text()


def test_differences_are_to_the_teacher_of_the_same_run(results: Json, tmp_path: Path) -> None:
    one = save(results, tmp_path / "one")
    for row in results["rows"]:
        row["measurements"]["perplexity"]["value"] *= 2
    other = save(results, tmp_path / "other", recipe={"name": "b", "text": "", "overrides": []})
    built = table(merge([one, other]))
    changes = [row[built.headers.index("Perplexity (% vs teacher)")] for row in built.rows]
    assert changes == ["0.0", "0.0", "+10.0", "+10.0", "+20.0", "+20.0"] * 2


def test_equal_names_are_told_apart_by_as_much_of_the_path_as_it_takes(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "z" / "edge"]
    for path in paths:
        path.mkdir(parents=True)
    assert name_runs(paths, ["edge", "edge", "third"]) == ["edge (x/run)", "edge (y/run)", "third"]
    assert name_runs(paths[1:], ["edge", "edge"]) == ["edge (run)", "edge"]
    assert name_runs(paths, ["a", "b", "c"]) == ["a", "b", "c"]


def test_other_memory_is_another_machine(results: Json, tmp_path: Path) -> None:
    one = save(results, tmp_path / "one", environment={"memory_gb": 16.0})
    other = save(results, tmp_path / "other", environment={"memory_gb": 8.0})
    assert [warning.partition(",")[0] for warning in merge([one, other])["warnings"]] == [
        "The runs were measured on different machines"
    ]


def test_differences_in_the_evaluation_are_warned_of(results: Json, tmp_path: Path) -> None:
    one = save(results, tmp_path / "one")
    for row in results["rows"]:
        row["measurements"]["perplexity"]["conditions"]["length"] = 512
    results["environment"] = {"machine": {"cpu": "EPYC", "cores": 2}, "versions": {"torch": "2.12.0"}}
    other = save(results, tmp_path / "other", data={"evaluation": "f" * 64}, recipe={"name": "b", "text": ""})
    assert merge([one, other])["warnings"] == [
        "The runs were evaluated on different data or with different tokenizers, so perplexity, KL and agreement are not "
        "comparable. evaluation: eeeeeeeeeeee (edge), ffffffffffff (b)",
        "Measured under different conditions: perplexity (torch), perplexity (ONNX). length: 256 (edge), 512 (b)",
        "The runs were measured on different machines, so their speeds are not comparable. machine.cpu: Xeon (edge), "
        "EPYC (b)",
        "The runs used different software. versions.torch: 2.13.0 (edge), 2.12.0 (b)",
    ]


def test_warnings_stand_above_the_table_and_on_the_page(results: Json, tmp_path: Path) -> None:
    one = save(results, tmp_path / "one")
    other = save(results, tmp_path / "other", data={"evaluation": "other"})
    compare([one, other], tmp_path / "out")
    said = "The runs were evaluated on different data"
    assert (tmp_path / "out" / "table.md").read_text().startswith(f"> **{said}")
    assert said in (tmp_path / "out" / "report.html").read_text()


def test_one_run_alone_is_compared_too(results: Json, tmp_path: Path) -> None:
    merged = merge([save(results, tmp_path / "one")])
    assert merged["recipe"]["name"] == "Comparison of edge"
    assert len(merged["rows"]) == 6


def test_folders_without_results_are_refused_all_at_once(results: Json, tmp_path: Path) -> None:
    good = save(results, tmp_path / "good")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError) as caught:
        compare([tmp_path / "empty", good, tmp_path / "gone"], tmp_path / "out")
    assert str(caught.value) == (
        f"no results.json in: {tmp_path / 'empty'}, {tmp_path / 'gone'}; "
        "give run folders that `compress apply` has finished"
    )
    assert not (tmp_path / "out").exists()


def test_no_run_and_the_same_run_twice_are_refused(results: Json, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        merge([])
    assert str(caught.value) == "compare: no run was given; give run folders, such as runs/<recipe name>"
    folder = save(results, tmp_path / "one")
    with pytest.raises(ArtifactError) as caught:
        merge([folder, folder / "results.json"])
    assert str(caught.value) == f"{folder / 'results.json'}: given twice; give each run once"
