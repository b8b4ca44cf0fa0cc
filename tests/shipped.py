"""What whoever receives a folder does with it: opens it with the public libraries alone, without this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import onnxruntime_genai
import torch
from transformers import AutoModelForCausalLM


def never(folder: Path) -> list[int]:
    """The ids that end a text: genai leaves them out below min_length, and so do all others here."""
    ends = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["eos_token_id"]
    return [ends] if isinstance(ends, int) else ends


def torch_greedy(folder: Path, prompt: list[int], count: int, ends: list[int]) -> list[int]:
    """The most probable tokens by transformers, with its cache."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids, cache, said = torch.tensor([prompt]), None, []
    for _ in range(count):
        with torch.no_grad():
            output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        logits, cache = output.logits[0, -1], output.past_key_values
        logits[ends] = -torch.inf
        said.append(int(logits.argmax()))
        ids = torch.tensor([said[-1:]])
    return said


def onnxruntime_greedy(folder: Path, prompt: list[int], count: int, ends: list[int]) -> list[int]:
    """The most probable tokens by onnxruntime: the presents of a step are the pasts of the next."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    decoder = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    names = [output.name for output in session.get_outputs()]
    empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
    inputs = [entry.name for entry in session.get_inputs()]
    pasts = {name: empty for name in inputs if name.startswith("past_key_values")}
    ids, length, said = prompt, 0, []
    for _ in range(count):
        positions = np.arange(length, length + len(ids), dtype=np.int64)[None]
        length += len(ids)
        feed = {"input_ids": np.array([ids], dtype=np.int64), "attention_mask": np.ones((1, length), dtype=np.int64)}
        feed |= {"position_ids": positions} if "position_ids" in inputs else {}
        found = dict(zip(names, session.run(names, feed | pasts), strict=True))
        pasts = {name: found[name.replace("past_key_values", "present")] for name in pasts}
        logits = found["logits"][0, -1]
        logits[ends] = -np.inf
        said.append(int(logits.argmax()))
        ids = said[-1:]
    return said


def genai_greedy(folder: Path, prompt: list[int], count: int) -> list[int]:
    """The most probable tokens by onnxruntime-genai."""
    model = onnxruntime_genai.Model(str(folder))
    parameters = onnxruntime_genai.GeneratorParams(model)
    total = len(prompt) + count
    parameters.set_search_options(do_sample=False, min_length=total, max_length=total + 1)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(np.array([prompt], dtype=np.int32))
    said = []
    for _ in range(count):
        generator.generate_next_token()
        said.append(int(generator.get_next_tokens()[0]))
    return said


def check_greedy(run: Path, identity: str, prompt: list[int]) -> None:
    """In fp32 all three say the same 64 tokens; of a quantized file onnxruntime and genai the same 32."""
    shipped, source = run / "onnx" / identity, run / "torch" / identity
    ends = never(shipped)
    if identity not in ("int8", "int4"):
        expected = torch_greedy(source, prompt, 64, ends)
        assert onnxruntime_greedy(shipped, prompt, 64, ends) == expected
        assert genai_greedy(shipped, prompt, 64) == expected
    else:
        assert genai_greedy(shipped, prompt, 32) == onnxruntime_greedy(shipped, prompt, 32, ends)


def check_perplexities(rows: dict[tuple[str, str], dict]) -> None:
    """Rows by format and id: float files say what torch says, int8 what float says, int4 what their own torch row says."""

    def perplexity(kind: str, identity: str) -> float:
        return rows[kind, identity]["measurements"]["perplexity"]["value"]

    for kind, identity in rows:
        shipped = perplexity(kind, identity)
        if kind == "onnx" and rows[kind, identity]["precision"] == "fp32":
            assert abs(shipped / perplexity("torch", identity) - 1) < 0.001, identity
    assert abs(perplexity("onnx", "int8") / perplexity("onnx", "student") - 1) < 0.01
    assert abs(perplexity("onnx", "int4") / perplexity("torch", "int4") - 1) < 0.01


def outside_tool() -> Path | None:
    """The scorer that knows nothing of this project, where COMPRESS_TOOLS or the assets' neighbour has it."""
    named, assets = os.environ.get("COMPRESS_TOOLS"), os.environ.get("COMPRESS_ASSETS")
    folder = Path(named) if named else Path(assets).resolve().parent / "tools" if assets else None
    return folder / "onnx_ppl.py" if folder and (folder / "onnx_ppl.py").is_file() else None


def outside_perplexity(tool: Path, folder: Path, text: Path, windows: int, length: int) -> float:
    command = [sys.executable, str(tool), str(folder), str(folder), str(text), str(windows), str(length)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return float(result.stdout)


def rows_of(run: Path) -> dict[tuple[str, str], dict]:
    rows = json.loads((run / "results.json").read_text(encoding="utf-8"))["rows"]
    return {(row["format"], row["id"]): row for row in rows}
