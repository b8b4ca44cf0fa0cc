"""The bars of the speed of quantized files: `make bars`, some ten minutes; the table of README is this test's.

Random weights of two shapes, prompt 128, 64 new tokens, 2 threads, a process for each file, 7 turns after 2 of warming up; a
ratio is the median of the ratios of the turns. Codes are rounded plainly: speed does not depend on what they are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM

from compress.benchmark.options import LatencyOptions
from compress.benchmark.size import size_bytes
from compress.benchmark.speed import measure_speed
from tests.export.conftest import export
from tests.export.schemes import quantized_folder

pytestmark = pytest.mark.slow

SHAPES = {
    "110M": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "vocab_size": 32000,
    },
    # SmolLM2-135M's.
    "135M": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
}
SCHEMES = {
    "int4": (4, 32, True, "none"),
    "int8": (8, 64, True, "none"),
    "int8 dynamic": (8, None, True, "dynamic"),
}
PREFILL, DECODE = "prefill_tokens_per_second", "decode_tokens_per_second"


def random_model(folder: Path, shape: dict[str, int]) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(tie_word_embeddings=True, max_position_embeddings=2048, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {f"w{index}": index for index in range(shape["vocab_size"])}
    Tokenizer(WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def builders_int4(source: Path, folder: Path, scratch: Path) -> Path:
    """onnxruntime-genai's own int4 file, in blocks of 32 and with activations in int8, as ours is."""
    options = ["int4_block_size=32", "int4_accuracy_level=4", "int4_algo_config=rtn", "hf_token=false"]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", folder, "-p", "int4"]
    command += ["-e", "cpu", "-c", scratch, "--extra_options", *options]
    result = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    return folder


@pytest.fixture(scope="module", params=SHAPES)
def speeds(request, tmp_path_factory):
    """Tokens a second of each file, turn by turn."""
    place = tmp_path_factory.mktemp(request.param)
    source = random_model(place / "torch", SHAPES[request.param])
    folders = {"fp32": place / "fp32", "builder int4": builders_int4(source, place / "builder", place / "scratch")}
    export(source, folders["fp32"])
    for name, scheme in SCHEMES.items():
        folders[name] = place / name.replace(" ", "-")
        quantized = quantized_folder(source, place / "quantized", lambda _, scheme=scheme: scheme)
        export(quantized, folders[name])
    found = measure_speed(folders, LatencyOptions(prompt=128, new=64, threads=2, repeats=7, warmup=2))
    print(f"\n{request.param}: MB, ms of a prompt of 128, ms a token, times fp32 in each")
    for name, folder in folders.items():
        prefill, decode = (found[name][rate].value for rate in (PREFILL, DECODE))
        ratios = [ratio(found, name, "fp32", rate) for rate in (PREFILL, DECODE)]
        times = f"{128e3 / prefill:7.1f} {1e3 / decode:6.2f}   {ratios[0]:.2f}x {ratios[1]:.2f}x"
        print(f"  {name:13s} {size_bytes(folder) / 1e6:6.1f} {times}")
    return found


def ratio(found, name: str, other: str, rate: str) -> float:
    """The median over the turns of how many times faster a file is than another."""
    return float(np.median(np.array(found[name][rate].samples) / np.array(found[other][rate].samples)))


@pytest.mark.parametrize("rate", [PREFILL, DECODE])
def test_int4_is_as_fast_as_the_builders_own(speeds, rate):
    assert ratio(speeds, "int4", "builder int4", rate) >= 0.97


@pytest.mark.parametrize("rate", [PREFILL, DECODE])
def test_int8_with_dynamic_inputs_is_faster_than_fp32(speeds, rate):
    assert ratio(speeds, "int8 dynamic", "fp32", rate) >= 2.3
