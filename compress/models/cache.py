"""Where what recipes share lives on disk."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "COMPRESS_CACHE"


def cache_folder() -> Path:
    """Return the folder of what recipes share: $COMPRESS_CACHE, by default ~/.cache/compress. It need not exist yet."""
    given = os.environ.get(VARIABLE, "")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "compress"
