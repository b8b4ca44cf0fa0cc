"""The columns of a table, from its first bytes. Imports neither torch nor datasets."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path


def columns_of(path: Path) -> list[str] | None:
    """Return the names of a table's columns; None where its head does not say them: text, .json, what is empty or broken."""
    readers: dict[str, Callable[[Path], list[str] | None]] = {
        ".csv": _header,
        ".tsv": _header,
        ".jsonl": _first_keys,
        ".parquet": _parquet_names,
    }
    reader = readers.get(path.suffix.lower())
    try:
        return reader(path) if reader and path.stat().st_size else None
    except (OSError, ValueError, csv.Error):
        return None


def _header(path: Path) -> list[str] | None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","), None)


def _first_keys(path: Path) -> list[str] | None:
    with path.open(encoding="utf-8-sig") as file:
        row = json.loads(next((line for line in file if line.strip()), "null"))
    return list(row) if isinstance(row, dict) else None


def _parquet_names(path: Path) -> list[str] | None:
    from pyarrow import parquet

    return list(parquet.read_schema(path).names)
