"""The start of a recipe: made once from the teacher's config or layers, told of in the report, made again where it changes."""

from __future__ import annotations

import json

import pytest

from compress import pipeline
from compress.errors import StageError
from compress.models.folder import read_config
from tests.fake_stages import apply, leftovers, prepare
from tests.tiny_run import random_teacher

EVERY = """\
recipe: 1
name: fake
teacher: {model: teacher}
student: {init: teacher, every: 2}
data: {train: {files: [train.txt], separator: "---"}}
stages: [train: {tokens: 64}]
benchmark: false
"""
FRESH = EVERY.replace("{init: teacher, every: 2}", "{init: scratch, layers: 1, hidden: 32}")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return random_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def place(tmp_path, teacher, monkeypatch):
    return prepare(tmp_path, teacher, monkeypatch)


def test_one_layer_out_of_n_is_a_start_of_its_own(place, teacher):
    made, said = apply(place, text=EVERY)
    assert made == ["train"]
    assert "start (start): making" in said
    start = place / "run" / "torch" / "start"
    assert read_config(start)["num_hidden_layers"] == 2
    facts = json.loads((start / "artifact.json").read_text())["facts"]
    assert facts == {"layers": {"before": 3, "after": 2, "kept": [0, 2]}}
    # what follows is made from it, and not from the teacher
    assert read_config(place / "run" / "torch" / "train")["num_hidden_layers"] == 2
    _, said = apply(place, text=EVERY)
    assert "start (start): reused" in said
    _, said = apply(place, text=EVERY, **{"every: 2": "every: 3"})
    assert "start (start): made again: options.every was 2, is 3" in said


def test_a_fresh_start_is_of_the_teachers_family(place, teacher):
    apply(place, text=FRESH)
    config = read_config(place / "run" / "torch" / "start")
    own = read_config(teacher)
    assert (config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]) == (1, 32, 128)
    assert config["vocab_size"] == own["vocab_size"]


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        (EVERY, ("every: 2", "every: 4"), "start: the teacher has 3 layers, fewer than 4; use at most 3"),
        (FRESH, ("hidden: 32", "hidden: 34"), "start: hidden: a width of 34 beside 4 heads, and a llama model needs"),
    ],
)
def test_what_check_could_not_see_is_said_by_the_run(place, monkeypatch, text, change, message):
    # as where the config of a hub model cannot be read
    monkeypatch.setattr(pipeline, "check", lambda recipe: [])
    with pytest.raises(StageError) as caught:
        apply(place, text=text.replace(*change))
    assert str(caught.value).startswith(message)
    assert leftovers(place) == []
