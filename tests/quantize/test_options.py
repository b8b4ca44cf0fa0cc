from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from compress.quantize.options import QuantizeOptions
from compress.stages import STAGES
from tests.fake_stages import apply, prepare
from tests.tiny_check import TEXT, model, notes, said
from tests.tiny_run import random_teacher

GPTQ = "quantize: {id: g, bits: 4, block: 16, method: gptq}"


def refused(**options: Any) -> str:
    """Return the one thing that is wrong with the options."""
    with pytest.raises(ValidationError) as caught:
        QuantizeOptions.model_validate(options)
    (one,) = caught.value.errors()
    return str(one["msg"]).removeprefix("Value error, ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs exactly one of bits, size_mb"),
        ({"bits": 4, "size_mb": 2.5}, "needs exactly one of bits, size_mb"),
        (
            {"bits": 4, "gptq": {"refine": 0}},
            "gptq says how that method goes, and method is rtn; leave it out",
        ),
        (
            {"bits": 4, "sensitivity": "kl"},
            "sensitivity is for a choice by weight (bits: {budget: …} or size_mb); leave it out",
        ),
        (
            {"bits": 4, "calibration": {"windows": 8}},
            "calibration: nothing here reads text; leave it out, or use method: gptq",
        ),
        (
            {"bits": 4, "weights": {"*q_proj*": {}}},
            "needs at least one of bits, block, symmetric, activations",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    assert refused(**options) == message


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 3},
        {"bits": 4, "block": 48},
        {"bits": 4, "method": "best"},
        {"bits": 4, "method": "gptq", "gptq": {"damping": 0}},
        {"bits": 4, "method": "gptq", "gptq": {"damping": 1e-9}},
        {"bits": 4, "method": "gptq", "gptq": {"refine": -1}},
        {"bits": 4, "method": "gptq", "calibration": {"windows": 0}},
        {"bits": {"budget": 0}},
        {"size_mb": 0},
        {"bits": 4, "weights": {"*": {"bits": 5}}},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        QuantizeOptions.model_validate(options)


def test_text_is_read_where_the_method_or_the_choice_needs_it() -> None:
    reads = {
        "plain": ({"bits": 4}, False),
        "gptq": ({"bits": 4, "method": "gptq"}, True),
        "budget": ({"bits": {"budget": 4.5}}, True),
        "size": ({"size_mb": 2.5}, True),
    }
    stage = STAGES["quantize"]
    for options, expected in reads.values():
        found = QuantizeOptions.model_validate(options)
        assert found.reads_text is expected
        assert stage.needs_of(found) == (("calibration",) if expected else ())
    assert STAGES["prune"].needs_of(None) == ("calibration",)


def test_defaults_are_those_of_the_paper_but_for_the_refinement() -> None:
    found = QuantizeOptions.model_validate({"bits": 4, "method": "gptq"})
    assert (found.gptq.damping, found.gptq.activation_order, found.gptq.target, found.gptq.refine) == (
        0.01,
        True,
        "stream",
        2,
    )
    assert (found.calibration.windows, found.calibration.length) == (256, 256)
    assert (found.block, found.symmetric) == (32, True)


def test_check_refuses_gptq_without_text(tmp_path: Path) -> None:
    model(tmp_path / "model")
    without = TEXT.replace("  train: {builtin: stories}\n", "")
    words = "stages[0].quantize needs data.calibration (or data.train, from which it is taken), the recipe has none"
    assert said(tmp_path, f"{without}  - {GPTQ}\n") == [f"7:5: {words}"]
    assert said(tmp_path, without + "  - quantize: {bits: {budget: 6}}\n") == [f"7:5: {words}"]
    calibrated = without.replace("data:\n", "data:\n  calibration: {builtin: stories, seed: 3}\n")
    for text in (TEXT, calibrated):
        assert notes(tmp_path, f"{text}  - {GPTQ}\n") == []
    assert notes(tmp_path, without + "  - quantize: {bits: 4, block: 16}\n") == []


def test_check_says_what_does_not_fit_the_model(tmp_path: Path) -> None:
    model(tmp_path / "model")
    long = f"{TEXT}  - {GPTQ.removesuffix('}')}, calibration: {{length: 512}}}}\n"
    words = "quantize.calibration.length 512 is longer than the model's context of 256 tokens; use at most 256"
    assert said(tmp_path, long) == [f"8:5: stages[0].quantize: {words}"]
    pattern = f"{TEXT}  - {GPTQ.removesuffix('}')}, leave_out: ['*.wq']}}\n"
    assert "quantize.leave_out: '*.wq' matches no weight; there are, for example, " in said(tmp_path, pattern)[0]


def test_other_calibration_text_remakes_only_what_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = prepare(tmp_path / "place", random_teacher(tmp_path / "made"), monkeypatch)
    text = """\
recipe: 1
name: fake
teacher: {model: teacher}
data: {calibration: {files: [calibration.txt], separator: "---"}}
stages:
  - quantize: {id: plain, from: teacher, bits: 4}
  - quantize: {id: read, from: teacher, bits: 4, method: gptq, calibration: {length: 8}}
benchmark: false
"""
    (place / "calibration.txt").write_text("one---two---three")
    assert apply(place, text=text)[0] == ["plain", "read"]
    (place / "calibration.txt").write_text("one---two---four")
    made, lines = apply(place, text=text)
    assert made == ["read"]
    assert "read (quantize): made again: data.calibration changed" in lines
