"""One face for decoders, torch and ONNX: numpy in, numpy out. Opening an ONNX folder imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError
from compress.models.folder import read_config, weight_files
from compress.models.kind import is_causal, not_causal

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]
Format = Literal["torch", "onnx"]
ONNX_FILE = "model.onnx"
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
_VOCABULARY_KEYS = ("vocab_size", "n_vocab")


class Decoder(Protocol):
    """A causal language model on the CPU. Shapes: B batch, T tokens, V vocabulary.

    vocabulary  V, the width of the logits
    context     the longest sequence in tokens
    format      "torch" or "onnx"
    """

    vocabulary: int
    context: int
    format: Format

    def logits(self, ids: Ids, lengths: Ids | None = None) -> Logits:
        """Return float32 logits [B, T, V] of ids [B, T]; the cache is not touched.

        Rows shorter than T are padded on the right and `lengths` [B] says how long each is; None: all are full. What
        stands at padded positions has no meaning.
        """
        ...

    def start(self, ids: Ids) -> Logits:
        """Empty the cache, read a prompt ids [B, T], and return the float32 logits [B, V] of its last token."""
        ...

    def step(self, tokens: Ids) -> Logits:
        """Read one more token per row, tokens [B], with the cache, and return its float32 logits [B, V]."""
        ...


def format_of(folder: Path) -> Format:
    """Return what a model folder holds: "onnx" where there is a model.onnx, else "torch".

    Raises ArtifactError that says what is missing when the folder is no model folder.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder}: no such folder; give a model folder (model.onnx or model.safetensors, and config.json)"
        )
    if (folder / ONNX_FILE).is_file():
        read_config(folder)
        return "onnx"
    if not any(folder.glob("model*.safetensors")):
        raise ArtifactError(f"{folder}: neither {ONNX_FILE} nor model*.safetensors there; a model folder is needed")
    read_config(folder)
    return "torch"


def open_decoder(folder: Path, threads: int | None = None) -> Decoder:
    """Open a torch or ONNX model folder; `threads` None leaves the runtime's own default.

    Raises ArtifactError when something is missing from the folder or does not load, and for another kind of model.
    """
    kind, config = format_of(folder), read_config(folder)
    if not is_causal(config):
        raise ArtifactError(f"{folder}: {not_causal(config)}")
    if kind == "onnx":
        from compress.models.onnx_decoder import OnnxDecoder

        return OnnxDecoder(folder, threads)
    weight_files(folder)
    from compress.models.torch_decoder import TorchDecoder

    return TorchDecoder(folder, threads)


def context_of(config: Mapping[str, Any], folder: Path) -> int:
    """Return the longest sequence, in tokens, that config.json declares.

    Raises ArtifactError where it declares none.
    """
    return _first_integer(config, _CONTEXT_KEYS, folder)


def vocabulary_of(config: Mapping[str, Any], folder: Path) -> int:
    """Return the number of tokens that config.json declares.

    Raises ArtifactError where it declares none.
    """
    return _first_integer(config, _VOCABULARY_KEYS, folder)


def check_prompt(ids: Ids, context: int, lengths: Ids | None = None) -> None:
    """Refuse ids that are no [B, T] block of at least one token within the context.

    Raises ValueError.
    """
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"ids must be [B, T] with at least one token, got shape {ids.shape}")
    if ids.shape[1] > context:
        raise ValueError(f"{ids.shape[1]} tokens are more than the context of {context}")
    if lengths is not None and (lengths.shape != ids.shape[:1] or lengths.min() < 1 or lengths.max() > ids.shape[1]):
        raise ValueError(f"lengths must be {ids.shape[0]} numbers from 1 to {ids.shape[1]}, got {lengths.tolist()}")


def check_step(tokens: Ids, rows: int, used: int, context: int) -> None:
    """Refuse a step before `start`, of another batch size, or past the context.

    Raises ValueError.
    """
    if used == 0:
        raise ValueError("step before start: the cache is empty")
    if tokens.shape != (rows,):
        raise ValueError(f"tokens must be [{rows}] as in start, got shape {tokens.shape}")
    if used >= context:
        raise ValueError(f"the context of {context} tokens is full")


def _first_integer(config: Mapping[str, Any], keys: tuple[str, ...], folder: Path) -> int:
    nested = config.get("text_config")
    for source in (config, nested if isinstance(nested, dict) else {}):
        for key in keys:
            if isinstance(source.get(key), int):
                return int(source[key])
    raise ArtifactError(f"{folder / 'config.json'}: none of {', '.join(keys)} there; one of them is needed")
