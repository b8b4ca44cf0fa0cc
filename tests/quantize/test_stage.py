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
from compress.models.folder import load_model, save_model, stored_weights
from compress.models.quantized import QuantizedFile, dequantize, precision
from compress.quantize.options import QuantizeOptions
from compress.quantize.rtn import round_to_nearest
from compress.quantize.stage import list_matrices, run
from tests.prune.tiny_stage import Text
from tests.references.tiny_families import tiny_model

GPTQ = {"method": "gptq", "calibration": {"windows": 8, "length": 16}, "gptq": {"refine": 0}}


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("tied"))


def make_folder(folder: Path, family: str = "llama", **changes: Any) -> Path:
    save_model(tiny_model(family, dtype=torch.float32, **changes), folder, folder)
    return folder


def quantize(source: Path, target: Path, progress: Any = None, **options: Any) -> Outcome:
    target.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f"{target.name}.scratch")
    said = {} if progress is None else {"progress": progress}
    settings = QuantizeOptions.model_validate({"bits": 4, **options})
    return run(settings, Context(source, target, scratch, 0, data=Text(), **said))


def same_bytes(first: Path, second: Path) -> bool:
    names = list_files(first)
    assert names == list_files(second)
    return [sha256_of(first / name) for name in names] == [sha256_of(second / name) for name in names]


@pytest.mark.parametrize(
    ("bits", "symmetric", "options"),
    [(4, True, {}), (8, True, {}), (4, False, {}), (8, False, {}), (2, False, GPTQ)],
)
def test_the_folder_holds_the_dequantized_codes_bit_for_bit(
    tied: Path, tmp_path: Path, bits: int, symmetric: bool, options: dict[str, Any]
) -> None:
    outcome = quantize(tied, tmp_path / "q", bits=bits, symmetric=symmetric, **options)
    tmp_path = tmp_path / "q"
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


