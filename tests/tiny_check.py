"""A recipe of a few lines beside a model folder without weights, and what check says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.check import open_recipe
from compress.errors import RecipeError

TEXT = """recipe: 1
name: tiny
teacher: {model: model}
data:
  train: {builtin: stories}
  evaluation: {builtin: stories, seed: 1}
stages:
"""
CONFIG = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# 8 letters, and 32 pairs of them
BPE = {
    "type": "BPE",
    "vocab": {text: index for index, text in enumerate([*"abcdefgh", *(a + b for a in "abcd" for b in "abcdefgh")])},
    "merges": [[a, b] for a in "abcd" for b in "abcdefgh"],
}


def model(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "tokenizer.json").write_text(json.dumps({"model": BPE, "of": changes.get("vocab_size", 64)}))
    (folder / "model.safetensors").touch()
    return folder


def notes(place: Path, text: str) -> list[str]:
    (place / "r.yaml").write_text(text, encoding="utf-8")
    return open_recipe(place / "r.yaml")[1]


def said(place: Path, text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        notes(place, text)
    found = caught.value.problems
    return [f"{one.line}:{one.column}: {one.message.replace(str(place), '.')}" for one in found]
