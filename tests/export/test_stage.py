from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.artifact import list_files, sha256_of
from compress.contract import Context
from compress.errors import StageError
from compress.export import stage
from compress.export.options import ExportOptions
from compress.models.decoder import open_decoder
from compress.models.folder import load_model, read_config, save_model
from tests.export.conftest import export, quantize, torch_folder
from tests.export.schemes import quantized_folder
from tests.shipped import genai_greedy

Packed = Callable[..., tuple[Path, Path]]
FILES = {"model.onnx", "model.onnx.data", "config.json", "generation_config.json", "genai_config.json"}


def greedy(folder: Path, prompt: list[int], count: int, never: tuple[int, ...] = (2,)) -> list[int]:
    """The most probable tokens; never EOS (2), as with genai's min_length."""
    decoder = open_decoder(folder)
    logits, said = decoder.start(np.array([prompt], dtype=np.int64)), []
    for _ in range(count):
        logits[:, list(never)] = -np.inf
        said.append(int(logits[0].argmax()))
        logits = decoder.step(np.array(said[-1:], dtype=np.int64))
    return said


def asset(name: str) -> Path:
    assets = os.environ.get("COMPRESS_ASSETS")
    if not assets:
        pytest.skip("COMPRESS_ASSETS is not set: no real model to export")
    return Path(assets) / "models" / name


def test_the_folder_is_complete_and_in_float32(tmp_path: Path) -> None:
    source = torch_folder(tmp_path / "float")
    load_model(source).half().save_pretrained(source)
    assert read_config(source)["dtype"] == "float16"
    outcome = export(source, tmp_path / "onnx")
    assert {path.as_posix() for path in list_files(tmp_path / "onnx")} >= FILES
    config = read_config(tmp_path / "onnx")
    assert config["dtype"] == "float32"
    assert config["max_position_embeddings"] == 64
    said = json.loads((tmp_path / "onnx" / "genai_config.json").read_text())["model"]
    assert (said["bos_token_id"], said["eos_token_id"], said["pad_token_id"]) == (1, 2, 0)
    assert (said["context_length"], said["type"], said["vocab_size"]) == (64, "llama", 64)
    assert outcome.facts["opset"] == {"ai.onnx": 22, "com.microsoft": 1}
    assert "GroupQueryAttention" in outcome.facts["operators"]["com.microsoft"]
    data = (tmp_path / "onnx" / "model.onnx.data").stat().st_size
    assert outcome.facts["bytes"]["model.onnx.data"] == data
    assert outcome.facts["weight_bytes"]["embedding"] == 64 * 64 * 4
    assert sum(outcome.facts["weight_bytes"].values()) == data


def test_genai_onnxruntime_and_torch_decode_alike(llama: Path, packed: Packed, tmp_path: Path) -> None:
    export(llama, tmp_path)
    prompt = [1, 9, 33, 5]
    expected = greedy(llama, prompt, 40)
    assert greedy(tmp_path, prompt, 40) == expected
    assert genai_greedy(tmp_path, prompt, 40) == expected
    for options in ({}, {"bits": 8}, {"symmetric": False}):
        folder = packed(**options)[1]
        assert greedy(folder, prompt, 32) == genai_greedy(folder, prompt, 32)


def test_heads_of_8_turn_outside_the_attention_node_and_run_in_genai(tmp_path: Path) -> None:
    source = torch_folder(tmp_path / "torch", head_dim=8)
    export(source, tmp_path / "onnx")
    assert genai_greedy(tmp_path / "onnx", [1, 9, 5], 20) == greedy(source, [1, 9, 5], 20)


def test_genai_opens_a_model_without_special_ids(tmp_path: Path) -> None:
    source = torch_folder(tmp_path / "torch", bos_token_id=None, eos_token_id=None, pad_token_id=None)
    export(source, tmp_path / "onnx")
    assert genai_greedy(tmp_path / "onnx", [3, 9, 5], 8) == greedy(source, [3, 9, 5], 8, never=())


