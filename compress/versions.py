"""Which libraries are installed: written beside what they made."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

LIBRARIES = (
    "compress-workbench",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "datasets",
    "torch-pruning",
    "onnx",
    "onnxruntime",
    "onnxruntime-genai",
    "numpy",
)


def versions() -> dict[str, str]:
    """Return the version of each library that shapes an artifact; one that is not installed is left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def changed_versions(before: Mapping[str, str]) -> list[str]:
    """Return, in words, the libraries whose version is not what it was."""
    now = versions()
    return [
        f"{name} {before[name]}, now {now[name]}"
        for name in sorted(before)
        if name in now and now[name] != before[name]
    ]
