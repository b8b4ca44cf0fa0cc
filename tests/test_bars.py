"""The bars on real input, minutes long: `make bars` with COMPRESS_ASSETS set runs the shipped recipe in full."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from tests import shipped
from tests.tiny_run import apply

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
IDS = ["teacher", "pruned", "student", "int8", "int4", "healed"]
WINDOWS, LENGTH = 96, 256

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def edge(assets, tmp_path_factory):
    """The run folder of tinystories-edge on stories3M."""
    run = tmp_path_factory.mktemp("edge") / "run"
    sets = [
        "teacher={model: ${COMPRESS_ASSETS}/models/stories3M}",
        'data.train={files: ["${COMPRESS_ASSETS}/data/tinystories-train.txt"], separator: "<|endoftext|>"}',
        'data.evaluation={files: ["${COMPRESS_ASSETS}/data/tinystories-eval.txt"], separator: "<|endoftext|>"}',
    ]
    arguments = [part for change in sets for part in ("--set", change)]
    variables = {"COMPRESS_ASSETS": str(assets), "OMP_NUM_THREADS": str(os.cpu_count())}
    result = apply(RECIPES / "tinystories-edge.yaml", run, *arguments, **variables)
    print(result.stderr, result.stdout, sep="\n")
    return run


@pytest.fixture(scope="module")
def rows(edge):
    return shipped.rows_of(edge)


@pytest.fixture(scope="module")
def whole(edge, assets, tmp_path_factory):
    """The run folder with the teacher's own torch folder in its place."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "torch").mkdir()
    for identity in IDS[1:]:
        (folder / "torch" / identity).symlink_to(edge / "torch" / identity)
    (folder / "torch" / "teacher").symlink_to(assets / "models" / "stories3M")
    (folder / "onnx").symlink_to(edge / "onnx")
    return folder


def test_rows_stand_side_by_side(rows):
    assert sorted(rows) == sorted((kind, identity) for kind in ("torch", "onnx") for identity in IDS)
    for row in rows.values():
        found = row["measurements"]
        assert found["perplexity"]["conditions"]["windows"] == WINDOWS
        speed = found["decode_tokens_per_second"]
        assert len(speed["samples"]) >= 5
        assert speed["value"] == pytest.approx(float(np.median(speed["samples"])))


def test_files_say_what_torch_says(rows):
    shipped.check_perplexities(rows)


@pytest.mark.parametrize("identity", IDS)
def test_an_outside_scorer_agrees(rows, edge, assets, identity):
    tool = shipped.outside_tool()
    if tool is None:
        pytest.skip("neither COMPRESS_TOOLS nor a tools folder beside COMPRESS_ASSETS is there: no outside scorer")
    text = assets / "data" / "tinystories-eval.txt"
    outside = shipped.outside_perplexity(tool, edge / "onnx" / identity, text, WINDOWS, LENGTH)
    assert rows["onnx", identity]["measurements"]["perplexity"]["value"] == pytest.approx(outside, rel=0.001)


@pytest.mark.parametrize("identity", IDS)
def test_every_torch_folder_opens_with_transformers(whole, identity):
    model = AutoModelForCausalLM.from_pretrained(whole / "torch" / identity)
    assert torch.isfinite(model(torch.tensor([[1, 5, 9]])).logits).all()


@pytest.mark.parametrize("identity", IDS)
def test_three_runtimes_say_the_same_tokens(whole, identity):
    tokenizer = Tokenizer.from_file(str(whole / "onnx" / identity / "tokenizer.json"))
    shipped.check_greedy(whole, identity, [1, *tokenizer.encode("Once upon a time, there was a little girl").ids])
