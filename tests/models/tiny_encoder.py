"""Makers of tiny encoder folders: random weights, and a WordPiece tokenizer that places [CLS] and [SEP]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.prune.tiny_tokenizers import word_piece
from tests.references.tiny_families import tiny_model

CONTEXT = 24
PREFIXES = {"bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta"}


def make_encoder_folder(
    folder: Path, family: str = "bert", head: str = "ForSequenceClassification", **changes: Any
) -> Path:
    """Write a random encoder of a family that reads at most CONTEXT tokens."""
    tokenizer = word_piece()
    pad = tokenizer.token_to_id("[PAD]")
    positions = CONTEXT + (pad + 1 if family == "roberta" else 0)
    settings = {
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": positions,
        "pad_token_id": pad,
        "architectures": [PREFIXES[family] + head],
        **changes,
    }
    model = tiny_model(family, True, torch.float32, **settings)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder
