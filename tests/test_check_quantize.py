"""What `check` says of a quantization from config.json alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.check import forecasts, open_recipe
from compress.check_quantize import quantize_words, slow_notes
from compress.quantize.options import QuantizeOptions
from tests.tiny_check import CONFIG, TEXT, model, notes, said

SLOW = (
    "2 bits in blocks of 16 have no fast kernel in ONNX Runtime: weights are turned into float at each token, "
    "some hundred times slower; use blocks of 32 or more"
)
# one tied embedding of 64 x 48; each layer has four of 48 x 48 and three of 64 x 48
ROWS = 64 + 2 * (4 * 48 + 2 * 64)
COUNT = ROWS * 48 + 2 * 48 * 64


def words(config: dict[str, Any] | None = None, **options: Any) -> str:
    return quantize_words(QuantizeOptions.model_validate(options), CONFIG | (config or {}))


def slow(config: dict[str, Any] | None = None, **options: Any) -> list[str]:
    return list(slow_notes(QuantizeOptions.model_validate(options), CONFIG | (config or {})))


def test_bytes_bits_and_operators_are_said() -> None:
    # 3 blocks of 16 in a row of 48, 4 in one of 64: 8 bytes of codes and 4 of scales each
    stored = ROWS * 3 * 12 + 2 * 48 * 4 * 12
    expected = f"{stored / 1e6:.2f} MB of matrices, 6 bits a weight: MatMulNBits, 4 bits, blocks of 16 (15 weights)"
    assert words(bits=4, block=16) == expected
    assert 8 * stored == 6 * COUNT


def test_zero_points_and_what_is_left_out_are_counted() -> None:
    said = words(bits=4, block=16, symmetric=False, leave_out=("*.0.*", "*.1.*attn*"))
    rows, down = 64 + 2 * 64, 48
    stored = rows * (3 * 12 + 2) + down * (4 * 12 + 2) + 4 * (COUNT - rows * 48 - down * 64)
    assert said == (
        f"{stored / 1e6:.2f} MB of matrices, {8 * stored / COUNT:.3g} bits a weight: "
        "MatMulNBits, 4 bits, blocks of 16, zero points (4 weights); MatMul in float (11 left out)"
    )


def test_an_untied_table_keeps_its_own_operator_beside_rounded_inputs() -> None:
    said = words({"tie_word_embeddings": False}, bits=8, activations="dynamic")
    assert said.endswith(
        ": MatMulIntegerToFloat, 8 bits, inputs in 8 bits by token (15 weights); "
        "GatherBlockQuantized, 8 bits, blocks of 32 (1 weight)"
    )
    assert "QuantizeLinear and MatMul on 8 bits, ranges known (15 weights)" in words(bits=8, activations="static")


@pytest.mark.parametrize(
    ("options", "most"), [({"bits": {"budget": 4.5}}, "4.5 bits a weight"), ({"size_mb": 2}, "2 MB")]
)
def test_a_choice_by_weight_says_within_what(options: dict[str, Any], most: str) -> None:
    assert words(**options) == f"bits chosen by weight within {most}, from 2, 4 and 8: MatMulNBits"


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert words({"model_type": "unheard-of"}, bits=4) == ""
    assert slow({"model_type": "unheard-of"}, bits=2, block=16) == []
    assert words(bits=4, leave_out=("*.wq",)) == ""
    assert slow(bits=2, block=16, leave_out=("*.wq",)) == []


def test_two_bits_in_blocks_of_sixteen_are_warned_of_once() -> None:
    assert slow(bits=2, block=16) == [f"slow: 15 weights: {SLOW}"]
    assert slow({"tie_word_embeddings": False}, bits=2, block=16) == [f"slow: 15 weights: {SLOW}"]
    one = {"*.1.*down_proj*": {"bits": 2, "block": 16}}
    assert slow(bits=4, weights=one) == [f"slow: 1 weight: {SLOW}"]
    assert slow(bits=2, block=32) == slow(bits=4, block=16) == slow(bits={"budget": 3}) == []


def test_check_says_both(tmp_path: Path) -> None:
    model(tmp_path / "model")
    text = f"{TEXT}  - quantize: {{id: small, bits: 2, block: 16}}\n"
    assert notes(tmp_path, text) == [f"stages[0].quantize slow: 15 weights: {SLOW}"]
    recipe, _ = open_recipe(tmp_path / "r.yaml")
    assert forecasts(recipe) == [words(bits=2, block=16)]
    assert words(bits=2, block=16).endswith("bits a weight: MatMulNBits, 2 bits, blocks of 16 (15 weights)")


def test_the_forecast_is_of_the_model_that_the_step_is_given(tmp_path: Path) -> None:
    model(tmp_path / "model")
    text = f"{TEXT}  - prune: {{id: slim, remove: {{layers: 1}}}}\n  - quantize: {{id: small, bits: 4, block: 16}}\n"
    notes(tmp_path, text)
    recipe, _ = open_recipe(tmp_path / "r.yaml")
    assert forecasts(recipe)[1] == words({"num_hidden_layers": 1}, bits=4, block=16)


def test_check_refuses_a_grid_of_its_own_beside_rounded_inputs(tmp_path: Path) -> None:
    model(tmp_path / "model")
    grid = "bits: 8, activations: dynamic, weights: {'*q_proj*': {bits: 4}}"
    found = said(tmp_path, f"{TEXT}  - quantize: {{id: small, {grid}}}\n")
    message = (
        "quantize.weights: bits: 4 for model.layers.0.self_attn.q_proj.weight does not go with activations: dynamic; "
        "add activations: none there"
    )
    assert found == [f"8:5: stages[0].quantize: {message}"]


def test_neither_numpy_nor_torch_is_loaded(tmp_path: Path) -> None:
    model(tmp_path / "model")
    for name, stage in (
        ("q", "quantize: {id: small, bits: 2, block: 16}"),
        ("p", "prune: {id: s, remove: {layers: 1}}"),
    ):
        (tmp_path / f"{name}.yaml").write_text(f"{TEXT}  - {stage}\n", encoding="utf-8")
        code = (
            "import sys\nfrom compress.cli import main\n"
            "try: main()\nfinally: print({'numpy', 'torch'} & set(sys.modules), file=sys.stderr)"
        )
        command = [sys.executable, "-c", code, "check", str(tmp_path / f"{name}.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "set()")
        assert ("slow: 15 weights" in done.stdout + done.stderr) == (name == "q")


def test_float_inputs_are_called_slow_only_where_weights_are_in_blocks(tmp_path: Path) -> None:
    stages = "  - quantize: {id: q, from: start, bits: 8, %s}\n  - export: {from: [start, q], accuracy_level: 0}\n"
    model(tmp_path / "model")
    said = [note for note in notes(tmp_path, TEXT + stages % "block: 16") if "accuracy_level" in note]
    assert [note.partition(" MatMulNBits")[0] for note in said] == ["stages[1].export slow: at accuracy_level 0"]
    assert notes(tmp_path, TEXT + stages % "activations: dynamic") == []
