"""A model folder and its artifact.json: open, check, write atomically, fingerprint, lock.

artifact.json is written last, into a temporary folder that is then renamed: a folder that has one is finished. It holds
only what determined the bytes, so the same recipe writes the same file twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compress.errors import ArtifactError

MANIFEST = "artifact.json"
SCHEMA = 1
TEMPORARY = ".tmp-"
DISCARDED = ".old-"
_CHUNK = 1 << 20
# What transformers, tokenizers and ONNX Runtime read from a model folder.
_LOADED = {".json", ".safetensors", ".model", ".txt", ".jinja", ".bin", ".py", ".onnx", ".data"}


@dataclass(frozen=True)
class Artifact:
    """A finished folder. `made` says what determined the bytes; `files` their sizes and sha256."""

    path: Path
    key: str
    made: Mapping[str, Any]
    facts: Mapping[str, Any]
    skipped: tuple[Mapping[str, str], ...]
    files: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str]


def canonical(value: object) -> str:
    """Return canonical JSON: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def key_of(made: Mapping[str, Any]) -> str:
    """Return the content key: sha256 over the canonical JSON of what determines the bytes."""
    return hashlib.sha256(canonical(made).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def list_files(folder: Path) -> list[Path]:
    """Return every file below a folder but artifact.json, relative to it, in a fixed order."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted((path for path in found if path != Path(MANIFEST)), key=lambda path: path.as_posix())


def fingerprint_folder(folder: Path) -> str:
    """Return the sha256 over names and contents of a model folder: configs, tokenizer and weights.

    Documents are left out, and so are folders inside it: models are not loaded from there.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and _is_loaded(path))
    return key_of({"files": [(name, sha256_of(folder / name)) for name in names]})


def _is_loaded(path: Path) -> bool:
    return path.suffix in _LOADED and path.name != MANIFEST and not path.name.startswith(".")


def read(folder: Path) -> Artifact | None:
    """Return the artifact of a folder, or None where there is none.

    Raises ArtifactError where artifact.json is there but cannot be read.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    try:
        entry = json.loads(manifest.read_text(encoding="utf-8"))
        schema = entry["schema"]
        if schema != SCHEMA:
            raise ArtifactError(f"{manifest}: schema {schema}, this version reads {SCHEMA}")
        return Artifact(
            folder,
            str(entry["key"]),
            _mapping(entry["made"]),
            _mapping(entry["facts"]),
            tuple(_mapping(skipped) for skipped in entry["skipped"]),
            {str(name): _mapping(file) for name, file in _mapping(entry["files"]).items()},
            _mapping(entry["versions"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{manifest}: not readable ({type(error).__name__}: {error})") from error


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"a mapping is needed, found {type(value).__name__}")
    return value


def damage(artifact: Artifact) -> str:
    """Return what is wrong with the artifact's files, or an empty string when every byte is as it was written."""
    if key_of(artifact.made) != artifact.key:
        return f"{MANIFEST} does not match its key"
    for name, entry in artifact.files.items():
        path = artifact.path / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != entry.get("size"):
            return f"{name} has {size} bytes, {entry.get('size')} were written"
        if sha256_of(path) != entry.get("sha256"):
            return f"{name} has another sha256 than was written"
    for path in list_files(artifact.path):
        # Such as an adapter_config.json or a second weight file: whoever opens the folder would read it.
        if _is_loaded(path) and path.as_posix() not in artifact.files:
            return f"{path.as_posix()} was not written with it"
    return ""


def refuse_damaged(folder: Path) -> None:
    """Do nothing for a folder that is no artifact of ours, or a whole one.

    Raises ArtifactError, which names the file, where an artifact is damaged.
    """
    found = read(folder)
    if found is not None and (damaged := damage(found)):
        raise ArtifactError(
            f"{folder}: damaged, {damaged}. Make it again or take another copy; if the change is meant, delete {MANIFEST} there"
        )


def finish(temporary: Path, target: Path, made: Mapping[str, Any], said: Mapping[str, Any]) -> Artifact:
    """Write artifact.json into `temporary` and rename it to `target`, replacing what is there.

    `said` holds facts, skipped and versions. Files can be read by whoever can read the folder: safetensors writes them
    for their owner alone.
    """
    files = {}
    readable = temporary.stat().st_mode & 0o666
    for name in list_files(temporary):
        path = temporary / name
        path.chmod(readable)
        files[name.as_posix()] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
        flush(path)
    entry = {"schema": SCHEMA, "key": key_of(made), "made": dict(made), **said, "files": files}
    write_text(temporary / MANIFEST, json.dumps(entry, indent=1, sort_keys=True, allow_nan=False) + "\n")
    for folder in (path for path in temporary.rglob("*") if path.is_dir()):
        flush(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    discarded = target.with_name(DISCARDED + target.name)
    _remove(discarded)
    if target.exists():
        target.rename(discarded)
    temporary.rename(target)
    flush(target.parent)
    _remove(discarded)
    artifact = read(target)
    if artifact is None:
        raise ArtifactError(f"{target}: {MANIFEST} went missing while it was written")
    return artifact


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target`; it is removed when the body raises or leaves it behind."""
    folder = target.with_name(TEMPORARY + target.name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove the temporary files and folders that killed runs have left in a folder. Call it under the lock."""
    for pattern in (TEMPORARY, DISCARDED):
        for left in parent.glob(pattern + "*"):
            _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old text or the new, never a part."""
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:
        if path.is_file():
            raise
    finally:
        os.close(handle)


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process.

    The operating system lets go of the lock when its process ends, however it ends: a dead one blocks nobody.

    Raises ArtifactError at once when another process holds it, and where the folder cannot be written.
    """
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise ArtifactError(
            f"{folder}: another compress is working in this run folder; wait for it, or give --out another folder"
        ) from None
    except OSError as error:
        raise ArtifactError(
            f"{folder}: this run folder cannot be written ({error.strerror or error}); give another with --out"
        ) from error
    try:
        yield
    finally:
        lock.release()
