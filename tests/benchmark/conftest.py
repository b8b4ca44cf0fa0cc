from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from compress.data.corpus import Corpus, Question
from compress.models.folder import load_tokenizer
from tests.models.tiny_decoder import BOS, TEXT, make_onnx_folder, make_torch_folder

QUESTIONS = (
    Question("The red fox ran to the old", "barn", ("tree", "barn", "ball")),
    Question("Tom gave the ball to his friend", "Mia", ("Mia", "Tom")),
    Question("A blue bird sang in the tall", "tree", ("barn", "fox", "tree")),
)


def make_corpus(folder: Path, texts: Sequence[str], joining: int | None = BOS) -> Corpus:
    """The texts as a Corpus of the folder's tokenizer, with three questions."""
    tokenizer = load_tokenizer(folder)
    front = [] if joining is None else [joining]
    documents = [front + tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    starts = np.cumsum([0, *map(len, documents)])
    ids = np.array([token for document in documents for token in document], dtype=np.int64)
    sizes = np.array([len(text.encode()) for text in texts], dtype=np.int64)
    return Corpus(ids, np.ones(len(ids), dtype=np.bool_), starts, sizes, QUESTIONS, "test")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A torch folder, its ONNX folder, and a torch folder with other weights."""
    parent = tmp_path_factory.mktemp("benchmark")
    source = make_torch_folder(parent / "torch")
    onnx = make_onnx_folder(source, parent / "onnx")
    return {"torch": source, "onnx": onnx, "other": make_torch_folder(parent / "other", seed=1)}


@pytest.fixture(scope="session")
def corpus(tiny: dict[str, Path]) -> Corpus:
    """Twelve short documents."""
    return make_corpus(tiny["torch"], [" ".join(TEXT[: 1 + i % 3]) + f" It is {i}." for i in range(12)])


@pytest.fixture(scope="session")
def exact(tiny: dict[str, Path]) -> dict[str, Any]:
    """The torch folders as float64 models, for the references."""
    return {name: LlamaForCausalLM.from_pretrained(tiny[name]).to(torch.float64).eval() for name in ("torch", "other")}
