"""The teacher's logits, computed once and shared by the rows that are measured one after another."""

from __future__ import annotations

import hashlib
import shutil
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from compress.artifact import fingerprint_folder
from compress.benchmark.scoring import Ids, Logits
from compress.contract import Progress, silent
from compress.models.decoder import Decoder, open_decoder, vocabulary_of
from compress.models.folder import read_config, read_object
from compress.models.kind import is_causal, not_causal
from compress.models.teacher_store import TeacherStore, fingerprint_windows
from compress.models.tokenizer_ids import difference
from compress.models.top_logits import TopLayout
from compress.models.vocabulary import NONE, tokens_between

_BYTES_PER_LOGIT = 4


class TeacherLogits:
    """A teacher that answers for windows of token ids [W, T].

    With a `scratch` folder, float32 logits are kept there in a memory-mapped file as long as all of a set of windows
    needs at most `limit_bytes`; beyond that, and without scratch, they are computed live. Close it to remove the file.
    """

    def __init__(self, folder: Path, scratch: Path | None = None, limit_bytes: int = 1_000_000_000) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._file = scratch / "teacher-logits.f32" if scratch else None
        self._decoder: Decoder | None = None
        self._windows = ""
        self._kept: np.memmap[tuple[int, ...], np.dtype[np.float32]] | None = None
        self._known: np.ndarray[tuple[int], np.dtype[np.bool_]] = np.zeros(0, dtype=np.bool_)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    @property
    def decoder(self) -> Decoder:
        """The teacher, opened when it is first needed."""
        if self._decoder is None:
            self._decoder = open_decoder(self.folder)
        return self._decoder

    @property
    def vocabulary(self) -> int:
        """V of the teacher; no weight is loaded for it."""
        return self._decoder.vocabulary if self._decoder else vocabulary_of(read_config(self.folder), self.folder)

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint_folder(self.folder)

    def difference(self, folder: Path, vocabulary: int) -> str:
        """Return why a row cannot be held against the teacher token by token, or an empty string where it can."""
        if not is_causal(config := read_config(self.folder)):
            return f"the teacher, {not_causal(config)}"
        own = self.vocabulary
        rows = f"vocabularies differ (teacher {own}, row {vocabulary})" if vocabulary != own else ""
        if self._without_tokenizer(folder):
            return rows
        files = [read_object(place / "tokenizer.json") for place in (self.folder, folder)]
        if said := difference(files[0], files[1], "row"):
            return rows or f"vocabularies differ ({said})"
        try:
            tokens_between(self.folder, folder, own, vocabulary)
        except ValueError as error:
            return f"vocabularies differ ({error})"
        return ""

    def common(self, folder: Path, vocabulary: int) -> Ids | None:
        """Return the ids, ascending, that mean the same to a row without `difference` and to the teacher; None: all do.

        Rows of padding and tokens that are added in the teacher alone are no common ones.
        """
        if self._without_tokenizer(folder):
            return None
        tokens = tokens_between(self.folder, folder, self.vocabulary, vocabulary)
        return None if tokens is None else np.array([each for each in tokens.answers if each != NONE], dtype=np.int64)

    def _without_tokenizer(self, folder: Path) -> bool:
        return not all((place / "tokenizer.json").is_file() for place in (self.folder, folder))

    def logits(self, windows: Ids, part: slice) -> Logits:
        """Return the teacher's float32 logits [B, T, V] for windows[part] of windows [W, T]."""
        self._keep_for(windows)
        if self._kept is None:
            return self.decoder.logits(windows[part])
        if not self._known[part].all():
            self._kept[part] = self.decoder.logits(windows[part])
            self._known[part] = True
        return self._kept[part]

    def store(self, windows: Ids, common: Ids | None = None, progress: Progress = silent) -> TeacherStore:
        """Return the teacher's answers for windows [W, T] from $COMPRESS_CACHE; the teacher runs where they are not there.

        With `common` ids [C] the answers are among these alone, and the store's ids are places in it.

        Raises ArtifactError where they cannot be written.
        """
        import torch

        from compress.models.torch_teacher import TopTeacher

        def logits(ids: torch.Tensor) -> torch.Tensor:
            found = self.decoder.logits(ids.numpy())[:, :-1]
            return torch.from_numpy(found if common is None else found[..., common])

        size = self.vocabulary if common is None else len(common)
        made = {"teacher": self._fingerprint, "precision": "fp32"}
        if common is not None:
            made["common"] = fingerprint_windows(common)
        return TopTeacher(logits, TopLayout(size)).store(windows, made, progress)

    def close(self) -> None:
        """Forget the teacher and remove the file."""
        self._kept, self._decoder, self._windows = None, None, ""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _keep_for(self, windows: Ids) -> None:
        digest = hashlib.sha256(f"{windows.shape}".encode() + np.ascontiguousarray(windows).tobytes()).hexdigest()
        if self._file is None or digest == self._windows:
            return
        self._windows, self._kept = digest, None
        shape = (*windows.shape, self.decoder.vocabulary)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        needed = int(np.prod(shape)) * _BYTES_PER_LOGIT
        # a mapped file on a full disk ends the process without a word
        if needed <= min(self.limit_bytes, shutil.disk_usage(self._file.parent).free // 2):
            self._kept = np.memmap(self._file, dtype=np.float32, mode="w+", shape=shape)
            self._known = np.zeros(len(windows), dtype=np.bool_)
