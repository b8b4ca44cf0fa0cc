"""What every test runs under: no network, threads that wait without spinning, and tiny models."""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and text; the test skips where COMPRESS_ASSETS does not name it."""
    named = os.environ.get("COMPRESS_ASSETS")
    if not named:
        pytest.skip("COMPRESS_ASSETS is not set: real models and text are not here")
    return Path(named).resolve()
