from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.errors import StageError
from compress.export.builder import build_graph
from compress.export.options import FAMILIES, ExportOptions, plan
from tests.export.conftest import export, torch_folder


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_says_what_torch_says(family: str, tmp_path: Path) -> None:
    # Windows of 64 tokens, sliding windows of 6: parity would see one that is left out.
    outcome = export(torch_folder(tmp_path / "torch", family), tmp_path / "onnx")
    assert [outcome.facts["parity"][check]["difference_below"] for check in ("prefill", "decode")] == [1e-5, 1e-5]


@pytest.mark.parametrize(
    "changes",
    [
        {"tied": False, "head_dim": 32},
        {"tied": False, "num_key_value_heads": 4, "intermediate_size": 83},
        {"num_hidden_layers": 1, "attention_bias": False, "mlp_bias": False},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    ],
    ids=["wide heads", "odd ffn", "one layer", "llama3 rope", "linear rope"],
)
def test_shapes_and_ropes_of_llama(changes: dict[str, Any], tmp_path: Path) -> None:
    outcome = export(torch_folder(tmp_path / "torch", **changes), tmp_path / "onnx")
    assert outcome.facts["parity"]["decode"]["difference_below"] == 1e-5


def test_a_layer_as_wide_as_the_vocabulary_is_not_taken_for_the_head(tmp_path: Path) -> None:
    source = torch_folder(tmp_path / "torch", vocab_size=80, intermediate_size=80)
    names = [node.name for node in build_graph(source).model.graph if node.op_type == "MatMul"]
    assert names.count("/lm_head/MatMul") == 1
    assert len([name for name in names if "mlp" in name]) == 2 * 3


def test_the_builder_prints_nothing_and_leaves_no_trace(
    llama: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    path, state = list(sys.path), torch.random.get_rng_state()
    build_graph(llama)
    assert capfd.readouterr() == ("", "")
    assert sys.path == path
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_the_builder_cannot_take_is_said_with_its_reason(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    source = torch_folder(tmp_path / "torch", rope_parameters=rope)
    with pytest.raises(
        StageError, match=r"cannot build the graph of this model: NotImplementedError: The dynamic RoPE"
    ):
        build_graph(source)


def test_special_ids_come_from_the_folder(tmp_path: Path) -> None:
    source = torch_folder(tmp_path / "torch", bos_token_id=5, eos_token_id=[6, 7], pad_token_id=None)
    text = build_graph(source).genai_config_text
    assert '"bos_token_id": 5' in text
    assert '"pad_token_id": 6' in text
    assert "".join(text.split()).count('"eos_token_id":[6,7]') == 1


def test_plan_names_the_families_it_takes() -> None:
    with pytest.raises(
        ValueError, match=r"export does not take models of type 'bert'; it takes gemma2, gemma3_text, llama, "
    ):
        plan(ExportOptions(), {"model_type": "bert"})
    with pytest.raises(ValueError, match="this model's weights are stored as 'gptq'"):
        plan(ExportOptions(), {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}})
    with pytest.raises(ValueError, match=r"heads of width 20: ONNX Runtime needs a multiple of 8; the nearest is 16$"):
        plan(ExportOptions(), {"model_type": "llama", "hidden_size": 80, "num_attention_heads": 4})
    assert plan(ExportOptions(), {"model_type": "llama", "torch_dtype": "float16", "dtype": "float16"}) == {
        "model_type": "llama",
        "dtype": "float32",
    }
