"""A tiny model folder and its text for the stage `prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.artifact import list_files, sha256_of
from compress.contract import Context, Outcome
from compress.data.corpus import Corpus
from compress.models.folder import load_model, load_tokenizer
from compress.prune.options import PruneOptions
from compress.prune.stage import run
from tests.prune.tiny_tokenizers import SIZE, TEXT, byte_level
from tests.references.tiny_families import COUPLED, tiny_model

WINDOWS = {"windows": 4, "length": 16}
IDS = torch.arange(3, 13)[None]


class Text:
    """Data of a recipe: random ids of 64 tokens, or text as the tokenizer of the folder at hand spells it."""

    def __init__(self, tokens: int = 400, parts: tuple[str, ...] = ("calibration",)) -> None:
        self.tokens, self.parts = tokens, parts
        self.asked: list[tuple[str, Path]] = []

    def has(self, part: str) -> bool:
        return part in self.parts

    def __call__(self, part: str, folder: Path, tokens: int | None = None) -> Corpus:
        assert self.has(part)
        self.asked.append((part, folder))
        if (folder / "tokenizer.json").is_file():
            library = load_tokenizer(folder)
            ids = np.array([index for text in TEXT for index in library.encode(text, add_special_tokens=False).ids])
        else:
            ids = np.random.default_rng(0).integers(3, 64, self.tokens)
        return Corpus(ids, np.ones(len(ids), bool), np.array([0, len(ids)]), np.array([len(ids)]), (), "text")


def write_source(
    folder: Path, name: str = "llama", tied: bool = True, tokenizer: bool = False, **changes: object
) -> Path:
    if tokenizer:
        changes = {"vocab_size": SIZE, **changes}
    tiny_model(name, tied, torch.float32, **changes).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    if tokenizer:
        byte_level().save(str(folder / "tokenizer.json"))
    return folder


def context_of(source: Path, target: Path, text: Text | None = None, **extra: Any) -> Context:
    target.mkdir(parents=True)
    return Context(source, target, target.parent / "scratch", seed=0, data=text or Text(), **extra)


def options_of(remove: dict[str, Any] | None = None, **more: Any) -> PruneOptions:
    what = {"remove": remove} if remove else {}
    return PruneOptions.model_validate({**what, "calibration": WINDOWS, **more})


def run_stage(
    tmp_path: Path, remove: dict[str, Any] | None = None, name: str = "llama", **more: Any
) -> tuple[Any, Outcome]:
    """Return the reloaded model and what was said of it."""
    source = tmp_path / "source"
    if not source.exists():
        write_source(source, name)
    target = tmp_path / f"target-{len(list(tmp_path.iterdir()))}"
    outcome = run(options_of(remove, **more), context_of(source, target))
    return load_model(target), outcome


def hashes(folder: Path) -> dict[str, str]:
    return {path.as_posix(): sha256_of(folder / path) for path in list_files(folder)}


def every_axis(name: str) -> dict[str, Any]:
    heads = {"heads": 1} if name in COUPLED else {"heads": 2, "hidden": 4}
    return {"layers": 1, "ffn": 12, "vocab": 40, **heads}
