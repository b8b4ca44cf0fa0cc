"""From artifacts to results: limits, and measurements that are remembered."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from compress import rows
from compress.contract import Measurement
from compress.recipe import Limits, read_recipe
from compress.run import load_state, save_state
from tests.fake_stages import Lines
from tests.tiny_run import random_teacher


def row(identity, kind="torch", size=1_000_000, **values):
    measurements = {name: {"value": value} for name, value in values.items()}
    return {"id": identity, "format": kind, "size_bytes": size, "measurements": measurements}


def found(limit, *others):
    recipe = SimpleNamespace(head=SimpleNamespace(limits={"int4": Limits(**limit)}))
    return [(entry["name"], entry["found"], entry["met"]) for entry in rows.limits(recipe, list(others))]


def test_limits_look_at_the_shipped_file_and_against_the_teacher():
    teacher = row("teacher", perplexity=10.0, accuracy=0.9)
    torch_row = row("int4", perplexity=99.0, accuracy=0.1)
    shipped = row("int4", "onnx", 500_000, perplexity=10.4, accuracy=0.85, decode_tokens_per_second=50.0)
    three = (teacher, torch_row, shipped)
    assert found({"size_mb": 0.5}, *three) == [("size_mb", 0.5, True)]
    assert found({"size_mb": 0.4}, *three) == [("size_mb", 0.5, False)]
    assert found({"perplexity": 10.4}, *three) == [("perplexity", 10.4, True)]
    assert found({"perplexity_increase": 0.05}, *three) == [("perplexity_increase", pytest.approx(0.04), True)]
    assert found({"perplexity_increase": 0.03}, *three)[0][2] is False
    assert found({"accuracy_drop": 0.06}, *three) == [("accuracy_drop", pytest.approx(0.05), True)]
    assert found({"decode_tokens_per_second": 51.0}, *three) == [("decode_tokens_per_second", 50.0, False)]
    assert found({"perplexity": 98.0}, teacher, torch_row) == [("perplexity", 99.0, False)]


def test_a_limit_on_what_was_not_measured_is_missed():
    assert found({"perplexity": 5.0}, row("int4", "onnx")) == [("perplexity", None, False)]
    assert found({"perplexity": 5.0}, row("int4", "onnx", perplexity=None)) == [("perplexity", None, False)]
    assert found({"perplexity_increase": 5.0}, row("int4", "onnx", perplexity=3.0)) == [
        ("perplexity_increase", None, False)
    ]
    assert found({"size_mb": 5.0}) == [("size_mb", None, False)]


def test_perplexities_by_tokens_of_other_vocabularies_are_not_compared():
    teacher, cut = row("teacher", perplexity=10.0), row("int4", "onnx", perplexity=10.1)
    for one, vocabulary in ((teacher, 4096), (cut, 2048)):
        one["measurements"]["perplexity"]["conditions"] = {"vocabulary": vocabulary}
    assert found({"perplexity_increase": 0.05}, teacher, cut) == [("perplexity_increase", None, False)]
    cut["measurements"]["perplexity"]["conditions"]["vocabulary"] = 4096
    assert found({"perplexity_increase": 0.05}, teacher, cut)[0][2] is True


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of a teacher alone, whose measurements are counted and not taken."""
    (tmp_path / "teacher").mkdir()
    random_teacher(tmp_path / "teacher")
    (tmp_path / "recipe.yaml").write_text(
        "recipe: 1\nname: x\nteacher: {model: teacher}\nstages: []\n"
        "data: {evaluation: {builtin: stories, documents: 3}}\nbenchmark: {perplexity: {length: 8, windows: 2}}\n"
    )
    recipe = read_recipe(tmp_path / "recipe.yaml")
    data = rows.RecipeData(recipe.head.data, 0)
    node = rows.Node("teacher", "teacher", "torch", tmp_path / "teacher", "key", {})
    calls = []

    def quality(*_):
        calls.append("quality")
        return {"perplexity": Measurement(3.0, "")}

    def speed(folders, *_):
        calls.append("speed")
        return {name: {"load_seconds": Measurement(1.0, "s", samples=(1.0, 2.0))} for name in folders}

    monkeypatch.setattr(rows, "measure_quality", quality)
    monkeypatch.setattr(rows, "measure_speed", speed)
    monkeypatch.setattr(rows, "draw", lambda *_: None)
    monkeypatch.setattr(rows, "write_page", lambda *_: None)
    run = rows.Run(recipe, tmp_path / "run", data, Lines())

    def measure():
        calls.clear()
        results = rows.measure_and_report(run, [node])
        return list(calls), results

    return SimpleNamespace(measure=measure, run=run, folder=tmp_path / "run")


