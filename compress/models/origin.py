"""From what a recipe says of a model to a folder on disk: a local folder, the hub, or the embedded teacher."""

from __future__ import annotations

import json
import os
import socket
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from compress.errors import StageError
from compress.models.folder import read_config

EMBEDDED = {"storyteller": Path(__file__).parent / "storyteller"}
_REACH_SECONDS = 2.0
_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def local_folder(model: str | None, builtin: str | None = None) -> Path | None:
    """Return the folder of a model that needs no network, or None for a hub id."""
    if builtin:
        return EMBEDDED[builtin]
    path = Path(model or "").expanduser()
    return path if path.is_dir() else None


def peek_config(model: str | None, revision: str | None, builtin: str | None = None) -> dict[str, Any] | None:
    """Return config.json of a model; for a hub id it alone is fetched, and None says that this was not possible (offline)."""
    folder = local_folder(model, builtin)
    if folder is not None:
        return read_config(folder)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(str(model), "config.json", revision=revision, local_files_only=not hub_is_reachable())
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, HFValidationError):
        return None
    config: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return config


@cache
def hub_is_reachable() -> bool:
    """Say, within two seconds, whether the hub answers; the hub's own client would retry for half a minute."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=_REACH_SECONDS):
            return True
    except OSError:
        return False


def fetch(model: str | None, revision: str | None, builtin: str | None = None) -> Path:
    """Return a local folder with the whole model, downloading a hub model into the hub's cache.

    Raises StageError when it is neither a folder nor reachable.
    """
    folder = local_folder(model, builtin)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    offline = not hub_is_reachable()
    try:
        return Path(
            snapshot_download(str(model), revision=revision, allow_patterns=_PATTERNS, local_files_only=offline)
        )
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        said = (
            "cannot be asked now, and its cache does not have the model" if offline else f"says: {_first_line(error)}"
        )
        raise StageError(
            f"model {model}: no such folder, and the hub {said}. "
            "Give a local folder: --set 'teacher={model: path/to/folder}'"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
