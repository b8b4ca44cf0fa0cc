"""What check says of the start: sizes of a fresh student, some of the teacher's layers, and what is cut from them."""

# ruff: noqa: E501 - the lines hold whole messages

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compress.check import forecasts
from compress.check_models import look_at
from compress.recipe import read_draft
from tests.tiny_check import TEXT, model, notes, said


@pytest.fixture
def place(tmp_path) -> Path:
    model(tmp_path / "model", num_hidden_layers=5, num_key_value_heads=1)
    return tmp_path


def start_of(place, text):
    (place / "r.yaml").write_text(text, encoding="utf-8")
    return look_at(read_draft(place / "r.yaml"), [])["start"]


def test_a_fresh_student_has_the_teachers_sizes_where_none_are_given(place):
    text = TEXT + "  - distill: {tokens: 9}\nstudent: {init: scratch, layers: 2, hidden: 32}\n"
    assert notes(place, text) == []
    config = start_of(place, text).config
    sizes = ("model_type", "num_hidden_layers", "hidden_size", "head_dim", "num_key_value_heads", "intermediate_size")
    assert [config[key] for key in sizes] == ["llama", 2, 32, 16, 1, 64]
    prune = text.replace("distill: {tokens: 9}", "prune: {remove: {layers: 2}}")
    assert said(place, prune) == [
        "8:5: stages[0].prune: remove.layers 2 would remove 2 of 2 layers; at least 1 must stay: use a count of at most 1"
    ]


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ("{init: scratch, hidden: 30, heads: 4}", ["9:26: student.hidden: a width of 30 beside 4 heads, and a llama model needs a width that is an even multiple of its heads; the nearest legal values are 24 and 32"]),
        ("{init: scratch, kv_heads: 4, heads: 6}", ["9:26: student.kv_heads: 4 key/value heads do not divide 6 query heads; the nearest legal values are 3 and 6"]),
        ("{init: scratch, layers: 1, ffn: 8, hidden: 30, heads: 4, kv_heads: 3, vocab: 300}", ["9:45: student.hidden: a width of 30 beside 4 heads, and a llama model needs a width that is an even multiple of its heads; the nearest legal values are 24 and 32", "9:67: student.kv_heads: 3 key/value heads do not divide 4 query heads; the nearest legal values are 2 and 4"]),
        ("{init: teacher, every: 6}", ["9:26: student.every: the teacher has 5 layers, fewer than 6; use at most 5"]),
        ("{init: teacher, every: 1}", ["9:26: student.every must be at least 2, got 1"]),
        ("{init: scratch, every: 2}", ["9:1: student: every can stand beside init: teacher only"]),
    ],
)  # fmt: skip
def test_sizes_that_are_not_legal_are_refused_at_their_place(place, student, expected):
    assert said(place, TEXT + f"  - train: {{tokens: 9}}\nstudent: {student}\n") == expected


def test_one_layer_out_of_n_has_its_sizes(place):
    text = TEXT + "  - prune: {remove: {ffn: 16}}\nstudent: {init: teacher, every: 2}\n"
    assert start_of(place, text).config["num_hidden_layers"] == 3
    (place / "r.yaml").write_text(text, encoding="utf-8")
    assert forecasts(read_draft(place / "r.yaml")) == ["0.05 M -> 0.04 M parameters: ffn 64 -> 48"]
    assert notes(place, text.replace("prune: {remove: {ffn: 16}}", "distill: {tokens: 9}")) == []


def test_an_unknown_family_is_refused_for_both(place):
    model(place / "other", model_type="mamba")
    text = (TEXT + "  - train: {tokens: 9}\nstudent: {init: X}\n").replace("{model: model}", "{model: other}")
    [fresh] = said(place, text.replace("X", "scratch"))
    assert fresh.startswith(
        "9:11: student.init: model_type 'mamba' is not in the family table; known families: llama, "
    )
    [every] = said(place, text.replace("X", "teacher, every: 2"))
    assert every.startswith(
        "9:26: student.every: model_type 'mamba' is not in the family table; known families: llama, "
    )


def test_weights_that_are_made_are_not_the_codes_of_a_quantized_teacher(place):
    (place / "model" / "quantization.safetensors").touch()
    text = TEXT + "  - prune: {remove: {ffn: 8}}\n"
    assert len(said(place, text)) == 1
    for student in ("{init: teacher, every: 2}", "{init: scratch, layers: 2}"):
        assert notes(place, text + f"student: {student}\n") == []


def test_rows_of_hub_models_may_differ_by_padding(place, monkeypatch):
    from compress import check_models

    def config(name, revision):
        return {"model_type": "llama", "vocab_size": int(name.rpartition("-")[2])}

    monkeypatch.setattr(check_models, "peek_config", config)
    text = (
        TEXT.replace("{model: model}", "{model: a/t-151936}")
        + "  - distill: {tokens: 9}\nstudent: {model: a/s-152064}\n"
    )
    assert notes(place, text) == []
    assert said(place, text.replace("152064", "32000")) == [
        "8:5: stages[0].distill: the teacher has 151936 tokens, the student 32000; both need the same tokenizer. Start from the teacher"
    ]


def test_it_takes_no_torch(place):
    text = TEXT + "  - distill: {tokens: 9}\nstudent: {init: teacher, every: 2}\n"
    (place / "r.yaml").write_text(text, encoding="utf-8")
    code = (
        "import sys\nfrom pathlib import Path\nfrom compress.check import open_recipe\n"
        f"open_recipe(Path({str(place / 'r.yaml')!r}))\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