def test_what_was_measured_is_remembered(run):
    calls, first = run.measure()
    assert calls == ["quality", "speed"]
    calls, second = run.measure()
    assert calls == []
    assert first == second == json.loads((run.folder / "results.json").read_text())
    assert first["schema"] == 1
    values = first["rows"][0]["measurements"]
    assert values["perplexity"]["value"] == 3.0
    assert values["load_seconds"]["samples"] == [1.0, 2.0]
    assert first["rows"][0]["path"] == "../teacher"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\xff"])
def test_a_broken_memory_is_measured_again(run, text):
    _, first = run.measure()
    for state in (run.folder / ".state").glob("*.json"):
        state.write_text(text, encoding="latin-1")
    calls, second = run.measure()
    assert calls == ["quality", "speed"]
    assert first == second


def test_a_machine_with_other_cores_measures_speed_again_and_quality_not(run, monkeypatch):
    run.measure()
    monkeypatch.setattr(rows.os, "cpu_count", lambda: 1000)
    assert run.measure()[0] == ["speed"]


@pytest.mark.parametrize(
    ("what", "value", "expected"),
    [
        ("versions", lambda: {"onnxruntime": "0"}, ["quality", "speed"]),
        ("_processor", lambda: "another", ["quality", "speed"]),
        ("_content", lambda node: "other bytes", ["quality", "speed"]),
        ("available_cores", lambda: 1000, ["speed"]),
    ],
)
def test_what_changes_a_value_has_it_measured_again(run, monkeypatch, what, value, expected):
    run.measure()
    monkeypatch.setattr(rows, what, value)
    assert run.measure()[0] == expected


def test_documents_that_a_row_cannot_read_are_said_and_counted_once(run, monkeypatch):
    given, asked = [], []

    def quality(*arguments):
        given.append(arguments[4])
        return {"perplexity": Measurement(3.0, "")}

    def left_out(read, folders, documents):
        asked.append((list(folders), documents, len(read(folders[0]))))
        return frozenset({2, 0})

    monkeypatch.setattr(rows, "measure_quality", quality)
    monkeypatch.setattr(rows, "unreadable", left_out)
    run.measure()
    said = "bits per byte: 2 of the first 100 documents are over the context of a row, and left out of all rows"
    assert said in run.run.listener.said
    assert given == [frozenset({0, 2})]
    run.measure()
    assert (len(given), len(asked)) == (1, 1)
    assert asked[0][1:] == (100, 3)
    # another row, and so another set
    monkeypatch.setattr(rows, "fingerprint_tokenizer", lambda *_: "another")
    monkeypatch.setattr(rows, "unreadable", lambda *_: frozenset({1}))
    run.measure()
    assert given[1:] == [frozenset({1})]


def test_the_table_stands_beside_the_results(run):
    run.measure()
    assert (run.folder / "table.md").read_text(encoding="utf-8").startswith("| Artifact |")


def test_memories_are_kept_by_name(run):
    save_state(run.run, "a", {"x": 1})
    assert load_state(run.run, "a") == {"x": 1}
    assert load_state(run.run, "b") is None
    shutil.rmtree(run.folder)
    assert load_state(run.run, "a") is None
