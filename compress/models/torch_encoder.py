"""A torch folder of a model that reads a whole text at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.models.decoder import Format, Ids, Logits, check_prompt
from compress.models.encoder import longest_input, pad_of
from compress.models.folder import load_model, read_config


class TorchEncoder:
    """A transformers encoder with or without a head, float32 on the CPU.

    vocabulary  V, how many tokens it knows
    context     the longest text in tokens
    pad         the id that fills short rows

    `threads` sets torch's threads for the whole process.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        config = read_config(folder)
        self.model: Any = load_model(folder)
        self.vocabulary: int = int(self.model.get_input_embeddings().weight.shape[0])
        self.context: int = longest_input(config, folder)
        self.pad: int = pad_of(config)
        self.format: Format = "torch"

    def outputs(self, ids: Ids, lengths: Ids | None = None) -> Logits:
        """Return what the head says in float32, a classifier's logits [B, classes], of right-padded ids [B, T].

        `lengths` [B] says how long each row is; None: all are full. Without a head: the last hidden states [B, T, D].
        """
        check_prompt(ids, self.context, lengths)
        full = np.full(len(ids), ids.shape[1]) if lengths is None else lengths
        mask = (np.arange(ids.shape[1]) < full[:, None]).astype(np.int64)
        with torch.inference_mode():
            found: Logits = self.model(
                input_ids=torch.from_numpy(np.array(ids, dtype=np.int64, order="C")),
                attention_mask=torch.from_numpy(mask),
            )[0].numpy()
        return found.astype(np.float32, copy=False)
