"""A torch model folder as a Decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from compress.models.decoder import Format, Ids, Logits, check_prompt, check_step, context_of
from compress.models.folder import load_model, read_config


class TorchDecoder:
    """A transformers causal language model, float32 on the CPU.

    `threads` sets torch's threads for the whole process.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.model: Any = load_model(folder)
        self.vocabulary: int = int(self.model.get_output_embeddings().weight.shape[0])
        self.context: int = context_of(read_config(folder), folder)
        self.format: Format = "torch"
        self._last_only = {"logits_to_keep": 1} if self.model._supports_logits_to_keep() else {}
        self._cache: Any = None
        self._rows = self._used = 0

    def logits(self, ids: Ids, lengths: Ids | None = None) -> Logits:
        """Return float32 logits [B, T, V] of right-padded ids [B, T]."""
        check_prompt(ids, self.context, lengths)
        # Causal attention: no token sees the padding to its right, so no mask is needed.
        with torch.inference_mode():
            output: Logits = self.model(input_ids=_tensor(ids), use_cache=False).logits.numpy()
        return output.astype(np.float32, copy=False)

    def start(self, ids: Ids) -> Logits:
        """Empty the cache, read ids [B, T], return float32 logits [B, V] of the last token."""
        check_prompt(ids, self.context)
        self._cache = DynamicCache(config=self.model.config)
        self._rows, self._used = ids.shape
        return self._read(ids)

    def step(self, tokens: Ids) -> Logits:
        """Read tokens [B] with the cache, return float32 logits [B, V]."""
        check_step(tokens, self._rows, self._used, self.context)
        self._used += 1
        return self._read(tokens[:, None])

    def _read(self, ids: Ids) -> Logits:
        with torch.inference_mode():
            output = self.model(input_ids=_tensor(ids), past_key_values=self._cache, use_cache=True, **self._last_only)
        last: Logits = output.logits[:, -1].numpy()
        return last.astype(np.float32, copy=False)


def _tensor(ids: Ids) -> torch.Tensor:
    return torch.from_numpy(np.array(ids, dtype=np.int64, order="C"))
