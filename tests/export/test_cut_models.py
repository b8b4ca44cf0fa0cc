"""Models that prune has cut go through the builder: whatever shape is legal to cut to, export proves it against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compress.export.options import FAMILIES
from compress.models.families import shape_of
from compress.models.folder import load_model, read_config, save_model
from compress.prune.cut import Cut, Kept
from tests.export.conftest import HEADS, export
from tests.references.tiny_families import GROUPED, tiny_model
from tests.shipped import genai_greedy

LAYERS = [0, 2]
# Of 4 query heads over 2 key/value heads: one of each group, one whole group, one head of one group.
EQUAL = {"heads": [[0, 3], [1, 2]], "kv_heads": [[0, 1]] * 2}
GROUPS = {"heads": [[0, 1], [2, 3]], "kv_heads": [[0], [1]]}
ONE = {"heads": [[0], [3]], "kv_heads": [[0], [1]]}
FFN = [sorted(torch.randperm(80, generator=torch.Generator().manual_seed(seed))[:55].tolist()) for seed in range(2)]
HIDDEN = sorted(torch.randperm(64, generator=torch.Generator().manual_seed(2))[:44].tolist())
VOCAB = [*range(5), *range(7, 64, 2)]


def check_export(family: str, tmp_path: Path, tied: bool, **parts: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 64, "intermediate_size": 80}
    heads = {"head_dim": HEADS[family]} if family in HEADS else {}
    model = tiny_model(family, tied, torch.float32, **sizes, **heads)
    cut = Cut(model, Kept(layers=LAYERS, **parts)).run()
    source = tmp_path / "torch"
    source.mkdir()
    save_model(cut, source, source)
    outcome = export(source, tmp_path / "onnx")
    assert shape_of(read_config(tmp_path / "onnx")) == shape_of(read_config(source))
    assert [outcome.facts["parity"][check]["difference_below"] for check in ("prefill", "decode")] == [1e-5, 1e-5]
    facts: dict[str, Any] = outcome.facts
    return facts


def test_the_builder_takes_all_families_with_grouped_heads():
    assert set(FAMILIES) == set(GROUPED)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_model_cut_on_every_axis_says_what_torch_says(family: str, tied: bool, tmp_path: Path) -> None:
    parts = {**(ONE if tied else EQUAL), "ffn": FFN, "hidden": HIDDEN, "vocab": VOCAB}
    facts = check_export(family, tmp_path, tied, **parts)
    assert facts["weight_bytes"]["embedding"] == len(VOCAB) * len(HIDDEN) * 4
    assert ("head" in facts["weight_bytes"]) == (not tied)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_whole_groups_that_go_alone_leave_what_the_builder_takes(family: str, tmp_path: Path) -> None:
    check_export(family, tmp_path, True, **GROUPS)


@pytest.mark.parametrize(
    "parts", [{"ffn": FFN}, {"hidden": HIDDEN}, {"vocab": VOCAB}, {"heads": [[1], [2]], "kv_heads": [[0], [1]]}, {}]
)
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_each_axis_alone(family: str, parts: dict[str, Any], tmp_path: Path) -> None:
    check_export(family, tmp_path, False, **parts)


def test_genai_runs_a_cut_model_whose_heads_do_not_fill_the_width(tmp_path: Path) -> None:
    check_export("qwen2", tmp_path, True, **ONE, hidden=HIDDEN)
    assert shape_of(read_config(tmp_path / "onnx")).head_dim == 16
    prompt = [3, 9, 33, 5]
    ids = torch.tensor([prompt])
    said = load_model(tmp_path / "torch").generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, suppress_tokens=[2]
    )
    assert genai_greedy(tmp_path / "onnx", prompt, 16) == said[0, 4:].tolist()