def test_exporting_again_in_another_process_gives_the_same_bytes(packed: Packed, tmp_path: Path) -> None:
    source, target = packed()
    code = (
        "import sys; from pathlib import Path; from compress.contract import Context; "
        "from compress.export import stage; from compress.export.options import ExportOptions; "
        "source, target = map(Path, sys.argv[1:]); "
        "stage.run(ExportOptions(), Context(source, target, target, 0))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, source, tmp_path], check=True, env=environment)
    assert list_files(tmp_path) == list_files(target)
    for name in list_files(target):
        assert sha256_of(tmp_path / name) == sha256_of(target / name)


def test_a_family_that_is_not_taken_is_refused_before_any_weight_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "opt"}')
    with pytest.raises(
        StageError, match=r"export does not take models of type 'opt'; it takes gemma2, gemma3_text, llama, "
    ):
        export(tmp_path, tmp_path / "onnx")


def test_an_onnx_file_that_says_something_else_fails_the_stage(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    model = load_model(llama)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.01)
    save_model(model, other, other)
    build = stage.build_graph
    monkeypatch.setattr(stage, "build_graph", lambda source: build(other))
    with pytest.raises(
        StageError, match=r"ONNX and torch differ in prefill, most at window \d+, token \d+: .* 0\.0001 is"
    ):
        export(llama, tmp_path / "onnx")
    monkeypatch.undo()


def test_progress_reaches_its_end(llama: Path, tmp_path: Path) -> None:
    calls: list[tuple[float, float]] = []
    context = Context(
        llama, tmp_path, tmp_path, 0, progress=lambda done, total, unit="", note="": calls.append((done, total))
    )
    stage.run(ExportOptions(), context)
    assert calls[0] == (0, 3)
    assert calls[-1] == (3, 3)


def test_a_real_model_in_all_three_precisions(tmp_path: Path) -> None:
    source = asset("stories3M")
    export(source, tmp_path / "fp32")
    prompt = [1, 395, 317]
    expected = greedy(source, prompt, 64)
    assert greedy(tmp_path / "fp32", prompt, 64) == genai_greedy(tmp_path / "fp32", prompt, 64) == expected
    tokenizer = json.loads((tmp_path / "fp32" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    sizes = {"fp32": sum(path.stat().st_size for path in (tmp_path / "fp32").glob("model.onnx*"))}
    for bits in (8, 4):
        folder = tmp_path / f"int{bits}"
        export(quantize(source, tmp_path / f"torch{bits}", bits=bits), folder)
        assert greedy(folder, prompt, 32) == genai_greedy(folder, prompt, 32)
        sizes[folder.name] = sum(path.stat().st_size for path in folder.glob("model.onnx*"))
    assert 12.6e6 < sizes["fp32"] < 12.67e6
    assert sizes["int8"] < 3.59e6
    assert sizes["int4"] < 2.02e6
    large = quantized_folder(source, tmp_path / "torch64", lambda _: (8, 64, True, "none"))
    export(large, tmp_path / "int8-64")
    assert sum(path.stat().st_size for path in (tmp_path / "int8-64").glob("model.onnx*")) < 3.40e6


def test_a_real_model_with_int8_inputs(tmp_path: Path) -> None:
    source, prompt = asset("stories3M"), [1, 395, 317]
    export(quantized_folder(source, tmp_path / "torch", lambda _: (8, None, True, "dynamic")), tmp_path / "onnx")
    assert greedy(tmp_path / "onnx", prompt, 48) == genai_greedy(tmp_path / "onnx", prompt, 48)
    assert sum(path.stat().st_size for path in (tmp_path / "onnx").glob("model.onnx*")) < 3.30e6


def test_inputs_stay_in_float_at_accuracy_level_0(packed: Packed, tmp_path: Path) -> None:
    source, rounded = packed(bits=8)
    export(source, tmp_path, accuracy_level=0)
    ids = np.random.default_rng(0).integers(3, 60, (2, 12))
    truth, exact, near = (open_decoder(folder).logits(ids) for folder in (source, tmp_path, rounded))
    assert np.abs(exact - truth).max() < 1e-5 * np.abs(truth).max()
    assert np.abs(near - truth).max() > 1e-4 * np.abs(truth).max()
