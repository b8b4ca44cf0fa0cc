"""What is done of a quantization that may be stopped: parts of a model as files, each whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compress.artifact import flush
from compress.models import quantized
from compress.models.quantized import QuantizedFile, QuantizedWeight

_OTHERS = "others.safetensors"


def put(weight: Tensor, entry: QuantizedWeight) -> None:
    """Write what the codes say into a weight."""
    with torch.no_grad():
        weight.copy_(torch.from_numpy(quantized.dequantize(entry)))


class Finished:
    """The parts that are done, in a folder that outlives a kill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, part: str) -> bool:
        """Say whether a part is done."""
        return (self._folder / part).is_dir()

    def write(self, part: str, stored: Mapping[str, QuantizedWeight], others: Mapping[str, Tensor]) -> None:
        """Write the codes of a part, and its weights that stay in float; renamed into place once it is whole."""
        unfinished = self._folder / f"{part}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        quantized.write(unfinished, stored)
        save_file(
            {name: weight.detach().cpu().contiguous().clone() for name, weight in others.items()}, unfinished / _OTHERS
        )
        for path in unfinished.iterdir():
            flush(path)
        unfinished.rename(self._folder / part)

    def read(self, part: str, model: Any) -> dict[str, QuantizedWeight]:
        """Put a part into the model, and return its codes."""
        folder = self._folder / part
        with QuantizedFile(folder) as file:
            stored = {name: file.read(name) for name in file.schemes.weights}
        for name, entry in stored.items():
            put(model.get_parameter(name), entry)
        with torch.no_grad():
            for name, weight in load_file(folder / _OTHERS).items():
                model.get_parameter(name).copy_(weight)
        return stored
