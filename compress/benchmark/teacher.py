"""The teacher's logits, computed once and shared by the rows that are measured one after another."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Self

import numpy as np

from compress.benchmark.scoring import Ids, Logits
from compress.models.decoder import Decoder, open_decoder
from compress.models.folder import load_tokenizer, read_config
from compress.models.kind import is_causal, not_causal

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

    def difference(self, folder: Path, vocabulary: int) -> str:
        """Return why a row cannot be held against the teacher token by token, or an empty string where it can."""
        if not is_causal(config := read_config(self.folder)):
            return f"the teacher, {not_causal(config)}"
        own = self.decoder.vocabulary
        if vocabulary != own:
            return f"vocabularies differ (teacher {own}, row {vocabulary})"
        files = [place / "tokenizer.json" for place in (self.folder, folder)]
        if not all(file.is_file() for file in files) or files[0].read_bytes() == files[1].read_bytes():
            return ""
        ours, theirs = (load_tokenizer(place).get_vocab() for place in (self.folder, folder))
        different = max(len(ours.items() - theirs.items()), len(theirs.items() - ours.items()))
        return f"vocabularies differ ({different} tokens stand for different ids)" if different else ""

    def logits(self, windows: Ids, part: slice) -> Logits:
        """Return the teacher's float32 logits [B, T, V] for windows[part] of windows [W, T]."""
        self._keep_for(windows)
        if self._kept is None:
            return self.decoder.logits(windows[part])
        if not self._known[part].all():
            self._kept[part] = self.decoder.logits(windows[part])
            self._known[part] = True
        return self._kept[part]

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
