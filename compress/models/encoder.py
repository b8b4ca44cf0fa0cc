"""Models that read a whole text at once: which of them can be opened, and how much they read. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import ArtifactError
from compress.models.decoder import context_of, format_of
from compress.models.families import skipped_positions
from compress.models.folder import read_config, weight_files
from compress.models.kind import class_name, is_known

if TYPE_CHECKING:
    from compress.models.torch_encoder import TorchEncoder


def refuse_encoder(folder: Path) -> str:
    """Return why a folder that is no causal language model is not run here, or an empty string.

    Raises ArtifactError when the folder is no model folder.
    """
    kind, config = format_of(folder), read_config(folder)
    if kind == "onnx":
        return f"{class_name(config)} is not run from an ONNX file"
    return "" if is_known(config) else f"{class_name(config)} is not in the family table"


def open_encoder(folder: Path, threads: int | None = None) -> TorchEncoder:
    """Open a torch folder that is no causal language model; `threads` None leaves the runtime's own default.

    Raises ArtifactError when it is not run here, something is missing from the folder or it does not load.
    """
    if refusal := refuse_encoder(folder):
        raise ArtifactError(f"{folder}: {refusal}")
    weight_files(folder)
    from compress.models.torch_encoder import TorchEncoder

    return TorchEncoder(folder, threads)


def longest_input(config: Mapping[str, Any], folder: Path) -> int:
    """Return the longest text in tokens, special tokens counted; where positions begin behind the padding id, that many fewer.

    Raises ArtifactError where config.json declares no context.
    """
    return context_of(config, folder) - skipped_positions(config)


def pad_of(config: Mapping[str, Any]) -> int:
    """Return the id that fills short rows; 0 where config.json names none."""
    found = config.get("pad_token_id")
    return found if isinstance(found, int) else 0
