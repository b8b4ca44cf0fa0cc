from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from compress.artifact import list_files, sha256_of
from compress.contract import Context, Outcome
from compress.errors import StageError
from compress.models.folder import load_model, save_model
from compress.models.quantized import QuantizedFile, dequantize, precision
from compress.quantize.options import QuantizeOptions
from compress.quantize.stage import run
from tests.references.tiny_families import tiny_model


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("tied"))


def make_folder(folder: Path, family: str = "llama", **changes: Any) -> Path:
    save_model(tiny_model(family, dtype=torch.float32, **changes), folder, folder)
    return folder


def quantize(source: Path, target: Path, progress: Any = None, **options: Any) -> Outcome:
    target.mkdir(parents=True, exist_ok=True)
    said = {} if progress is None else {"progress": progress}
    return run(QuantizeOptions(**{"bits": 4, **options}), Context(source, target, target, 0, **said))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_folder_holds_the_dequantized_codes_bit_for_bit(
    tied: Path, tmp_path: Path, bits: int, symmetric: bool
) -> None:
    outcome = quantize(tied, tmp_path, bits=bits, symmetric=symmetric)
    weights = dict(load_model(tmp_path).named_parameters())
    before = dict(load_model(tied).named_parameters())
    with QuantizedFile(tmp_path) as file:
        assert set(file.schemes.weights) == {name for name, weight in weights.items() if weight.ndim == 2}
        for name, weight in weights.items():
            if weight.ndim == 2:
                np.testing.assert_array_equal(weight.detach().numpy(), dequantize(file.read(name)))
                assert not torch.equal(weight, before[name])
            else:
                assert torch.equal(weight, before[name])
    assert precision(tmp_path) == outcome.facts["precision"] == f"int{bits}"
    assert not outcome.skipped


def test_a_tied_embedding_stays_tied_and_is_stored_once(tied: Path, tmp_path: Path) -> None:
    quantize(tied, tmp_path)
    model = load_model(tmp_path)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with QuantizedFile(tmp_path) as file:
        assert "lm_head.weight" not in file.schemes.weights


def test_facts_count_scales_and_zero_points(tied: Path, tmp_path: Path) -> None:
    symmetric = quantize(tied, tmp_path / "a").facts
    asymmetric = quantize(tied, tmp_path / "b", symmetric=False).facts
    # 32 and 48 wide, block 32: the last block of 48 is short, so 4 bits and a scale cost more than 5.
    rows, ffn = 4 * (32 + 16 + 16 + 32 + 48 + 48) + 64, 4 * 32
    count = rows * 32 + ffn * 48
    stored = rows * (16 + 4) + ffn * (32 + 8)
    assert symmetric["bits_per_weight"] == pytest.approx(8 * stored / count, rel=1e-3)
    assert asymmetric["bits_per_weight"] == pytest.approx(8 * (stored + rows + ffn) / count, rel=1e-3)
    assert sum(symmetric["megabytes"].values()) == pytest.approx(stored / 1e6, rel=1e-3)
    assert set(symmetric["megabytes"]) == {"embedding", "attention", "ffn"}
    assert 0 < asymmetric["relative_squared_error"]["all"] < symmetric["relative_squared_error"]["all"] < 0.02


def test_left_out_weights_stay_and_are_said(tied: Path, tmp_path: Path) -> None:
    outcome = quantize(tied, tmp_path, leave_out=("lm_head*", "*.layers.0.*.q_proj.weight"))
    assert [skipped.name for skipped in outcome.skipped] == [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
    ]
    assert re.fullmatch(r"left out by 'lm_head\*': stays float32, 0\.01 MB, \d+\.\d% of .*", outcome.skipped[0].reason)
    assert precision(tmp_path) == "mixed"
    before, after = load_model(tied), load_model(tmp_path)
    assert torch.equal(before.model.embed_tokens.weight, after.model.embed_tokens.weight)


def test_two_runs_write_the_same_bytes(tied: Path, tmp_path: Path) -> None:
    first, second = quantize(tied, tmp_path / "a"), quantize(tied, tmp_path / "b")
    assert first == second
    names = list_files(tmp_path / "a")
    assert names == list_files(tmp_path / "b")
    assert [sha256_of(tmp_path / "a" / name) for name in names] == [sha256_of(tmp_path / "b" / name) for name in names]


def test_progress_ends_at_the_number_of_weights(tied: Path, tmp_path: Path) -> None:
    calls: list[tuple[float, float]] = []
    quantize(tied, tmp_path, progress=lambda done, total, unit="", note="": calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] == 64 * 32 + 4 * (32 * 32 * 2 + 16 * 32 * 2 + 48 * 32 * 3)
    assert len(calls) == 4 * 7 + 1


def test_quantizing_twice_is_refused(tied: Path, tmp_path: Path) -> None:
    quantize(tied, tmp_path / "once")
    with pytest.raises(
        StageError, match=r"the model is quantized already \(int4\); quantize the model that it was made from"
    ):
        quantize(tmp_path / "once", tmp_path / "twice")


def test_a_pattern_without_a_match_names_weights_that_exist(tied: Path, tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"'\*\.wq' matches no weight; there are, for example, model\.embed_tokens\.weight"
    ):
        quantize(tied, tmp_path, leave_out=("*.wq",))
    with pytest.raises(StageError, match="matches every weight; nothing is left to quantize"):
        quantize(tied, tmp_path, leave_out=("*",))


def test_a_damaged_weight_is_named(tmp_path: Path) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("inf")
    (tmp_path / "source").mkdir()
    save_model(model, tmp_path / "source", tmp_path / "source")
    with pytest.raises(StageError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: holds values that are not finite"):
        quantize(tmp_path / "source", tmp_path / "target")


def test_weights_of_three_dimensions_are_an_error_until_they_are_left_out(tmp_path: Path) -> None:
    config = transformers.MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
        tie_word_embeddings=False,
    )
    source = tmp_path / "source"
    source.mkdir()
    save_model(transformers.MixtralForCausalLM(config), source, source)
    with pytest.raises(
        StageError, match=r"2 weights have more than two dimensions, .*experts.*name them in quantize\.leave"
    ):
        quantize(source, tmp_path / "a")
    outcome = quantize(source, tmp_path / "b", leave_out=("*.experts.*",))
    assert len(outcome.skipped) == 2