@pytest.mark.parametrize("options", [{}, GPTQ])
def test_left_out_weights_stay_and_are_said(tied: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    outcome = quantize(tied, tmp_path, leave_out=("lm_head*", "*.layers.0.*.q_proj.weight"), **options)
    assert [skipped.name for skipped in outcome.skipped] == [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
    ]
    assert re.fullmatch(r"left out by 'lm_head\*': stays float32, 0\.01 MB, \d+\.\d% of .*", outcome.skipped[0].reason)
    assert precision(tmp_path) == "mixed"
    before, after = load_model(tied), load_model(tmp_path)
    for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"):
        assert torch.equal(before.get_parameter(name), after.get_parameter(name))


@pytest.mark.parametrize("options", [{}, GPTQ])
def test_two_runs_write_the_same_bytes(tied: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    first, second = quantize(tied, tmp_path / "a", **options), quantize(tied, tmp_path / "b", **options)
    assert first == second
    assert same_bytes(tmp_path / "a", tmp_path / "b")


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


class StopError(Exception):
    pass


def stop_after(layers: int) -> Any:
    def progress(done: float, total: float, unit: str = "", note: str = "") -> None:
        if unit == "layers" and done == layers:
            raise StopError

    return progress


@pytest.mark.parametrize("layers", [1])
def test_a_stopped_run_goes_on_and_writes_the_same_bytes(
    tmp_path: Path, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_folder(tmp_path / "source", "gpt_neox", tied=False)
    straight = quantize(source, tmp_path / "straight", **GPTQ)
    with pytest.raises(StopError):
        quantize(source, tmp_path / "again", progress=stop_after(layers), **GPTQ)
    done = tmp_path / "again.scratch" / "layers"
    assert sorted(path.name for path in done.iterdir()) == ["embedding", *(f"layer-{at:04d}" for at in range(layers))]
    half = done / f"layer-{layers:04d}.unfinished"
    half.mkdir()
    (half / "quantization.safetensors").write_bytes(b"half")

    def not_again(*_: Any, **__: Any) -> None:
        raise AssertionError("the embedding was done")

    monkeypatch.setattr("compress.quantize.by_layer.measure_curvature", not_again)
    assert quantize(source, tmp_path / "again", **GPTQ) == straight
    assert same_bytes(tmp_path / "straight", tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} >= {"quantization.safetensors", "model.safetensors"}


@pytest.mark.parametrize("method", [{}, GPTQ])
def test_a_weight_may_have_a_grid_of_its_own(tied: Path, tmp_path: Path, method: dict[str, Any]) -> None:
    own = {"*down_proj*": {"bits": 2, "symmetric": False}, "lm_head*": {"bits": 8}}
    outcome = quantize(tied, tmp_path, weights=own, **method)
    assert outcome.facts["precision"] == precision(tmp_path) == "mixed"
    with QuantizedFile(tmp_path) as file:
        found = {name: (scheme.bits, scheme.symmetric) for name, scheme in file.schemes.weights.items()}
    assert found["model.embed_tokens.weight"] == (8, True)
    assert found["model.layers.2.mlp.down_proj.weight"] == (2, False)
    assert found["model.layers.2.mlp.up_proj.weight"] == (4, True)


def test_gptq_errs_less_in_what_the_model_says_of_its_text(tied: Path, tmp_path: Path) -> None:
    ids = torch.from_numpy(Text()("calibration", tied).windows(16, 8)[0].copy())
    quantize(tied, tmp_path / "rtn", bits=4)
    quantize(tied, tmp_path / "gptq", bits=4, **GPTQ)
    with torch.no_grad():
        truth, nearest, gptq = (
            load_model(folder)(input_ids=ids).logits.log_softmax(-1)
            for folder in (tied, tmp_path / "rtn", tmp_path / "gptq")
        )
    kl = [float((truth.exp() * (truth - said)).sum(-1).mean()) for said in (nearest, gptq)]
    assert 0 < kl[1] < 0.5 * kl[0]


@pytest.mark.parametrize(
    ("family", "architecture"),
    [
        ("opt", "OPTForCausalLM"),
        ("bert", "BertModel"),
        ("roberta", "RobertaForMaskedLM"),
    ],
)
def test_gptq_takes_every_matrix_of_every_kind_of_model(family: str, architecture: str, tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", family, architectures=[architecture])
    outcome = quantize(source, tmp_path / "q", bits=8, block=16, **GPTQ)
    before, after = load_model(source), load_model(tmp_path / "q")
    names = {matrix.name for matrix in list_matrices(before)[0]}
    with QuantizedFile(tmp_path / "q") as file:
        assert set(file.schemes.weights) == names
    assert outcome.skipped == ()
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        truth, said = (model(input_ids=ids)[0] for model in (before, after))
    assert 0 < float((said - truth).norm() / truth.norm()) < 0.06


def test_the_head_of_a_masked_language_model_reads_no_last_norm_and_is_rounded_to_nearest(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", "bert", tied=False)
    quantize(source, tmp_path / "q", **GPTQ)
    head = "cls.predictions.decoder.weight"
    rounded = round_to_nearest(load_model(source).get_parameter(head), 4, 32, True)
    with QuantizedFile(tmp_path / "q") as file:
        np.testing.assert_array_equal(file.read(head).scales, rounded.scales.numpy())


def test_text_that_is_missing_or_too_short_is_refused(tied: Path, tmp_path: Path) -> None:
    options = QuantizeOptions.model_validate({"bits": 4, **GPTQ})
    said = "quantize: needs calibration text; give the recipe data.calibration or data.train, or use method: rtn"
    with pytest.raises(StageError, match=f"^{re.escape(said)}$"):
        run(options, Context(tied, tmp_path, tmp_path, 0))
    said = "quantize: the calibration text has no window of 16 tokens; give more text, or a smaller calibration.length"
    with pytest.raises(StageError, match=f"^{re.escape(said)}$"):
        run(options, Context(tied, tmp_path, tmp_path, 0, data=Text(15)))
    assert list(tmp_path.iterdir()) == []


def test_windows_longer_than_the_context_are_refused_before_any_weight_is_loaded(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", "opt")
    (source / "model.safetensors").unlink()
    said = f"{source}: quantize.calibration.length 256 is longer than the model's context of 64 tokens; use at most 64"
    with pytest.raises(StageError, match=f"^{re.escape(said)}$"):
        quantize(source, tmp_path / "q", method="gptq")


def test_a_damaged_model_is_named_by_gptq(tmp_path: Path) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("inf")
    (tmp_path / "source").mkdir()
    save_model(model, tmp_path / "source", tmp_path / "source")
    said = "what the model says of the calibration text is not finite; it is damaged, train or load it again"
    with pytest.raises(StageError, match=f"^{re.escape(said)}$"):
        quantize(tmp_path / "source", tmp_path / "a", **GPTQ)
    said = "model.layers.1.mlp.up_proj.weight: holds values that are not finite; the model is damaged, train or load it again"
    with pytest.raises(StageError, match=f"^{re.escape(said)}$"):
        quantize(tmp_path / "source", tmp_path / "b", leave_out=("*embed*",), **GPTQ)


def test_stored_weights_are_those_of_the_file_and_names_that_are_not_there_are_passed_over(tied: Path) -> None:
    model = load_model(tied)
    names = ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"]
    found = dict(stored_weights(tied, [*names, "lm_head.weight", "no.such.weight"]))
    assert sorted(found) == sorted(names)
    assert all(torch.equal(found[name], model.get_parameter(name)) for name in names)
    assert dict(stored_weights(tied, [])) == {}
