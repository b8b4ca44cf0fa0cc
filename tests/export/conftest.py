from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.contract import Context, Outcome
from compress.export import stage as export_stage
from compress.export.options import ExportOptions
from compress.models.folder import save_model
from tests.export.schemes import quantized_folder
from tests.references.tiny_families import tiny_model

# Heads of 16 and 8: with RoPE inside GroupQueryAttention, and outside.
SMALL = {"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2}
HEADS = {"qwen3": 16}


def torch_folder(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A tiny random model, saved."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"layer_types": ["sliding_attention", "full_attention"]} if family in ("qwen2", "gemma3_text") else {}
    if family in HEADS:
        changes = {"head_dim": HEADS[family], **changes}
    model = tiny_model(family, dtype=torch.float32, **{**SMALL, **kinds, **changes})
    save_model(model, folder, folder)
    return folder


def export(source: Path, target: Path, **options: Any) -> Outcome:
    """Run the stage export without data."""
    target.mkdir(parents=True, exist_ok=True)
    return export_stage.run(ExportOptions(**options), Context(source, target, target, 0))


def quantize(
    source: Path,
    target: Path,
    bits: int = 4,
    block: int = 32,
    symmetric: bool = True,
    leave_out: tuple[str, ...] = (),
) -> Path:
    """Round all matrices plainly, but those of the patterns, and return the folder."""

    def choose(name: str) -> tuple[int, int, bool, str] | None:
        return None if any(fnmatchcase(name, pattern) for pattern in leave_out) else (bits, block, symmetric, "none")

    return quantized_folder(source, target, choose)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied tiny Llama with heads of 16."""
    return torch_folder(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def packed(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """Quantize and export the tiny Llama, once for each set of options; gives both folders."""
    made: dict[str, tuple[Path, Path]] = {}

    def make(**options: Any) -> tuple[Path, Path]:
        key = repr(sorted(options.items()))
        if key not in made:
            parent = tmp_path_factory.mktemp("packed")
            source = quantize(llama, parent / "torch", **options)
            export(source, parent / "onnx")
            made[key] = (source, parent / "onnx")
        return made[key]

    return make
