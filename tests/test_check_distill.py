"""What check says of distill: layers that are not there, zero points that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_check import TEXT, model, notes, said


@pytest.fixture
def place(tmp_path) -> Path:
    model(tmp_path / "model")
    return tmp_path


def test_layers_out_of_range_are_refused_before_anything_runs(place):
    cut = (
        TEXT
        + "  - prune: {id: a, remove: {layers: 1}}\n  - distill: {tokens: 9, loss: hidden_mse, layers: [[0, 1], %s]}\n"
    )
    assert notes(place, cut % "[0, 0]") == []
    found = said(place, cut % "[1, 2]")
    assert [one.partition(": ")[2] for one in found] == [
        "stages[1].distill.layers[1][0] is 1, and 'a' has the layers 0 to 0",
        "stages[1].distill.layers[1][1] is 2, and 'teacher' has the layers 0 to 1",
    ]


def test_zero_points_are_learned_where_there_are_some(place):
    after = "  - distill: {tokens: 9, zero_points: learn}\n"
    assert notes(place, TEXT + "  - quantize: {id: q, bits: 4, block: 16, symmetric: false}\n" + after) == []
    assert (
        notes(
            place,
            TEXT
            + "  - quantize: {id: q, bits: 4, block: 16, symmetric: false}\n  - train: {id: t, tokens: 9}\n"
            + after,
        )
        == []
    )
    words = "zero_points: learn needs a model quantized with symmetric: false, and '{}' {}; leave it out"
    for before, name, what in (
        ("  - quantize: {id: q, bits: 4, block: 16}\n", "q", "has symmetric blocks"),
        ("  - train: {id: t, tokens: 9}\n", "t", "is not quantized"),
    ):
        (one,) = said(place, TEXT + before + after)
        assert one.partition(": ")[2] == f"stages[1].distill.{words.format(name, what)}"
