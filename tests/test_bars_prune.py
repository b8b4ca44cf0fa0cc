"""The bars of prune on real input, minutes long: `make bars` with COMPRESS_ASSETS set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
import transformers

from tests import shipped
from tests.tiny_run import apply

pytestmark = pytest.mark.slow

HEAD = """
recipe: 1
name: bars
teacher: {model: "${COMPRESS_ASSETS}/models/stories3M"}
data:
  train: {files: ["${COMPRESS_ASSETS}/data/tinystories-train.txt"], separator: "<|endoftext|>"}
  evaluation: {files: ["${COMPRESS_ASSETS}/data/tinystories-eval.txt"], separator: "<|endoftext|>"}
stages:
  - prune: {id: slim, keep: {parameters: 2_558_000}}
  - prune: {id: fewer, from: start, remove: {vocab: 246}}
benchmark: {perplexity: {join: bos, length: 256, windows: 96}, bits_per_byte: {documents: 952}, latency: false}
"""
# TinyLlama's shape.
LARGE = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def rows(assets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bars")
    (folder / "bars.yaml").write_text(HEAD)
    variables = {"COMPRESS_ASSETS": str(assets), "OMP_NUM_THREADS": str(os.cpu_count())}
    print(apply(folder / "bars.yaml", folder / "run", **variables).stdout)
    return shipped.rows_of(folder / "run")


def test_default_options_keep_perplexity_at_12_with_a_quarter_less(rows):
    assert rows["torch", "slim"]["parameters"] <= 2_558_000
    assert rows["torch", "slim"]["measurements"]["perplexity"]["value"] <= 12


def test_246_tokens_less_cost_at_most_5_percent_of_bits(rows):
    teacher, fewer = (rows["torch", identity]["measurements"]["bits_per_byte"] for identity in ("teacher", "fewer"))
    assert teacher["conditions"]["documents"] == fewer["conditions"]["documents"] > 800
    assert fewer["value"] / teacher["value"] <= 1.05


def test_a_model_of_1_1_b_parameters_is_cut_in_10_minutes_and_1_6_times_its_memory(assets, tmp_path):
    config = transformers.LlamaConfig(**LARGE)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "large")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "large" / name).write_bytes((assets / "models" / "stories3M" / name).read_bytes())
    begun = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), str(assets / "data" / "tinystories-train.txt")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    print(found, time.monotonic() - begun)
    assert found["peak_bytes"] <= 1.6 * 4 * found["before"]
    assert found["after"] <= 0.75 * found["before"]
    assert found["seconds"] < 600


CODE = """
import json, resource, sys, time
from compress.contract import Context
from compress.data.load import RecipeData
from compress.data.options import DataOptions
from compress.prune.options import PruneOptions
from compress.prune.stage import run

folder, text = Path(sys.argv[1]), sys.argv[2]
(folder / "cut").mkdir()
data = RecipeData(DataOptions.model_validate({"train": {"files": [text], "separator": "<|endoftext|>"}}), 0)
options = PruneOptions.model_validate({"keep": {"parameters": 0.75}})
begun = time.monotonic()
facts = run(options, Context(folder / "large", folder / "cut", folder / "scratch", 0, data=data)).facts
print(json.dumps({
    "seconds": time.monotonic() - begun,
    "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    "before": facts["parameters"]["before"]["total"],
    "after": facts["parameters"]["after"]["total"],
    "repair": facts["repair"],
}))
"""
