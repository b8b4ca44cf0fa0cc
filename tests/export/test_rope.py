from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from compress.export.builder import build_graph
from compress.export.rope import compute_tables
from tests.export.conftest import export, torch_folder
from tests.export.schemes import read_graph

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("llama", {"rope_parameters": LINEAR}),
        ("gemma3_text", {}),
        ("qwen2", {}),
        ("phi3", {}),
    ],
)
def test_the_formula_gives_the_tables(family: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    source = torch_folder(tmp_path / "torch", family, max_position_embeddings=300, **changes)
    outcome = export(source, tmp_path / "onnx")
    _, arrays = read_graph(tmp_path / "onnx")
    assert not [name for name in arrays if "cache" in name]
    assert outcome.facts["parity"]["decode"]["difference_below"] == 1e-5
    with monkeypatch.context() as patch:
        patch.setattr("compress.export.builder.compute_tables", lambda *_: None)
        tables = {
            name: value.const_value.numpy()
            for name, value in build_graph(source).model.graph.initializers.items()
            if "cache" in name
        }
    assert len(tables) in (2, 4)
    nodes = [node for node in read_graph(tmp_path / "onnx")[0] if node.name.startswith("/model/rope")]
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items() if name.startswith("rope")]
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tables]
    graph = onnx.helper.make_graph(nodes, "rope", [], outputs, weights)
    alone = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)
    session = onnxruntime.InferenceSession(alone.SerializeToString())
    for name, computed in zip(tables, session.run(list(tables), {}), strict=True):
        assert computed.shape == tables[name].shape
        assert np.abs(computed - tables[name]).max() <= 1.3e-7


def test_tables_of_other_frequencies_stay(tmp_path: Path, monkeypatch: Any) -> None:
    source = torch_folder(tmp_path / "torch", max_position_embeddings=300)
    monkeypatch.setattr("compress.export.builder.compute_tables", lambda *_: None)
    graph = build_graph(source).model.graph
    before = dict(graph.initializers)
    compute_tables(graph, [])
    compute_tables(graph, [torch.rand(8), torch.rand(5)])
    assert dict(graph.initializers) == before
