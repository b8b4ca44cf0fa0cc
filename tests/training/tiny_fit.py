"""A tiny model folder, random text for it, and a context to train it in."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models

from compress.contract import Context
from compress.data.corpus import Corpus
from compress.models.options import StudentOptions
from compress.models.scratch import make_scratch
from compress.train.options import TrainOptions
from compress.train.stage import run as train

VOCABULARY, LENGTH = 60, 16
SHAPE = {"layers": 2, "hidden": 32, "ffn": 48, "heads": 4, "kv_heads": 2, "context": 64}


def write_model(folder: Path, seed: int = 0, vocabulary: int = VOCABULARY, **shape: int) -> Path:
    """Write a random Llama whose tokenizer knows one word a token."""
    tokenizer_folder = folder.with_name(folder.name + "-tokenizer")
    tokenizer_folder.mkdir(parents=True)
    words = {f"w{index}": index for index in range(vocabulary)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(tokenizer_folder / "tokenizer.json"))
    config = {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
    }
    config |= {"hidden_size": 2, "intermediate_size": 1, "num_hidden_layers": 1, "num_attention_heads": 1}
    (tokenizer_folder / "config.json").write_text(json.dumps(config))
    folder.mkdir()
    make_scratch(StudentOptions(init="scratch", **(SHAPE | shape)), (), tokenizer_folder, folder, seed)
    return folder


def corpus(tokens: int, seed: int = 0, counted: float = 1.0) -> Corpus:
    """Return one random document in which the next token follows from the last, mostly."""
    random = np.random.default_rng(seed)
    ids = np.zeros(tokens, dtype=np.int64)
    for index in range(1, tokens):
        ids[index] = (ids[index - 1] * 7 + 3) % VOCABULARY if random.random() < 0.8 else random.integers(VOCABULARY)
    return Corpus(ids, random.random(tokens) < counted, np.array([0, tokens]), np.array([tokens]), (), "")


class Data:
    """A DataAccess of fixed corpora."""

    def __init__(self, tokens: int = 1600, validation: int = 320, counted: float = 1.0) -> None:
        self.parts = {"train": corpus(tokens, 1, counted), "validation": corpus(validation, 2, counted)}

    def __call__(self, part: str, tokenizer_folder: Path, tokens: int | None = None) -> Corpus:
        return self.parts[part]


def context(folder: Path, source: Path, data: Data | None = None, **more: object) -> Context:
    """Return a context whose target and scratch stand in `folder`."""
    for name in ("target", "scratch"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    settings = {"seed": 0, "data": data or Data()} | more
    return Context(source=source, target=folder / "target", scratch=folder / "scratch", **settings)


def trained_model(folder: Path) -> Path:
    """Write a model that has learned the data into `folder` / target, from `folder` / source."""
    options = TrainOptions(tokens=60 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=0, learning_rate=1e-2)
    train(options, context(folder, write_model(folder / "source")))
    return folder / "target"


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
